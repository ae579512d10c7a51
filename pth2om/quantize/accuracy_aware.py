"""Keep the fewest layers in FP16 so that the metric's drop is proven small enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx

from pth2om.errors import QuantizeError
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.quantize.calibrate import Feeds, Progress
from pth2om.quantize.effects import Drop, Search, Trial
from pth2om.quantize.plan import Plan
from pth2om.quantize.sensitivity import own_effects
from pth2om.quantize.twins import fake_quant

Evaluate = Callable[[onnx.ModelProto], Drop]
"""Scores a model of standard operators (a fake-quant twin) against the float model."""


def keep_fewest(
    plan: Plan,
    feeds: Sequence[Feeds],
    evaluate: Evaluate,
    max_drop: float,
    *,
    progress: Progress | None = None,
) -> Search:
    """Find the fewest layers to leave in FP16 so that the upper end of the drop's interval is at most ``max_drop``.

    Layers are ranked by their own effect on the outputs (`own_effects`); of that ranking the shortest prefix is taken
    by bisection, some ``log2(layers)`` evaluations. Where the images are too few for any proof, the measured drop takes
    the interval's place and `Search.proven` says so.

    Args:
        plan: a calibrated network.
        feeds: a few batches, for the ranking.
        evaluate: see `Evaluate`.
        max_drop: percent points.
        progress: told after each layer of the ranking.

    Raises:
        QuantizeError: even with one layer left in INT8 the drop is too large.
    """
    trials: list[Trial] = []

    def measured(names: Sequence[str], floating: int) -> Drop:
        drop = evaluate(fake_quant(plan.deploy(names)))
        trials.append(Trial(floating, drop))
        return drop

    everything = measured(list(plan.quantized), 0)
    if everything.high <= max_drop:
        return Search((), everything, (), tuple(trials), proven=True)
    provable = evaluate(plan.model).high <= max_drop

    def meets(drop: Drop) -> bool:
        return (drop.high if provable else drop.drop) <= max_drop

    if meets(everything):
        return Search((), everything, (), tuple(trials), proven=False)
    effects = own_effects(plan, feeds, progress)
    ranked = [effect.layer for effect in effects]
    low, high = 0, len(ranked)
    best: Drop | None = None
    while high - low > 1:
        middle = (low + high) // 2
        drop = measured(ranked[middle:], middle)
        if meets(drop):
            high, best = middle, drop
        else:
            low = middle
    if best is None:
        raise QuantizeError("quantize.no-combination", max_drop=max_drop, drop=round(everything.drop, 3))
    return Search(tuple(ranked[:high]), best, tuple(effects), tuple(trials), proven=provable)


def leave_floating(plan: Plan, search: Search, max_drop: float) -> None:
    """Apply a search to its plan: those layers stay in FP16, and findings say which and why."""
    reasons = {effect.layer: effect.sqnr_db for effect in search.effects}
    for name in search.floating:
        plan.quantized.pop(name)
        message = say("quantize.floated-because", effect=round(reasons[name], 1), count=len(search.floating))
        plan.findings.append(Finding("quantize.floated", "info", message, node=name))
    if not search.proven:
        drop = search.drop
        message = say("quantize.search-unproven", max_drop=max_drop, drop=round(drop.drop, 3), high=round(drop.high, 3))
        plan.findings.append(Finding("quantize.search-unproven", "warning", message))
    plan.search = search
