"""float16 as NumPy values: the rounding that the graph's Cast pairs do, for weights and for counting."""

from __future__ import annotations

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
    if clip:
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
