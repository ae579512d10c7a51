"""Keep the fewest layers in FP16 so that the metric's drop is shown to be small enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx

from pth2om.accuracy.bounds import LEVEL, least_images, rounded_up, zero_disagreement_bound
from pth2om.errors import QuantizeError
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.quantize.balance import weight_spread
from pth2om.quantize.calibrate import Feeds, Progress
from pth2om.quantize.effects import Drop, Search, Trial
from pth2om.quantize.plan import Plan
from pth2om.quantize.sensitivity import own_effects
from pth2om.quantize.twins import fake_quant

_UNEQUAL = 4.0
"""A largest factor between channels from which equalization is proposed: two of eight bits."""

Evaluate = Callable[[onnx.ModelProto, float], Drop]
"""Scores a model of standard operators (a fake-quant twin) against the float model, with bounds at a level."""


def keep_fewest(
    plan: Plan,
    feeds: Sequence[Feeds],
    evaluate: Evaluate,
    max_drop: float,
    *,
    progress: Progress | None = None,
) -> Search:
    """Find the fewest layers to leave in FP16 so that the upper bound of the drop is at most ``max_drop``.

    Layers are ranked by their own effect on the outputs (`own_effects`); of that ranking the shortest prefix is taken
    by bisection, some ``log2(layers)`` evaluations. All are judged on the same images, so each bound has the level at
    which that many hold together (`Search.looks`). Where the images are too few for any proof, the measured drop takes
    the bound's place and `Search.proven` is False.

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
    looks = 1 + math.ceil(math.log2(max(len(plan.quantized), 1)))
    level = 1 - (1 - LEVEL) / looks

    def measured(names: Sequence[str], floating: int) -> Drop:
        drop = evaluate(fake_quant(plan.deploy(names)), level)
        trials.append(Trial(floating, drop))
        return drop

    everything = measured(list(plan.quantized), 0)
    if everything.high <= max_drop:
        return Search((), everything, (), tuple(trials), proven=True, looks=looks)
    provable = evaluate(plan.model, level).high <= max_drop

    def meets(drop: Drop) -> bool:
        return (drop.high if provable else drop.drop) <= max_drop

    if meets(everything):
        needed = images_to_show(everything, max_drop)
        return Search((), everything, (), tuple(trials), proven=False, looks=looks, images_needed=needed)
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
        raise QuantizeError("quantize.no-combination", max_drop=max_drop, drop=round(everything.drop, 2))
    tried = [trial for trial in trials if trial.floating < high and trial.drop.drop <= max_drop]
    fewer = min(tried, key=lambda trial: trial.floating, default=None) if provable else None
    unsettled = fewer.drop if fewer is not None else None if provable else best
    return Search(
        tuple(ranked[:high]),
        best,
        tuple(effects),
        tuple(trials),
        proven=provable,
        looks=looks,
        fewer=fewer,
        images_needed=None if unsettled is None else images_to_show(unsettled, max_drop),
        unequal=_unequal(plan, ranked[:high]),
    )


def images_to_show(drop: Drop, max_drop: float) -> int | None:
    """About how many images would show a drop of at most ``max_drop``, if the one measured is the true one.

    The width of a bound falls with the square root of the number of images; and without a single disagreement it still
    takes `least_images`.
    """
    if drop.drop >= max_drop:
        return None
    wanted = float(least_images(max_drop / 100, drop.level))
    nothing_lost = drop.drop <= 0 and drop.high <= 100 * zero_disagreement_bound(drop.images, drop.level) + 1e-9
    if not nothing_lost:
        wanted = max(wanted, drop.images * ((drop.high - drop.drop) / (max_drop - drop.drop)) ** 2)
    return rounded_up(max(wanted, drop.images + 1))


def _unequal(plan: Plan, names: Sequence[str]) -> tuple[str, ...]:
    """Layers whose channels equalization would scale apart; none where it was done already."""
    if plan.settings.equalize:
        return ()
    spread = weight_spread(plan.network, plan.selection.chosen)
    return tuple(name for name in names if spread.get(name, 1.0) >= _UNEQUAL)


def leave_floating(plan: Plan, search: Search, max_drop: float) -> None:
    """Apply a search to its plan: those layers stay in FP16, and findings say which and why."""
    reasons = {effect.layer: effect.sqnr_db for effect in search.effects}
    for name in search.floating:
        plan.quantized.pop(name)
        message = say("quantize.floated-because", effect=round(reasons[name], 1), count=len(search.floating))
        plan.findings.append(Finding("quantize.floated", "info", message, node=name))
    drop = search.drop
    if not search.proven:
        values = {"max_drop": max_drop, "drop": round(drop.drop, 2), "high": round(drop.high, 2)}
        key = "quantize.search-unproven" if search.images_needed else "quantize.search-unprovable"
        message = say(key, **values, images=drop.images, needed=search.images_needed)
        plan.findings.append(Finding("quantize.search-unproven", "warning", message))
    plan.search = search
