"""Pictures for a report: detections and classifications of PyTorch, ONNX and OM side by side, small enough to embed.

Pillow is imported when a picture is drawn.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

Pixels = npt.NDArray[np.uint8]
Panel = tuple[str, npt.ArrayLike, Sequence[str], npt.ArrayLike | None]

MOST_BYTES = 60_000
"""A picture is never larger than this."""
_QUALITIES = (88, 78, 66, 54, 42, 30)
_SHARES = (1.0, 0.65, 0.46, 0.35, 0.28, 0.22)  # of the bytes of the first, as measured on drawn sheets
_PANEL = 360
_TITLE = 22
_MOST_BOXES = 40
_PAPER, _INK, _SOFT, _WRONG = (255, 255, 255), (28, 33, 38), (92, 102, 112), (190, 30, 24)
# Ten colours that differ in lightness as well as in hue, so that they stay apart for most kinds of colour blindness.
_COLOURS = (
    (230, 97, 0), (0, 114, 178), (0, 158, 115), (204, 60, 120), (240, 200, 0),
    (90, 60, 170), (86, 180, 233), (140, 86, 40), (120, 190, 50), (200, 30, 30),
)  # fmt: skip
_CJK_FONTS = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/System/Library/Fonts/PingFang.ttc",
    "C:/Windows/Fonts/msyh.ttc",
)


def draw_detections(image: Pixels, panels: Sequence[Panel]) -> Image.Image:
    """The same picture once per panel, each with its boxes.

    Args:
        image: uint8 (height, width, 3), RGB.
        panels: (title, boxes, labels, scores) each: boxes (n, 4) as x1, y1, x2, y2 in pixels of `image`; n class names;
            n scores or None (ground truth). The best 40 boxes are drawn. A box that is not finite is left out.

    Raises:
        ValueError: `image` is not a uint8 RGB picture, or a panel has different numbers of boxes, labels and scores.
    """
    from PIL import Image, ImageDraw

    picture = _rgb(image)
    scale = min(1.0, _PANEL / max(picture.size)) if max(picture.size) >= 160 else 160 / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    sheet = Image.new("RGB", ((size[0] + 6) * max(1, len(panels)) - 6, size[1] + _TITLE), _PAPER)
    draw = ImageDraw.Draw(sheet)
    names = _Names([label for _, _, labels, _ in panels for label in labels])
    for column, (title, boxes, labels, scores) in enumerate(panels):
        left = column * (size[0] + 6)
        panel = picture.copy()
        many = _draw_boxes(ImageDraw.Draw(panel), boxes, labels, scores, scale, names)
        sheet.paste(panel, (left, _TITLE))
        _text(draw, (left, 3), f"{title} · {many}", _INK, 13, size[0])
    return sheet


def draw_classification(
    tiles: Sequence[tuple[Pixels, Sequence[str]]],
    columns: int = 6,
    *,
    wrong: Sequence[Collection[int]] = (),
) -> Image.Image:
    """A grid of small pictures with lines of text under each, e.g. ``truth cat``, ``PyTorch cat``, ``OM dog 0.50``.

    Args:
        tiles: (uint8 (height, width, 3) RGB, lines of text) each.
        columns: of the grid.
        wrong: per tile the lines that are written in red.

    Raises:
        ValueError: a picture is not a uint8 RGB picture, or there are no pictures.
    """
    from PIL import Image, ImageDraw

    if not tiles:
        raise ValueError("no pictures to draw")
    side, line = 128, 15
    lines = max(len(words) for _, words in tiles)
    pitch = side + 12, side + 6 + lines * line + 8
    columns = min(columns, len(tiles))
    sheet = Image.new("RGB", (columns * pitch[0] - 12, math.ceil(len(tiles) / columns) * pitch[1]), _PAPER)
    draw = ImageDraw.Draw(sheet)
    names = _Names([word for _, words in tiles for word in words])
    for index, (pixels, words) in enumerate(tiles):
        left, top = index % columns * pitch[0], index // columns * pitch[1]
        picture = _rgb(pixels)
        scale = side / max(picture.size)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        # A 32-pixel CIFAR picture is enlarged without smoothing.
        kind = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BILINEAR
        sheet.paste(picture.resize(size, kind), (left, top))
        for row, word in enumerate(words):
            colour = _WRONG if index < len(wrong) and row in wrong[index] else _INK if row == 0 else _SOFT
            _text(draw, (left, top + side + 3 + row * line), names.of(word), colour, 11, side + 8)
    return sheet


def encode(picture: Image.Image, most_bytes: int = MOST_BYTES) -> bytes:
    """A picture as WebP (JPEG where Pillow has no WebP) of at most `most_bytes`.

    The best quality that fits is taken; where none does, the picture is made smaller and smaller.

    Raises:
        ValueError: not even one pixel fits.
    """
    from PIL import Image, features

    def encoded(of: Image.Image, quality: int) -> bytes:
        out = io.BytesIO()
        if features.check("webp"):
            of.save(out, "WEBP", quality=quality, method=2)  # a third of the usual time, for 5 % more bytes
        else:
            of.save(out, "JPEG", quality=quality, optimize=True)
        return out.getvalue()

    while True:
        best = encoded(picture, _QUALITIES[0])
        if len(best) <= most_bytes:
            return best
        fits: bytes | None = None
        low, high = 1, len(_QUALITIES)
        # Each attempt encodes the whole picture: the first is the one that should fit.
        tried = next((place for place in range(low, high) if len(best) * _SHARES[place] <= most_bytes), high - 1)
        while low < high:
            found = encoded(picture, _QUALITIES[tried])
            if len(found) <= most_bytes:
                fits, high = found, tried
                tried -= 1
            else:
                low = tried + 1
                tried += 1
            tried = min(max(tried, low), high - 1)
        if fits is not None:
            return fits
        if picture.size == (1, 1):
            raise ValueError(f"a picture does not fit into {most_bytes} bytes")
        size = max(1, int(picture.width * 0.75)), max(1, int(picture.height * 0.75))
        picture = picture.resize(size, Image.Resampling.LANCZOS)


def _rgb(image: Pixels) -> Image.Image:
    from PIL import Image

    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(f"a picture is uint8 (height, width, 3), not {pixels.dtype} {pixels.shape}")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _draw_boxes(
    draw: ImageDraw.ImageDraw,
    boxes: npt.ArrayLike,
    labels: Sequence[str],
    scores: npt.ArrayLike | None,
    scale: float,
    names: _Names,
) -> int:
    """Draws the best boxes; returns how many there are in all."""
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    marks = None if scores is None else np.asarray(scores, dtype=np.float64).reshape(-1)
    if len(labels) != len(corners) or (marks is not None and len(marks) != len(corners)):
        raise ValueError(f"{len(corners)} boxes, {len(labels)} labels")
    order = np.arange(len(corners)) if marks is None else np.argsort(-marks, kind="stable")
    width, height = draw.im.size
    # Worst first, so that the best box lies on top.
    for index in order[:_MOST_BOXES][::-1]:
        if not np.isfinite(corners[index]).all():
            continue
        x1, y1, x2, y2 = np.clip(corners[index] * scale, 0, [width - 1, height - 1] * 2)
        x1, x2 = sorted((float(x1), float(x2)))
        y1, y2 = sorted((float(y1), float(y2)))
        colour = names.colour(labels[index])
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=2)
        words = names.of(labels[index]) + ("" if marks is None else f" {marks[index]:.2f}")
        font = _font(11, words)
        tall = 13
        wide = draw.textlength(words, font=font) + 4
        left = min(x1, max(0.0, width - wide))
        top = y1 - tall if y1 >= tall else min(y1, height - tall)
        draw.rectangle((left, top, left + wide, top + tall), fill=colour)
        draw.text((left + 2, top), words, fill=_PAPER if sum(colour) < 420 else _INK, font=font)
    return len(corners)


class _Names:
    """Class names as they can be drawn: text that the font lacks becomes ``#1``, ``#2``... the same in every panel."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._order: Mapping[str, int] = {label: number for number, label in enumerate(dict.fromkeys(labels), 1)}

    def of(self, label: str) -> str:
        return label if _drawable(label) else f"#{self._order.get(label, 0)}"

    def colour(self, label: str) -> tuple[int, int, int]:
        return _COLOURS[self._order.get(label, 0) % len(_COLOURS)]


def _drawable(text: str) -> bool:
    """Whether a font at hand has all letters of `text`; Pillow's own has those of Latin-1."""
    return all(" " <= letter <= "~" or "\xa1" <= letter <= "\xff" for letter in text) or (
        text.isprintable() and all(ord(letter) < 0x10000 for letter in text) and _cjk_font() is not None
    )


@functools.cache
def _cjk_font() -> str | None:
    return next((path for path in _CJK_FONTS if Path(path).is_file()), None)


@functools.cache
def _loaded(size: int, path: str | None) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    from PIL import ImageFont

    if path is not None:
        try:
            return ImageFont.truetype(path, size)
        except OSError:
            pass
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()


def _font(size: int, text: str) -> Any:  # noqa: ANN401 - either kind of Pillow font
    return _loaded(size, None if all(letter <= "\xff" for letter in text) else _cjk_font())


def _text(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: tuple[int, int, int], size: int, width: int
) -> None:
    """One line of text, cut to `width` pixels."""
    words = text if _drawable(text) else text.encode("ascii", "replace").decode()
    font = _font(size, words)
    while len(words) > 1 and draw.textlength(words, font=font) > width:
        words = words[:-2] + "…" if _cjk_font() else words[:-3] + ".."
    draw.text(place, words, fill=colour, font=font)
