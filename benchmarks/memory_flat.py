"""Peak memory of scoring 64 and 1,024 images: it must not grow with the number of images.

    python benchmarks/memory_flat.py [--images 64 1024] [--size 320]

Each run is a separate process, over JPEG files that are decoded, letterboxed and scored one batch at a time. Target: a
difference of at most 5 %.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def prepare(folder: Path, most: int) -> None:
    from PIL import Image

    stream = np.random.default_rng(0)
    for images in (folder / "images",):
        images.mkdir(parents=True)
        for number in range(most):
            small = stream.integers(0, 256, (24, 32, 3), np.uint8)
            Image.fromarray(small).resize((640, 480)).save(images / f"{number:05}.jpg", quality=80)


def child(folder: Path, count: int, size: int) -> None:
    import resource

    from pth2om.accuracy import measure
    from pth2om.data import Preprocessor, open_dataset
    from pth2om.session import Provenance, TensorSpec
    from pth2om.spec import Postprocess, Preprocess

    class Session:
        inputs = (TensorSpec("image", (None, 3, size, size), np.dtype("float32")),)
        outputs = (TensorSpec("out", (None, 1000), np.dtype("float32")),)
        digest, provenance = "0" * 64, Provenance("none", "0", "host")

        def run(self, feeds):
            return {"out": feeds["image"].reshape(len(feeds["image"]), -1)[:, :1000]}

    dataset = open_dataset("many", calib_root=folder, subset=count)
    preprocessor = Preprocessor(Preprocess(size=(size, size), resize="letterbox"))
    measured = measure(Session(), dataset, preprocessor, Postprocess(), batch=8)
    assert measured["images"] == count
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--child", nargs=2)
    arguments = parser.parse_args()
    if arguments.child:
        child(Path(arguments.child[0]), int(arguments.child[1]), arguments.size)
        return
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text) / "many"
        prepare(folder, max(arguments.images))
        (folder / "dataset.toml").write_text('kind = "images"\nimages = "images"\nlabels = ""\n')
        peaks = []
        for count in arguments.images:
            command = [sys.executable, __file__, "--size", str(arguments.size), "--child", text, str(count)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(float(done.stdout))
            print(f"{count:6} images: peak {peaks[-1]:8.1f} MB")
        print(f"ratio {peaks[-1] / peaks[0]:.3f} (target 1.05)")


if __name__ == "__main__":
    main()
