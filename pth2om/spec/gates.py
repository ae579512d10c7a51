"""The tables of a spec that say what must hold: datasets, and limits of closeness, accuracy and latency."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pth2om.spec.tables import Name, Table


class Dataset(Table):
    """``[[datasets]]``: labelled data the model is scored on.

    Attributes:
        name: folder under ``calib/`` with its ``dataset.toml``.
        metric: what is measured first; ``agreement`` compares with PyTorch where there are no labels.
        subset: how many images, from the start; default all.
        expected: what PyTorch scores on exactly these files, in percent.
        tolerance: how far PyTorch may be from `expected`, in percent points.
        batches: batch sizes of the variants that are scored; default the smallest.
        min_score: least value of the metric in percent that is accepted at all.
        images: how many images `expected` and `om_min_score` belong to; on another number neither is judged.
        om_min_score: least value of an OM's metric in percent, such as a published one.
        arrays: whether it holds one array an input, such as tokens and their mask, instead of images.
    """

    name: Name
    metric: Literal["top1", "mAP50-95", "mAP50", "dice", "agreement"]
    subset: Annotated[int, Field(ge=1)] | None = None
    expected: float | None = None
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    min_score: float | None = None
    images: Annotated[int, Field(ge=1)] | None = None
    om_min_score: float | None = None
    arrays: bool = False


class Closeness(Table):
    """Limits of one comparison; a value of ``None`` takes the default of that pair of sessions.

    Attributes:
        shift_pixels: of slices of kind ``boxes``: mean distance of the worst box coordinate, in input pixels.
        equal: of slices of kind ``labels``: share of equal elements.
    """

    cosine: float | None = None
    relative_l2: float | None = None
    mean_abs: float | None = None
    max_abs: float | None = None
    sqnr_db: float | None = None
    within_tolerance: float | None = None
    topk_agreement: float | None = None
    shift_pixels: float | None = None
    equal: float | None = None


class Gates(Table):
    """``[gates]``: limits that differ from the defaults.

    Attributes:
        torch_onnx, onnx_om, torch_om: closeness per pair, for all slices.
        int8: closeness of int8 variants, for all slices.
        slices: closeness per slice name, for the pairs that include an OM.
        drop: largest accepted loss of the metric against PyTorch, in percent points.
        int8_drop: the same for int8 variants.
        reference_fps: variant name -> frames per second on `reference_soc`; judged on device ground only.
        reference_soc: the SoC the reference was measured on.
        latency_ms: variant name -> largest accepted median latency on device ground.
    """

    torch_onnx: Closeness = Closeness()
    onnx_om: Closeness = Closeness()
    torch_om: Closeness = Closeness()
    int8: Closeness = Closeness()
    slices: dict[str, Closeness] = Field(default_factory=dict)
    drop: Annotated[float, Field(ge=0)] = 1.0
    int8_drop: Annotated[float, Field(ge=0)] = 1.0
    reference_fps: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    reference_soc: str | None = None
    latency_ms: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
