"""What layers in INT8 cost, and what a search over them found: plain records without arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effect:
    """What quantizing one layer alone does to the model's outputs.

    Attributes:
        layer: its name.
        sqnr_db: the least over the outputs; infinite when nothing changes.
    """

    layer: str
    sqnr_db: float


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
        proven: whether the interval meets the gate; False when the images are too few to prove any such drop (even
            the float model against itself), and the measured drop was judged instead.
    """

    floating: tuple[str, ...]
    drop: Drop
    effects: tuple[Effect, ...]
    trials: tuple[Trial, ...]
    proven: bool
