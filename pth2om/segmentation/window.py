"""A sliding window over a volume, stitched as nnU-Net stitches: evenly spread tiles, weighted by a Gaussian.

Tiles are taken with the first axis outermost, so of the map only as many planes are kept as a tile is deep: a plane
that no later tile reaches is finished and given away. Memory does not grow with the first axis.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pth2om.errors import DataError
from pth2om.segmentation.deciding import Decide, best_class

Floats = npt.NDArray[np.float32]

SIGMA_SCALE = 1 / 8
"""Standard deviation of the weights, as a share of the tile's sides."""

LARGEST_WEIGHT = 10.0
"""nnU-Net scales its weights to this, because it sums in fp16."""

_PLANES = 8
"""Of a finished part of the map that are given away at once."""

Predict = Callable[[Floats], Floats]
"""Tiles (N, channels, *tile) -> scores (N, classes, *tile)."""


def steps(size: Sequence[int], tile: Sequence[int], step: float) -> list[list[int]]:
    """First positions of the tiles along each axis, as ``compute_steps_for_sliding_window`` of nnunetv2.

    Args:
        size: of the volume.
        tile: of the network's input; no side longer than the volume's.
        step: largest distance of neighbouring tiles, as a share of the tile, above 0 and at most 1.

    Raises:
        DataError: a tile is larger than the volume, or the step is no such share.
    """
    if len(size) != len(tile) or any(whole < part or part < 1 for whole, part in zip(size, tile, strict=False)):
        raise DataError("segmentation.tile-too-large", size=_shown(size), tile=_shown(tile))
    if not 0 < step <= 1:
        raise DataError("segmentation.bad-step", step=step)
    found = []
    for whole, part in zip(size, tile, strict=True):
        count = math.ceil((whole - part) / (part * step)) + 1
        distance = (whole - part) / (count - 1) if count > 1 else 0.0
        found.append([round(distance * number) for number in range(count)])  # half to even, as NumPy rounds
    return found


@functools.lru_cache(maxsize=4)
def weights(tile: tuple[int, ...], *, half: bool = True) -> Floats:
    """The weight of each voxel of a tile, float32 ``tile``: a Gaussian about its middle.

    Args:
        tile: the shape.
        half: round to fp16, as nnU-Net does; zeros become the smallest weight that is none.
    """
    from scipy.ndimage import gaussian_filter

    point = np.zeros(tile)
    point[tuple(side // 2 for side in tile)] = 1
    spread = gaussian_filter(point, [side * SIGMA_SCALE for side in tile], 0, mode="constant", cval=0)
    spread /= spread.max() / LARGEST_WEIGHT
    rounded: Floats = spread.astype(np.float16).astype(np.float32) if half else spread.astype(np.float32)
    rounded[rounded == 0] = rounded[rounded > 0].min()
    rounded.flags.writeable = False
    return rounded


@dataclass(frozen=True)
class Slab:
    """Finished planes of the map.

    Attributes:
        start: the first plane along the first axis of the volume.
        scores: float32 (classes, planes, ...).
    """

    start: int
    scores: Floats


def slabs(
    volume: Floats,
    tile: Sequence[int],
    predict: Predict,
    *,
    step: float = 0.5,
    gaussian: bool = True,
    mirror: Sequence[int] = (),
    batch: int = 1,
    seen: Callable[[int, int], None] | None = None,
) -> Iterator[Slab]:
    """The map of a volume, a few planes at a time, in order.

    Args:
        volume: float32 (channels, *size), normalized; sides shorter than the tile are padded with zeros on both sides,
            as nnU-Net pads, and the padding is cut off the map again.
        tile: the network's input without batch and channels.
        predict: the network.
        step: see `steps`.
        gaussian: whether tiles are weighted towards their middle.
        mirror: axes (0 is the first of the volume) of which every subset is mirrored; the scores of all are averaged.
        batch: tiles that `predict` takes at once; the last ones are filled up with a copy.
        seen: told how many tiles of how many are done.

    Raises:
        DataError: the network returns another shape, or a sum is not finite.
    """
    tile = tuple(tile)
    if any(not 0 <= axis < len(tile) for axis in mirror):
        raise DataError("segmentation.bad-mirror", axes=_shown(mirror), rank=len(tile))
    padded, before = _padded(volume, tile)
    size = volume.shape[1:]
    places = steps(padded.shape[1:], tile, step)
    weight = weights(tile) if gaussian else np.ones(tile, dtype=np.float32)
    inner = list(itertools.product(*places[1:]))
    total, done = len(places[0]) * len(inner), 0
    sums: Floats | None = None
    counts = np.zeros((tile[0], *padded.shape[2:]), dtype=np.float32)
    for number, first in enumerate(places[0]):
        for start in range(0, len(inner), batch):
            chosen = inner[start : start + batch]
            scores = _tiles(padded, first, chosen, tile, predict, mirror, batch)
            if sums is None:
                sums = np.zeros((scores.shape[1], tile[0], *padded.shape[2:]), dtype=np.float32)
            for score, place in zip(scores, chosen, strict=False):
                where = tuple(slice(at, at + side) for at, side in zip(place, tile[1:], strict=True))
                for target, part in zip(sums, score, strict=True):
                    target[(slice(None), *where)] += part * weight
                counts[(slice(None), *where)] += weight
            done += len(chosen)
            if seen is not None:
                seen(done, total)
        assert sums is not None
        shift = places[0][number + 1] - first if number + 1 < len(places[0]) else tile[0]
        yield from _finished(sums, counts, first, shift, before, size)
        for planes in (*sums, counts):  # one class at a time: NumPy copies what overlaps
            planes[: tile[0] - shift] = planes[shift:]
            planes[tile[0] - shift :] = 0


def _finished(
    sums: Floats, counts: Floats, first: int, shift: int, before: Sequence[int], size: Sequence[int]
) -> Iterator[Slab]:
    """The planes that no later tile reaches, without the padding, a few at a time: each is a copy of all classes."""
    low, high = max(first, before[0]), min(first + shift, before[0] + size[0])
    inside = tuple(slice(at, at + side) for at, side in zip(before[1:], size[1:], strict=True))
    for start in range(low, high, _PLANES):
        planes = (slice(start - first, min(start + _PLANES, high) - first), *inside)
        scores = sums[(slice(None), *planes)] / counts[planes]
        if np.isinf(scores).any():
            raise DataError("segmentation.infinite")
        yield Slab(start - before[0], scores)


def _tiles(
    volume: Floats,
    first: int,
    places: Sequence[Sequence[int]],
    tile: Sequence[int],
    predict: Predict,
    mirror: Sequence[int],
    batch: int,
) -> Floats:
    """Scores of the tiles at ``places``, averaged over the mirrored ones."""
    cuts = []
    for place in places:
        where = tuple(slice(at, at + side) for at, side in zip((first, *place), tile, strict=True))
        cuts.append(volume[(slice(None), *where)])
    cuts += [cuts[-1]] * (batch - len(cuts))
    taken = np.stack(cuts)
    scores = _checked(predict(taken), taken)
    subsets = [each for count in range(1, len(mirror) + 1) for each in itertools.combinations(mirror, count)]
    for axes in subsets:
        flipped = tuple(axis + 2 for axis in axes)
        turned = _checked(predict(np.ascontiguousarray(np.flip(taken, flipped))), taken)
        scores = scores + np.flip(turned, flipped)
    return scores / np.float32(len(subsets) + 1) if subsets else scores


def _checked(scores: Floats, tiles: Floats) -> Floats:
    if scores.ndim != tiles.ndim or scores.shape[0] != len(tiles) or scores.shape[2:] != tiles.shape[2:]:
        raise DataError("segmentation.wrong-scores", got=_shown(scores.shape), fed=_shown(tiles.shape))
    return np.asarray(scores, dtype=np.float32)


def _padded(volume: Floats, tile: Sequence[int]) -> tuple[Floats, list[int]]:
    """The volume, no smaller than the tile, and how much was put in front of each axis."""
    missing = [max(part - whole, 0) for whole, part in zip(volume.shape[1:], tile, strict=True)]
    before = [each // 2 for each in missing]
    if not any(missing):
        return volume, before
    around = [(0, 0), *((low, each - low) for low, each in zip(before, missing, strict=True))]
    return np.pad(volume, around), before


def labels(
    found: Iterator[Slab], size: Sequence[int], decide: Decide = best_class
) -> tuple[npt.NDArray[np.int16], int]:
    """The label of every voxel, int16 ``size``; -1 where a score is NaN; and the number of those voxels.

    Args:
        found: of `slabs`.
        size: of the volume.
        decide: from scores to labels; default the best class.
    """
    best = np.full(tuple(size), -1, dtype=np.int16)
    for slab in found:
        best[slab.start : slab.start + slab.scores.shape[1]] = decide(slab.scores)
    return best, int(np.count_nonzero(best < 0))


def stitched(found: Iterator[Slab], size: Sequence[int]) -> Floats:
    """The whole map, float32 (classes, *size), of the pieces of `slabs`."""
    whole: Floats | None = None
    for slab in found:
        if whole is None:
            whole = np.empty((len(slab.scores), *size), dtype=np.float32)
        whole[:, slab.start : slab.start + slab.scores.shape[1]] = slab.scores
    assert whole is not None
    return whole


def _shown(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
