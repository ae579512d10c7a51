"""How sure a drop on so many images is: exact and score bounds for paired proportions.

Every bound here is one-sided and has a level. Verdicts are judged by bounds at `LEVEL` (0.95). What is shown beside a
figure is the two-sided 95 % interval, whose ends are one-sided bounds at `TWO_SIDED` (0.975 each).

Two classifiers see the same n images. b images are right with PyTorch and wrong with the candidate, c the other way
round; the drop is (b - c) / n. (b, c, n - b - c) is trinomial with probabilities (q + d, q, 1 - 2q - d), where d is the
true drop and q a nuisance. The one-sided upper bound of d at a level is the largest d that a test of size 1 - level
does not reject:

* the statistic is Tango's score z(d) = (b - c - n d) / sqrt(n (2 q~ + d - d^2)), q~ the maximum likelihood estimate of
  q under d (Tango 1998, Statistics in Medicine 17:891, "Equivalence test and confidence interval for the difference in
  proportions for the paired-sample design");
* its tail probability is summed exactly over the trinomial and maximized over q (Hsueh, Liu and Chen 2001, Biometrics
  57:478, "Unconditional exact tests for equivalence or noninferiority for paired binary endpoints"), q restricted to a
  1 - 1e-6 confidence set at the price of adding 1e-6 to the tail probability (Berger and Boos 1994, JASA 89:1012).

With no disagreement at all (b = c = 0) the tail probability at q = 0 is (1 - d)^n, so the 95 % bound is
1 - 0.05^(1/n), the Clopper-Pearson bound of zero events: 2.1 points at n = 141, 0.46 at 650. Beyond `_EXACT_LIMIT`
disagreements the normal approximation of the score is as good as the sum, and is used instead.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
"""Of the one-sided bounds that verdicts are judged by."""

TWO_SIDED = 1 - (1 - LEVEL) / 2
"""Level of either end of the two-sided 95 % interval that is shown beside a figure."""

_GAMMA = 1e-6
_EXACT_LIMIT = 60
_NUISANCES = 25
_MOST_IMAGES = 10_000_000

Method = Literal["exact", "score"]


def normal_quantile(level: float) -> float:
    """The value that a standard normal variable stays below with probability ``level``."""
    return NormalDist().inv_cdf(level)


def zero_disagreement_bound(images: int, level: float = LEVEL) -> float:
    """The upper bound of a rate of which ``images`` images show no case: ``1 - (1 - level)^(1/n)``; a fraction."""
    return 1.0 if images < 1 else -math.expm1(math.log1p(-level) / images)


def least_images(gate: float, level: float = LEVEL) -> int:
    """How many images without any disagreement it takes to show a drop of at most ``gate`` (a fraction)."""
    if gate <= 0:
        return _MOST_IMAGES
    return 1 if gate >= level else math.ceil(math.log1p(-level) / math.log1p(-gate))


def drop_bounds(lost: int, gained: int, images: int, level: float = LEVEL) -> tuple[float, float, Method]:
    """One-sided bounds of the true drop, as fractions, and how they were computed.

    Args:
        lost: images right with the reference and wrong with the candidate.
        gained: the other way round.
        images: all images, ``>= lost + gained``.
        level: of each bound; the pair of them holds the drop with probability ``2 level - 1`` or more.
    """
    method: Method = "exact" if lost + gained <= _EXACT_LIMIT else "score"
    upper = _upper_exact if method == "exact" else _upper_score
    return -upper(gained, lost, images, level), upper(lost, gained, images, level), method


def images_to_settle(lost: float, gained: float, images: int, gate: float, level: float = LEVEL) -> int | None:
    """How many images would settle whether the drop is at most ``gate``, if the rates seen so far are the true ones.

    Returns:
        The number, rounded up to two digits, or None when no practical number would (the drop is the gate).
    """
    rate_lost, rate_gained = lost / images, gained / images
    drop = rate_lost - rate_gained
    if abs(gate - drop) < 1e-9:
        return None
    # The normal approximation of the bound, solved for n, and never below what no disagreement at all would take.
    spread = max(rate_lost + rate_gained - drop * drop, 0.0)
    wanted = normal_quantile(level) ** 2 * spread / (gate - drop) ** 2
    if drop < gate:
        wanted = max(wanted, float(least_images(gate - drop if spread == 0 else gate, level)))
    wanted = max(wanted, images + 1)
    return rounded_up(wanted)


def rounded_up(images: float) -> int | None:
    """A number of images rounded up to two digits; None beyond any practical number."""
    if not images < _MOST_IMAGES:
        return None
    step: int = 10 ** max(math.floor(math.log10(images)) - 1, 0)
    return math.ceil(images / step) * step


def binomial_upper(cases: int, images: int, level: float = LEVEL) -> float:
    """Clopper and Pearson's one-sided upper bound of a rate, a fraction (Biometrika 1934, 26:404)."""
    if cases >= images:
        return 1.0
    logs = _log_factorials(images)
    k = np.arange(cases + 1)
    ways = logs[images] - logs[k] - logs[images - k]
    low, high = cases / images, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        tail = float(np.exp(ways + _times_log(k, middle) + _times_log(images - k, 1 - middle)).sum())
        low, high = (middle, high) if tail > 1 - level else (low, middle)
    return high


def _score(
    lost: npt.NDArray[np.float64], gained: npt.NDArray[np.float64], images: int, drop: float
) -> npt.NDArray[np.float64]:
    """Tango's score of tables (lost, gained) under ``drop``; negative where the table shows less drop."""
    # q~ solves 2n q^2 + (-b - c + (2n - b + c) d) q - c d (1 - d) = 0 (Tango 1998, appendix), with d = p10 - p01 >= 0
    # and q = p01; for d < 0 the roles are exchanged by the caller.
    linear = -lost - gained + (2 * images - lost + gained) * drop
    constant = -gained * drop * (1 - drop)
    root = np.sqrt(np.maximum(linear * linear - 8 * images * constant, 0))
    # The numerically stable form of the positive root.
    estimate = np.where(linear > 0, -2 * constant / np.maximum(linear + root, 1e-300), (root - linear) / (4 * images))
    variance = images * (2 * estimate + drop * (1 - drop))
    difference = lost - gained - images * drop
    with np.errstate(divide="ignore", invalid="ignore"):
        score = difference / np.sqrt(variance)
    # Without variance a table that fits has score 0, any other is infinitely far.
    return np.where(variance > 0, score, np.where(difference == 0, 0.0, np.copysign(np.inf, difference)))


def _score_signed(lost: float, gained: float, images: int, drop: float) -> float:
    if drop >= 0:
        return float(_score(np.array([lost], float), np.array([gained], float), images, drop)[0])
    return -float(_score(np.array([gained], float), np.array([lost], float), images, -drop)[0])


@lru_cache(maxsize=1024)
def _upper_score(lost: int, gained: int, images: int, level: float) -> float:
    """The largest d with score >= -z: Tango's bound."""
    low, high = (lost - gained) / images, 1.0
    quantile = normal_quantile(level)
    for _ in range(60):
        middle = (low + high) / 2
        if _score_signed(lost, gained, images, middle) >= -quantile:
            low = middle
        else:
            high = middle
    return high


@lru_cache(maxsize=1024)
def _upper_exact(lost: int, gained: int, images: int, level: float) -> float:
    """The largest d whose exact tail probability exceeds ``1 - level``."""
    size = 1 - level
    if gained == 0 and lost == 0:
        return zero_disagreement_bound(images, level)
    if lost - gained >= images:
        return 1.0
    low, high = (lost - gained) / images, 1.0
    start = _upper_score(lost, gained, images, level)
    # The bound lies close to the score bound: bracket it from there instead of from 1.
    for width in (0.1, 0.5, 2.0):
        tried = start + width * (start - low)
        if tried >= 1:
            break
        if _tail(lost, gained, images, tried) <= size:
            high = tried
            break
    while high - low > 2e-6:
        middle = (low + high) / 2
        if _tail(lost, gained, images, middle) > size:
            low = middle
        else:
            high = middle
    return high


def _tail(lost: int, gained: int, images: int, drop: float) -> float:
    """The supremum over q of P(score <= observed score | drop, q), plus what restricting q costs."""
    lowest = max(0.0, -drop)
    _, rate_high = _rate_set(lost + gained, images)
    rate_low, _ = _rate_set(lost + gained, images)
    q_low = max(lowest, (rate_low - drop) / 2)
    q_high = min((1 - drop) / 2, (rate_high - drop) / 2)
    if q_high < q_low:
        return _GAMMA  # no discordance this drop could come from is credible
    most = min(images, _most_discordant(images, min(2 * q_high + drop, 1.0)))
    b, c = np.meshgrid(np.arange(most + 1.0), np.arange(most + 1.0), indexing="ij")
    possible = b + c <= most
    observed = _score_signed(lost, gained, images, drop)
    scores = _score(b, c, images, drop) if drop >= 0 else -_score(c, b, images, -drop)
    inside = possible & (scores <= observed + 1e-9)
    b, c = b[inside], c[inside]
    log_ways = _log_factorials(images)
    ways = log_ways[images] - log_ways[b.astype(int)] - log_ways[c.astype(int)]
    ways -= log_ways[images - b.astype(int) - c.astype(int)]

    def mass(q: float) -> float:
        both = ways + _times_log(b, q + drop) + _times_log(c, q) + _times_log(images - b - c, 1 - 2 * q - drop)
        return float(np.exp(both).sum())

    # Denser near zero, where the probabilities change fastest; then closer around the best.
    grid = q_low + (q_high - q_low) * np.linspace(0, 1, _NUISANCES) ** 2
    found = [mass(float(q)) for q in grid]
    best = int(np.argmax(found))
    near = np.linspace(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)], _NUISANCES)
    return max(found[best], *(mass(float(q)) for q in near)) + _GAMMA


def _times_log(count: npt.NDArray[Any], probability: float) -> npt.NDArray[np.float64]:
    if probability <= 0:
        return np.where(count > 0, -np.inf, 0.0)
    return count * math.log(probability)


@lru_cache(maxsize=8)
def _log_factorials(images: int) -> npt.NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, images + 1)))])


@lru_cache(maxsize=256)
def _rate_set(cases: int, images: int) -> tuple[float, float]:
    """A confidence set of level 1 - gamma for a rate: Chernoff's bound ``exp(-n KL)`` for either tail."""
    limit = math.log(4 / _GAMMA) / images
    seen = cases / images

    def end(low: float, high: float, *, rising: bool) -> float:
        for _ in range(50):
            middle = (low + high) / 2
            if (_divergence(seen, middle) > limit) == rising:
                high = middle
            else:
                low = middle
        return high if rising else low

    return end(0.0, seen, rising=False), end(seen, 1.0, rising=True)


def _divergence(seen: float, rate: float) -> float:
    """Kullback-Leibler divergence of two Bernoulli distributions."""
    total = 0.0
    for p, q in ((seen, rate), (1 - seen, 1 - rate)):
        if p > 0:
            total += math.inf if q <= 0 else p * math.log(p / q)
    return total


def _most_discordant(images: int, rate: float) -> int:
    """A number of discordant images that is exceeded with a probability below gamma / 4 (Chernoff)."""
    low, high = rate, 1.0
    limit = math.log(4 / _GAMMA) / images
    for _ in range(50):
        middle = (low + high) / 2
        if _divergence(middle, rate) > limit:
            high = middle
        else:
            low = middle
    return math.ceil(high * images) + 1
