"""Draws pictures of coloured shapes with their boxes: training set and held-out set of ``models/yolov6-shapes``.

Every pixel is the same on every machine: random numbers are raw PCG64 words (NumPy keeps that stream stable, unlike the
distributions built on it), and the drawing uses nothing but sums, products, divisions and square roots in double
precision. `digest` proves it against ``SHA256``.

    python calib/shapes/make.py           draws both sets and checks their digests
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CLASSES = ("circle", "square", "triangle", "star", "cross")
COUNTS = {"train": 1000, "held-out": 300}
SHA256 = {
    "train": "2738afc58f3c42bb05c9cd8e020a78ec12a750d805a799377e3ea295f1e1a874",
    "held-out": "3f1e992afed918affe6a8d095614802ae2ddb20108e53837c5ee56ae3105be28",
}
"""Of all pixels and boxes of a set, see `digest`."""

_SIZES = ((240, 320), (320, 240), (256, 256), (180, 320), (224, 224), (288, 320))
_LEAST_VISIBLE = 0.55

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


class Box(NamedTuple):
    """One shape: its class and its sides in pixels, right and bottom exclusive."""

    kind: int
    left: float
    top: float
    right: float
    bottom: float


class _Dice:
    """Random numbers from raw 64-bit words."""

    def __init__(self, split: str, index: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([20261121, sorted(COUNTS).index(split), index]))

    def below(self, count: int) -> int:
        return int(self._bits.random_raw()) % count

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * (int(self._bits.random_raw()) >> 11) / 2.0**53

    def grid(self, *shape: int) -> Floats:
        """Uniform in 0..1."""
        words: npt.NDArray[np.uint64] = self._bits.random_raw(math.prod(shape))
        return (words >> np.uint64(11)).astype(np.float64).reshape(shape) / 2.0**53


def draw(split: str, index: int) -> tuple[Pixels, list[Box]]:
    """One picture, uint8 (H, W, 3) RGB, and the boxes of its shapes.

    Args:
        split: ``train`` or ``held-out``.
        index: which picture of the set.
    """
    dice = _Dice(split, index)
    height, width = _SIZES[dice.below(len(_SIZES))]
    canvas = _background(dice, height, width)
    boxes: list[Box] = []
    visible: list[Floats] = []
    for _ in range(2 + dice.below(6)):
        placed = _place(dice, height, width, boxes)
        if placed is None:
            continue
        box, window, distance = placed
        coverage = np.zeros((height, width))
        coverage[window] = np.clip(0.5 - distance, 0.0, 1.0)
        left = [np.minimum(before, 1.0 - coverage) for before in visible]
        if any(after.sum() < _LEAST_VISIBLE * before.sum() for before, after in zip(visible, left, strict=True)):
            continue
        boxes.append(box)
        visible = [*left, coverage]
        canvas[window] = _painted(dice, canvas[window], coverage[window], distance)
    canvas += (dice.grid(height, width, 1) - 0.5) * dice.between(0.0, 24.0)
    pixels = np.floor(np.clip(canvas, 0.0, 255.0) + 0.5).astype(np.uint8)
    return pixels, boxes


def pictures(split: str) -> Iterator[tuple[Pixels, list[Box]]]:
    """All pictures of a set, in order."""
    return (draw(split, index) for index in range(COUNTS[split]))


def digest(drawn: Iterator[tuple[Pixels, list[Box]]]) -> str:
    """sha256 of sizes, pixels and boxes (in 1/16 pixel) of a set."""
    total = hashlib.sha256()
    for pixels, boxes in drawn:
        total.update(np.array(pixels.shape, "<i4").tobytes() + pixels.tobytes())
        total.update(np.array([[box.kind, *(round(16 * side) for side in box[1:])] for box in boxes], "<i4").tobytes())
    return total.hexdigest()


def make(folder: Path, split: str = "held-out", count: int | None = None) -> None:
    """Write a set into ``folder`` in COCO form: ``images/`` and ``instances.json``.

    Args:
        folder: an empty folder.
        split: ``train`` or ``held-out``.
        count: its first pictures; default all.
    """
    (folder / "images").mkdir()
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    with ThreadPoolExecutor(1) as writing:  # the encoder lets go of the interpreter
        written = []
        for index in range(COUNTS[split] if count is None else count):
            pixels, boxes = draw(split, index)
            name = f"{index:04d}.png"
            written.append(writing.submit(_write, pixels, folder / "images" / name))
            images.append({"id": index, "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]})
            for box in boxes:
                sides = [box.left, box.top, box.right - box.left, box.bottom - box.top]
                entry = {"id": len(annotations) + 1, "image_id": index, "category_id": box.kind + 1, "iscrowd": 0}
                annotations.append({**entry, "bbox": sides, "area": sides[2] * sides[3]})
        for each in written:
            each.result()
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content), encoding="utf-8")


def _write(pixels: Pixels, file: Path) -> None:
    from PIL import Image

    # Noise does not compress: the fastest level gives files that are 4 % larger, in a quarter of the time.
    Image.fromarray(pixels).save(file, compress_level=1)


# --- the ground the shapes lie on -------------------------------------------------------------------------------------


def _background(dice: _Dice, height: int, width: int) -> Floats:
    """A soft gradient, clouds and a few thin lines; float64 (H, W, 3) in 0..255."""
    corners = np.array([[_colour(dice, 0.35, 0.45, 1.0) for _ in range(2)] for _ in range(2)])
    canvas = _stretched(corners, height, width)
    clouds = _stretched(dice.grid(3 + dice.below(6), 3 + dice.below(6), 1), height, width)
    canvas += (clouds - 0.5) * dice.between(0.0, 90.0)
    y, x = np.mgrid[0:height, 0:width] + 0.5
    for _ in range(dice.below(5)):
        cos, sin = _direction(dice)
        offset = dice.between(-0.4, 0.4) * width
        across = np.abs((x - width / 2) * cos + (y - height / 2) * sin - offset)
        strength = np.clip(dice.between(0.5, 2.0) - across, 0.0, 1.0)[:, :, None] * dice.between(0.2, 0.7)
        on = strength[:, :, 0] > 0  # elsewhere the sum below is the canvas
        canvas[on] = canvas[on] * (1.0 - strength[on]) + strength[on] * np.array(_colour(dice, 0.6, 0.1, 1.0))
    return canvas


def _stretched(grid: Floats, height: int, width: int) -> Floats:
    """``grid`` (h, w, C) interpolated bilinearly to (height, width, C), corner on corner."""
    rows, columns = grid.shape[:2]
    y = np.arange(height) * (rows - 1) / (height - 1)
    x = np.arange(width) * (columns - 1) / (width - 1)
    top = np.minimum(y.astype(int), rows - 2)
    left = np.minimum(x.astype(int), columns - 2)
    down, right = (y - top)[:, None, None], (x - left)[None, :, None]
    # Along the few rows of the grid first: the same products and sums as pixel by pixel.
    along = grid[:, left] * (1 - right) + grid[:, left + 1] * right
    result: Floats = along[top]
    result *= 1 - down
    lower = along[top + 1]
    lower *= down
    result += lower
    return result


def _colour(dice: _Dice, saturation: float, darkest: float, brightest: float) -> list[float]:
    """A random hue, 0..255; ``saturation`` 0 is grey."""
    value = 255.0 * dice.between(darkest, brightest)
    hue = dice.between(0.0, 6.0)
    ramps = (abs(hue - 3.0) - 1.0, 2.0 - abs(hue - 2.0), 2.0 - abs(hue - 4.0))
    return [value * (1.0 - saturation * (1.0 - min(max(ramp, 0.0), 1.0))) for ramp in ramps]


# --- the shapes -------------------------------------------------------------------------------------------------------


def _place(dice: _Dice, height: int, width: int, others: list[Box]) -> tuple[Box, tuple[slice, slice], Floats] | None:
    """A random shape where it does not lie too much on the others.

    Returns:
        Its box, the window of the picture around it, and there every pixel's distance to its edge.
    """
    kind = dice.below(len(CLASSES))
    # The square root favours small shapes without ever making one that 224 px cannot show.
    radius = 13.0 + math.sqrt(dice.between(0.0, 1.0)) * dice.between(0.0, 62.0)
    x = dice.between(0.9 * radius, width - 0.9 * radius)
    y = dice.between(0.9 * radius, height - 0.9 * radius)
    cos, sin = _direction(dice)
    reach = _reach(kind, radius, cos, sin)
    box = Box(kind, *(round(16 * side) / 16 for side in (x + reach[0], y + reach[1], x + reach[2], y + reach[3])))
    box = Box(kind, max(box.left, 0.0), max(box.top, 0.0), min(box.right, width), min(box.bottom, height))
    if any(_overlap(box, other) > 0.35 for other in others):
        return None
    top, bottom = max(int(y - radius) - 8, 0), min(int(y + radius) + 9, height)
    left, right = max(int(x - radius) - 8, 0), min(int(x + radius) + 9, width)
    rows, columns = np.mgrid[top:bottom, left:right] + 0.5
    u = (columns - x) * cos + (rows - y) * sin
    v = (rows - y) * cos - (columns - x) * sin
    return box, (slice(top, bottom), slice(left, right)), _distance(kind, radius, u, v)


def _direction(dice: _Dice) -> tuple[float, float]:
    """Cosine and sine of a random angle, rounded so that the last bit of a machine's libm does not matter."""
    angle = dice.between(0.0, 2.0 * math.pi)
    return round(math.cos(angle) * 2**20) / 2**20, round(math.sin(angle) * 2**20) / 2**20


def _corners(kind: int, radius: float) -> list[tuple[float, float]]:
    """The shape's outermost points before turning."""
    name = CLASSES[kind]
    if name == "cross":
        arm = 0.33 * radius
        return [(a * radius, b * arm) for a in (-1, 1) for b in (-1, 1)] + [
            (a * arm, b * radius) for a in (-1, 1) for b in (-1, 1)
        ]
    return [(radius * cos, radius * sin) for cos, sin in _turns({"square": 4, "triangle": 3, "star": 5}[name])]


def _turns(count: int) -> list[tuple[float, float]]:
    angles = [2.0 * math.pi * step / count for step in range(count)]
    return [(round(math.cos(angle) * 2**20) / 2**20, round(math.sin(angle) * 2**20) / 2**20) for angle in angles]


def _reach(kind: int, radius: float, cos: float, sin: float) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the turned shape around its middle."""
    if CLASSES[kind] == "circle":
        return -radius, -radius, radius, radius
    points = [(u * cos - v * sin, u * sin + v * cos) for u, v in _corners(kind, radius)]
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    return min(xs), min(ys), max(xs), max(ys)


def _distance(kind: int, radius: float, u: Floats, v: Floats) -> Floats:
    """Distance to the shape's edge in pixels (negative inside), exact near straight edges."""
    name = CLASSES[kind]
    if name == "circle":
        return np.sqrt(u * u + v * v) - radius
    if name == "cross":
        arm = 0.33 * radius
        across, along = np.abs(u), np.abs(v)
        upright = np.maximum(across - arm, along - radius)
        lying = np.maximum(across - radius, along - arm)
        return np.minimum(upright, lying)
    # A triangle's edges lie opposite its corners, a square's between them; a star's are those of the pentagon in its
    # middle, one across the foot of each tip.
    inner = radius * {"square": math.sqrt(0.5), "triangle": 0.5, "star": 0.30901699}[name]
    half = {"square": _between_turns(), "triangle": [(-cos, -sin) for cos, sin in _turns(3)], "star": _turns(5)}[name]
    lines = np.stack([u * cos + v * sin - inner for cos, sin in half])
    if name == "star":
        # Inside the pentagon no line is crossed, in a point of the star exactly one: the second largest decides.
        result: Floats = np.sort(lines, axis=0)[-2]
        return result
    return np.asarray(lines.max(axis=0))


def _between_turns() -> list[tuple[float, float]]:
    diagonal = math.sqrt(0.5)
    return [(a * diagonal, b * diagonal) for a in (-1, 1) for b in (-1, 1)]


def _painted(dice: _Dice, canvas: Floats, coverage: Floats, distance: Floats) -> Floats:
    """``canvas`` with the shape on it: shadow, body with a soft shine, sometimes a rim."""
    shadow = np.clip(1.0 - np.maximum(distance, 0.0) / 6.0, 0.0, 1.0)[:, :, None] * 0.25
    canvas = canvas * (1.0 - shadow)
    colour = np.array(_colour(dice, dice.between(0.45, 1.0), 0.35, 1.0))
    depth = np.clip(-distance / 25.0, 0.0, 1.0)[:, :, None]
    body = colour * (0.85 + 0.15 * depth)
    if dice.below(3) == 0:
        rim = np.clip(2.5 + distance, 0.0, 1.0)[:, :, None]
        body = body * (1.0 - rim) + rim * np.array(_colour(dice, 0.4, 0.1, 1.0))
    inside = coverage[:, :, None]
    return canvas * (1.0 - inside) + body * inside


def _overlap(a: Box, b: Box) -> float:
    """Intersection over the smaller box."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box.right - box.left) * (box.bottom - box.top) for box in (a, b)]
    return width * height / min(areas)


if __name__ == "__main__":
    for name in COUNTS:
        found = digest(pictures(name))
        print(name, found, "as recorded" if found == SHA256[name] else "DIFFERENT")
