"""Time and peak memory of ``pth2om evaluate`` over generated images, killed half-way once and taken up again.

    python benchmarks/evaluate_images.py [--images 5000 50000] [--batch 64] [--soc Ascend310P3]

Digits of the bundled set, drawn larger and with noise, as PNG files. Each run is a process of its own; at the largest
number the process is killed (SIGKILL) when half of the outputs are there, and started again. Target: a peak that does
not grow with the number of images, but for their names and digests.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]


def prepare(folder: Path, count: int) -> None:
    """``count`` PNG images of 64 x 64 and their labels."""
    from PIL import Image

    from pth2om.data import open_dataset

    digits = open_dataset("digits", calib_root=ROOT / "calib")
    stream = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    with (folder / "val_label.txt").open("w") as labels:
        for k in range(count):
            large = np.asarray(Image.fromarray(digits.image(k % len(digits))).resize((64, 64)))
            noisy = np.clip(large.astype(int) + stream.integers(-20, 21, large.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / "images" / f"{k:06d}.png", compress_level=1)
            labels.write(f"{k:06d}.png {digits.label(k % len(digits))}\n")
    (folder / "calib" / "digits").mkdir(parents=True)
    (folder / "calib" / "digits" / "dataset.toml").write_text('kind = "images"\nclasses = 10\nimages = "images"\n')


def start(data: Path, out: Path, count: int, batch: int, soc: str) -> subprocess.Popen[bytes]:
    """The command as it is typed."""
    asked = ["--datasets-path", str(data), "--images", str(count), "--batch-size", str(batch), "-o", str(out)]
    words = [sys.executable, "-m", "pth2om", "evaluate", str(ROOT / "models" / "convmixer-digits"), *asked]
    return subprocess.Popen([*words, "--calib", str(data / "calib"), *(["--soc", soc] if soc else [])])


def ended(process: subprocess.Popen[bytes], began: float, what: str) -> None:
    """Wait, and print time and peak."""
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    print(f"{what}: exit {code}, {time.time() - began:.0f} s, peak {usage.ru_maxrss / 1024:.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, nargs="+", default=[5000, 50000])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--soc", default="Ascend310P3")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, began = Path(folder) / "data", time.time()
        prepare(data, max(arguments.images))
        print(f"{max(arguments.images)} images generated in {time.time() - began:.0f} s", flush=True)
        for count in sorted(arguments.images):
            out, began = Path(folder) / f"out{count}", time.time()
            process = start(data, out, count, arguments.batch, arguments.soc)
            if count == max(arguments.images):
                half, done = -(-count // arguments.batch) // 2, 0
                flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
                while os.waitid(os.P_PID, process.pid, flags) is None:
                    time.sleep(0.5)
                    done = sum(1 for path in out.glob("outputs_*/input_*"))
                    if done >= half:
                        process.send_signal(signal.SIGKILL)
                        break
                ended(process, began, f"{count} images, killed at {done} outputs")
                began = time.time()
                process = start(data, out, count, arguments.batch, arguments.soc)
            ended(process, began, f"{count} images")


if __name__ == "__main__":
    main()
