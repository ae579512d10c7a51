"""AIPP pixel by pixel in plain Python, written from the documented formulas; shares nothing with pth2om.aipp.

FP16 rounding is ``struct``'s ``e`` format (nearest, ties to even).
"""

from __future__ import annotations

import struct


def half(value: float) -> float:
    try:
        return struct.unpack("<e", struct.pack("<e", value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def single(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


def clip(value: int) -> int:
    return 0 if value < 0 else 255 if value > 255 else value


def frame_size(fmt: str, height: int, width: int) -> int:
    return {"RGB888_U8": 3, "XRGB8888_U8": 4, "YUV400_U8": 1, "YUV420SP_U8": 1.5}[fmt] * height * width


def pixel(values: dict, data: bytes, row: int, column: int) -> list[int]:
    """The channels of one source pixel, after the swaps."""
    fmt, width, height = values["input_format"], values["src_image_size_w"], values["src_image_size_h"]
    swap = values.get("rbuv_swap_switch", False)
    if fmt == "YUV400_U8":
        return [data[row * width + column]]
    if fmt == "YUV420SP_U8":
        at = height * width + (row // 2) * width + (column // 2) * 2
        first, second = data[at], data[at + 1]
        return [data[row * width + column], *((second, first) if swap else (first, second))]
    if fmt == "RGB888_U8":
        at = (row * width + column) * 3
        colours, rest = list(data[at : at + 3]), []
    else:
        at = (row * width + column) * 4
        four = data[at : at + 4]
        if values.get("ax_swap_switch", False):
            colours, rest = list(four[1:]), [four[0]]
        else:
            colours, rest = list(four[:3]), [four[3]]
    if swap:
        colours = [colours[2], colours[1], colours[0]]
    return colours + rest


def converted(values: dict, channels: list[int], nearest: bool) -> list[int]:
    yuv = values["input_format"].startswith("YUV")
    before = [values.get(f"input_bias_{i}", d) if yuv else 0 for i, d in enumerate((16, 128, 128))]
    after = [0 if yuv else values.get(f"output_bias_{i}", d) for i, d in enumerate((16, 128, 128))]
    matrix = [[values.get(f"matrix_r{r}c{c}", 0) for c in range(3)] for r in range(3)]
    if not any(f"matrix_r{r}c{c}" in values for r in range(3) for c in range(3)):
        if values["input_format"] == "YUV420SP_U8":
            matrix = [[298, 516, 0], [298, -100, -208], [298, 0, 409]]
        else:
            matrix = [[66, 129, 25], [-38, -74, 112], [112, -94, -18]]
    grey = not any(matrix[1]) and not any(matrix[2])
    out = []
    for r in range(1 if grey else 3):
        total = sum(matrix[r][c] * (channels[c] - before[c]) for c in range(3))
        # 950: round((2 S + 1) / 512); 2 S + 1 is odd, so there is never a tie.
        value = round((2 * total + 1) / 512) if nearest else total // 256
        out.append(clip(value + after[r]))
    return out


def apply(
    values: dict, data: bytes, model_hw: tuple[int, int], *, nearest: bool, uint8: bool, channels: int
) -> list[list[list[list[float]]]]:
    """(N, C, H, W) nested lists."""
    height, width = values["src_image_size_h"], values["src_image_size_w"]
    crop = values.get("crop", False)
    top, left = (values["load_start_pos_h"], values["load_start_pos_w"]) if crop else (0, 0)
    rows, columns = (values["crop_size_h"], values["crop_size_w"]) if crop else (height, width)
    pad = values.get("padding", False)
    edge = [values.get(f"{side}_padding_size", 0) if pad else 0 for side in ("top", "bottom", "left", "right")]
    size = int(frame_size(values["input_format"], height, width))
    border = values.get("padding_value", 0.0)
    border = clip(round(border)) if uint8 else half(single(border))
    result = []
    for start in range(0, len(data), size):
        frame = data[start : start + size]
        planes = None
        for y in range(model_hw[0]):
            for x in range(model_hw[1]):
                row, column = y - edge[0], x - edge[2]
                inside = 0 <= row < rows and 0 <= column < columns
                if inside:
                    got = pixel(values, frame, row + top, column + left)
                    if values.get("csc_switch", False):
                        got = converted(values, got, nearest)
                    got = got[:channels]
                    if not uint8:
                        got = [
                            half(
                                half(
                                    half(v - values.get(f"mean_chn_{c}", 0))
                                    - half(single(values.get(f"min_chn_{c}", 0.0)))
                                )
                                * half(single(values.get(f"var_reci_chn_{c}", 1.0)))
                            )
                            for c, v in enumerate(got)
                        ]
                else:
                    got = [border] * channels
                if planes is None:
                    planes = [[[0.0] * model_hw[1] for _ in range(model_hw[0])] for _ in range(channels)]
                for c in range(channels):
                    planes[c][y][x] = got[c]
        result.append(planes)
    return result
