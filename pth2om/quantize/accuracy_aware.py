"""Keep the fewest layers in FP16 so that the metric's drop is proven small enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from pth2om.errors import QuantizeError
from pth2om.quantize.calibrate import Feeds, Progress
from pth2om.quantize.plan import Plan
from pth2om.quantize.sensitivity import Effect, own_effects
from pth2om.quantize.twins import fake_quant


@dataclass(frozen=True)
class Drop:
    """A paired comparison of the INT8 model with the float model on the same images.

    Attributes:
        drop: loss of the metric in percent points; negative when INT8 is better.
        low, high: its 95 % interval.
    """

    drop: float
    low: float
    high: float


Evaluate = Callable[[onnx.ModelProto], Drop]
"""Scores a model of standard operators (a fake-quant twin) against the float model."""


@dataclass(frozen=True)
class Trial:
    """One evaluated model: the ``floating`` most harmful layers in FP16."""

    floating: int
    drop: Drop


@dataclass(frozen=True)
class Search:
    """What the search found.

    Attributes:
        floating: layers that stay in FP16, the most harmful first.
        drop: of the model with those.
        effects: all layers' own effects, the most harmful first: why these.
        trials: every model evaluated.
    """

    floating: tuple[str, ...]
    drop: Drop
    effects: tuple[Effect, ...]
    trials: tuple[Trial, ...]


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
    by bisection, some ``log2(layers)`` evaluations.

    Args:
        plan: a calibrated network.
        feeds: a few batches, for the ranking.
        evaluate: see `Evaluate`.
        max_drop: percent points.
        progress: told after each layer of the ranking.

    Raises:
        QuantizeError: even with one layer left in INT8 the drop is too large, or cannot be told for so few images.
    """
    trials: list[Trial] = []

    def measured(names: Sequence[str], floating: int) -> Drop:
        drop = evaluate(fake_quant(plan.deploy(names)))
        trials.append(Trial(floating, drop))
        return drop

    everything = measured(list(plan.quantized), 0)
    if everything.high <= max_drop:
        return Search((), everything, (), tuple(trials))
    effects = own_effects(plan, feeds, progress)
    ranked = [effect.layer for effect in effects]
    low, high = 0, len(ranked)
    best: Drop | None = None
    while high - low > 1:
        middle = (low + high) // 2
        drop = measured(ranked[middle:], middle)
        if drop.high <= max_drop:
            high, best = middle, drop
        else:
            low = middle
    if best is None:
        raise QuantizeError("quantize.no-combination", max_drop=max_drop, drop=round(everything.drop, 3))
    return Search(tuple(ranked[:high]), best, tuple(effects), tuple(trials))
