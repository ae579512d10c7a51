"""float16 as NumPy values: the rounding that the graph's Cast pairs do, for weights and for counting."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

HALF_MAX = 65504.0
"""The largest finite float16."""

HALF_OVERFLOW = 65520.0
"""From this magnitude on, rounding to nearest leaves the finite float16 values (65504 plus half its ulp, ties away)."""

Floats = npt.NDArray[np.float32]


def to_half(values: npt.NDArray[np.floating], *, clip: bool) -> Floats:
    """Values rounded to the nearest float16 (ties to even, subnormals kept), held as float32.

    Args:
        values: float32, float64 or float16 of any shape.
        clip: finite values beyond +-65504 become +-65504 instead of infinity, as ``--is_weight_clip=1`` (ATC's
            default, "ATC guide, precision flags") does with weights; infinities stay.

    Returns:
        float32 of the same shape; every value is a float16 value.
    """
    wide = np.asarray(values)
    if clip and wide.size and not (wide.min() >= -HALF_MAX and wide.max() <= HALF_MAX):  # NaN is neither
        limited = np.clip(wide, -HALF_MAX, HALF_MAX)
        wide = np.where(np.isinf(wide), wide, limited)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # From float64 straight to float16: over float32 a value could be rounded twice.
        return wide.astype(np.float16).astype(np.float32)


def counts(values: npt.NDArray[np.floating]) -> tuple[int, int]:
    """How many finite values overflow in float16, and how many that are not zero become zero."""
    size = np.abs(np.asarray(values, dtype=np.float64))
    overflowed = int(np.count_nonzero(np.isfinite(size) & (size >= HALF_OVERFLOW)))
    # Half of the smallest subnormal (2**-24) ties to even, which is zero.
    vanished = int(np.count_nonzero((size > 0) & (size <= 2.0**-25)))
    return overflowed, vanished


@dataclass(frozen=True)
class Rounded:
    """A constant's float16 values.

    Attributes:
        values: held as float32; None where they are the constant's own.
        overflowed: see `counts`.
        vanished: see `counts`.
    """

    values: Floats | None
    overflowed: int = 0
    vanished: int = 0


_ROOM = 128 << 20  # bytes of all constants that are kept, and of their values
_ENDS = 64  # bytes
_kept: OrderedDict[tuple[object, ...], tuple[bytes, Rounded]] = OrderedDict()
_keeping = threading.Lock()


def rounded_once(values: npt.NDArray[np.floating], *, clip: bool) -> Rounded:
    """`to_half` and `counts` of a constant as float32, kept for the next: bands, batches and modes share their weights.

    Args:
        values: float32, float64 or float16 of any shape; rounded to float32 first.
        clip: see `to_half`.

    Returns:
        What is kept; its values are not to be written to.
    """
    content = values.tobytes()
    key = (clip, values.dtype.str, values.shape, content[:_ENDS], content[-_ENDS:])
    with _keeping:
        known = _kept.get(key)
        if known is not None and known[0] == content:
            _kept.move_to_end(key)
            return known[1]
    found = _rounded(np.asarray(values, dtype=np.float32), clip=clip)
    with _keeping:
        _kept[key] = content, found
        _kept.move_to_end(key)
        while sum(len(had) + (0 if one.values is None else one.values.nbytes) for had, one in _kept.values()) > _ROOM:
            _kept.popitem(last=False)
    return found


def _rounded(values: Floats, *, clip: bool) -> Rounded:
    rounded = to_half(values, clip=clip)
    if np.array_equal(values, rounded, equal_nan=True):
        return Rounded(None)
    rounded.flags.writeable = False
    return Rounded(rounded, *counts(values))
