"""From a spec's ``[preprocess]`` to an AIPP configuration, and what FP16 costs on the way."""

from __future__ import annotations

import math

import numpy as np

from pth2om.aipp.arithmetic import normalize
from pth2om.aipp.config import SUPPORTED_FORMATS, AippConfig, AippOp, Value
from pth2om.aipp.csc import (
    RGB_TO_GREY,
    STANDARDS,
    YUV_TO_BGR,
    YUV_TO_GREY,
    YUV_TO_RGB,
    Conversion,
    Standard,
    settings,
)
from pth2om.errors import AippError
from pth2om.spec import Preprocess

_MOST_PADDING = 32
_SMALLEST_NORMAL = 2.0**-14  # of FP16; below it var_reci loses bits


def derive(
    preprocess: Preprocess,
    input_format: str = "RGB888_U8",
    *,
    rank: int = 0,
    standard: Standard = "601-narrow",
    nv21: bool = False,
    bgr: bool = False,
    source: tuple[int, int] | None = None,
    sized: bool = True,
) -> AippConfig:
    """The configuration that does what ``[preprocess]`` does after resizing.

    ``(x / scale - mean) / std`` becomes ``(x - mean_chn - min_chn) * var_reci_chn``. ``mean_chn`` is an integer, which
    FP16 subtracts exactly; the fraction goes into ``min_chn``, where it costs 2^-12 at most instead of the 2^-5 of a
    ``min_chn`` of 123.675.

    Args:
        preprocess: the spec's table.
        input_format: what the camera or decoder delivers.
        rank: number of the model's input.
        standard: of the YUV picture.
        nv21: V before U in the chroma plane.
        bgr: an RGB888 or XRGB8888 picture stores blue first.
        source: (height, width) of what is delivered, when a crop or a border of at most 32 pixels leads from there to
            the model's size; default: it is resized before.
        sized: whether the size of the picture is written; ATC forbids it with ``--dynamic_image_size`` (E10052).

    Returns:
        A static configuration of one operator.

    Raises:
        AippError: AIPP cannot express it; says what.
    """
    if input_format not in SUPPORTED_FORMATS:
        raise AippError("aipp.unsupported-format", format=input_format)
    if standard not in STANDARDS:
        raise AippError("aipp.unknown-standard", standard=standard, known=", ".join(STANDARDS))
    if preprocess.extra != "none":
        raise AippError("aipp.extra-channel", extra=preprocess.extra)
    height, width = source or preprocess.size
    if input_format == "YUV420SP_U8" and (height % 2 or width % 2):
        raise AippError("aipp.odd-yuv", height=height, width=width)
    values: dict[str, Value] = {"aipp_mode": "static", "related_input_rank": rank, "input_format": input_format}
    if sized:
        values |= {"src_image_size_w": width, "src_image_size_h": height}
    values |= _colours(preprocess.color, input_format, standard, nv21=nv21, bgr=bgr)
    values |= _normalization(preprocess)
    values |= _placement(preprocess, (height, width), input_format)
    return AippConfig((AippOp.of(**values),))


def error_bound(config: AippConfig, preprocess: Preprocess, *, rank: int = 0) -> float:
    """The largest difference from float64 normalization over all 256 pixel values and all channels.

    It is computed, not estimated: there are only 256 inputs a channel. Colour conversion is not part of it.

    Args:
        config: a derived configuration.
        preprocess: what it was derived from.
        rank: number of the model's input.

    Returns:
        In units of the normalized value.
    """
    channels = 1 if preprocess.color == "GRAY" else 3
    levels = np.arange(256, dtype=np.uint8)
    wanted = settings(config.op(rank), preprocess.size)
    planes = np.broadcast_to(levels, (1, channels, 1, 256))
    got = normalize(planes, wanted)[0, :, 0].astype(np.float64)
    mean = np.array(preprocess.mean or (0.0,) * channels)[:, None]
    std = np.array(preprocess.std or (1.0,) * channels)[:, None]
    exact = (levels / preprocess.scale - mean) / std
    return float(np.abs(got - exact).max())


def _colours(color: str, input_format: str, standard: Standard, *, nv21: bool, bgr: bool) -> dict[str, Value]:
    """Channel order and colour conversion."""
    grey = color == "GRAY"
    if input_format == "YUV400_U8":
        if not grey:
            raise AippError("aipp.grey-to-colour", color=color)
        return {}
    if input_format == "YUV420SP_U8":
        table = YUV_TO_RGB if color == "RGB" else YUV_TO_BGR
        conversion = YUV_TO_GREY if grey else table[standard]
        return _conversion(conversion, "input") | {"rbuv_swap_switch": nv21}
    if grey:
        # The matrix weighs red, green, blue in that order, so blue-first bytes are swapped before it.
        return _conversion(RGB_TO_GREY, "output") | {"rbuv_swap_switch": bgr}
    return {"csc_switch": False, "rbuv_swap_switch": bgr != (color == "BGR")}


def _conversion(conversion: Conversion, side: str) -> dict[str, Value]:
    values: dict[str, Value] = {"csc_switch": True}
    for row, weights in enumerate(conversion.matrix):
        values |= {f"matrix_r{row}c{column}": weight for column, weight in enumerate(weights)}
    return values | {f"{side}_bias_{channel}": bias for channel, bias in enumerate(conversion.bias)}


def _normalization(preprocess: Preprocess) -> dict[str, Value]:
    channels = 1 if preprocess.color == "GRAY" else 3
    values: dict[str, Value] = {}
    for channel in range(channels):
        mean = (preprocess.mean[channel] if preprocess.mean else 0.0) * preprocess.scale
        factor = 1.0 / (preprocess.scale * (preprocess.std[channel] if preprocess.std else 1.0))
        # Means are often thirds of 255 and the like: 0.5 * 255 must not become 127.49999999999999.
        mean = round(mean, 9)
        if not 0 <= mean <= 510:
            raise AippError("aipp.mean-out-of-range", channel=channel, value=mean)
        if not _SMALLEST_NORMAL <= factor <= 65504:
            raise AippError("aipp.factor-out-of-range", channel=channel, value=factor)
        whole = min(math.floor(mean), 255)
        values[f"mean_chn_{channel}"] = whole
        values[f"min_chn_{channel}"] = round(mean - whole, 9)
        values[f"var_reci_chn_{channel}"] = factor
    return values


def _placement(preprocess: Preprocess, source: tuple[int, int], input_format: str) -> dict[str, Value]:
    """Crop or border between what is delivered and what the model takes."""
    height, width = preprocess.size
    if source == (height, width):
        return {}
    resized = preprocess.resize == "none" or (preprocess.resize == "shorter" and min(source) == preprocess.resize_to)
    if resized and source[0] >= height and source[1] >= width and preprocess.crop == "centre":
        top, left = round((source[0] - height) / 2), round((source[1] - width) / 2)
        if input_format == "YUV420SP_U8":
            top, left = top - top % 2, left - left % 2
        names = ("load_start_pos_h", "load_start_pos_w", "crop_size_h", "crop_size_w")
        cut: dict[str, Value] = {"crop": True}
        return cut | dict(zip(names, (top, left, height, width), strict=True))
    missing = (height - source[0], width - source[1])
    if preprocess.resize == "letterbox" and min(missing) >= 0 and max(missing) <= 2 * _MOST_PADDING:
        return _border(preprocess, missing)
    raise AippError("aipp.needs-resize", height=source[0], width=source[1], model_height=height, model_width=width)


def _border(preprocess: Preprocess, missing: tuple[int, int]) -> dict[str, Value]:
    centred = preprocess.letterbox == "centre"
    top, left = (missing[0] // 2, missing[1] // 2) if centred else (0, 0)
    bottom, right = missing[0] - top, missing[1] - left
    if max(top, bottom, left, right) > _MOST_PADDING:
        raise AippError("aipp.border-too-wide", most=_MOST_PADDING)
    means, stds = preprocess.mean or (0.0,), preprocess.std or (1.0,)
    fills = {(preprocess.fill / preprocess.scale - mean) / std for mean, std in zip(means, stds, strict=True)}
    if len(fills) > 1:
        # AIPP pads after normalizing, with one value for all channels.
        raise AippError("aipp.border-per-channel", fill=preprocess.fill)
    names = ("top_padding_size", "bottom_padding_size", "left_padding_size", "right_padding_size")
    values: dict[str, Value] = {"padding": True, "padding_value": fills.pop()}
    return values | dict(zip(names, (top, bottom, left, right), strict=True))
