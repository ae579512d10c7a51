"""Volumes at another spacing, as nnU-Net resamples them: images to the net's spacing, and scores back.

Two of nnU-Net's functions are known. ``resample_data_or_seg_to_shape`` takes splines, here those of SciPy;
``resample_torch_fornnunet`` is PyTorch's interpolation. Where one axis is much coarser than the others, both take the
planes along it one by one, and along the axis itself the nearest plane. Tests compare both with nnunetv2's own numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pth2om.errors import DataError

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

MOST_VOXELS = 1 << 29
"""Of one channel at the net's spacing: a spacing in a damaged header asks for any number."""

ANISOTROPIC = 3.0
"""How many times the coarsest spacing is the finest before planes are taken one by one, where the plans do not say."""


@dataclass(frozen=True)
class Method:
    """One of nnU-Net's functions with its arguments; the defaults are those of ``nnUNetPlans``.

    Attributes:
        function: ``spline``, ``torch``, or ``none``, which leaves arrays as they are.
        order: of the splines.
        order_z: of the splines along a coarse axis that is taken apart.
        separate_z: whether an axis is taken apart; None where the spacing decides.
        threshold: see `ANISOTROPIC`.
        mode: of PyTorch, in the planes of an axis that is taken apart; ``linear`` is bilinear.
        mode_z: of PyTorch, along that axis.
    """

    function: Literal["spline", "torch", "none"] = "spline"
    order: int = 3
    order_z: int = 0
    separate_z: bool | None = None
    threshold: float = ANISOTROPIC
    mode: str = "linear"
    mode_z: str = "nearest-exact"


@dataclass(frozen=True)
class Resampling:
    """What the plans name for each kind of array.

    Attributes:
        data: for images.
        scores: for what the net returns.
        first: nnU-Net v1 resamples images before they are normalized, v2 after.
    """

    data: Method = Method()
    scores: Method = Method(order=1)
    first: bool = False


USUAL = Resampling()
"""Of ``nnUNetPlans``."""


def size_at(size: Sequence[int], spacing: Sequence[float], wanted: Sequence[float], *, where: str) -> tuple[int, ...]:
    """The number of voxels along each axis at another spacing.

    Args:
        size: of the volume.
        spacing: millimetres between its voxels along the same axes.
        wanted: millimetres afterwards.
        where: names the volume in errors.

    Raises:
        DataError: nothing would be left along an axis, or far too much would be made.
    """
    # In nnU-Net's order of operations: another one rounds other halves.
    found = [old / new * side for old, new, side in zip(spacing, wanted, size, strict=True)]
    rounded = [round(each) if math.isfinite(each) else 0 for each in found]
    if min(rounded) < 1 or math.prod(rounded) > MOST_VOXELS:
        shown = {name: _shown(each) for name, each in (("size", size), ("spacing", spacing), ("wanted", wanted))}
        raise DataError("data.resampled-size", where=where, most=MOST_VOXELS, **shown)
    return tuple(rounded)


def resample(
    values: Floats, size: Sequence[int], now: Sequence[float], then: Sequence[float], method: Method
) -> Floats:
    """Arrays of another size, float32 (channels, *size).

    Args:
        values: float32 (channels, three sizes).
        size: three sizes; values that have it are returned as they are.
        now: millimetres between voxels along each axis; with `then` it decides whether an axis is taken apart.
        then: millimetres afterwards.
        method: how.
    """
    size = tuple(size)
    if values.shape[1:] == size or method.function == "none":
        return values
    axis = separate_axis(now, then, method)
    if method.function == "torch":
        return _by_torch(values, size, axis, method)
    found = np.empty((len(values), *size), dtype=np.float32)
    for target, channel in zip(found, values, strict=True):  # one at a time: splines are in float64
        target[...] = _by_spline(channel.astype(np.float64), size, axis, method)
    return found


def separate_axis(now: Sequence[float], then: Sequence[float], method: Method) -> int | None:
    """The axis that is taken apart from the others, or None.

    Args:
        now: spacing of what is resampled; it is asked first.
        then: spacing afterwards.
        method: may force or forbid it.
    """
    if method.separate_z is False:
        return None
    coarse = [each for each in (now, then) if max(each) / min(each) > method.threshold]
    asked = now if method.separate_z else next(iter(coarse), None)
    if asked is None:
        return None
    largest = [axis for axis, side in enumerate(asked) if max(asked) / side == 1]
    return largest[0] if len(largest) == 1 else None


def _by_spline(channel: Doubles, size: tuple[int, ...], axis: int | None, method: Method) -> Doubles:
    if axis is None:
        return _zoomed(channel, size, method.order)
    planes = np.moveaxis(channel, axis, 0)
    flat = tuple(side for number, side in enumerate(size) if number != axis)
    stacked = np.stack([_zoomed(plane, flat, method.order) for plane in planes])
    if len(stacked) != size[axis]:
        stacked = _along(stacked, size[axis], method.order_z)
    return np.moveaxis(stacked, 0, axis)


def _zoomed(values: Doubles, size: tuple[int, ...], order: int, *, clip: bool = True) -> Doubles:
    """Splines that repeat the edge; as ``skimage.transform.resize`` without those that leave the range."""
    from scipy.ndimage import zoom

    factors = [1 / (old / new) for old, new in zip(values.shape, size, strict=True)]
    found: Any = zoom(values, factors, order=order, mode="nearest", grid_mode=True)
    if order == 0 or not clip:
        return np.asarray(found)
    low, high = np.nanmin(values), np.nanmax(values)
    return np.asarray(np.clip(found, low, high))


def _along(planes: Doubles, count: int, order: int) -> Doubles:
    """Other planes along the first axis."""
    if order > 0:
        return _zoomed(planes, (count, *planes.shape[1:]), order, clip=False)
    from scipy.ndimage import map_coordinates

    # SciPy says which plane is nearest, so that halves are its halves.
    places = len(planes) / count * (np.arange(count) + 0.5) - 0.5
    nearest = map_coordinates(np.arange(len(planes), dtype=np.float64), [places], order=0, mode="nearest")
    return np.asarray(planes[nearest.astype(np.intp)])


def _by_torch(values: Floats, size: tuple[int, ...], axis: int | None, method: Method) -> Floats:
    import torch
    from torch.nn.functional import interpolate

    data = torch.from_numpy(np.ascontiguousarray(values))[None]
    with torch.no_grad():
        if axis is None:
            found = interpolate(data, size, mode="trilinear")[0]
        else:
            planes = data[0].movedim(axis + 1, 1)
            flat = tuple(side for number, side in enumerate(size) if number != axis)
            mode = "bilinear" if method.mode == "linear" else method.mode
            if planes.shape[2:] != flat:
                planes = interpolate(planes, flat, mode=mode)
            whole = planes.movedim(1, axis + 1)
            mode = "trilinear" if method.mode_z == "linear" else method.mode_z
            found = whole if whole.shape[1:] == size else interpolate(whole[None], size, mode=mode)[0]
    return np.ascontiguousarray(found.numpy())


def _shown(numbers: Sequence[float]) -> str:
    return ", ".join(f"{each:g}" for each in numbers)[:80]
