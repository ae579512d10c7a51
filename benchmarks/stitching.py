"""Memory and time of stitching a large volume: 384 x 384 x 384 voxels, 5 classes, windows of 128.

    python benchmarks/stitching.py [--outer 384 768]

The network is a stand-in that copies its input into every class, so that the figures are those of the stitching. Each
length of the first axis runs in a process of its own. The volume and the labels grow with the first axis, whatever is
done; what is left of the peak is the stitching's own, and has to stay the same. Target: at most 1.5 GB in all at 384.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

SIDE, CLASSES, TILE = 384, 5, 128


def measure(outer: int) -> None:
    """Print the peak of resident memory, what of it is volume and labels, and the seconds."""
    import numpy as np

    from pth2om.segmentation import window

    def predict(tiles: np.ndarray) -> np.ndarray:
        return np.repeat(tiles, CLASSES, axis=1)

    volume = np.ones((1, outer, SIDE, SIDE), np.float32)
    window.weights((TILE,) * 3)  # SciPy is part of neither
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    start = time.perf_counter()
    best, lost = window.labels(window.slabs(volume, (TILE,) * 3, predict), volume.shape[1:])
    seconds = time.perf_counter() - start
    assert lost == 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # KiB on Linux, near enough
    print(f"{outer} {peak:.3f} {before:.3f} {best.nbytes / 1e9:.3f} {seconds:.1f}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outer", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--one", type=int)
    arguments = parser.parse_args()
    if arguments.one is not None:
        measure(arguments.one)
        return
    print("first axis  peak GB  before GB  labels GB  stitching's own GB  seconds")
    for outer in arguments.outer:
        done = subprocess.run(
            [sys.executable, __file__, "--one", str(outer)], capture_output=True, text=True, check=True
        )
        _, peak, before, labels, seconds = done.stdout.split()
        own = float(peak) - float(before) - float(labels)
        print(f"{outer:10}  {peak:>7}  {before:>9}  {labels:>9}  {own:18.3f}  {seconds:>7}")


if __name__ == "__main__":
    main()
