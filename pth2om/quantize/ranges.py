"""From an activation's distribution to its INT8 scale and offset.

``q = clip(rint(x / scale) + offset, -128, 127)``, ``x' = (q - offset) * scale``. Asymmetric ranges contain zero, so
that zero padding is exact. The map from a range to (scale, offset) and the IFMR and HFMG searches are AMCT's (AMCT
sources, classic flow); minmax, percentile, entropy and mse are the usual ones, evaluated on the exact counts of
`Histogram`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from pth2om.quantize.histogram import Histogram
from pth2om.quantize.settings import Ifmr
from pth2om.spec.tables import Activations

ALGORITHMS: tuple[Activations, ...] = get_args(Activations)
Doubles = npt.NDArray[np.float64]

SMALLEST_SCALE = 1.19e-7
"""Below this (FLT_EPSILON) AMCT uses scale 1: in FP32 the tensor is then constant zero."""
_ENTROPY_BINS = 4096
_HFMG_LEVELS = 256
_COARSEST_STEP = 32.0
"""Of FP16, from 32768 on."""


@dataclass(frozen=True)
class Range:
    """INT8 parameters of one activation.

    Attributes:
        scale: FP32 step, ``scale_d``.
        offset: ``offset_d`` in -128..127; 0 when symmetric.
    """

    scale: np.float32
    offset: int

    @property
    def lowest(self) -> float:
        """The smallest value it can represent."""
        return float((-128 - self.offset) * np.float64(self.scale))

    @property
    def highest(self) -> float:
        """The largest value it can represent."""
        return float((127 - self.offset) * np.float64(self.scale))


def search(
    histogram: Histogram,
    algorithm: Activations,
    *,
    asymmetric: bool = True,
    percentile: float = 0.9999,
    ifmr: Ifmr | None = None,
    bins: int = 4096,
) -> Range:
    """The range that an algorithm chooses.

    Args:
        histogram: the activation's distribution; at least one finite value.
        algorithm: see `ALGORITHMS`.
        asymmetric: whether an offset may be used.
        percentile: share of the values that ``percentile`` keeps.
        ifmr: parameters of ``ifmr``; default: AMCT's.
        bins: of the histogram that ``hfmg`` searches on.
    """
    values, counts = histogram.points()
    if values.size == 0 or histogram.lowest == histogram.highest == 0:
        return from_limits(0.0, 0.0, asymmetric)
    if algorithm == "minmax":
        return from_limits(histogram.lowest, histogram.highest, asymmetric)
    if algorithm == "percentile":
        low, high = _percentile(values, counts, percentile)
        return from_limits(max(low, histogram.lowest), min(high, histogram.highest), asymmetric)
    if algorithm == "entropy":
        low, high = _entropy(values, counts, histogram, asymmetric)
        return from_limits(low, high, asymmetric)
    if algorithm == "ifmr":
        return _ifmr(values, counts, histogram, asymmetric, ifmr or Ifmr())
    if algorithm == "hfmg":
        low, high = _hfmg(values, counts, histogram, bins)
        return from_limits(low, high, asymmetric)
    return _least_squares(values, counts, histogram, asymmetric)


def from_limits(low: float, high: float, asymmetric: bool) -> Range:
    """AMCT's formula from a range to scale and offset.

    Asymmetric: the range is widened to contain zero, ``scale = (high - low) / 255``, ``offset = rint(-128 -
        low/scale)``.
    Symmetric: ``high / 127`` if the positive side is the larger one, else ``|low| / 128``.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if asymmetric:
        scale = np.float32((high - low) / 255)
        if scale < SMALLEST_SCALE:
            return Range(np.float32(1), -128)
        return Range(scale, int(np.clip(np.rint(-128 - low / np.float64(scale)), -128, 127)))
    scale = np.float32(high / 127) if high >= -low else np.float32(-low / 128)
    return Range(np.float32(1), 0) if scale < SMALLEST_SCALE else Range(scale, 0)


def error(values: Doubles, counts: Doubles, chosen: Range) -> float:
    """Mean squared error of quantizing the counted ``values`` with ``chosen``."""
    scale = np.float64(chosen.scale)
    levels = np.clip(np.rint(values / scale), -128 - chosen.offset, 127 - chosen.offset)
    return float(np.dot((levels * scale - values) ** 2, counts) / counts.sum())


def _percentile(values: Doubles, counts: Doubles, share: float) -> tuple[float, float]:
    """Limits with ``(1 - share) / 2`` of the values outside at each end (one-sided: all at one end)."""
    cumulative = np.cumsum(counts)
    total = cumulative[-1]
    outside = (1 - share) * total
    two_sided = values[0] < 0 < values[-1]
    cut = outside / 2 if two_sided else outside
    low = values[np.searchsorted(cumulative, cut, side="right")] if two_sided or values[-1] <= 0 else 0.0
    high = values[np.searchsorted(cumulative, total - cut, side="left")] if values[-1] > 0 else 0.0
    return float(low), float(high)


# ------------------------------------------------------------------------------------------------------------- IFMR


def _ifmr(values: Doubles, counts: Doubles, histogram: Histogram, asymmetric: bool, how: Ifmr) -> Range:
    """AMCT's IFMR: the end found by percentile is scaled by each ratio in turn; the smallest squared error is chosen.

    As in AMCT, the lower end is fixed in the asymmetric case, and the loss ignores the zero point.
    """
    total = counts.sum()
    high = _ranked(values[::-1], counts[::-1], total - int(how.max_percentile * total), histogram.highest)
    low = _ranked(values, counts, total - int(how.min_percentile * total), histogram.lowest)
    high, low = max(high, 0.0), min(low, 0.0)
    if max(high, -low) < SMALLEST_SCALE:
        return from_limits(0.0, 0.0, asymmetric)
    losses = []
    scales = []
    limit = 128.0 if -low > high else 127.0
    for ratio in np.arange(how.start, how.end, how.step):
        if asymmetric:
            end = ratio * high
            scale, floor = (end - low) / 255, low
        else:
            end = ratio * max(high, -low)
            scale, floor = end / limit, -end
        if scale < SMALLEST_SCALE:
            continue
        clipped = np.clip(values, floor, end)
        losses.append(np.dot((np.rint(clipped / scale) * scale - values) ** 2, counts))
        scales.append(scale)
    if not losses:
        return from_limits(0.0, 0.0, asymmetric)
    scale32 = np.float32(scales[int(np.argmin(losses))])
    if not asymmetric:
        return Range(scale32, 0)
    return Range(scale32, int(np.clip(-np.rint(low / np.float64(scale32)) - 128, -128, 127)))


def _ranked(values: Doubles, counts: Doubles, rank: float, exact: float) -> float:
    """The ``rank``-th value from the start; the exact extreme for the first."""
    if rank <= 1:
        return float(exact)
    return float(values[np.searchsorted(np.cumsum(counts), rank, side="left")])


# ------------------------------------------------------------------------------------------------------------- HFMG


def _hfmg(values: Doubles, counts: Doubles, histogram: Histogram, bins: int) -> tuple[float, float]:
    """AMCT's HFMG: bins are cut off at the ends, a 100,000th of the values each time; the smallest error wins.

    The error of a range is that of 256 levels at the centres of equal steps, with an even density within every source
    bin (the norm minimization of Caffe2's histogram observer). Here it is integrated in closed form, and a range is
    evaluated only once even if several cuts give the same one.
    """
    low, high = histogram.lowest, histogram.highest
    if low == high:
        return low, high
    edges = np.linspace(low, high, bins + 1)
    mass = np.diff(_cumulative(values, counts, edges))
    ranges = _hfmg_cuts(mass)
    losses = _hfmg_losses(mass, edges, ranges)
    left, right = ranges[int(np.argmin(losses))]
    return float(edges[left]), float(edges[right + 1])


def _hfmg_cuts(mass: Doubles) -> npt.NDArray[np.int64]:
    """(n, 2) first and last bin of every range that HFMG tries, beginning with the full range."""
    bins, total = mass.size, mass.sum()
    step = max(float(np.ceil(total / 1e5)), 1.0)
    below, above = np.cumsum(mass), np.cumsum(mass[::-1])
    left, right = 0, bins - 1
    cut_low = cut_high = 0.0
    found = [(left, right)]
    while right - left > -(-bins // 4):
        next_left = min(int(np.searchsorted(below, cut_low + step, side="left")), right)
        next_right = max(bins - 1 - int(np.searchsorted(above, cut_high + step, side="left")), left)
        if next_left - left > right - next_right:
            cut_low, left = cut_low + step, max(left, next_left)
        else:
            cut_high, right = cut_high + step, min(right, next_right)
        if (left, right) != found[-1] and right > left:
            found.append((left, right))
        if cut_low + cut_high + step > total:
            break
    return np.asarray(found, np.int64)


def _hfmg_losses(mass: Doubles, edges: Doubles, ranges: npt.NDArray[np.int64]) -> Doubles:
    """Squared error of each range, by the moments of the density up to every step's edges."""
    density = mass / np.diff(edges)
    moments = [
        np.concatenate([[0.0], np.cumsum(density * np.diff(edges ** (power + 1)) / (power + 1))]) for power in range(3)
    ]
    losses = np.empty(len(ranges))
    for number, (left, right) in enumerate(ranges):
        width = (edges[right + 1] - edges[left]) / _HFMG_LEVELS
        inner = edges[left] + width * np.arange(1, _HFMG_LEVELS)
        # The first and the last level also represent the values outside.
        points = np.concatenate([[edges[0]], inner, [edges[-1]]])
        place = np.clip(np.searchsorted(edges, points, side="right") - 1, 0, mass.size - 1)
        m0, m1, m2 = (
            np.diff(moments[k][place] + density[place] * (points ** (k + 1) - edges[place] ** (k + 1)) / (k + 1))
            for k in range(3)
        )
        centre = edges[left] + width * (np.arange(_HFMG_LEVELS) + 0.5)
        losses[number] = np.sum(m2 - 2 * centre * m1 + centre * centre * m0)
    return losses


# ---------------------------------------------------------------------------------------------------- least squares


def _least_squares(values: Doubles, counts: Doubles, histogram: Histogram, asymmetric: bool) -> Range:
    """The range with the smallest squared error: a coarse grid over both ends, then a finer one around the best."""
    values, counts = _condense(values, counts, histogram)
    low, high = min(histogram.lowest, 0.0), max(histogram.highest, 0.0)
    if not asymmetric:
        return _least_symmetric(values, counts, max(high, -low))
    best_low, best_high, step = 1.0, 1.0, 0.125
    grid = np.arange(0.125, 1.0 + 1e-9, step)
    best = _best_of(values, counts, [(low * a, high * b) for a in _side(low, grid) for b in _side(high, grid)])
    for _ in range(4):
        step /= 3
        best_low = best[1] / low if low else 1.0
        best_high = best[2] / high if high else 1.0
        near = np.arange(-3, 4) * step
        lows = [value for value in best_low + near if value > 0] if low else [1.0]
        highs = [value for value in best_high + near if value > 0] if high else [1.0]
        found = _best_of(values, counts, [(low * a, high * b) for a in lows for b in highs])
        best = min(best, found)
    return from_limits(best[1], best[2], asymmetric=True)


def _side(end: float, grid: Doubles) -> Doubles:
    """One candidate is enough for an end that is zero."""
    return grid if end else np.ones(1)


def _least_symmetric(values: Doubles, counts: Doubles, end: float) -> Range:
    ratios = np.concatenate([np.arange(0.1, 1.1, 0.02), np.arange(0.1, 1.1, 0.005)])
    candidates = [Range(np.float32(end * ratio / 127), 0) for ratio in ratios if end * ratio / 127 >= SMALLEST_SCALE]
    if not candidates:
        return from_limits(0.0, 0.0, asymmetric=False)
    return min(candidates, key=lambda candidate: error(values, counts, candidate))


def _best_of(values: Doubles, counts: Doubles, limits: list[tuple[float, float]]) -> tuple[float, float, float]:
    return min((error(values, counts, from_limits(low, high, True)), low, high) for low, high in limits)


def _condense(values: Doubles, counts: Doubles, histogram: Histogram) -> tuple[Doubles, Doubles]:
    """At most about 6,000 points: values closer than a 4096th of the range are merged at their mean.

    This distance is a sixteenth of an INT8 step, and the rounding error changes by less than its square.
    """
    width = max(histogram.highest, 0.0) - min(histogram.lowest, 0.0)
    if values.size <= 4096 or width <= 0:
        return values, counts
    bins = np.floor(values / (width / 4096)).astype(np.int64)
    bins -= bins[0]
    mass = np.bincount(bins, counts)
    moment = np.bincount(bins, counts * values)
    present = mass > 0
    return moment[present] / mass[present], np.asarray(mass[present], np.float64)


# ---------------------------------------------------------------------------------------------------------- entropy


def _entropy(values: Doubles, counts: Doubles, histogram: Histogram, asymmetric: bool) -> tuple[float, float]:
    """The threshold whose INT8 distribution loses the least information (Kullback-Leibler divergence).

    One-sided tensors have 256 levels in [0, t], two-sided ones 128 in the magnitude. Zero is exact in both cases and is
    left out. The thresholds are all multiples of 16 bins in a 4096-bin histogram of the magnitude.
    """
    one_sided = asymmetric and not values[0] < 0 < values[-1]
    levels = 256 if one_sided else 128
    magnitude = np.abs(values)
    end = max(abs(histogram.lowest), abs(histogram.highest))
    mass = _spread(magnitude, counts, end, _ENTROPY_BINS)
    thresholds = list(range(levels, _ENTROPY_BINS + 1, 16))
    losses = [_divergence(mass, threshold, levels) for threshold in thresholds]
    cut = end * thresholds[int(np.argmin(losses))] / _ENTROPY_BINS
    return max(histogram.lowest, -cut), min(histogram.highest, cut)


def _spread(magnitude: Doubles, counts: Doubles, end: float, bins: int) -> Doubles:
    """Counts in ``bins`` equal bins of (0, end]."""
    order = np.argsort(magnitude, kind="stable")
    points, mass = magnitude[order], counts[order]
    keep = points > 0
    return np.diff(_cumulative(points[keep], mass[keep], np.linspace(0, end, bins + 1)))


def _cumulative(points: Doubles, mass: Doubles, grid: Doubles) -> Doubles:
    """How many values lie below each point of ``grid``; an FP16 code's count is spread over its rounding range.

    Counts that would be spread beyond the ends of the grid stay inside.
    """
    with np.errstate(over="ignore"):
        # Above the largest value NumPy has no next one and returns infinity.
        half = np.minimum(np.abs(np.spacing(points.astype(np.float16))).astype(np.float64), _COARSEST_STEP) / 2
    edges = np.concatenate([points - half, points + half])
    steps = np.concatenate([mass / (2 * half), -mass / (2 * half)])
    order = np.argsort(edges, kind="stable")
    edges, density = edges[order], np.cumsum(steps[order])
    cumulative = np.concatenate([[0.0], np.cumsum(np.maximum(density[:-1], 0) * np.diff(edges))])
    found = np.interp(grid, edges, cumulative, left=0.0)
    found[0], found[-1] = 0.0, cumulative[-1]
    return np.asarray(found)


def _divergence(mass: Doubles, threshold: int, levels: int) -> float:
    """KL(p || q) of keeping the first ``threshold`` bins (the rest clipped into the last) at ``levels`` levels."""
    p = mass[:threshold].copy()
    present = p > 0
    p[-1] += mass[threshold:].sum()
    group = np.arange(threshold) * levels // threshold
    total = np.bincount(group, mass[:threshold], minlength=levels)
    filled = np.bincount(group, present, minlength=levels)
    q = np.where(present, total[group] / np.maximum(filled[group], 1), 0.0)
    p_sum, q_sum = p.sum(), q.sum()
    if p_sum <= 0 or q_sum <= 0:
        return float("inf")
    p, q = p / p_sum, q / q_sum
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / np.maximum(q[used], 1e-12))))
