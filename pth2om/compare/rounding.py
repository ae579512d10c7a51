"""What the reference's own rounding excuses, sample by sample.

On some samples a network multiplies its own rounding until nothing else is left: an InstanceNorm divides the noise of a
picture of zeros by the square root of its epsilon. How far the reference is from itself there is measured: its float32
from its float64, and what one ulp of the input makes of it. A difference is excused up to a small multiple of that, and
no further. On other samples that distance is a few ulp, so nothing is excused; where no sample is left, nothing is
decided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pth2om.compare.closeness import Runs
from pth2om.compare.figures import HIGHER_IS_BETTER
from pth2om.evidence import Limit
from pth2om.session import Array, Feeds

Own = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""Slice -> sample -> metric -> the worst value between the reference and itself."""

BOTH = 16.0
"""Two float32 computations may differ by so many times what was measured: one ulp of the input stands for the rounding
of every layer, and of both sides."""

HALF = 2.0**13
"""fp16 rounds by so much more than float32: 2**-11 against 2**-24."""

ILL_CONDITIONED = 2.0**-17
"""Relative L2 from which on a sample is ill-conditioned in fp16: times `HALF`, its rounding alone is above 0.05."""

_METRICS = (
    "relative_l2",
    "cosine",
    "max_abs",
    "mean_abs",
    "sqnr_db",
    "within_tolerance",
    "top1_agreement",
    "equal",
    "shift_pixels",
    "column_l2",
)


class Moved:
    """Something that runs, whose floating-point inputs are moved by at most one ulp of their largest value, up or down.

    Args:
        session: what computes.
        seed: of the directions.
    """

    def __init__(self, session: Runs, seed: int) -> None:
        self._session = session
        self._seed = seed

    def run(self, feeds: Feeds) -> Mapping[str, Array]:
        """See `Session.run`."""
        stream = np.random.default_rng(self._seed)
        moved = {}
        for name, array in feeds.items():
            if array.dtype.kind == "f":
                # Zeros have no neighbours worth the name: there it is the ulp of 1.
                ulp = np.spacing(np.abs(array).max(initial=0) or array.dtype.type(1))
                array = array + ulp * stream.integers(-1, 2, array.shape).astype(array.dtype)
            moved[name] = array
        return self._session.run(moved)


def own_rounding(*measured: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float | None]]]:
    """`Own` from measurements of a reference against itself (`pth2om.compare.measure`): the worst of each sample.

    Args:
        measured: of the same samples: against its float64 twin, against itself on inputs moved by one ulp.
    """
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for one in measured:
        for name, part in one["slices"].items():
            for row, sample in enumerate(part["samples"]):
                kept = found.setdefault(name, {}).setdefault(sample, {})
                for metric in _METRICS:
                    value, before = part[metric][row], kept.get(metric)
                    if value is None:
                        continue
                    worst = min if metric in HIGHER_IS_BETTER else max
                    kept[metric] = value if before is None else worst(before, value)
    return found


def allowed(own: Mapping[str, float | None], metric: str, limit: Limit, *, half: bool) -> float | None:
    """The value of a metric up to which a sample is excused; None where it is not excused at all.

    Args:
        own: metric -> worst value between the reference and itself on this sample.
        metric: what is judged.
        limit: what it has to satisfy otherwise.
        half: whether the other side computes in fp16 or INT8; then only an ill-conditioned sample is excused.
    """
    relative = own.get("relative_l2")
    if relative is None or not math.isfinite(relative):
        return None
    if half and relative < ILL_CONDITIONED:
        return None
    factor = HALF if half else BOTH
    share = factor * relative
    if share >= 1:
        # Nothing but noise is left of this sample, and noise has no size that could be compared.
        return -math.inf if metric in HIGHER_IS_BETTER else math.inf
    if metric == "cosine":
        # A difference of a share t of the reference turns it by at most asin(t).
        return math.sqrt(1 - share**2)
    if metric == "sqnr_db":
        return -20 * math.log10(share) if share > 0 else None
    value = own.get(metric)
    if metric in HIGHER_IS_BETTER:
        # Shares of equal or agreeing elements do not scale: they are excused where the reference misses them itself.
        return -math.inf if value is not None and not limit.holds(value) else None
    return None if value is None else factor * value


def excused(
    part: Mapping[str, Any],
    own: Mapping[str, Mapping[str, float | None]],
    metric: str,
    limit: Limit,
    *,
    half: bool,
) -> frozenset[int]:
    """The rows of a slice that miss a limit by no more than the reference's own rounding explains.

    Args:
        part: a slice of a measurement; its samples may carry the name of a band.
        own: of this slice.
        metric: what is judged.
        limit: what it has to satisfy.
        half: see `allowed`.
    """
    rows = set()
    for row, value in enumerate(part[metric]):
        found = own.get(plain_name(part["samples"][row], own))
        if value is None or limit.holds(value) or found is None:
            continue
        bound = allowed(found, metric, limit, half=half)
        if bound is not None and Limit(limit.relation, bound).holds(value):
            rows.add(row)
    return frozenset(rows)


def plain_name(sample: str, known: Mapping[str, Any]) -> str:
    """A sample's name without the band that `pth2om.compare.worse` put behind it."""
    return sample if sample in known else sample.rpartition(" [")[0]
