"""The spec: ``models/<name>/model.toml``, what a model is and what must hold.

A spec is frozen and typed. Anything wrong in it is said as ``models/x/model.toml:12: ...`` with the nearest valid word,
and concerns that model alone.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pth2om.errors import SpecError

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

OPSET_LADDER = (17, 16, 15, 14, 13, 11)
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]+$")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Source(_Table):
    """``[source]``: where the model comes from.

    Exactly one of `checkpoint` and `onnx` is given.

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
        if (self.checkpoint is None) == (self.onnx is None):
            raise ValueError("give exactly one of checkpoint and onnx")
        return self


class Input(_Table):
    """``[[inputs]]``: one input of the model.

    Attributes:
        name: its name in the ONNX graph and in ``--input_shape``.
        shape: without the batch axis, e.g. ``[3, 224, 224]``.
        dtype: NumPy name of the element type.
        range: what random samples are drawn from, uniformly; integers include both ends.
    """

    name: Name
    shape: tuple[Annotated[int, Field(ge=1)], ...]
    dtype: Literal["float32", "float16", "uint8", "int8", "int32", "int64", "bool"] = "float32"
    range: tuple[float, float] = (0.0, 1.0)


class Export(_Table):
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


class Preprocess(_Table):
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


class Slice(_Table):
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


class Postprocess(_Table):
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


class Aipp(_Table):
    """``[aipp]``: let the AI preprocessing unit do what `Preprocess` does after resizing.

    Attributes:
        input_format: what the camera or decoder delivers.
        config: an AIPP ``.cfg`` of the user's own; default: derived from ``[preprocess]``.
    """

    input_format: Literal["RGB888_U8", "YUV420SP_U8", "XRGB8888_U8", "YUV400_U8"] = "RGB888_U8"
    config: str | None = None


class Variant(_Table):
    """One precision x batch of a model.

    Attributes:
        precision: see `PRECISION_MODES`.
        batch: images per inference.
        aipp: whether the OM takes uint8 through AIPP.
        atc: further atc arguments, e.g. ``["--enable_small_channel=1"]``.
    """

    precision: Precision
    batch: Annotated[int, Field(ge=1)] = 1
    aipp: bool = False
    atc: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``fp16-bs1``, with ``-aipp`` where AIPP is in."""
        return f"{self.precision}-bs{self.batch}" + ("-aipp" if self.aipp else "")


class Dataset(_Table):
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
    """

    name: Name
    metric: Literal["top1", "mAP50-95", "mAP50", "dice", "agreement"]
    subset: Annotated[int, Field(ge=1)] | None = None
    expected: float | None = None
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    min_score: float | None = None
    images: Annotated[int, Field(ge=1)] | None = None
    om_min_score: float | None = None


class Closeness(_Table):
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


class Gates(_Table):
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


class Quantize(_Table):
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
    activations: Literal["minmax", "percentile", "entropy", "mse", "ifmr", "hfmg"] = "mse"
    weights: Literal["arq", "mse"] = "mse"
    asymmetric: bool = True
    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    max_drop: Annotated[float, Field(ge=0)] | None = None
    bias_correction: bool = True
    equalize: bool = False
    balance: Literal["off", "fold", "insert"] = "insert"
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


class Spec(_Table):
    """One model: what it is and what must hold.

    Attributes:
        name: the folder's name.
        folder: where the spec lies; relative paths in it start here.
    """

    name: Name
    folder: Path
    task: Task
    title: str = ""
    description: str = ""
    licence: str = ""
    source: Source
    inputs: tuple[Input, ...] = Field(min_length=1)
    export: Export = Export()
    preprocess: Preprocess | None = None
    postprocess: Postprocess = Postprocess()
    slices: tuple[Slice, ...] = ()
    variants: tuple[Variant, ...] = (Variant(precision="fp16"),)
    aipp: Aipp = Aipp()
    datasets: tuple[Dataset, ...] = ()
    gates: Gates = Gates()
    quantize: Quantize = Quantize()

    @field_validator("variants", mode="before")
    @classmethod
    def _product(cls, value: object) -> object:
        """``[variants] precision = [...], batch = [...]`` means every combination; ``[[variants]]`` lists them.

        In a list, ``"int8-bs4"`` and ``"fp16-bs1-aipp"`` are short for a table.
        """
        if isinstance(value, list):
            return [_variant(entry) if isinstance(entry, str) else entry for entry in value]
        if isinstance(value, Mapping):
            extra = set(value) - {"precision", "batch"}
            if extra:
                raise ValueError(f"unknown key {sorted(extra)[0]!r}: a [variants] table has precision and batch")
            precisions, batches = value.get("precision", ["fp16"]), value.get("batch", [1])
            if not isinstance(precisions, list) or not isinstance(batches, list):
                raise ValueError('[variants] takes lists: precision = ["fp16"], batch = [1]')
            return [{"precision": precision, "batch": batch} for precision in precisions for batch in batches]
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Spec:
        names = [variant.name for variant in self.variants]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"variant {name} is listed twice")
        known = [entry.name for entry in self.inputs]
        fed = self.preprocess.input if self.preprocess else None
        if fed is not None and fed not in known:
            raise ValueError(f"preprocess.input {fed!r} is not an input; inputs are {', '.join(known)}")
        for name in (*self.gates.reference_fps, *self.gates.latency_ms):
            if name not in names:
                raise ValueError(f"gates name the variant {name!r}; variants are {', '.join(names)}")
        slices = [entry.name for entry in self.slices]
        for name in self.gates.slices:
            if name not in slices:
                raise ValueError(f"gates.slices names {name!r}; slices are {', '.join(slices) or '(none)'}")
        if self.datasets and self.preprocess is None:
            raise ValueError("datasets need a [preprocess]")
        if self.preprocess is not None:
            shape = next(entry.shape for entry in self.inputs if entry.name == (self.preprocess.input or known[0]))
            channels = (1 if self.preprocess.color == "GRAY" else 3) + (self.preprocess.extra != "none")
            if shape != (channels, *self.preprocess.size):
                raise ValueError(
                    f"preprocess makes {[channels, *self.preprocess.size]} but the input's shape is {list(shape)}"
                )
        return self

    @cached_property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes of all variants, ascending."""
        return tuple(sorted({variant.batch for variant in self.variants}))


def _variant(name: str) -> dict[str, Any]:
    match = re.fullmatch(r"([a-z0-9_]+)-bs(\d+)(-aipp)?", name)
    if match is None:
        raise ValueError(f"{name!r} is no variant: write it like fp16-bs1, int8-bs4 or fp16-bs1-aipp")
    return {"precision": match[1], "batch": int(match[2]), "aipp": match[3] is not None}


T = TypeVar("T", bound=BaseModel)
_ASSIGNMENT = re.compile(r"""^((?:[A-Za-z0-9_\-]+|"[^"]*"|'[^']*')(?:\s*\.\s*[A-Za-z0-9_\-"']+)*)\s*=""")


def load(folder: Path) -> Spec:
    """Read ``folder/model.toml``.

    Raises:
        SpecError: the file is missing, not TOML, or wrong; with its line and the nearest valid word.
    """
    return parse(folder / "model.toml", Spec, {"name": folder.name, "folder": folder.absolute()})


def parse(path: Path, table: type[T], extra: Mapping[str, Any]) -> T:
    """Read a TOML file into a pydantic model.

    Args:
        path: the file.
        table: the model.
        extra: values that do not come from the file (its name, its folder).

    Raises:
        SpecError: as `load`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SpecError("spec.missing", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError("spec.unreadable", where=str(path), reason=str(error)) from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"at line (\d+)", str(error))
        line = int(match[1]) if match else max(1, text.rstrip().count("\n") + 1)  # "at end of document"
        where = f"{path}:{line}"
        raise SpecError("spec.not-toml", where=where, reason=str(error)) from None
    for name in extra:
        if name in data:
            raise SpecError("spec.reserved", where=f"{path}:{line_of(text, (name,))}", name=name)
    try:
        return table.model_validate({**data, **extra})
    except pydantic.ValidationError as error:
        raise _spec_error(path, text, table, error) from None


_WANTED = {
    **dict.fromkeys(("tuple_type", "list_type"), ("list", "")),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), ("whole", "")),
    **dict.fromkeys(("float_type", "float_parsing"), ("number", "")),
    **dict.fromkeys(("bool_type", "bool_parsing"), ("truth", "")),
    "string_type": ("text", ""),
    "greater_than_equal": ("least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("most", "le"),
}
"""Pydantic's types of complaint about a value that a slip of the pen makes: our sentence, and where its limit is."""


def _spec_error(path: Path, text: str, table: type[BaseModel], error: pydantic.ValidationError) -> SpecError:
    """The first of pydantic's complaints, in the file's own terms."""
    # A misspelt key shows up twice: unknown, and missing under its right name. The misspelling is the cause.
    complaints = error.errors()
    first = next((each for each in complaints if each["type"] == "extra_forbidden"), complaints[0])
    location = tuple(part for part in first["loc"] if not (isinstance(part, str) and part.startswith("function-")))
    where = f"{path}:{line_of(text, location)}"
    name = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        words = _fields_at(table, location[:-1])
        return _with_nearest("spec.unknown-key", where, str(location[-1]), words, name=name)
    if first["type"] == "missing":
        return SpecError("spec.missing-key", where=where, name=name)
    if first["type"] == "string_pattern_mismatch" and location == ("name",):
        return SpecError("spec.folder-name", where=str(path.parent), name=str(first["input"]))
    if first["type"] == "literal_error":
        words = re.findall(r"'([^']*)'", str(first["ctx"]["expected"]))
        return _with_nearest("spec.not-a-choice", where, str(first["input"]), words, name=name)
    reason = re.sub(r"^Value error, ", "", first["msg"])
    if first["type"] == "value_error":
        return SpecError("spec.contradiction", where=where, reason=reason)
    value, limits = _short(first["input"]), first.get("ctx", {})
    if first["type"] in _WANTED:
        key, limit = _WANTED[first["type"]]
        return SpecError(f"spec.wants-{key}", where=where, name=name, value=value, limit=str(limits.get(limit, "")))
    return SpecError("spec.wrong-value", where=where, name=name, value=value, reason=reason)


def _with_nearest(key: str, where: str, word: str, words: Sequence[str], *, name: str) -> SpecError:
    nearest = difflib.get_close_matches(word, words, 1, cutoff=0.4)
    suffix = "-nearest" if nearest else ""
    return SpecError(
        key + suffix, where=where, name=name, word=word, nearest=nearest[0] if nearest else "", words=", ".join(words)
    )


def _fields_at(table: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The keys allowed in the table at ``location``."""
    kind: Any = table
    for part in location:
        if isinstance(part, str) and kind is not None and part in kind.model_fields:
            kind = _table_in(kind.model_fields[part].annotation)
    if kind is None:
        return []
    return [name for name in kind.model_fields if name not in ("name", "folder") or kind is not Spec]


def _table_in(annotation: Any) -> Any:  # noqa: ANN401 - a type annotation
    """The model class inside ``X | None``, ``tuple[X, ...]`` or ``dict[str, X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        found = _table_in(inner)
        if found is not None:
            return found
    return None


def line_of(text: str, location: Sequence[int | str]) -> int:
    """The line (from 1) of TOML ``text`` where the value at ``location`` is written, or its nearest enclosing table.

    Args:
        text: valid TOML.
        location: keys and list indices, as pydantic gives them.
    """
    counts: dict[tuple[str, ...], int] = {}
    table: tuple[int | str, ...] = ()
    best, best_length = 1, 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        header = re.match(r"^(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$", stripped)
        if header:
            keys = _keys(header[2])
            if header[1] == "[[":
                counts[keys] = counts.get(keys, -1) + 1
                table = (*keys, counts[keys])
            else:
                # A sub-table of a list of tables belongs to the last element of that list.
                table = tuple(
                    part
                    for end in range(len(keys))
                    for part in ((keys[end], counts[keys[: end + 1]]) if keys[: end + 1] in counts else (keys[end],))
                )
            full = table
        else:
            assignment = _ASSIGNMENT.match(stripped)
            if not assignment:
                continue
            full = (*table, *_keys(assignment[1]))
        if len(full) > best_length and _leads(full, location):
            best, best_length = number, len(full)
    return best


def _leads(written: Sequence[int | str], location: Sequence[int | str]) -> bool:
    """Whether ``written`` is how the file comes to ``location``; indices the file does not write are passed over.

    ``[variants] precision = [...]`` stands for a list of tables, so its errors carry an index the file does not have.
    """
    rest = list(location)
    for part in written:
        while rest and isinstance(rest[0], int) and not isinstance(part, int):
            rest.pop(0)
        if not rest or rest.pop(0) != part:
            return False
    return True


def _keys(text: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in text.split("."))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
