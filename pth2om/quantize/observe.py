"""What an activation's values look like, in memory that does not grow with the number of images.

A tensor's values are counted by their FP16 code: 65,536 counters hold the exact distribution of the values as the NPU
sees them (ATC computes activations in FP16), without knowing the range beforehand, without re-binning, in any order,
and two counts merge by addition. Against the FP32 values each count is off by at most half a unit in the last place,
``2**-11 * |x|``, which is under an eighth of an INT8 step. Extremes and channel means are kept in full precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pth2om.quantize.network import Array, FloatArray

CODES = 1 << 16
_PIECE = 1 << 18
"""Values counted at a time: codes and counters then stay in the processor's cache."""

_ALL = np.arange(CODES, dtype=np.uint16).view(np.float16).astype(np.float64)
_FINITE = np.flatnonzero(np.isfinite(_ALL))
_ORDER = _FINITE[np.argsort(_ALL[_FINITE], kind="stable")]
_VALUES = _ALL[_ORDER]
_POSITIVE_INFINITY, _NEGATIVE_INFINITY = 0x7C00, 0xFC00
HALF_MAX = 65504.0


class Histogram:
    """Counts of one tensor over all images seen.

    Attributes:
        counts: (65536,) int64, by FP16 code.
        lowest, highest: exact extremes of the finite values, in FP32.
        images: batches seen.
        rows: images seen: their first axes, summed.
        not_finite: number of the first image that held a NaN or infinity, or None.
        overflow: how many finite values FP16 cannot hold.
        channel_sum: (channels,) float64 sum of the values per channel (axis 1, or the last of a matrix).
        channel_count: values per channel.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(CODES, np.int64)
        self.lowest, self.highest = np.inf, -np.inf
        self.images = self.rows = 0
        self.not_finite: int | None = None
        self.overflow = 0
        self.channel_sum: npt.NDArray[np.float64] = np.zeros(0)
        self.channel_count = 0

    def update(self, values: FloatArray, channel_axis: int | None = None) -> None:
        """Count one batch.

        Args:
            values: FP32 of any shape.
            channel_axis: axis whose channels' means are kept; None for none.
        """
        first = self.rows
        self.images += 1
        self.rows += values.shape[0] if values.ndim else 1
        if values.size == 0:
            return
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            if self.not_finite is None:
                bad = ~np.isfinite(values.reshape(values.shape[0] if values.ndim else 1, -1)).all(axis=1)
                self.not_finite = first + int(np.argmax(bad))
            finite = flat[np.isfinite(flat)]
            if finite.size == 0:
                return
            flat, channel_axis = finite, None
            low, high = float(flat.min()), float(flat.max())
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        with np.errstate(over="ignore"):
            for start in range(0, flat.size, _PIECE):
                codes = flat[start : start + _PIECE].astype(np.float16).view(np.uint16)
                self.counts += np.bincount(codes, minlength=CODES)
        if low < -HALF_MAX or high > HALF_MAX:
            self.overflow = int(self.counts[_POSITIVE_INFINITY] + self.counts[_NEGATIVE_INFINITY])
        if channel_axis is not None:
            self._update_channels(values, channel_axis)

    def _update_channels(self, values: FloatArray, axis: int) -> None:
        others = tuple(number for number in range(values.ndim) if number != axis % values.ndim)
        total = values.sum(axis=others, dtype=np.float64) if values.ndim < 3 else _plane_sums(values, axis)
        self.channel_sum = total if self.channel_sum.size == 0 else self.channel_sum + total
        self.channel_count += values.size // values.shape[axis]

    @property
    def total(self) -> int:
        """Finite values counted."""
        return int(self.counts.sum())

    @property
    def channel_mean(self) -> npt.NDArray[np.float64] | None:
        """Mean per channel, or None when it was not kept."""
        return None if self.channel_count == 0 else self.channel_sum / self.channel_count

    def points(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The distinct values in ascending order, and how often each came.

        Values beyond FP16's range count at its ends, as saturation would leave them.
        """
        counts = self.counts[_ORDER].astype(np.float64)
        counts[0] += self.counts[_NEGATIVE_INFINITY]
        counts[-1] += self.counts[_POSITIVE_INFINITY]
        present = np.flatnonzero(counts)
        return _VALUES[present], counts[present]

    def merge(self, other: Histogram) -> None:
        """Add another's counts, as if its images had come after this one's."""
        if self.not_finite is None and other.not_finite is not None:
            self.not_finite = self.rows + other.not_finite
        self.counts += other.counts
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        self.images += other.images
        self.rows += other.rows
        self.overflow += other.overflow
        if other.channel_count:
            same = self.channel_sum.size == 0
            self.channel_sum = other.channel_sum.copy() if same else self.channel_sum + other.channel_sum
            self.channel_count += other.channel_count

    def state(self) -> dict[str, Array]:
        """Everything as arrays, for a state file; only the codes that occurred."""
        present = np.flatnonzero(self.counts)
        numbers = [self.lowest, self.highest]
        missing = -1 if self.not_finite is None else self.not_finite
        return {
            "codes": present.astype(np.uint16),
            "counts": self.counts[present],
            "range": np.asarray(numbers, np.float64),
            "seen": np.asarray([self.images, self.rows, missing, self.overflow, self.channel_count], np.int64),
            "channel_sum": self.channel_sum,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Histogram:
        """The inverse of `state`."""
        histogram = cls()
        histogram.counts[np.asarray(state["codes"], np.int64)] = state["counts"]
        histogram.lowest, histogram.highest = (float(value) for value in state["range"])
        images, rows, missing, overflow, channel_count = (int(value) for value in state["seen"])
        histogram.rows = rows
        histogram.images, histogram.overflow, histogram.channel_count = images, overflow, channel_count
        histogram.not_finite = None if missing < 0 else missing
        histogram.channel_sum = np.asarray(state["channel_sum"], np.float64)
        return histogram


def _plane_sums(values: FloatArray, axis: int) -> npt.NDArray[np.float64]:
    """Sums per channel: planes in FP32 by pairwise summation, their sums in double precision."""
    if axis % values.ndim == 1:
        planes = values.reshape(values.shape[0], values.shape[1], -1).sum(axis=2)
        return np.asarray(planes.sum(axis=0, dtype=np.float64))
    others = tuple(number for number in range(values.ndim) if number != axis % values.ndim)
    return np.asarray(values.sum(axis=others, dtype=np.float64))
