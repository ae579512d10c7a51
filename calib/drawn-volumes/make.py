"""Draws volumes with balls and boxes, and the class of every voxel: training and held-out set of ``models/nnunet3d``.

The folder that it writes has nnU-Net's form: ``imagesTs/case_0000.npy``, ``labelsTs/case.npy`` and ``dataset.json``.
Every voxel is the same on every machine: random numbers are raw PCG64 words (NumPy keeps that stream stable, unlike the
distributions built on it), and the drawing uses nothing but sums, products and divisions in double precision.

    python calib/drawn-volumes/make.py           draws the held-out set and checks its digest
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

CLASSES = ("background", "ball", "box")
COUNTS = {"train": 2000, "held-out": 100}
SHA256 = "9a2e537e4eefd150ed95755b15e30ee0223c841804ba00d491169cfe46225e55"
"""Of all voxels and classes of the held-out set, see `digest`."""

SIDES = (12, 15, 16, 20)

Volume = npt.NDArray[np.int16]
Truth = npt.NDArray[np.uint8]


class _Dice:
    """Random numbers from raw 64-bit words."""

    def __init__(self, split: str, index: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([20261127, sorted(COUNTS).index(split), index]))

    def below(self, count: int) -> int:
        return int(self._bits.random_raw()) % count

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * (int(self._bits.random_raw()) >> 11) / 2.0**53

    def grid(self, *shape: int) -> npt.NDArray[np.float64]:
        """Uniform in 0..1."""
        words: npt.NDArray[np.uint64] = self._bits.random_raw(math.prod(shape))
        return (words >> np.uint64(11)).astype(np.float64).reshape(shape) / 2.0**53


def draw(split: str, index: int) -> tuple[Volume, Truth]:
    """One volume, int16 in the hundreds as a scanner gives it, and the class of each voxel, of the same shape.

    Args:
        split: ``train`` or ``held-out``.
        index: which volume of the set.
    """
    dice = _Dice(split, index)
    size = tuple(SIDES[dice.below(len(SIDES))] for _ in range(3))
    truth = np.zeros(size, dtype=np.uint8)
    grey = np.zeros(size)
    place = np.stack(np.meshgrid(*(np.arange(side) + 0.5 for side in size), indexing="ij"))
    for kind in (1, 2, *(1 + dice.below(2) for _ in range(dice.below(3)))):
        centre = np.array([dice.between(3, side - 3) for side in size]).reshape(3, 1, 1, 1)
        reach = dice.between(3.0, 5.5)
        away = np.abs(place - centre)
        inside = (away * away).sum(axis=0) < reach * reach if kind == 1 else away.max(axis=0) < 0.85 * reach
        truth[inside] = kind
        grey[inside] = dice.between(0.8, 1.2)
    slope = sum(dice.between(-0.25, 0.25) * place[axis] / size[axis] for axis in range(3))
    # The sum of four uniform numbers is close enough to a bell.
    noise = sum(dice.grid(*size) for _ in range(4)) - 2.0
    values = 400.0 + 200.0 * dice.between(0.7, 1.3) * (grey + slope + 0.5 * noise)
    return np.floor(values + 0.5).astype(np.int16), truth


def volumes(split: str) -> Iterator[tuple[Volume, Truth]]:
    """All volumes of a set, in order."""
    return (draw(split, index) for index in range(COUNTS[split]))


def digest(drawn: Iterator[tuple[Volume, Truth]]) -> str:
    """sha256 of sizes, voxels and classes of a set."""
    total = hashlib.sha256()
    for values, truth in drawn:
        total.update(np.array(values.shape, "<i4").tobytes() + values.astype("<i2").tobytes() + truth.tobytes())
    return total.hexdigest()


def make(folder: Path, split: str = "held-out", count: int | None = None) -> None:
    """Write a set into ``folder``.

    Args:
        folder: an empty folder.
        split: ``train`` or ``held-out``.
        count: its first volumes; default all.
    """
    for name in ("imagesTs", "labelsTs"):
        (folder / name).mkdir()
    number = COUNTS[split] if count is None else count
    for index in range(number):
        values, truth = draw(split, index)
        np.save(folder / "imagesTs" / f"drawn_{index:03d}_0000.npy", values)
        np.save(folder / "labelsTs" / f"drawn_{index:03d}.npy", truth)
    content = {
        "channel_names": {"0": "MRI"},
        "labels": {name: value for value, name in enumerate(CLASSES)},
        "numTraining": number,
        "file_ending": ".npy",
    }
    (folder / "dataset.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    found = digest(volumes("held-out"))
    print("held-out", found, "as recorded" if found == SHA256 else "DIFFERENT")
