"""What AIPP computes, exactly: swap, crop, colour conversion, normalization in FP16, padding.

Order and formulas: "ATC guide, AIPP"; integer and FP16 forms: CANN operator sources, ``image/aipp``.

Colour conversion exists in two roundings: ``(M x) >> 8`` is the documented one; Ascend950's kernel rounds to nearest,
``(M x + 128) >> 8``, which is its ``round((2 M x + 1) / 512)`` in integers.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pth2om.aipp.config import AippConfig, AippOp
from pth2om.aipp.csc import AippSettings, settings
from pth2om.ascend import families
from pth2om.errors import AippError

Bytes = npt.NDArray[np.uint8]
Output = npt.NDArray[np.float16] | npt.NDArray[np.uint8]
Dtype = Literal["float16", "uint8"]


def rounds_to_nearest(soc: str | None) -> bool:
    """Whether that SoC's colour conversion rounds to nearest; all others cut off."""
    family = families.find(soc)
    return family is not None and family.aipp is not None and family.aipp.rounds_to_nearest


def apply(
    config: AippConfig | AippOp,
    buffer: Bytes,
    model_hw: tuple[int, int],
    *,
    rank: int = 0,
    soc: str | None = None,
    dtype: Dtype = "float16",
    channels: int | None = None,
) -> Output:
    """What the model gets when AIPP is fed ``buffer``.

    Args:
        config: a configuration (`rank` picks the operator) or one static operator.
        buffer: uint8, the pictures' bytes one after the other, in any shape: RGB888 and XRGB8888 as NHWC, YUV420SP as
            a plane of Y and half a plane of interleaved chroma, YUV400 as a plane of Y.
        model_hw: height and width of the model's input.
        rank: which input.
        soc: decides the rounding of the colour conversion.
        dtype: of the model's input; a uint8 input is not normalized.
        channels: of the model's input; only XRGB8888 needs it, see `AippSettings.channels`.

    Returns:
        (N, C, H, W) of that dtype.

    Raises:
        AippError: the bytes are not a whole number of pictures, or the geometry does not give ``model_hw``.
    """
    wanted = settings(config if isinstance(config, AippOp) else config.op(rank), model_hw)
    require_geometry(wanted, model_hw)
    flat = np.ascontiguousarray(buffer, dtype=np.uint8).reshape(-1)
    frame = wanted.frame_bytes()
    if flat.size == 0 or flat.size % frame:
        raise AippError("aipp.wrong-bytes", size=int(flat.size), frame=frame, format=wanted.input_format)
    pixels = _load(flat.reshape(-1, frame), wanted, wanted.channels(channels))
    if wanted.csc is not None:
        pixels = convert(pixels, wanted, nearest=rounds_to_nearest(soc))
    planes: Output = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    if dtype == "float16":
        planes = normalize(planes, wanted)
    return _padded(planes, wanted)


def normalize(planes: npt.NDArray[Any], wanted: AippSettings) -> npt.NDArray[np.float16]:
    """``(fp16(x - mean) - fp16(min)) * fp16(var_reci)``, every operation rounded to FP16.

    Args:
        planes: uint8 (N, C, H, W).
        wanted: the settings.
    """
    count = planes.shape[1]
    mean = np.array(wanted.mean[:count], dtype=np.float32)[:, None, None]
    least = np.array(wanted.min[:count], dtype=np.float32).astype(np.float16)[:, None, None]
    with np.errstate(over="ignore"):  # a var_reci beyond 65504 is infinity, as in the hardware
        factor = np.array(wanted.reciprocal[:count], dtype=np.float32).astype(np.float16)[:, None, None]
        # float32 holds x - mean exactly, so the cast is the one rounding to FP16 (needed for a mean beyond +-2048).
        centred = (planes.astype(np.float32) - mean).astype(np.float16)
        result: npt.NDArray[np.float16] = (centred - least) * factor
    return result


def convert(pixels: npt.NDArray[Any], wanted: AippSettings, *, nearest: bool) -> Bytes:
    """Colour conversion, clipped to 0..255.

    Args:
        pixels: uint8 (N, H, W, 3).
        wanted: the settings, with a matrix.
        nearest: the rounding.
    """
    matrix = np.array(wanted.csc, dtype=np.int64)
    rows = matrix[:1] if wanted.grey else matrix
    centred = pixels.astype(np.int64) - np.array(wanted.input_bias, dtype=np.int64)
    total = np.stack([centred @ row for row in rows], axis=-1)
    shifted = (total + (128 if nearest else 0)) >> 8
    bias = np.array(wanted.output_bias[: len(rows)], dtype=np.int64)
    return (shifted + bias).clip(0, 255).astype(np.uint8)


def require_geometry(wanted: AippSettings, model_hw: tuple[int, int]) -> None:
    """That the crop lies in the picture and the result has the model's size.

    Raises:
        AippError: it does not.
    """
    for axis, name in enumerate(("h", "w")):
        if wanted.start[axis] + wanted.crop[axis] > wanted.source[axis]:
            raise AippError(
                "aipp.crop-outside",
                axis=name,
                start=wanted.start[axis],
                size=wanted.crop[axis],
                source=wanted.source[axis],
            )
    if wanted.output_hw != tuple(model_hw):
        height, width = wanted.output_hw
        raise AippError(
            "aipp.wrong-output", height=height, width=width, model_height=model_hw[0], model_width=model_hw[1]
        )
    if wanted.input_format == "YUV400_U8" and wanted.csc is not None:
        raise AippError("aipp.grey-conversion")
    if wanted.input_format == "YUV420SP_U8" and (wanted.source[0] % 2 or wanted.source[1] % 2):
        raise AippError("aipp.odd-yuv", height=wanted.source[0], width=wanted.source[1])


def chroma_indices(wanted: AippSettings) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each row and column of the crop, its row and column in the half-size chroma plane (nearest, no filter)."""
    rows = (wanted.start[0] + np.arange(wanted.crop[0])) // 2
    columns = (wanted.start[1] + np.arange(wanted.crop[1])) // 2
    return rows, columns


def byte_order(wanted: AippSettings, channels: int) -> list[int]:
    """Which bytes of an interleaved pixel are its first, second, ... channel.

    XRGB8888 with ax_swap carries X first, without it last; rbuv_swap exchanges red and blue.
    """
    if wanted.input_format == "YUV420SP_U8":
        return [1, 0] if wanted.swap else [0, 1]  # of a chroma pair: NV21 stores V first
    colours = [1, 2, 3] if wanted.input_format == "XRGB8888_U8" and wanted.swap_ax else [0, 1, 2]
    if wanted.swap:
        colours.reverse()
    if channels == 4:
        colours.append(0 if wanted.swap_ax else 3)
    return colours


def _load(frames: Bytes, wanted: AippSettings, channels: int) -> Bytes:
    """Bytes to pixels: swapped, cropped, chroma repeated; uint8 (N, H, W, C)."""
    (height, width), (top, left) = wanted.source, wanted.start
    rows, columns = slice(top, top + wanted.crop[0]), slice(left, left + wanted.crop[1])
    if wanted.input_format == "YUV400_U8":
        return frames.reshape(-1, height, width, 1)[:, rows, columns]
    if wanted.input_format == "YUV420SP_U8":
        luma = frames[:, : height * width].reshape(-1, height, width, 1)[:, rows, columns]
        chroma = frames[:, height * width :].reshape(-1, height // 2, width // 2, 2)[..., byte_order(wanted, 3)]
        chroma_rows, chroma_columns = chroma_indices(wanted)
        return np.concatenate([luma, chroma[:, chroma_rows[:, None], chroma_columns]], axis=3)
    size = wanted.input_shape()[2]
    # The grey matrix still takes three channels in.
    order = byte_order(wanted, 4 if channels == 4 else 3)
    return frames.reshape(-1, height, width, size)[:, rows, columns][..., order]


def _padded(planes: Output, wanted: AippSettings) -> Output:
    top, bottom, left, right = wanted.padding
    if not any(wanted.padding):
        return planes
    if planes.dtype == np.uint8:
        value: Any = np.uint8(min(max(round(wanted.padding_value), 0), 255))
    else:
        value = np.float32(wanted.padding_value).astype(np.float16)
    padded: Output = np.pad(planes, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)  # type: ignore[assignment]  # np.pad keeps the dtype
    return padded
