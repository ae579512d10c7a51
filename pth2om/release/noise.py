"""When a figure of tonight differs from its baseline by more than nights differ anyway.

A night has many gates, so each is judged at `PER_GATE`: `FAMILY` shared among `GATES` (Bonferroni), which keeps false
alarms to one in a thousand nights of 200 gates. All tests are two-sided.

* Accuracy on the same images: b images were lost and c gained. Where the artifacts of the baseline's own runs differ
  (other seeds), the rate at which images flip between them is known, and b - c is the difference of two Poisson numbers
  (Skellam). Where it is not known, b given b + c is binomial (McNemar 1947, exact).
* A figure with an interval, without its images: the difference against both intervals' standard errors.
* Latency and closeness: differences of logarithms; the scale is the median absolute difference of successive nights,
  pooled over all gates of one machine (a median absolute deviation that needs no estimate of each gate's centre). A
  gate whose own scale is larger is judged by its own. No figure is judged finer than its own interval: nights that
  follow one another within minutes on a quiet machine agree better than those of a month.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

FAMILY = 0.001
"""False alarms a night, all gates together."""
GATES = 200
"""Gates of a night that `FAMILY` is shared among, unless a night has more."""
LEAST_NIGHTS = 5
"""Runs that a median needs. Of three, two may have been disturbed: simulated, 8 false alarms in 1,000 nights."""
LEAST_DIFFERENCES = 30
"""Differences that the scale of a machine, or of closeness, is estimated from; with fewer nothing is judged by it."""
_MAD = 1.4826  # a normal variable's standard deviation over its median absolute deviation
_LEVEL = 1.6449
_WIDTH_95 = 2 * 1.95996


def per_gate(gates: int) -> float:
    """The two-sided level of one gate of a night.

    Args:
        gates: how many gates the night judges; fewer than `GATES` are judged as if there were so many.
    """
    return FAMILY / max(gates, GATES)


def quantile(level: float) -> float:
    """How many standard deviations a normal variable stays within, with probability ``1 - level``."""
    return statistics.NormalDist().inv_cdf(1 - level / 2)


def flips(counts: Sequence[tuple[int, int]]) -> float | None:
    """An upper bound (95 %) of the rate at which images flip between runs without a change; None where unknown.

    Args:
        counts: (images that flipped, images) of pairs of runs whose artifacts differ.
    """
    images = sum(of for _, of in counts)
    if not images:
        return None
    flipped = sum(many for many, _ in counts)
    return (flipped + _LEVEL * math.sqrt(flipped + 1) + 1) / images


def paired(lost: int, gained: int, images: int, rate: float | None = None) -> float:
    """The two-sided probability of such a difference if nothing changed.

    Args:
        lost: images right before and wrong now.
        gained: the other way round.
        images: all images.
        rate: what `flips` returned; None: judged given the images that differ.
    """
    if lost == gained:
        return 1.0
    if rate is None:
        many, most = lost + gained, max(lost, gained)
        return min(1.0, 2 * sum(math.exp(_ways(many, k) - many * math.log(2)) for k in range(most, many + 1)))
    mean = max(rate * images / 2, 1e-9)
    return min(1.0, 2 * _skellam_tail(abs(lost - gained), mean))


def _ways(many: int, chosen: int) -> float:
    return math.lgamma(many + 1) - math.lgamma(chosen + 1) - math.lgamma(many - chosen + 1)


def _skellam_tail(least: int, mean: float) -> float:
    """P(X - Y >= least) for independent Poisson X, Y of one mean."""
    most = int(mean + 12 * math.sqrt(mean) + 40)
    counts = np.arange(most + 1)
    log = counts * math.log(mean) - mean - np.array([math.lgamma(k + 1) for k in range(most + 1)])
    mass = np.exp(log)
    upper = np.concatenate([np.cumsum(mass[::-1])[::-1], np.zeros(1)])
    return float((mass * upper[np.minimum(counts + least, most + 1)]).sum())


def apart(old: tuple[float, float, float], new: tuple[float, float, float]) -> float:
    """The two-sided probability of two figures if nothing changed; each as value, low and high of its 95 % interval."""
    error = math.hypot((old[2] - old[1]) / _WIDTH_95, (new[2] - new[1]) / _WIDTH_95)
    return tail((new[0] - old[0]) / error) if error > 0 else float(old[0] == new[0])


def tail(deviations: float) -> float:
    """The two-sided probability that a normal variable is so many standard deviations away, or more."""
    return math.erfc(abs(deviations) / math.sqrt(2))


def successive(nights: Sequence[float]) -> list[float]:
    """Absolute differences of the logarithms of successive nights, scaled to one night's deviation."""
    logs = [math.log(value) for value in nights if value > 0 and math.isfinite(value)]
    return [abs(after - before) / math.sqrt(2) for before, after in itertools.pairwise(logs)]


def scale(differences: Sequence[float]) -> float | None:
    """One night's standard deviation from `successive` differences; None where they are too few."""
    return _MAD * statistics.median(differences) if len(differences) >= LEAST_DIFFERENCES else None


def scales(series: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The scale of each series of nights: the pooled one, or the series' own where that is larger and known.

    Args:
        series: gate id -> its values, oldest first, all of one machine.

    Returns:
        Nothing where the pool is too small.
    """
    found = {name: successive(values) for name, values in series.items()}
    pooled = scale([one for many in found.values() for one in many])
    if pooled is None:
        return {}
    own = {name: scale(many) or 0.0 for name, many in found.items()}
    return {name: max(pooled, own[name]) for name in series}


def own(value: float, interval: tuple[float, float] | None) -> float:
    """The standard deviation of a figure's logarithm as its own 95 % interval has it; 0 where it has none."""
    return (interval[1] - interval[0]) / (_WIDTH_95 * value) if interval is not None and value > 0 else 0.0


def deviations(nights: Sequence[float], tonight: float, one_night: float) -> float:
    """How many standard deviations tonight's logarithm is from the nights' median.

    Args:
        nights: of the baseline.
        tonight: the value in question.
        one_night: what `scales` returned.
    """
    centre = math.log(statistics.median(nights))
    # The median of n normal values has pi/2 times the variance of their mean.
    error = one_night * math.sqrt(1 + math.pi / (2 * len(nights)) if len(nights) > 2 else 1 + 1 / len(nights))
    return (math.log(tonight) - centre) / error if error > 0 else math.copysign(math.inf, math.log(tonight) - centre)
