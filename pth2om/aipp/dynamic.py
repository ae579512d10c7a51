"""The parameter buffer of a dynamic AIPP: 64 bytes and 96 more for each picture, little endian.

Layout: CANN graph engine, ``inc/graph_metadef/common/dynamic_aipp.h``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from pth2om.aipp.config import FORMATS, AippOp
from pth2om.aipp.csc import settings
from pth2om.errors import AippError

HEAD = struct.Struct("<B4b3xii9h6x3B3B2x16x")
PICTURE = struct.Struct("<4b4x4i4i4i4h4H4H16x")
_NAMES = {number: name for name, number in FORMATS.items()}


def buffer_size(batch: int) -> int:
    """Bytes of the input ``ascend_dynamic_aipp_data`` for that many pictures."""
    return HEAD.size + PICTURE.size * batch


def pack(ops: Sequence[AippOp], model_hw: tuple[int, int]) -> bytes:
    """The buffer that makes a dynamic AIPP do what these static operators do, one a picture.

    Args:
        ops: static operators; what belongs to the head (format, colour conversion, sizes) must agree.
        model_hw: height and width of the model's input.

    Raises:
        AippError: there is none, or they disagree on what only the head can say, or a value does not fit its field.
    """
    if not 1 <= len(ops) <= 127:
        raise AippError("aipp.dynamic-count", count=len(ops))
    each = [settings(op, model_hw) for op in ops]
    head = each[0]
    for one in each[1:]:
        same = ("input_format", "source", "swap", "swap_ax", "csc", "input_bias", "output_bias")
        for name in same:
            if getattr(one, name) != getattr(head, name):
                raise AippError("aipp.dynamic-disagree", name=name)
    matrix = head.csc or ((0, 0, 0),) * 3
    try:
        data = HEAD.pack(
            FORMATS[head.input_format],
            head.csc is not None,
            head.swap,
            head.swap_ax,
            len(ops),
            head.source[1],
            head.source[0],
            *(value for row in matrix for value in row),
            *head.output_bias,
            *head.input_bias,
        )
        for op, one in zip(ops, each, strict=True):
            cropped, padded = op.flag("crop"), op.flag("padding")
            top, bottom, left, right = one.padding
            crop = (one.start[1], one.start[0], one.crop[1], one.crop[0]) if cropped else (0, 0, 0, 0)
            data += PICTURE.pack(
                cropped, 0, padded, 0, *crop, 0, 0, 0, 0, top, bottom, left, right, *one.mean,
                *_halves(one.min), *_halves(one.reciprocal),
            )  # fmt: skip
    except struct.error as error:
        raise AippError("aipp.dynamic-range", reason=str(error)) from None
    return data


def unpack(data: bytes) -> list[AippOp]:
    """The static operators that a buffer stands for, one a picture.

    Raises:
        AippError: its size is wrong, or its format unknown.
    """
    if len(data) < buffer_size(1):
        raise AippError("aipp.dynamic-size", size=len(data), expected=buffer_size(1))
    form, csc, swap, swap_ax, count, width, height, *rest = HEAD.unpack_from(data)
    if count < 1 or len(data) != buffer_size(count):
        raise AippError("aipp.dynamic-size", size=len(data), expected=buffer_size(max(count, 1)))
    if form not in _NAMES:
        raise AippError("aipp.unsupported-format", format=str(form))
    values: dict[str, bool | int | float | str] = {
        "aipp_mode": "static",
        "input_format": _NAMES[form],
        "src_image_size_w": width,
        "src_image_size_h": height,
        "csc_switch": bool(csc),
        "rbuv_swap_switch": bool(swap),
        "ax_swap_switch": bool(swap_ax),
    }
    if csc:
        values |= {f"matrix_r{place // 3}c{place % 3}": value for place, value in enumerate(rest[:9])}
        values |= {f"output_bias_{place}": value for place, value in enumerate(rest[9:12])}
        values |= {f"input_bias_{place}": value for place, value in enumerate(rest[12:15])}
    ops = []
    for place in range(count):
        picture = PICTURE.unpack_from(data, HEAD.size + PICTURE.size * place)
        own = dict(values) | {"crop": bool(picture[0]), "padding": bool(picture[2])}
        if picture[0]:
            names = ("load_start_pos_w", "load_start_pos_h", "crop_size_w", "crop_size_h")
            own |= dict(zip(names, picture[4:8], strict=True))
        if picture[2]:
            names = ("top_padding_size", "bottom_padding_size", "left_padding_size", "right_padding_size")
            own |= dict(zip(names, picture[12:16], strict=True))
        own |= {f"mean_chn_{channel}": picture[16 + channel] for channel in range(4)}
        own |= {f"min_chn_{channel}": _whole(picture[20 + channel]) for channel in range(4)}
        own |= {f"var_reci_chn_{channel}": _whole(picture[24 + channel]) for channel in range(4)}
        ops.append(AippOp.of(**own))
    return ops


def _halves(values: Sequence[float]) -> list[int]:
    with np.errstate(over="ignore"):
        return [int(bits) for bits in np.array(values, dtype=np.float32).astype(np.float16).view(np.uint16)]


def _whole(bits: int) -> float:
    return float(np.array([bits], dtype=np.uint16).view(np.float16)[0])
