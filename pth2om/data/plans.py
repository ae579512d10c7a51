"""nnU-Net's own files: ``plans.json`` of v2, v1's plans written as JSON, and ``dataset.json`` of both.

Only what a spec needs is read: patch, spacing, resampling, normalization, order of axes, classes or regions, and
channels. Everything else in the files is passed over, and nothing in them is trusted: sizes and types are checked, and
files have a largest size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from pth2om.data.resampling import ANISOTROPIC, USUAL, Method, Resampling
from pth2om.errors import DataError, first_line
from pth2om.spec import Channel

_MOST_BYTES = 64 << 20  # v1's plans list the size of every training case
_LONGEST_CHAIN = 10
_SHOWN = 80
_MOST_LABEL = 4096

Size = Annotated[int, Field(ge=1, le=8192)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Millimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]
T = TypeVar("T", bound=BaseModel)

SCHEMES: Mapping[str, str] = {
    "ZScoreNormalization": "zscore",
    "CTNormalization": "ct",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale01",
    "RGBTo01Normalization": "rgb01",
    "nonCT": "zscore",
    "CT": "ct",
    "noNorm": "none",
}
"""nnU-Net's names, of v2 and v1, and the spec's."""

FUNCTIONS: Mapping[str, Literal["spline", "torch", "none"]] = {
    "resample_data_or_seg_to_shape": "spline",
    "resample_torch_fornnunet": "torch",
    "no_resampling_hack": "none",
}
"""nnU-Net's functions that resample."""

PLAIN = "PlainConvUNet"
"""The architecture of ``models/nnunet3d``."""


@dataclass(frozen=True)
class Plans:
    """What one configuration of nnU-Net's plans says.

    Attributes:
        version: of nnU-Net.
        configuration: its name; of v1 the number of the stage.
        patch: the net's input without batch and channels.
        spacing: millimetres between voxels, in the order of `transpose`.
        channels: how each is normalized.
        transpose: the order in which the axes of a volume are taken.
        reorient: whether volumes are turned to right, anterior, superior.
        classes: heads of the net, background included; None where ``dataset.json`` says it (v2).
        resampling: how volumes get that spacing, and scores the volume's own.
        network: the class of the architecture; ``""`` where the plans do not say it.
    """

    version: Literal[1, 2]
    configuration: str
    patch: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: tuple[Channel, ...]
    transpose: tuple[int, ...]
    reorient: bool
    classes: int | None
    resampling: Resampling = USUAL
    network: str = ""


@dataclass(frozen=True)
class Regions:
    """Parts of a volume that may overlap, one head of the net each: a voxel belongs to all, some or none.

    Attributes:
        names: of the regions.
        labels: which labels of a label map make up each of them.
        order: the label that each head writes into the label map, the first head first, so that the last one stays.
    """

    names: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]


@dataclass(frozen=True)
class DatasetJson:
    """What a ``dataset.json`` says.

    Attributes:
        names: of the classes, background first; of regions theirs, behind the background's.
        channels: names of the channels.
        ending: suffix of the files (v2); ``""`` where it is not there.
        ignored: the label that is not scored, or None.
        regions: where the net was trained on regions.
        labels: how many values a label map has, from 0 on.
    """

    names: tuple[str, ...]
    channels: tuple[str, ...]
    ending: str
    ignored: int | None
    regions: Regions | None = None
    labels: int = 0

    @property
    def heads(self) -> int:
        """Channels of what the net returns: the background has none among regions."""
        return len(self.names) if self.regions is None else len(self.regions.names)


class _Read(BaseModel):
    # Built when a file of its kind is read.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class _Intensities(_Read):
    mean: Number
    std: Millimetres | None = None
    sd: Millimetres | None = None
    percentile_00_5: Number
    percentile_99_5: Number


class _Configuration(_Read):
    patch_size: Annotated[tuple[Size, ...], Field(min_length=2, max_length=3)]
    spacing: tuple[Millimetres, ...]
    normalization_schemes: Annotated[tuple[str, ...], Field(min_length=1, max_length=1024)]
    use_mask_for_norm: tuple[bool, ...] = ()
    previous_stage: str | None = None
    resampling_fn_data: str = "resample_data_or_seg_to_shape"
    resampling_fn_data_kwargs: dict[str, Any] | None = None
    resampling_fn_probabilities: str = "resample_data_or_seg_to_shape"
    resampling_fn_probabilities_kwargs: dict[str, Any] | None = None
    architecture: dict[str, Any] = Field(default_factory=dict)
    UNet_class_name: str = ""


class _Splines(_Read):
    order: Annotated[int, Field(ge=0, le=5)] = 3
    order_z: Annotated[int, Field(ge=0, le=5)] = 0
    force_separate_z: bool | None = False
    separate_z_anisotropy_threshold: Millimetres = ANISOTROPIC


class _Torch(_Read):
    force_separate_z: bool | None = None
    separate_z_anisotropy_threshold: Millimetres = ANISOTROPIC
    mode: Literal["linear", "bilinear", "nearest", "nearest-exact", "bicubic", "area"] = "linear"
    aniso_axis_mode: Literal["linear", "trilinear", "nearest", "nearest-exact", "area"] = "nearest-exact"


class _V2(_Read):
    configurations: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    transpose_forward: tuple[int, ...] = (0, 1, 2)
    image_reader_writer: str = ""
    foreground_intensity_properties_per_channel: dict[str, dict[str, Any]] | None = None
    foreground_intensity_properties_by_modality: dict[str, dict[str, Any]] | None = None


class _Stage(_Read):
    patch_size: Annotated[tuple[Size, ...], Field(min_length=2, max_length=3)]
    current_spacing: tuple[Millimetres, ...]


class _V1(_Read):
    plans_per_stage: Annotated[dict[str, _Stage] | tuple[_Stage, ...], Field(min_length=1)]
    normalization_schemes: Annotated[dict[str, str], Field(min_length=1, max_length=1024)]
    use_mask_for_norm: dict[str, bool] = Field(default_factory=dict)
    num_classes: Annotated[int, Field(ge=1, le=4096)]
    transpose_forward: tuple[int, ...] = (0, 1, 2)
    dataset_properties: dict[str, Any] = Field(default_factory=dict)


class _Dataset(_Read):
    labels: Annotated[dict[str, Any], Field(min_length=1, max_length=4096)]
    channel_names: dict[str, str] | None = None
    modality: dict[str, str] | None = None
    file_ending: str = ""
    regions_class_order: tuple[int, ...] | None = None


def read_plans(path: Path, configuration: str | None = None, patch: tuple[int, ...] | None = None) -> Plans:
    """One configuration of a plans file.

    Args:
        path: JSON.
        configuration: its name (v2), or the number of the stage (v1).
        patch: without a name, the configuration with this patch is taken; without either the only one, else
            ``3d_fullres`` (v2) or the last stage (v1).

    Raises:
        DataError: no such file or configuration, no JSON, or values of another kind than nnU-Net writes.
    """
    data = _json(path)
    if "plans_per_stage" in data:
        return _first(path, data, configuration, patch)
    if "configurations" in data:
        return _second(path, data, configuration, patch)
    raise DataError("data.plans-unknown", where=str(path))


def read_dataset_json(path: Path) -> DatasetJson:
    """Classes, or regions, and channels of nnU-Net's ``dataset.json``.

    Raises:
        DataError: no JSON, values of another kind, labels with gaps, or regions without their order.
    """
    read = _checked(path, _Dataset, _json(path))
    entries = []
    for key, value in read.labels.items():
        # v2 writes name -> number, v1 number -> name; a number may be text in both.
        name, number = (key, value) if not key.lstrip("-").isdigit() else (str(value), key)
        several = number if isinstance(number, list) else [number]
        entries.append((name, tuple(dict.fromkeys(_label(path, name, each) for each in several))))
    ignored = next((labels[0] for name, labels in entries if name == "ignore" and len(labels) == 1), None)
    counted = [(name, labels) for name, labels in entries if labels != (ignored,)]
    channels = tuple((read.channel_names or read.modality or {}).values())
    if any(len(labels) != 1 for _, labels in counted):
        regions, values = _regions(path, counted, read.regions_class_order)
        return DatasetJson(("background", *regions.names), channels, read.file_ending, ignored, regions, values)
    numbers: dict[int, str] = {}
    for name, (label,) in counted:
        if label in numbers:
            raise DataError("data.dataset-json-label", where=str(path), label=name[:_SHOWN], number=str(label))
        numbers[label] = name
    if sorted(numbers) != list(range(len(numbers))):
        shown = ", ".join(map(str, sorted(numbers)))[:_SHOWN]
        raise DataError("data.dataset-json-gaps", where=str(path), numbers=shown, last=len(numbers) - 1)
    names = tuple(numbers[label] for label in range(len(numbers)))
    return DatasetJson(names, channels, read.file_ending, ignored, None, len(names))


def _label(path: Path, name: str, number: object) -> int:
    try:
        label = -1 if isinstance(number, float | bool) else int(str(number))
    except ValueError:
        label = -1
    if not 0 <= label <= _MOST_LABEL:
        raise DataError("data.dataset-json-label", where=str(path), label=name[:_SHOWN], number=str(number)[:_SHOWN])
    return label


def _regions(
    path: Path, entries: list[tuple[str, tuple[int, ...]]], order: tuple[int, ...] | None
) -> tuple[Regions, int]:
    """The regions, without the background, and how many values the label map has."""
    found = [(name, labels) for name, labels in entries if set(labels) != {0}]
    empty = next((name for name, labels in found if not labels), None)
    if empty is not None:
        raise DataError("data.dataset-json-label", where=str(path), label=empty[:_SHOWN], number="[]")
    names = ", ".join(name for name, _ in found)[:_SHOWN]
    if order is None or len(order) != len(found):
        given = "-" if order is None else str(list(order))[:_SHOWN]
        raise DataError("data.dataset-json-order", where=str(path), order=given, count=len(found), names=names)
    known = {label for _, labels in found for label in labels}
    strange = next((label for label in order if label not in known), None)
    if strange is not None:
        raise DataError("data.dataset-json-order-label", where=str(path), label=strange, names=names)
    regions = Regions(tuple(name for name, _ in found), tuple(labels for _, labels in found), order)
    return regions, max(known) + 1


# --- the two versions ------------------------------------------------------------------------------------------


def _second(path: Path, data: Mapping[str, Any], name: str | None, patch: tuple[int, ...] | None) -> Plans:
    read = _checked(path, _V2, data)
    patches = {}
    for each in read.configurations:
        table = _inherited(path, read.configurations, each)
        found = table.get("patch_size")
        # What takes another net's segmentation is no choice where a single other one is there.
        if name == each or table.get("previous_stage") is None:
            patches[each] = tuple(found) if isinstance(found, list) else ()
    if not patches:
        first = next(iter(read.configurations))
        raise DataError("data.plans-cascade", where=str(path), name=first, first="-")
    chosen = _chosen(path, name, patch, patches, "3d_fullres")
    values = _checked(path, _Configuration, _inherited(path, read.configurations, chosen), ("configurations", chosen))
    if values.previous_stage is not None:
        first = values.previous_stage[:_SHOWN]
        raise DataError("data.plans-cascade", where=str(path), name=chosen, first=first)
    intensities = (
        read.foreground_intensity_properties_per_channel or read.foreground_intensity_properties_by_modality or {}
    )
    masked = {str(number): mask for number, mask in enumerate(values.use_mask_for_norm)}
    schemes = dict(enumerate(values.normalization_schemes))
    channels = tuple(
        # v2 masks nothing in CT volumes.
        _channel(path, number, scheme, intensities, masked=masked.get(str(number), False) and scheme[:2] != "CT")
        for number, scheme in schemes.items()
    )
    transpose = _order(path, read.transpose_forward)
    spacing = _spacing(path, values.patch_size, values.spacing)
    reorient = read.image_reader_writer == "NibabelIOWithReorient"
    network = str(values.architecture.get("network_class_name", values.UNet_class_name)).rpartition(".")[2][:_SHOWN]
    resampling = _resampling(path, chosen, values)
    return Plans(2, chosen, values.patch_size, spacing, channels, transpose, reorient, None, resampling, network)


def _resampling(path: Path, configuration: str, values: _Configuration) -> Resampling:
    """What the plans name; old ones and those written by hand name nothing, and get nnU-Net's usual functions."""
    found = []
    for kind, default in (("data", USUAL.data), ("probabilities", USUAL.scores)):
        name = getattr(values, f"resampling_fn_{kind}")
        arguments = getattr(values, f"resampling_fn_{kind}_kwargs")
        key = f"resampling_fn_{kind}_kwargs"
        if name not in FUNCTIONS:
            known = ", ".join(FUNCTIONS)
            raise DataError("data.plans-resampling", where=str(path), name=name[:_SHOWN], known=known)
        function = FUNCTIONS[name]
        if function == "spline" and arguments is not None:
            read = _checked(path, _Splines, arguments, ("configurations", configuration, key))
            splines = read.order, read.order_z, read.force_separate_z, read.separate_z_anisotropy_threshold
            found.append(Method("spline", *splines))
        elif function == "torch":
            torch = _checked(path, _Torch, arguments or {}, ("configurations", configuration, key))
            apart = torch.force_separate_z, torch.separate_z_anisotropy_threshold
            found.append(Method("torch", 1, 0, *apart, torch.mode, torch.aniso_axis_mode))
        else:
            found.append(default if function == "spline" else Method("none"))
    if [each.function for each in found].count("none") == 1:
        known = ", ".join(each for each in FUNCTIONS if FUNCTIONS[each] != "none")
        raise DataError("data.plans-resampling", where=str(path), name="no_resampling_hack", known=known)
    data, scores = found
    return Resampling(data, scores)


def _inherited(path: Path, configurations: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """A configuration with what it inherits."""
    chain: list[Mapping[str, Any]] = []
    current: object = name
    while current is not None:
        if not isinstance(current, str) or current not in configurations or len(chain) == _LONGEST_CHAIN:
            raise DataError("data.plans-inheritance", where=str(path), name=name, parent=str(current)[:_SHOWN])
        chain.append(configurations[current])
        current = configurations[current].get("inherits_from")
    merged: dict[str, Any] = {}
    for each in reversed(chain):
        merged.update(each)
    return merged


def _first(path: Path, data: Mapping[str, Any], name: str | None, patch: tuple[int, ...] | None) -> Plans:
    read = _checked(path, _V1, data)
    stages = read.plans_per_stage
    named = stages if isinstance(stages, dict) else {str(number): stage for number, stage in enumerate(stages)}
    patches = {stage: values.patch_size for stage, values in named.items()}
    chosen = _chosen(path, name, patch, patches, max(named))
    found = read.dataset_properties.get("intensityproperties")
    intensities = found if isinstance(found, dict) else {}
    channels = tuple(
        _channel(path, number, scheme, intensities, masked=read.use_mask_for_norm.get(str(number), False))
        for number, scheme in enumerate(read.normalization_schemes.values())
    )
    values = named[chosen]
    spacing = _spacing(path, values.patch_size, values.current_spacing)
    transpose = _order(path, read.transpose_forward)
    # v1 does not count the background.
    return Plans(
        1,
        chosen,
        values.patch_size,
        spacing,
        channels,
        transpose,
        reorient=False,
        classes=read.num_classes + 1,
        resampling=Resampling(first=True),
    )


def _chosen(
    path: Path,
    name: str | None,
    patch: tuple[int, ...] | None,
    patches: Mapping[str, tuple[int, ...]],
    usual: str,
) -> str:
    shown = ", ".join(f"{each} ({'x'.join(map(str, size))})" for each, size in patches.items())[:400]
    if name is not None:
        if name not in patches:
            raise DataError("data.plans-no-configuration", where=str(path), name=name, known=shown)
        return name
    fitting = list(patches) if patch is None else [each for each, size in patches.items() if size == tuple(patch)]
    if not fitting and patch is not None:
        size = "x".join(map(str, patch))
        raise DataError("data.plans-no-patch", where=str(path), patch=size, known=shown)
    if len(fitting) > 1 and usual not in fitting:
        raise DataError("data.plans-several", where=str(path), known=shown)
    return usual if usual in fitting else fitting[0]


def _channel(path: Path, number: int, scheme: str, intensities: Mapping[str, Any], *, masked: bool) -> Channel:
    if scheme not in SCHEMES:
        known = ", ".join(SCHEMES)
        raise DataError("data.plans-scheme", where=str(path), scheme=scheme[:_SHOWN], channel=number, known=known)
    kind = SCHEMES[scheme]
    if kind != "ct":
        return Channel.model_validate({"normalization": kind, "masked": masked and kind == "zscore"})
    entry = intensities.get(str(number))
    if not isinstance(entry, Mapping):
        raise DataError("data.plans-no-intensities", where=str(path), channel=number)
    read = _checked(path, _Intensities, entry, ("intensities", str(number)))
    values = {"mean": read.mean, "std": read.std or read.sd, "low": read.percentile_00_5, "high": read.percentile_99_5}
    try:
        return Channel.model_validate({"normalization": kind, "masked": masked, **values})
    except pydantic.ValidationError:
        raise DataError("data.plans-no-intensities", where=str(path), channel=number) from None


def _order(path: Path, axes: tuple[int, ...]) -> tuple[int, ...]:
    if sorted(axes) != list(range(3)):
        raise DataError("data.plans-value", where=str(path), key="transpose_forward", value=str(list(axes))[:_SHOWN])
    return axes


def _spacing(path: Path, patch: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[float, ...]:
    """Of the axes of the patch: v1 writes all three for a 2-D net too."""
    if len(spacing) not in (len(patch), 3):
        raise DataError("data.plans-value", where=str(path), key="spacing", value=str(list(spacing))[:_SHOWN])
    return spacing[-len(patch) :]


# --- files ----------------------------------------------------------------------------------------------------


def _json(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise DataError("data.json-too-large", where=str(path), size=size, most=_MOST_BYTES)
        raw = path.read_bytes()
    except OSError as error:
        raise DataError("data.json-unreadable", where=str(path), reason=first_line(str(error))) from None
    if raw[:1] == b"\x80":
        raise DataError("data.plans-pickle", where=str(path))
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError("data.json-unreadable", where=str(path), reason=first_line(str(error))) from None
    if not isinstance(data, dict):
        raise DataError("data.plans-unknown", where=str(path))
    return data


def _checked(path: Path, kind: type[T], data: Mapping[str, Any], within: tuple[str, ...] = ()) -> T:
    try:
        return kind.model_validate(data)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (*within, *first["loc"])))[:_SHOWN]
        if first["type"] == "missing":
            raise DataError("data.plans-missing", where=str(path), key=key) from None
        raise DataError("data.plans-value", where=str(path), key=key, value=repr(first["input"])[:_SHOWN]) from None
