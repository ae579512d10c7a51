"""Makes ``digits.npz``, the held-out digits, from scikit-learn's copy of the UCI data.

    python calib/digits/make.py           needs scikit-learn

The last 597 of 1,797 digits are held out, the first 1,200 train ``models/convmixer-digits``: neighbours in the data
were written by the same hand, so a random split would test on hands that were trained on.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

TRAINED = 1200
SHA256 = "dfa938976651d12f7f834667af4e87a589804368035f5368b31143f77a9371a7"
"""Of the held-out pixels and labels, see `digest`."""

Digits = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def digits() -> tuple[Digits, Digits]:
    """Training and held-out digits: pixels uint8 (N, 8, 8), labels uint8 (N,)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    # 0..16 to 0..255, 16 levels of nearly equal width.
    pixels = np.round(data.images * 255 / 16).astype(np.uint8)
    labels = data.target.astype(np.uint8)
    return (pixels[:TRAINED], labels[:TRAINED]), (pixels[TRAINED:], labels[TRAINED:])


def digest(held_out: Digits) -> str:
    """sha256 of pixels and labels."""
    return hashlib.sha256(held_out[0].tobytes() + held_out[1].tobytes()).hexdigest()


if __name__ == "__main__":
    pixels, labels = digits()[1]
    np.savez_compressed(Path(__file__).with_name("digits.npz"), x=pixels, y=labels)
    print(digest((pixels, labels)), "as recorded" if digest((pixels, labels)) == SHA256 else "DIFFERENT")
