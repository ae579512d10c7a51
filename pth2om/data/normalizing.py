"""From a volume to what the net was trained on, as nnU-Net does it: order of axes, cropping, normalization, spacing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pth2om.data.plans import DatasetJson, Plans, Regions, read_dataset_json, read_plans
from pth2om.data.resampling import USUAL, Method, Resampling, resample, size_at
from pth2om.data.volumes import Floats, Volume
from pth2om.errors import DataError, SpecError
from pth2om.spec import Channel, Spec

VERSION = 2

_LINEAR = Method(order=1)
"""How nnU-Net v1 resamples the mask of what is not zero."""

_SMALLEST = 1e-8
"""What a standard deviation or range is taken for when it is less."""


@dataclass(frozen=True)
class Preparation:
    """How volumes are prepared: a spec's ``[volume]`` and the files that it names, put together.

    Attributes:
        channels: one entry per channel.
        transpose: the order in which the axes of a volume are taken.
        spacing: millimetres, in that order; empty: any.
        reorient: whether NIfTI volumes are turned to right, anterior, superior first.
        crop: whether what is zero in all channels is cut away first.
        resampling: how volumes get the spacing, and the net's scores the volume's own.
        regions: what each head of the net stands for, where they are not the classes.
        names: of the classes, as the model's ``dataset.json`` has them; for data that names none.
        softmax: nnU-Net v1 adds probabilities where windows overlap, v2 what the net returns.
    """

    channels: tuple[Channel, ...]
    transpose: tuple[int, ...] = (0, 1, 2)
    spacing: tuple[float, ...] = ()
    reorient: bool = False
    crop: bool = True
    resampling: Resampling = USUAL
    regions: Regions | None = None
    names: tuple[str, ...] = ()
    softmax: bool = False

    def to_json(self) -> dict[str, Any]:
        """For the keys of the store."""
        own = asdict(self)
        return {**own, "channels": [each.model_dump(mode="json") for each in self.channels], "version": VERSION}


@dataclass(frozen=True)
class Prepared:
    """A volume as the net sees it.

    Attributes:
        values: float32 (channels, *size), normalized, at the net's spacing.
        box: where they lie in the whole volume, one slice per axis.
        size: of the whole volume, axes in the order of `Preparation.transpose`.
        spacing: millimetres between the voxels of `values`; empty where it is not known.
        original: the same of the volume.
    """

    values: Floats
    box: tuple[slice, ...]
    size: tuple[int, ...]
    spacing: tuple[float, ...] = ()
    original: tuple[float, ...] = ()

    @property
    def inside(self) -> tuple[int, ...]:
        """Size of the box, at the volume's own spacing."""
        return tuple(part.stop - part.start for part in self.box)


def preparation(spec: Spec) -> Preparation:
    """What a spec's ``[volume]`` and its nnU-Net files say together.

    Raises:
        DataError: a file is wrong, or says something else than the spec does.
    """
    table = spec.volume
    assert table is not None
    shape = spec.inputs[0].shape
    plans, about = _files(spec)
    transpose: tuple[int, ...]
    if plans is None:
        channels = table.channels or (Channel(),)
        transpose, spacing = (0, 1, 2), table.spacing
    else:
        channels, transpose, spacing = table.channels or plans.channels, plans.transpose, table.spacing or plans.spacing
        name = str(table.plans)
        _same(spec, "inputs.shape", list(shape[1:]), list(plans.patch), name)
        if table.channels:
            _same(spec, "volume.channels", _dumped(table.channels), _dumped(plans.channels), name)
        if table.spacing:
            _same(spec, "volume.spacing", list(table.spacing), list(plans.spacing), name)
        _same(spec, "inputs.shape", shape[0], len(plans.channels), name)
        if plans.classes is not None and spec.source.num_classes is not None:
            _same(spec, "source.num_classes", spec.source.num_classes, plans.classes, name)
    if about is not None:
        name = str(table.dataset_json)
        if about.channels:
            _same(spec, "inputs.shape", shape[0], len(about.channels), name)
        if spec.source.num_classes is not None:
            _same(spec, "source.num_classes", spec.source.num_classes, about.heads, name)
    channels = channels * shape[0] if len(channels) == 1 else channels
    reorient = plans is not None and plans.reorient if table.reorient is None else table.reorient
    resampling = USUAL if plans is None else plans.resampling
    regions = None if about is None else about.regions
    names = () if about is None else about.names
    softmax = plans is not None and plans.version == 1 and regions is None
    return Preparation(channels, transpose, spacing, reorient, table.crop, resampling, regions, names, softmax)


def check_volume(spec: Spec) -> None:
    """Refuse a spec whose ``[volume]`` contradicts its nnU-Net files, when the spec is read.

    Raises:
        SpecError: with the same words as `preparation`.
    """
    if spec.volume is None:
        return
    try:
        preparation(spec)
    except DataError as error:
        raise SpecError(error.message.key, where=error.where, **error.message.values) from None


def _files(spec: Spec) -> tuple[Plans | None, DatasetJson | None]:
    table = spec.volume
    assert table is not None
    plans = about = None
    if table.plans is not None:
        path = spec.folder / table.plans
        plans = read_plans(path, table.configuration, None if table.configuration else spec.inputs[0].shape[1:])
    if table.dataset_json is not None:
        about = read_dataset_json(spec.folder / table.dataset_json)
    return plans, about


def _same(spec: Spec, key: str, ours: object, theirs: object, file: str) -> None:
    if ours != theirs:
        raise DataError("data.plans-differ", where=spec.name, key=key, ours=str(ours), theirs=str(theirs), file=file)


def _dumped(channels: Sequence[Channel]) -> list[dict[str, Any]]:
    return [each.model_dump() for each in channels]


def prepare(volume: Volume, how: Preparation, *, where: str = "") -> Prepared:
    """A volume, in the order of axes, cropped, normalized, and at the net's spacing.

    A file without a spacing (``.npy``) is taken for one of the net's.

    Args:
        volume: as read.
        how: see `Preparation`.
        where: names the volume in errors.

    Raises:
        DataError: it has another number of channels, or a spacing at which nothing or too much would be left.
    """
    if len(volume.values) != len(how.channels):
        raise DataError("data.volume-channels", where=where, channels=len(volume.values), wanted=len(how.channels))
    values = np.array(volume.values.transpose(0, *(axis + 1 for axis in how.transpose)))
    size = values.shape[1:]
    inside: npt.NDArray[np.bool_] | None = None
    box = tuple(slice(0, side) for side in size)
    if how.crop or any(channel.masked for channel in how.channels):
        from scipy.ndimage import binary_fill_holes, find_objects

        inside = np.asarray(binary_fill_holes((values != 0).any(axis=0)))
        if how.crop and inside.any():
            box = find_objects(inside.astype(np.int8))[0]
            inside, values = inside[box], np.array(values[(slice(None), *box)])
    original: tuple[float, ...] = ()
    spacing: tuple[float, ...] = ()
    if volume.spacing and how.spacing:
        original = tuple(volume.spacing[axis] for axis in how.transpose)
        # A net of two axes sees planes, whose distance stays.
        spacing = (*original[: len(original) - len(how.spacing)], *how.spacing)
    target = size_at(values.shape[1:], original, spacing, where=where) if spacing else values.shape[1:]
    method = how.resampling.data
    if how.resampling.first and target != values.shape[1:]:
        values = resample(values, target, original, spacing, method)
        if inside is not None:
            inside = resample(inside[None].astype(np.float32), target, original, spacing, _LINEAR)[0] >= 0.5
    for channel, plane in zip(how.channels, values, strict=True):
        _normalize(plane, channel, inside)
    if not how.resampling.first and target != values.shape[1:]:
        values = resample(values, target, original, spacing, method)
    return Prepared(values, box, size, spacing, original)


def _normalize(plane: Floats, channel: Channel, inside: npt.NDArray[np.bool_] | None) -> None:
    """One channel, in place."""
    if channel.normalization == "zscore":
        if channel.masked and inside is not None:
            counted = plane[inside]
            plane[inside] = (counted - counted.mean()) / max(counted.std(), _SMALLEST) if counted.size else counted
            plane[~inside] = 0
        else:
            plane -= plane.mean()
            plane /= max(plane.std(), _SMALLEST)
    elif channel.normalization == "ct":
        assert channel.mean is not None
        assert channel.std is not None
        np.clip(plane, channel.low, channel.high, out=plane)
        plane -= channel.mean
        plane /= channel.std
        if channel.masked and inside is not None:
            plane[~inside] = 0
    elif channel.normalization == "rescale01":
        plane -= plane.min()
        plane /= max(plane.max(), _SMALLEST)
    elif channel.normalization == "rgb01":
        plane /= 255


def window_of(prepared: Prepared, tile: Sequence[int]) -> Floats:
    """The window in the middle of a prepared volume, float32 (channels, *tile), padded with zeros where it is smaller.

    A window of two axes is cut out of the middle plane.
    """
    values = prepared.values
    if len(tile) < values.ndim - 1:
        values = values[:, values.shape[1] // 2]
    found = np.zeros((len(values), *tile), dtype=np.float32)
    source, target = [], []
    for whole, side in zip(values.shape[1:], tile, strict=True):
        at, to = max(whole - side, 0) // 2, max(side - whole, 0) // 2
        source.append(slice(at, at + side))
        target.append(slice(to, to + min(whole, side)))
    found[(slice(None), *target)] = values[(slice(None), *source)]
    return found
