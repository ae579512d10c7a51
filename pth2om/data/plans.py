"""nnU-Net's own files: ``plans.json`` of v2, v1's plans written as JSON, and ``dataset.json`` of both.

Only what a spec needs is read: patch, spacing, normalization, order of axes, classes and channels. Everything else in
the files is passed over, and nothing in them is trusted: sizes and types are checked, and files have a largest size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from pth2om.errors import DataError, first_line
from pth2om.spec import Channel

_MOST_BYTES = 64 << 20  # v1's plans list the size of every training case
_LONGEST_CHAIN = 10
_SHOWN = 80

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
    """

    version: Literal[1, 2]
    configuration: str
    patch: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: tuple[Channel, ...]
    transpose: tuple[int, ...]
    reorient: bool
    classes: int | None


@dataclass(frozen=True)
class DatasetJson:
    """What a ``dataset.json`` says.

    Attributes:
        names: of the classes, background first.
        channels: names of the channels.
        ending: suffix of the files (v2); ``""`` where it is not there.
        ignored: the label that is not scored, or None.
    """

    names: tuple[str, ...]
    channels: tuple[str, ...]
    ending: str
    ignored: int | None


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


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
    """Classes and channels of nnU-Net's ``dataset.json``.

    Raises:
        DataError: no JSON, values of another kind, labels with gaps, or regions, which overlap.
    """
    read = _checked(path, _Dataset, _json(path))
    numbers: dict[int, str] = {}
    for key, value in read.labels.items():
        # v2 writes name -> number, v1 number -> name; a number may be text in both.
        name, number = (key, value) if not key.lstrip("-").isdigit() else (str(value), key)
        if isinstance(number, list):
            raise DataError("data.dataset-json-regions", where=str(path), label=name[:_SHOWN])
        try:
            label = int(number)
        except (TypeError, ValueError):
            label = -1
        if label < 0 or label in numbers:
            raise DataError(
                "data.dataset-json-label", where=str(path), label=name[:_SHOWN], number=str(number)[:_SHOWN]
            )
        numbers[label] = name
    ignored = next((label for label, name in numbers.items() if name == "ignore"), None)
    counted = {label: name for label, name in numbers.items() if label != ignored}
    if sorted(counted) != list(range(len(counted))):
        shown = ", ".join(map(str, sorted(counted)))[:_SHOWN]
        raise DataError("data.dataset-json-gaps", where=str(path), numbers=shown, last=len(counted) - 1)
    names = tuple(counted[label] for label in range(len(counted)))
    channels = read.channel_names or read.modality or {}
    return DatasetJson(names, tuple(channels.values()), read.file_ending, ignored)


# --- the two versions ------------------------------------------------------------------------------------------


def _second(path: Path, data: Mapping[str, Any], name: str | None, patch: tuple[int, ...] | None) -> Plans:
    read = _checked(path, _V2, data)
    patches = {}
    for each in read.configurations:
        found = _inherited(path, read.configurations, each).get("patch_size")
        patches[each] = tuple(found) if isinstance(found, list) else ()
    chosen = _chosen(path, name, patch, patches, "3d_fullres")
    values = _checked(path, _Configuration, _inherited(path, read.configurations, chosen), ("configurations", chosen))
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
    return Plans(2, chosen, values.patch_size, spacing, channels, transpose, reorient, None)


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
        1, chosen, values.patch_size, spacing, channels, transpose, reorient=False, classes=read.num_classes + 1
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
