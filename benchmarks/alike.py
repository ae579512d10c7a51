"""How often pth2om.data.alike is wrong: pairs of different images taken for copies, and copies that it does not find.

    python -m benchmarks.alike coco141 imagenet650 cifar10_249 shapes

Datasets are found as in a run (PTH2OM_DATA, calib/). Images with equal pixels are not counted as wrong.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from pth2om.data import open_dataset
from pth2om.data.alike import MOST_BITS, MOST_LEVELS, Fingerprint, fingerprint
from pth2om.host import data_roots

COPIES = ((90, 1.0), (60, 1.0), (60, 0.5), (30, 0.8))


def alike(one: Fingerprint, other: Fingerprint) -> bool:
    """As the module decides."""
    bits = int(np.unpackbits(one.bits ^ other.bits).sum())
    return bits <= MOST_BITS and float(np.abs(one.grey - other.grey).mean()) <= MOST_LEVELS


def stored_again(pixels: np.ndarray, quality: int, scale: float) -> np.ndarray:
    """A JPEG of another quality and size."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image.resize(size, Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def main(names: list[str]) -> None:
    """A line of Markdown a dataset."""
    print(
        "| dataset | images | pairs | taken for copies | " + " | ".join(f"JPEG {q} x {s:g}" for q, s in COPIES) + " |"
    )
    for name in names:
        dataset = open_dataset(name, calib_root=Path("calib"), data_roots=data_roots())
        pictures = [dataset.image(index) for index in range(min(len(dataset), 700))]
        known = [(pixels, mark) for pixels in pictures if (mark := fingerprint(pixels)) is not None]
        marks = [mark for _, mark in known]
        bits, grey = np.stack([mark.bits for mark in marks]), np.stack([mark.grey for mark in marks])
        wrong = pairs = 0
        for first in range(len(marks) - 1):
            apart = np.unpackbits(bits[first + 1 :] ^ bits[first], axis=1).sum(axis=1)
            levels = np.abs(grey[first + 1 :] - grey[first]).mean(axis=(1, 2))
            pairs += len(apart)
            for other in np.flatnonzero((apart <= MOST_BITS) & (levels <= MOST_LEVELS)) + first + 1:
                wrong += not np.array_equal(known[first][0], known[other][0])
        found = []
        for quality, scale in COPIES:
            copies = [(mark, fingerprint(stored_again(pixels, quality, scale))) for pixels, mark in known[:100]]
            found.append(sum(copy is not None and alike(mark, copy) for mark, copy in copies) / max(1, len(copies)))
        print(f"| {name} | {len(marks)} | {pairs} | {wrong} | " + " | ".join(f"{share:.0%}" for share in found) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
