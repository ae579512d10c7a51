"""Colour conversion matrices and the settings AIPP ends up with after its defaults.

Matrices: "ATC guide, CSC configuration"; defaults: CANN graph engine, ``aipp_op.cc``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pth2om.aipp.config import AippOp
from pth2om.errors import AippError

Matrix = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
Standard = Literal["601-wide", "601-narrow", "709-wide", "709-narrow"]
STANDARDS: tuple[Standard, ...] = ("601-wide", "601-narrow", "709-wide", "709-narrow")
"""``jpeg`` is ``601-wide``; which one a video is, ffprobe tells (``color_range`` tv = narrow, pc = wide)."""


@dataclass(frozen=True)
class Conversion:
    """A matrix of 1/256ths, rows in the order of the output's channels, and the bias of the YUV side."""

    matrix: Matrix
    bias: tuple[int, int, int]


YUV_TO_RGB: dict[str, Conversion] = {
    "601-wide": Conversion(((256, 0, 359), (256, -88, -183), (256, 454, 0)), (0, 128, 128)),
    "601-narrow": Conversion(((298, 0, 409), (298, -100, -208), (298, 516, 0)), (16, 128, 128)),
    "709-narrow": Conversion(((298, 0, 459), (298, -55, -136), (298, 541, 0)), (16, 128, 128)),
    "709-wide": Conversion(((256, 0, 403), (256, -48, -120), (256, 475, 0)), (0, 128, 128)),
}
YUV_TO_BGR: dict[str, Conversion] = {
    name: Conversion((item.matrix[2], item.matrix[1], item.matrix[0]), item.bias) for name, item in YUV_TO_RGB.items()
}
RGB_TO_YUV: dict[str, Conversion] = {
    "601-wide": Conversion(((77, 150, 29), (-43, -85, 128), (128, -107, -21)), (0, 128, 128)),
    "601-narrow": Conversion(((66, 129, 25), (-38, -74, 112), (112, -94, -18)), (16, 128, 128)),
    "709-narrow": Conversion(((47, 157, 16), (-26, -87, 112), (112, -102, -10)), (16, 128, 128)),
    "709-wide": Conversion(((55, 183, 19), (-29, -99, 128), (128, -116, -12)), (0, 128, 128)),
}
YUV_TO_GREY = Conversion(((256, 0, 0), (0, 0, 0), (0, 0, 0)), (0, 0, 0))
RGB_TO_GREY = Conversion(((76, 150, 30), (0, 0, 0), (0, 0, 0)), (0, 0, 0))

_YUV = frozenset({"YUV420SP_U8", "YUV400_U8"})


@dataclass(frozen=True)
class AippSettings:
    """What one static operator does, defaults filled in.

    Attributes:
        input_format: ``YUV420SP_U8``, ``XRGB8888_U8``, ``RGB888_U8`` or ``YUV400_U8``.
        source: (height, width) of the picture that is fed.
        start: (row, column) where the crop begins.
        crop: (height, width) of what is taken.
        csc: matrix or None; `input_bias` is subtracted before it, `output_bias` added after.
        padding: top, bottom, left, right.
        mean, min, reciprocal: per channel.
    """

    input_format: str
    source: tuple[int, int]
    start: tuple[int, int]
    crop: tuple[int, int]
    swap: bool
    swap_ax: bool
    csc: Matrix | None
    input_bias: tuple[int, int, int]
    output_bias: tuple[int, int, int]
    padding: tuple[int, int, int, int]
    padding_value: float
    mean: tuple[int, int, int, int]
    min: tuple[float, float, float, float]
    reciprocal: tuple[float, float, float, float]

    @property
    def output_hw(self) -> tuple[int, int]:
        """Height and width of the result."""
        top, bottom, left, right = self.padding
        return self.crop[0] + top + bottom, self.crop[1] + left + right

    @property
    def grey(self) -> bool:
        """One channel comes out: YUV400, or a matrix whose second and third rows are zero."""
        return self.input_format == "YUV400_U8" or (
            self.csc is not None and not any(self.csc[1]) and not any(self.csc[2])
        )

    def channels(self, model_channels: int | None = None) -> int:
        """Channels of the result; XRGB8888 without conversion keeps its fourth byte for a model of four channels."""
        if self.grey:
            return 1
        return 4 if self.input_format == "XRGB8888_U8" and self.csc is None and model_channels == 4 else 3

    def frame_bytes(self) -> int:
        """Bytes of one picture as it is fed."""
        height, width = self.source
        pixels = height * width
        return {"YUV420SP_U8": pixels * 3 // 2, "XRGB8888_U8": pixels * 4, "RGB888_U8": pixels * 3}.get(
            self.input_format, pixels
        )

    def input_shape(self) -> tuple[int, int, int]:
        """(rows, columns, bytes per pixel) of one picture; YUV420SP has half as many rows again, for its chroma."""
        height, width = self.source
        bytes_per_pixel = {"XRGB8888_U8": 4, "RGB888_U8": 3}.get(self.input_format, 1)
        return (height * 3 // 2 if self.input_format == "YUV420SP_U8" else height), width, bytes_per_pixel


def settings(op: AippOp, model_hw: tuple[int, int]) -> AippSettings:
    """What a static operator does for a model input of (height, width) ``model_hw``.

    Raises:
        AippError: it is dynamic, or has no supported input format.
    """
    if op.dynamic:
        raise AippError("aipp.is-dynamic")
    form = op.text("input_format")
    if form not in ("YUV420SP_U8", "XRGB8888_U8", "RGB888_U8", "YUV400_U8"):
        raise AippError("aipp.unsupported-format", format=form or "-")
    padded = op.flag("padding")
    padding = tuple(op.integer(f"{side}_padding_size") if padded else 0 for side in ("top", "bottom", "left", "right"))
    height = op.integer("src_image_size_h") or model_hw[0]
    width = op.integer("src_image_size_w") or model_hw[1]
    cropped = op.flag("crop")
    crop = (
        (op.integer("crop_size_h") or model_hw[0], op.integer("crop_size_w") or model_hw[1])
        if cropped
        else (height, width)
    )
    matrix, input_bias, output_bias = _conversion(op, form)
    return AippSettings(
        input_format=form,
        source=(height, width),
        start=(op.integer("load_start_pos_h"), op.integer("load_start_pos_w")) if cropped else (0, 0),
        crop=crop,
        swap=op.flag("rbuv_swap_switch"),
        swap_ax=op.flag("ax_swap_switch"),
        csc=matrix,
        input_bias=input_bias,
        output_bias=output_bias,
        # Tuples of a fixed length, which mypy does not see in a comprehension (here and below).
        padding=padding,  # type: ignore[arg-type]  # four numbers
        padding_value=op.number("padding_value"),
        mean=tuple(op.integer(f"mean_chn_{channel}") for channel in range(4)),  # type: ignore[arg-type]  # four numbers
        min=tuple(op.number(f"min_chn_{channel}") for channel in range(4)),  # type: ignore[arg-type]  # four numbers
        reciprocal=tuple(op.number(f"var_reci_chn_{channel}", 1.0) for channel in range(4)),  # type: ignore[arg-type]  # four numbers
    )


def _conversion(op: AippOp, form: str) -> tuple[Matrix | None, tuple[int, int, int], tuple[int, int, int]]:
    """Matrix, input bias and output bias; a YUV picture has no output bias and an RGB one no input bias."""
    if not op.flag("csc_switch"):
        return None, (0, 0, 0), (0, 0, 0)
    yuv = form in _YUV
    names = [[f"matrix_r{row}c{column}" for column in range(3)] for row in range(3)]
    if any(op.has(name) for row in names for name in row):
        matrix: Matrix = tuple(tuple(op.integer(name) for name in row) for row in names)  # type: ignore[assignment]  # three rows of three
    else:
        # Defaults differ by input: BGR out of YUV420SP, YUV out of everything else.
        matrix = YUV_TO_BGR["601-narrow"].matrix if form == "YUV420SP_U8" else RGB_TO_YUV["601-narrow"].matrix
    side = "input" if yuv else "output"
    bias = tuple(op.integer(f"{side}_bias_{channel}", default) for channel, default in enumerate((16, 128, 128)))
    given: tuple[int, int, int] = bias  # type: ignore[assignment]  # three numbers
    return (matrix, given, (0, 0, 0)) if yuv else (matrix, (0, 0, 0), given)
