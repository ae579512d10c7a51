"""The distribution of an activation's values, in memory that does not grow with the number of images.

A tensor's values are counted by their FP16 code: 65,536 counters are the exact distribution of the values on the NPU
(ATC computes activations in FP16). The range need not be known beforehand, the order is irrelevant, and two counts are
merged by addition. Compared with FP32, each value is off by at most half a unit in the last place, ``2**-11 * |x|``,
which is less than an eighth of an INT8 step. Extremes and channel means are those of the FP32 values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pth2om.quantize.network import Array, FloatArray

CODES = 1 << 16
_PIECE = 1 << 18
"""Number of values counted at a time; they and the counters then fit the processor's cache."""

_ALL = np.arange(CODES, dtype=np.uint16).view(np.float16).astype(np.float64)
_FINITE = np.flatnonzero(np.isfinite(_ALL))
_ORDER = _FINITE[np.argsort(_ALL[_FINITE], kind="stable")]
_VALUES = _ALL[_ORDER]
_POSITIVE_INFINITY, _NEGATIVE_INFINITY = 0x7C00, 0xFC00
_NANS = np.flatnonzero(np.isnan(_ALL))
HALF_MAX = 65504.0


class Histogram:
    """Counts of one tensor over all images so far.

    Attributes:
        counts: (65536,) int64, by FP16 code.
        lowest, highest: exact extremes of the finite values, in FP32.
        batches: batches counted.
        begun: batches whose counting was started; more than ``batches`` if it was interrupted.
        images: images counted.
        not_finite: number of the first image with a NaN or infinity, or None.
        overflow: how many finite values exceed FP16.
        channel_sum: (channels,) float64 sum of the values per channel (axis 1, or the last of a matrix).
        channel_count: values per channel.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(CODES, np.int64)
        self.lowest, self.highest = np.inf, -np.inf
        self.batches = self.begun = self.images = 0
        self.not_finite: int | None = None
        self.overflow = 0
        self.channel_sum: npt.NDArray[np.float64] = np.zeros(0)
        self.channel_count = 0

    def update(self, values: FloatArray, channel_axis: int | None = None, images: int | None = None) -> None:
        """Count one batch of values.

        Args:
            values: FP32 of any shape, one image after the other.
            channel_axis: axis whose channels' means are kept; None for none.
            images: number of images in the batch; default the size of the first axis, which is wrong if the network has
                merged this axis with others.
        """
        values = np.asarray(values, np.float32)
        with np.errstate(over="ignore"):
            codes = values.astype(np.float16).view(np.uint16)
        low, high = (float(values.min()), float(values.max())) if values.size else (np.inf, -np.inf)
        known = channel_axis is not None and np.isfinite(low) and np.isfinite(high)
        sums = _channel_sums(values, channel_axis) if known and channel_axis is not None else None
        self.add(codes, low, high, sums, images)

    def add(
        self,
        codes: npt.NDArray[np.uint16],
        low: float,
        high: float,
        channel_sum: npt.NDArray[np.float64] | None = None,
        images: int | None = None,
    ) -> None:
        """Count one batch whose codes and extremes were computed before.

        Args:
            codes: uint16 FP16 code of each value, rounded to nearest, ties to even; of the tensor's shape.
            low: the smallest value in FP32; not finite if a value is infinite, undefined if one is NaN.
            high: the largest value, likewise.
            channel_sum: (channels,) sum of the values per channel.
            images: as in `update`.
        """
        self.begun += 1
        self._add(codes, low, high, channel_sum, images if images is not None else codes.shape[0] if codes.ndim else 1)
        self.batches += 1

    def _add(
        self,
        codes: npt.NDArray[np.uint16],
        low: float,
        high: float,
        channel_sum: npt.NDArray[np.float64] | None,
        count: int,
    ) -> None:
        first = self.images
        self.images += count
        if codes.size == 0:
            return
        flat = codes.reshape(-1)
        counts = np.zeros(CODES, np.int64)
        for start in range(0, flat.size, _PIECE):
            counts += np.bincount(flat[start : start + _PIECE], minlength=CODES)
        infinite = not (np.isfinite(low) and np.isfinite(high))
        if infinite or counts[_NANS].any():
            if self.not_finite is None:
                bad = (flat & 0x7FFF) >= (_POSITIVE_INFINITY if infinite else _POSITIVE_INFINITY + 1)
                self.not_finite = first + int(np.argmax(bad)) * count // flat.size
            counts[_NANS] = counts[_POSITIVE_INFINITY] = counts[_NEGATIVE_INFINITY] = 0
            present = np.flatnonzero(counts)
            if present.size == 0:
                return
            low, high, channel_sum = float(_ALL[present].min()), float(_ALL[present].max()), None
        self.counts += counts
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        if low < -HALF_MAX or high > HALF_MAX:
            self.overflow = int(self.counts[_POSITIVE_INFINITY] + self.counts[_NEGATIVE_INFINITY])
        if channel_sum is not None:
            self.channel_sum = channel_sum if self.channel_sum.size == 0 else self.channel_sum + channel_sum
            self.channel_count += flat.size // channel_sum.size

    @property
    def total(self) -> int:
        """Finite values counted."""
        return int(self.counts.sum())

    @property
    def channel_mean(self) -> npt.NDArray[np.float64] | None:
        """Mean per channel, or None if it was not kept."""
        return None if self.channel_count == 0 else self.channel_sum / self.channel_count

    def points(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The distinct values in ascending order, and the count of each.

        Values beyond FP16's range are counted at its ends, as with saturation.
        """
        counts = self.counts[_ORDER].astype(np.float64)
        counts[0] += self.counts[_NEGATIVE_INFINITY]
        counts[-1] += self.counts[_POSITIVE_INFINITY]
        present = np.flatnonzero(counts)
        return _VALUES[present], counts[present]

    def merge(self, other: Histogram) -> None:
        """Add the counts of another histogram, as if its images came after these."""
        if self.not_finite is None and other.not_finite is not None:
            self.not_finite = self.images + other.not_finite
        self.counts += other.counts
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        self.batches += other.batches
        self.begun = self.batches
        self.images += other.images
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
            "seen": np.asarray([self.batches, self.images, missing, self.overflow, self.channel_count], np.int64),
            "channel_sum": self.channel_sum,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Histogram:
        """The inverse of `state`."""
        histogram = cls()
        histogram.counts[np.asarray(state["codes"], np.int64)] = state["counts"]
        histogram.lowest, histogram.highest = (float(value) for value in state["range"])
        histogram.batches, histogram.images, missing, histogram.overflow, histogram.channel_count = (
            int(value) for value in state["seen"]
        )
        histogram.begun = histogram.batches
        histogram.not_finite = None if missing < 0 else missing
        histogram.channel_sum = np.asarray(state["channel_sum"], np.float64)
        return histogram


def _channel_sums(values: FloatArray, axis: int) -> npt.NDArray[np.float64]:
    """Sums per channel in double precision."""
    others = tuple(number for number in range(values.ndim) if number != axis % values.ndim)
    return np.asarray(values.sum(axis=others, dtype=np.float64))
