"""The table of a spec that takes whole volumes through a net that sees windows of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pth2om.spec.tables import Table

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Channel(Table):
    """``[[volume.channels]]``: how the numbers of one channel are normalized.

    Attributes:
        normalization: ``zscore``: less the mean, divided by the standard deviation, both of this volume; ``ct``: cut to
            `low` and `high`, less `mean`, divided by `std`; ``rescale01``: the volume's own range to 0..1; ``rgb01``:
            divided by 255; ``none``.
        mean, std, low, high: of ``ct``.
        masked: ``zscore`` counts only what is not zero (and the holes in it); ``ct`` puts the rest to zero.
    """

    normalization: Literal["zscore", "ct", "rescale01", "rgb01", "none"] = "zscore"
    mean: Finite | None = None
    std: Positive | None = None
    low: Finite | None = None
    high: Finite | None = None
    masked: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Channel:
        given = [name for name in ("mean", "std", "low", "high") if getattr(self, name) is not None]
        if self.normalization == "ct" and len(given) < 4:
            raise ValueError('normalization = "ct" needs mean, std, low and high')
        if self.normalization != "ct" and given:
            raise ValueError(f'{given[0]} belongs to normalization = "ct"')
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class Volume(Table):
    """``[volume]``: a labelled volume is normalized, cut into windows, and stitched, as nnU-Net does it.

    Attributes:
        plans: nnU-Net's plans as JSON (``plans.json`` of v2; v1's plans written as JSON), in the model's folder: they
            give patch, spacing, normalization and the order of axes. What is given here too must be equal.
        configuration: which one of the plans; default the one whose patch is the input's shape.
        dataset_json: nnU-Net's ``dataset.json``, in the model's folder: it gives the classes and channels.
        channels: how each channel is normalized; one entry serves all. Default ``zscore``.
        spacing: millimetres between voxels along each axis of the array; a volume with another is refused. Default any.
        reorient: turn NIfTI volumes so that their axes run right, anterior, superior, as nnU-Net's
            ``NibabelIOWithReorient`` does; default as the plans say, else not.
        crop: cut away what is zero in all channels first, as nnU-Net does.
        step: largest distance of neighbouring windows, as a share of the window.
        gaussian: whether the middle of a window weighs more than its edges.
        mirror: axes of the array of which every subset is mirrored and averaged: eight passes for ``[0, 1, 2]``.
    """

    plans: str | None = None
    configuration: str | None = None
    dataset_json: str | None = None
    channels: tuple[Channel, ...] = ()
    spacing: tuple[Positive, ...] = ()
    reorient: bool | None = None
    crop: bool = True
    step: Annotated[float, Field(gt=0, le=1)] = 0.5
    gaussian: bool = True
    mirror: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Volume:
        if self.configuration is not None and self.plans is None:
            raise ValueError("configuration is one of plans; give plans too")
        if len(set(self.mirror)) < len(self.mirror):
            raise ValueError("mirror names an axis twice")
        return self

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse what does not fit the input.

        Args:
            shape: of the fed input, without the batch.

        Raises:
            ValueError: with what is wrong.
        """
        if len(shape) not in (3, 4):
            raise ValueError(f"[volume] feeds windows (channels, sizes); the input's shape is {list(shape)}")
        rank = len(shape) - 1
        if self.mirror and max(self.mirror) >= rank:
            raise ValueError(f"mirror names axis {max(self.mirror)}; the window has {rank} axes, counted from 0")
        if self.channels and len(self.channels) not in (1, shape[0]):
            raise ValueError(f"[volume] has {len(self.channels)} channels and the input {shape[0]}")
