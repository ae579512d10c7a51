"""How close two arrays are: the figures of one pair, all sums in float64.

Values that are not finite drop out of the sums, and every one of them is counted: ``new_nonfinite`` (the reference is
finite there), ``lost_nonfinite`` (the reference is not, and the candidate is something else) and ``undefined`` (both
are NaN). Only equal infinities count as compared.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ATOL = RTOL = 5e-3
"""Of ``within_tolerance``: the share of values with ``|difference| <= ATOL + RTOL * |reference|``."""

EDGES = tuple(float(edge) for edge in np.arange(-10.0, 4.5, 0.5))
"""Bin edges of the error histogram, log10 of the absolute error; smaller errors (also 0) and larger ones at the
ends."""
_POWERS = tuple(10.0 ** np.array(EDGES))

METRICS = (
    "cosine",
    "relative_l2",
    "max_abs",
    "mean_abs",
    "sqnr_db",
    "within_tolerance",
    "new_nonfinite",
    "lost_nonfinite",
    "undefined",
    "reference_peak",
    "top1_agreement",
    "top5_overlap",
    "equal",
    "shift_pixels",
    "column_l2",
)
NORMS = ("l2", "reference_l2", "candidate_l2")
"""What `closeness` gives besides: of the difference and of both sides."""

_PIECE = 8192
_COLUMNS = range(2, 1025)
"""Widths of a last axis whose columns are looked at one by one where nothing names them."""
_SCALE_APART = 64.0
_SMALLEST_COLUMN = 2.0**-10

_NOT_FINITE = ("new_nonfinite", "lost_nonfinite", "undefined")
_OF_FINITE = ("cosine", "relative_l2", "max_abs", "mean_abs", "sqnr_db", "within_tolerance", "reference_peak")
HIGHER_IS_BETTER = frozenset({"cosine", "sqnr_db", "within_tolerance", "top1_agreement", "top5_overlap", "equal"})


def worst_column(reference: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> float | None:
    """The largest relative L2 of a column of the last axis, where their scales lie far apart; None where they do not.

    Boxes beside scores in one output: the size of the whole is that of the boxes, and hides what became of the scores.
    """
    if reference.ndim < 2 or reference.shape[-1] not in _COLUMNS or reference.size < 8 * reference.shape[-1]:
        return None
    ours = np.asarray(reference, dtype=np.float64).reshape(-1, reference.shape[-1])
    theirs = np.asarray(candidate, dtype=np.float64).reshape(ours.shape)
    usable = np.isfinite(ours) & np.isfinite(theirs)
    ours, theirs = np.where(usable, ours, 0.0), np.where(usable, theirs, 0.0)
    peaks = np.abs(ours).max(axis=0)
    counted = peaks >= _SMALLEST_COLUMN
    if not counted.any() or peaks.max() < _SCALE_APART * peaks[counted].min():
        return None
    sizes = np.linalg.norm(ours[:, counted], axis=0)
    return float((np.linalg.norm((theirs - ours)[:, counted], axis=0) / sizes).max())


def figures(
    reference: npt.NDArray[Any], candidate: npt.NDArray[Any], *, kind: str = "values", pixels: int | None = None
) -> dict[str, float | None]:
    """The metrics of one pair of arrays of the same shape.

    * cosine: ``r.c / (|r||c|)``; 1 when both are zero, 0 when one is.
    * relative L2: ``|c - r| / |r|``; 0 when both are zero, infinite when only r is.
    * SQNR: ``10 log10(|r|^2 / |c - r|^2)`` dB; infinite when equal.
    * equal: the share of equal elements.

    Where no position is finite on both sides, these figures do not exist and are None, but for ``equal``.

    Args:
        reference: any shape and number type.
        candidate: same shape.
        kind: as `pth2om.spec.Slice.kind`; scores get top-k agreement over the last axis, boxes a shift in pixels.
        pixels: longer side of the input; boxes of values below 2 are taken for fractions of it.

    Returns:
        Metric -> value, with the norms ``l2``, ``reference_l2`` and ``candidate_l2``.
    """
    return _compared(reference, candidate, kind, pixels)[0]


def closeness(
    reference: npt.NDArray[Any], candidate: npt.NDArray[Any], *, kind: str = "values", pixels: int | None = None
) -> tuple[dict[str, float | None], list[int]]:
    """The `figures` of one pair of arrays, and the histogram of its errors.

    Returns:
        `figures`; how many errors lie below the first of `EDGES`, from each to the next, and from the last on.
    """
    values, size = _compared(reference, candidate, kind, pixels)
    return values, _histogram(size)


def _compared(
    reference: npt.NDArray[Any], candidate: npt.NDArray[Any], kind: str, pixels: int | None
) -> tuple[dict[str, float | None], npt.NDArray[np.float64]]:
    """`figures`, and the absolute errors where both sides are finite."""
    ours = np.asarray(reference, dtype=np.float64)
    theirs = np.asarray(candidate, dtype=np.float64)
    r, c, norm_r, norm_c = _finite(ours, theirs)
    difference = c - r
    norm_d = _norm(difference)
    size = np.abs(difference, out=difference)
    compared = bool(size.size) or not ours.size
    plain = size.size == ours.size
    tolerance = np.abs(r)
    peak = float(tolerance.max(initial=0.0))
    tolerance *= RTOL
    tolerance += ATOL
    values: dict[str, float | None] = {
        "cosine": _cosine(r, c, norm_r, norm_c),
        "relative_l2": norm_d / norm_r if norm_r else (0.0 if not norm_d else math.inf),
        "l2": norm_d,
        "reference_l2": norm_r,
        "candidate_l2": norm_c,
        "max_abs": float(size.max(initial=0.0)),
        "mean_abs": float(size.mean()) if size.size else 0.0,
        "sqnr_db": _decibels(norm_r, norm_d),
        "within_tolerance": float((size <= tolerance).mean()) if size.size else 1.0,
        **(dict.fromkeys(_NOT_FINITE, 0) if plain else _nonfinite(ours, theirs)),
        "reference_peak": peak,
        "equal": float((ours == theirs if plain else _same(ours, theirs)).mean()) if ours.size else 1.0,
    }
    if not compared:
        values |= dict.fromkeys(_OF_FINITE)
    if kind == "scores" and ours.ndim and ours.shape[-1] > 1:
        values.update(_topk(ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, ours.shape[-1])))
    if kind == "boxes":
        values["shift_pixels"] = _shift(ours, theirs, pixels) if compared else None
    return values, size


def distance(reference: npt.NDArray[Any], candidate: npt.NDArray[Any]) -> float:
    """The relative L2 of `figures` alone, for outputs that are mostly equal: several times as fast.

    Args:
        reference: any shape and number type.
        candidate: same shape.

    Returns:
        0 also where no position is finite on both sides; infinite where one side alone is not finite anywhere.
    """
    if np.array_equal(reference, candidate):
        return 0.0
    ours = np.asarray(reference, dtype=np.float64)
    theirs = np.asarray(candidate, dtype=np.float64)
    r, c, norm_r, _ = _finite(ours, theirs)
    if r.size < ours.size:
        counts = _nonfinite(ours, theirs)
        if counts["new_nonfinite"] or counts["lost_nonfinite"]:
            return math.inf
    norm_d = _norm(c - r)
    return norm_d / norm_r if norm_r else (0.0 if not norm_d else math.inf)


def _finite(ours: Floats, theirs: Floats) -> tuple[Floats, Floats, float, float]:
    """The values at positions that are finite on both sides, in one dimension, and their norms."""
    r, c = ours.ravel(), theirs.ravel()
    norm_r, norm_c = _norm(r), _norm(c)
    if not (math.isfinite(norm_r) and math.isfinite(norm_c)):  # a single value that is not finite shows in the norm
        both = np.isfinite(r) & np.isfinite(c)
        r, c = r[both], c[both]
        norm_r, norm_c = _norm(r), _norm(c)
    return r, c, norm_r, norm_c


def _norm(values: Floats) -> float:
    # The plain norm overflows only beyond 1e154, which no float32 output reaches.
    return math.sqrt(_dot(values, values))


def _dot(first: Floats, second: Floats) -> float:
    """The product of two vectors, in pieces of one thread each.

    OpenBLAS shares vectors of more than 10,000 numbers among its threads: the last bits then depend on how many there
    are, and beside sessions at work the threads wait for each other.
    """
    pieces = range(0, len(first), _PIECE)
    return float(sum(np.dot(first[start : start + _PIECE], second[start : start + _PIECE]) for start in pieces))


def _nonfinite(ours: Floats, theirs: Floats) -> dict[str, int]:
    """The counts of `_NOT_FINITE`."""
    finite_ours, finite_theirs = np.isfinite(ours), np.isfinite(theirs)
    return {
        "new_nonfinite": int(np.count_nonzero(finite_ours & ~finite_theirs)),
        "lost_nonfinite": int(np.count_nonzero(~finite_ours & ~_same(ours, theirs))),
        "undefined": int(np.count_nonzero(np.isnan(ours) & np.isnan(theirs))),
    }


def _same(ours: Floats, theirs: Floats) -> npt.NDArray[np.bool_]:
    same: npt.NDArray[np.bool_] = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    return same


def _cosine(r: Floats, c: Floats, norm_r: float, norm_c: float) -> float:
    if not norm_r or not norm_c:
        return 1.0 if norm_r == norm_c else 0.0
    # Scaled before the product, so that very small vectors do not underflow.
    return min(max(_dot(r / norm_r, c / norm_c), -1.0), 1.0)


def _decibels(signal: float, noise: float) -> float:
    if not noise:
        return math.inf
    return 20 * math.log10(signal / noise) if signal else -math.inf


def _topk(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """Agreement of the best column per row, and the overlap of the best five.

    A candidate's first choice that the reference holds within tolerance of its own first counts as agreeing: between
    equals the order is chance.
    """
    rows = np.arange(len(ours))
    # NaN never wins: a row without a number agrees with nothing.
    choice = np.argmax(np.nan_to_num(theirs, nan=-np.inf), axis=1)
    best = np.nan_to_num(ours, nan=-np.inf).max(axis=1)
    with np.errstate(invalid="ignore"):
        agrees = ours[rows, choice] >= best - (ATOL * np.minimum(np.abs(best), 1) + RTOL * np.abs(best)) / 2
    agrees &= np.isfinite(theirs[rows, choice])
    values: dict[str, float | None] = {"top1_agreement": float(agrees.mean())}
    if ours.shape[1] > 5 and len(ours) <= 64:
        # Only where rows are images: for thousands of anchors the best five of each say nothing.
        tops = [np.argsort(-part, axis=1, kind="stable")[:, :5] for part in (ours, theirs)]
        shared = [len(np.intersect1d(a, b)) for a, b in zip(*tops, strict=True)]
        values["top5_overlap"] = float(np.mean(shared)) / 5
    return values


def _shift(
    ours: Floats,
    theirs: Floats,
    pixels: int | None,
) -> float:
    """The mean absolute difference of the worst box coordinate (the last axis has four), in pixels.

    A whole box moved along one axis moves one or two of its four numbers, so these are not averaged away.
    """
    both = np.isfinite(ours) & np.isfinite(theirs)
    size = np.where(both, np.abs(np.where(both, theirs, 0) - np.where(both, ours, 0)), 0.0)
    width = ours.shape[-1] if ours.ndim and ours.shape[-1] in (4, 5, 6) else 1
    per_column = size.reshape(-1, width).mean(axis=0)
    fraction = bool(np.abs(np.where(both, ours, 0)).max(initial=0.0) <= 2.0)
    return float(per_column.max()) * (float(pixels or 1) if fraction else 1.0)


def _histogram(size: npt.NDArray[np.float64]) -> list[int]:
    """How many errors lie between `EDGES`: counted edge by edge, several times as fast as looking up each error."""
    least, most = size.min(initial=math.inf), size.max(initial=0.0)
    reached = [
        size.size if edge <= least else 0 if edge > most else int(np.count_nonzero(size >= edge)) for edge in _POWERS
    ]
    return [before - after for before, after in itertools.pairwise([size.size, *reached, 0])]
