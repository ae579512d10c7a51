"""How far apart the reference's own outputs are for different samples, and what that leaves of a limit.

Where a model hardly answers to its input, a limit can be wider than everything that the input changes: an answer that
never looks at it would pass. A large constant offset does so to the cosine, a small last layer beside its bias to the
relative error. So each row is held against the first, and from the largest distance follows what any constant answer
reaches at best, metric by metric: one answer for two samples is at least half their distance away from one of them.
Limits that this answer meets decide nothing; then the error is held against the distance itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pth2om.evidence import Limit

FOLLOWED = 0.1
"""Largest error, as a share of the largest distance between two samples, of an answer that still follows its input."""

Spread = dict[str, float]
"""``distance``: the largest between a row and the first, ``error``: the largest between both sides, in the same unit;
metric -> the best value that any constant answer can have on its worst row."""

_HALVED = ("mean_abs", "max_abs", "shift_pixels")


def widen(
    spread: Spread, error: Mapping[str, float | None], between: Mapping[str, float | None] | None, *, counted: bool
) -> None:
    """Take one more row into ``spread``.

    Args:
        spread: what is changed; empty at first.
        error: metrics between both sides on this row (`pth2om.compare.figures.closeness`).
        between: metrics between the reference's first row and this one; None for the first itself.
        counted: whether equality is what counts, so that distances are shares of unequal elements.
    """

    def apart(values: Mapping[str, float | None]) -> float:
        value = 1 - (values["equal"] or 0.0) if counted else values["l2"]
        return 0.0 if value is None else float(value)

    spread["error"] = max(spread.get("error", 0.0), apart(error))
    if between is None:
        return
    spread["distance"] = max(spread.get("distance", 0.0), apart(between))
    bounds: Spread = {"equal": 1 - (1 - (between["equal"] or 0.0)) / 2}
    if between["l2"] is not None and between["reference_l2"] is not None and between["cosine"] is not None:
        sizes = between["reference_l2"] + (between["candidate_l2"] or 0.0)
        relative = between["l2"] / sizes if sizes else 0.0
        bounds["relative_l2"] = relative
        bounds["sqnr_db"] = -20 * math.log10(relative) if relative else math.inf
        bounds["cosine"] = math.sqrt(max(0.0, (1 + between["cosine"]) / 2))  # of half the angle
        bounds |= {name: value / 2 for name in _HALVED if (value := between.get(name)) is not None}
    for name, value in bounds.items():
        worse = min if name in ("equal", "sqnr_db", "cosine") else max
        spread[name] = worse(spread.get(name, value), value)


def joined(first: Spread, second: Spread) -> Spread:
    """Two measurements of the same samples as one: the larger error, the smaller distances."""
    worse = {"error": max, "equal": max, "sqnr_db": max, "cosine": max}
    return {name: worse.get(name, min)(value, second[name]) for name, value in first.items() if name in second}


def undecided(spread: Spread, limits: Mapping[str, Limit]) -> bool:
    """Whether a constant answer could meet all limits of which that is known."""
    known = [limit.holds(spread[name]) for name, limit in limits.items() if name in spread]
    return bool(known) and "distance" in spread and all(known)


def share(spread: Spread) -> float:
    """The largest error as a share of the largest distance between samples; infinite where there is no distance."""
    return spread["error"] / spread["distance"] if spread["distance"] else math.inf
