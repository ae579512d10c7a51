"""Images of two datasets that look alike: the same picture stored again, at another quality or size.

Two pictures are alike where the 64 bits of their difference hashes (of the grey picture shrunk to 9 x 8, whether each
pixel is brighter than its left neighbour) differ in at most `MOST_BITS`, and their grey pictures shrunk to 16 x 16 by
at most `MOST_LEVELS` on the average. How often that is wrong: benchmarks/alike.py, and docs/int8.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pth2om.errors import DataError
from pth2om.host import cores, threads

if TYPE_CHECKING:
    from pth2om.data.image import Pixels
    from pth2om.data.labelled import Labelled

VERSION = 1
MOST_BITS = 6
MOST_LEVELS = 4.0
LEAST_SIDE = 16
"""Of smaller pictures too little is left to tell them apart."""
_LEAST_DEVIATION = 2.0
"""A picture of one grey has no difference hash to speak of."""
MOST_IMAGES = 10_000
"""So many images of a dataset are looked at."""
_MOST_THREADS = 4
_AT_A_TIME = 32


@dataclass(frozen=True)
class Fingerprint:
    """What is left of a picture.

    Attributes:
        bits: uint8 (8,), the difference hash.
        grey: int16 (16, 16), 0..255.
    """

    bits: npt.NDArray[np.uint8]
    grey: npt.NDArray[np.int16]


def fingerprint(pixels: Pixels) -> Fingerprint | None:
    """Of a picture, uint8 (H, W, 3) RGB; None where it is too small or too even to be told from others."""
    from PIL import Image

    if min(pixels.shape[:2]) < LEAST_SIDE:
        return None
    picture = Image.fromarray(pixels).convert("L")
    box = Image.Resampling.BOX
    grey = np.asarray(picture.resize((16, 16), box), dtype=np.int16)
    if grey.std() < _LEAST_DEVIATION:
        return None
    small = np.asarray(picture.resize((9, 8), box), dtype=np.int16)
    return Fingerprint(np.packbits(small[:, 1:] > small[:, :-1]), grey)


def alike(
    calibration: Labelled, images: int, scored: Labelled, seen: Callable[[int], None] | None = None
) -> list[tuple[str, str]]:
    """Of each calibration image the scored one that is most like it, where one is alike.

    Args:
        calibration: its first images are taken.
        images: how many of them.
        scored: its first `MOST_IMAGES` are compared; an image that cannot be read is for whoever scores it.
        seen: told after each image that was read.

    Returns:
        (file of the calibration set, file of the scored set), in the order of the former.
    """
    ours = list(_fingerprints(calibration, images, seen, 0))
    theirs = list(_fingerprints(scored, min(len(scored), MOST_IMAGES), seen, images))
    if not ours or not theirs:
        return []
    bits = np.stack([each.bits for _, each in theirs])
    grey = np.stack([each.grey for _, each in theirs])
    found = []
    for name, each in ours:
        near = np.flatnonzero(np.unpackbits(bits ^ each.bits, axis=1).sum(axis=1) <= MOST_BITS)
        if not near.size:
            continue
        apart = np.abs(grey[near] - each.grey).mean(axis=(1, 2))
        best = int(apart.argmin())
        if apart[best] <= MOST_LEVELS:
            found.append((name, theirs[near[best]][0]))
    return found


def _fingerprints(
    dataset: Labelled, count: int, seen: Callable[[int], None] | None, before: int
) -> Iterator[tuple[str, Fingerprint]]:
    def look(index: int) -> Fingerprint | None:
        try:
            return fingerprint(dataset.image(index))
        except DataError:
            return None

    # Pillow lets go of the interpreter while it decodes. Few at a time: whoever interrupts waits for those under way.
    with ThreadPoolExecutor(min(_MOST_THREADS, threads() or cores())) as looking:
        for start in range(0, count, _AT_A_TIME):
            for index, found in enumerate(looking.map(look, range(start, min(start + _AT_A_TIME, count))), start):
                if seen is not None:
                    seen(before + index + 1)
                if found is not None:
                    yield dataset.file(index), found
