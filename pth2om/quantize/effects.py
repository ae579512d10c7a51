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
        low, high: its one-sided bounds.
        images: how many images it was measured on.
        level: of each bound.
        before, after: the metric of the float and of the INT8 model, in percent. None where the float model's own
            answers count as right.
    """

    drop: float
    low: float
    high: float
    images: int
    level: float
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True)
class Trial:
    """One evaluated model: the ``floating`` most harmful layers in FP16."""

    floating: int
    drop: Drop


@dataclass(frozen=True)
class Search:
    """What the search found.

    Every model that is tried is another chance to look good by accident, so the bounds have the level at which all
    ``looks`` hold together with 95 % (Bonferroni).

    Attributes:
        floating: layers that stay in FP16, the most harmful first.
        drop: of the model with those.
        effects: all layers' own effects, the most harmful first: why these.
        trials: every model evaluated.
        proven: whether the upper bound meets the gate; False when the images are too few to show any such drop (even
            of the float model against itself), and the measured drop was judged instead.
        looks: the most models that the search can try.
        fewer: the trial with the fewest layers in FP16 whose measured drop meets the gate, where those are fewer
            than ``floating`` and its bound does not.
        images_needed: about how many images would show that the drop of ``fewer``, or of what was taken unproven,
            meets the gate; None where no practical number would, or none is needed.
        unequal: layers among ``floating`` whose channels have weights of very unequal size, which equalization mends.
    """

    floating: tuple[str, ...]
    drop: Drop
    effects: tuple[Effect, ...]
    trials: tuple[Trial, ...]
    proven: bool
    looks: int = 1
    fewer: Trial | None = None
    images_needed: int | None = None
    unequal: tuple[str, ...] = ()
