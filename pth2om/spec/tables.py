"""The tables of a spec that say what the model is and how it is converted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Task = Literal["classification", "detection", "segmentation", "tensor"]
Precision = Literal["fp16", "mixed", "origin", "fp32", "fp32_to_fp16", "int8"]
PRECISION_MODES: Mapping[str, str] = {
    "fp16": "force_fp16",
    "mixed": "allow_mix_precision",
    "origin": "must_keep_origin_dtype",
    "fp32": "force_fp32",
    "fp32_to_fp16": "allow_fp32_to_fp16",
    "int8": "force_fp16",
}
"""The ``--precision_mode`` each precision is compiled with; int8 is the deploy model compiled with ATC's default."""

Activations = Literal["minmax", "percentile", "entropy", "mse", "ifmr", "hfmg"]
"""Algorithms for activation ranges of INT8."""
Weights = Literal["arq", "mse"]
"""Algorithms for weight scales of INT8."""
Balancing = Literal["off", "fold", "insert"]
"""How the input channels of depth-wise convolutions are evened out."""

OPSET_LADDER = (17, 16, 15, 14, 13, 11)
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]+$")]


class Table(BaseModel):
    """What every table of a spec is: frozen, and with no key that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Source(Table):
    """``[source]``: where the model comes from.

    At most one of `checkpoint` and `onnx` is given; with neither the net has no weights: a single operator.

    Attributes:
        checkpoint: file name, searched in the model's folder, then its ``weights/``, then the data roots.
        onnx: an ONNX file searched likewise; it is then the reference and PyTorch rows skip.
        sha256: of that file; a different file is an error.
        net: Python file with ``TEMPLATE_NAME`` and ``build(num_classes, pretrained=False)``; relative to the model's
            folder, or a path to a template outside the repo. Default ``net.py`` where that exists.
        num_classes: handed to ``build``; default: read off the checkpoint by the net's
            ``infer(state_dict)`` if it has one.
        arguments: further keyword arguments of ``build``.
        fetch: entry of the fetch manifest that gets the file.
        seeded: without the file, go on with seeded random weights: closeness is measured, accuracy is not.
    """

    checkpoint: str | None = None
    onnx: str | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    net: str | None = None
    num_classes: Annotated[int, Field(ge=1)] | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    fetch: str | None = None
    seeded: bool = False

    @model_validator(mode="after")
    def _one_of(self) -> Source:
        if self.checkpoint is not None and self.onnx is not None:
            raise ValueError("give checkpoint or onnx, not both")
        if self.checkpoint is None and self.onnx is None and (self.net is None or self.seeded or self.fetch):
            raise ValueError("give checkpoint or onnx; or the net alone, when it has no weights")
        return self


class Input(Table):
    """``[[inputs]]``: one input of the model.

    Attributes:
        name: its name in the ONNX graph and in ``--input_shape``.
        shape: without the batch axis, e.g. ``[3, 224, 224]``.
        dtype: NumPy name of the element type.
        range: what random samples are drawn from, uniformly; integers include both ends.
        batched: whether a batch axis comes before `shape`; false for what is the same for all of a batch, such as a
            table of sizes.
        axes: names of the axes of `shape`, for the gears of a variant; equal names have equal sizes.
    """

    name: Name
    shape: tuple[Annotated[int, Field(ge=1)], ...]
    dtype: Literal["float32", "float16", "uint8", "int8", "int32", "int64", "bool"] = "float32"
    range: tuple[float, float] = (0.0, 1.0)
    batched: bool = True
    axes: tuple[Name, ...] = ()

    def shape_of(self, batch: int) -> tuple[int, ...]:
        """The input's shape at a batch size."""
        return (batch, *self.shape) if self.batched else self.shape

    @model_validator(mode="after")
    def _consistent(self) -> Input:
        if self.axes and len(self.axes) != len(self.shape):
            raise ValueError(f"axes has {len(self.axes)} names and shape has {len(self.shape)} sizes")
        if len({*self.axes, "batch"}) <= len(self.axes):
            raise ValueError('the names in axes must differ, and "batch" is the axis before them')
        return self

    @model_serializer(mode="wrap")
    def _named_only(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Keys of the store hold the inputs: names that nobody gave change none of them.
        values: dict[str, Any] = write(self)
        return values if self.axes else {name: value for name, value in values.items() if name != "axes"}


class Export(Table):
    """``[export]``: torch -> ONNX.

    Attributes:
        opsets: tried in this order; the first that exports and that ATC knows every operator of is taken.
        exporter: ``torchscript`` is ``torch.onnx.export(dynamo=False)``, ``dynamo`` is ``dynamo=True``.
        outputs: names of the outputs, in order; default ``output``, or ``output0``... when there are several.
        dynamic_batch: export one file with a symbolic batch axis instead of one per batch size.
        simplify: run the graph clean-up passes on the exported file.
    """

    opsets: tuple[Annotated[int, Field(ge=8, le=18)], ...] = OPSET_LADDER
    exporter: Literal["torchscript", "dynamo"] = "torchscript"
    outputs: tuple[Name, ...] = ()
    dynamic_batch: bool = False
    simplify: bool = True


class Preprocess(Table):
    """``[preprocess]``: image -> one input, in this order.

    decode -> `color` -> `resize` -> `crop` -> divide by `scale` -> subtract `mean`, divide by `std` -> `extra` -> NCHW.

    Attributes:
        input: which input it feeds; default the first.
        color: channel order the net was trained with.
        resize: ``none``; ``stretch`` to `size`; ``shorter``: the shorter side to `resize_to`, ratio kept;
            ``letterbox``: the longer side fits `size`, ratio kept, the rest filled with `fill`.
        resize_to: pixels of the shorter side, for ``shorter``.
        size: (height, width) of the input.
        letterbox: where the picture sits in the letterbox.
        scale_up: whether ``letterbox`` may enlarge a small picture.
        interpolation: of Pillow.
        crop: ``centre`` cuts `size` out of the middle after ``shorter``.
        fill: grey value of the letterbox border, 0-255.
        scale: pixels are divided by it first (255 gives 0..1).
        mean, std: per channel, in units of the scaled pixel.
        extra: an appended channel: ``sobel`` is the Sobel magnitude of the luma, 0..1.
    """

    input: str | None = None
    color: Literal["RGB", "BGR", "GRAY"] = "RGB"
    resize: Literal["none", "stretch", "shorter", "letterbox"] = "none"
    resize_to: Annotated[int, Field(ge=1)] | None = None
    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    letterbox: Literal["centre", "top_left"] = "centre"
    scale_up: bool = True
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    crop: Literal["none", "centre"] = "none"
    fill: Annotated[int, Field(ge=0, le=255)] = 114
    scale: Annotated[float, Field(gt=0)] = 255.0
    mean: tuple[float, ...] = ()
    std: tuple[Annotated[float, Field(gt=0)], ...] = ()
    extra: Literal["none", "sobel"] = "none"

    @model_validator(mode="after")
    def _consistent(self) -> Preprocess:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std has {len(self.std)}")
        if self.mean and len(self.mean) != (1 if self.color == "GRAY" else 3):
            raise ValueError(f"mean and std need one value per {self.color} channel")
        if self.resize == "shorter" and self.resize_to is None:
            raise ValueError('resize = "shorter" needs resize_to')
        return self


class Slice(Table):
    """``[[slices]]``: a named part of an output that is judged on its own.

    A detector whose scores are all zero has cosine 1.000 over its whole output tensor, so scores are judged alone.

    Attributes:
        name: ``boxes``, ``scores``, ...
        output: which output; default the first.
        index: NumPy index text without brackets, e.g. ``..., 5:`` or ``:, 0``.
        kind: what the values are: ``scores`` also get top-k agreement over the last axis, ``labels`` exact agreement.
    """

    name: Name
    output: str | None = None
    index: Annotated[str, Field(pattern=r"^[\s\d:,.\-]*$")] = "..."
    kind: Literal["values", "scores", "boxes", "labels"] = "values"


class Postprocess(Table):
    """``[postprocess]``: output -> predictions, on the host.

    Attributes:
        decoder: ``softmax`` (classification: the order of the logits is what counts), ``yolov6``: rows
            ``cx, cy, w, h, objectness, scores...`` in input pixels.
        score_threshold: rows at or below it are dropped before NMS.
        iou_threshold: of class-wise NMS.
        max_detections: kept per image after NMS, best first.
    """

    decoder: Literal["softmax", "yolov6", "argmax", "none"] = "softmax"
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.03
    iou_threshold: Annotated[float, Field(ge=0, le=1)] = 0.65
    max_detections: Annotated[int, Field(ge=1)] = 300


class Aipp(Table):
    """``[aipp]``: let the AI preprocessing unit do what `Preprocess` does after resizing.

    Attributes:
        input_format: what the camera or decoder delivers.
        config: an AIPP ``.cfg`` of the user's own; default: derived from ``[preprocess]``.
    """

    input_format: Literal["RGB888_U8", "YUV420SP_U8", "XRGB8888_U8", "YUV400_U8"] = "RGB888_U8"
    config: str | None = None


class Quantize(Table):
    """``[quantize]``: INT8.

    Files and folders are searched like the checkpoint: in the model's folder, then in the data roots.

    Attributes:
        dataset: the dataset under ``calib/`` whose images calibrate; default the first of ``[[datasets]]``.
        bins: folders of ``.bin`` batches that calibrate instead, one per input.
        random: without calibration data, calibrate on random numbers; every report then says that accuracy means
            nothing.
        images: how many calibration images.
        activations: algorithm for activation ranges.
        weights: algorithm for weight scales.
        asymmetric: whether activations have an offset.
        skip: node names or ``fnmatch`` patterns that stay in floating point.
        only: patterns; when given, nothing else is quantized ("backbone only").
        max_drop: accuracy-aware search: largest accepted drop in percent points; default off.
        bias_correction: correct the bias for the mean error of the quantized weights.
        equalize: cross-layer equalization of weight ranges.
        balance: even out the input channels of depth-wise convolutions: ``fold`` where it costs nothing at run time,
            ``insert`` also where it takes a Mul in the graph.
        small_channels: quantize layers of at most 16 input channels too, for ``--enable_small_channel=1``.
        config: an AMCT configuration (``.cfg`` or ``config.json``): obeyed, or handed to amct_onnx; keys given here
            come before it.
        tool: who quantizes: this package, or the ``amct_onnx`` that is installed.
        command: a command of your own instead: ``["mytool", "{onnx_in}", "{onnx_out}", "{calib_dir}"]``; a word that
            names a file (a script) is searched for like the others.
        onnx: an ONNX file that is quantized already: a deploy model, which is compiled as it is, or a QDQ model, which
            is converted.
    """

    dataset: Name | None = None
    bins: tuple[str, ...] = ()
    random: bool = False
    images: Annotated[int, Field(ge=1)] = 32
    activations: Activations = "mse"
    weights: Weights = "mse"
    asymmetric: bool = True
    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    max_drop: Annotated[float, Field(ge=0)] | None = None
    bias_correction: bool = True
    equalize: bool = False
    balance: Balancing = "insert"
    small_channels: bool = False
    config: str | None = None
    tool: Literal["pth2om", "amct_onnx"] = "pth2om"
    command: tuple[str, ...] = ()
    onnx: str | None = None

    @property
    def own(self) -> bool:
        """Whether this package quantizes."""
        return self.tool == "pth2om" and not self.command and self.onnx is None

    @model_validator(mode="after")
    def _one_way(self) -> Quantize:
        ways = [self.tool != "pth2om", bool(self.command), self.onnx is not None]
        if sum(ways) > 1:
            raise ValueError("give at most one of tool, command and onnx")
        if self.max_drop is not None and not self.own:
            raise ValueError("max_drop searches among layers quantized here; it does not go with tool, command or onnx")
        if self.bins and self.dataset is not None:
            raise ValueError("give bins or dataset, not both")
        return self
