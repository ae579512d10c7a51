"""From image to network input and back, exactly as the training code does it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pth2om.data.image import Pixels
from pth2om.errors import DataError
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.session import Array
from pth2om.spec import Preprocess

if TYPE_CHECKING:
    from pth2om.data.labelled import Labelled

VERSION = 1

Floats = npt.NDArray[np.float32]
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_SOBEL_PEAK = math.sqrt(20.0)  # of the 3x3 Sobel magnitude on pixels in 0..1: gx = 4 with gy = 2


@dataclass(frozen=True)
class Geometry:
    """The place of an image in the input: ``input = image * scale + offset``, in pixels.

    Attributes:
        height, width: of the image.
        scale_x, scale_y: input pixels per image pixel.
        offset_x, offset_y: of the image's upper left corner, in input pixels (negative if it was cropped).
    """

    height: int
    width: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def boxes_to_image(self, boxes: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """Boxes from input pixels to image pixels, clipped to the image.

        Args:
            boxes: (N, 4) left, top, right, bottom in input pixels.

        Returns:
            float64 (N, 4), left, top, right, bottom in image pixels.
        """
        moved = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).copy()
        moved[:, 0::2] = ((moved[:, 0::2] - self.offset_x) / self.scale_x).clip(0, self.width)
        moved[:, 1::2] = ((moved[:, 1::2] - self.offset_y) / self.scale_y).clip(0, self.height)
        return moved

    def boxes_to_input(self, boxes: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """The inverse of `boxes_to_image`, without clipping."""
        moved = np.asarray(boxes, dtype=np.float64).reshape(-1, 4).copy()
        moved[:, 0::2] = moved[:, 0::2] * self.scale_x + self.offset_x
        moved[:, 1::2] = moved[:, 1::2] * self.scale_y + self.offset_y
        return moved


class Preprocessor:
    """Applies a spec's ``[preprocess]``.

    Args:
        spec: the table.

    Attributes:
        shape: of one image's input, (C, H, W).
        how: the table as text; pictures made ready by equal tables are equal.
    """

    def __init__(self, spec: Preprocess) -> None:
        self.spec = spec
        self.shape = ((1 if spec.color == "GRAY" else 3) + (spec.extra != "none"), *spec.size)
        self.how = spec.model_dump_json()

    def __call__(self, image: Pixels, *, where: str | None = None) -> tuple[Floats, Geometry]:
        """One image.

        Args:
            image: uint8 (H, W, 3), RGB.
            where: its name, for messages.

        Returns:
            float32 (C, H, W), C-contiguous, and the place of the image in it.

        Raises:
            DataError: its size does not fit and the spec neither resizes nor crops.
        """
        pixels, geometry = self.place(image, where=where)
        return self.normalize(pixels), geometry

    def place(self, image: Pixels, *, where: str | None = None) -> tuple[Pixels, Geometry]:
        """Resize and crop only: the uint8 RGB picture (H, W, 3) that the input is made from and that AIPP takes."""
        spec = self.spec
        height, width = image.shape[:2]
        placed, geometry = _resized(image, spec)
        if spec.crop == "centre":
            placed, geometry = _centre_crop(placed, geometry, spec)
        if placed.shape[:2] != spec.size:
            raise DataError(
                "data.wrong-size",
                where=where,
                height=height,
                width=width,
                input_height=spec.size[0],
                input_width=spec.size[1],
            )
        return placed, geometry

    def normalize(self, pixels: Pixels) -> Floats:
        """The network input, float32 (C, H, W), made from a resized and cropped picture, uint8 (H, W, 3) RGB."""
        spec = self.spec
        if spec.color == "GRAY":
            from PIL import Image

            ordered: Pixels = np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
        else:
            ordered = pixels if spec.color == "RGB" else pixels[:, :, ::-1]
        # The same float32 operations in the same order as in ToTensor and Normalize, so that results agree bit for bit.
        planes: Floats = np.ascontiguousarray(ordered.transpose(2, 0, 1)).astype(np.float32)
        planes /= np.float32(spec.scale)
        if spec.mean:
            planes -= np.asarray(spec.mean, dtype=np.float32)[:, None, None]
            planes /= np.asarray(spec.std, dtype=np.float32)[:, None, None]
        if spec.extra == "sobel":
            planes = np.concatenate([planes, sobel(pixels)[None]])
        return planes


def sobel(pixels: Pixels) -> Floats:
    """The magnitude of the 3x3 Sobel gradient of the luma (ITU-R BT.601), borders mirrored.

    Args:
        pixels: uint8 (H, W, 3), RGB.

    Returns:
        float32 (H, W) in 0..1, where 1 is the largest value that the operator can return.
    """
    luma = pixels.astype(np.float64) @ _LUMA / 255.0
    # An image of one pixel cannot be mirrored; repeating its edge gives the same result.
    wide = np.pad(luma, 1, mode="reflect" if min(luma.shape) > 1 else "edge")
    across = wide[:, 2:] - wide[:, :-2]
    down = wide[2:] - wide[:-2]
    gradient_x = across[:-2] + 2 * across[1:-1] + across[2:]
    gradient_y = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    return np.asarray(np.hypot(gradient_x, gradient_y) / _SOBEL_PEAK, dtype=np.float32)


def _resized(image: Pixels, spec: Preprocess) -> tuple[Pixels, Geometry]:
    height, width = image.shape[:2]
    ratio = 1.0
    if spec.resize == "none":
        return image, Geometry(height, width, 1.0, 1.0, 0.0, 0.0)
    if spec.resize == "stretch":
        new_height, new_width = spec.size
    elif spec.resize == "shorter":
        wanted = spec.resize_to or 1
        short = min(height, width)
        # The longer side is cut off, not rounded, as torchvision's Resize does.
        new_height = wanted if height == short else int(wanted * height / width)
        new_width = wanted if width == short else int(wanted * width / height)
    else:
        ratio = min(spec.size[0] / height, spec.size[1] / width)
        ratio = ratio if spec.scale_up else min(ratio, 1.0)
        new_height = min(max(round(height * ratio), 1), spec.size[0])
        new_width = min(max(round(width * ratio), 1), spec.size[1])
    resized = _scaled(image, new_height, new_width, spec.interpolation)
    if spec.resize != "letterbox":
        return resized, Geometry(height, width, new_width / width, new_height / height, 0.0, 0.0)
    top, left = 0, 0
    if spec.letterbox == "centre":
        top, left = (spec.size[0] - new_height) // 2, (spec.size[1] - new_width) // 2
    canvas = np.full((*spec.size, 3), spec.fill, dtype=np.uint8)
    canvas[top : top + new_height, left : left + new_width] = resized
    # One ratio for both axes, not new_width / width: YOLO's evaluation code scales boxes back by it.
    return canvas, Geometry(height, width, ratio, ratio, float(left), float(top))


def _scaled(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    from PIL import Image

    if image.shape[:2] == (height, width):
        return image
    method = getattr(Image.Resampling, interpolation.upper())
    return np.asarray(Image.fromarray(image).resize((width, height), method))


def _centre_crop(image: Pixels, geometry: Geometry, spec: Preprocess) -> tuple[Pixels, Geometry]:
    height, width = spec.size
    missing_y, missing_x = max(height - image.shape[0], 0), max(width - image.shape[1], 0)
    top, left = 0, 0
    if missing_y or missing_x:
        # Smaller than the crop: add a black border, an odd pixel at the right or bottom, as torchvision's CenterCrop
        # does.
        top, left = missing_y // 2, missing_x // 2
        image = np.pad(image, ((top, missing_y - top), (left, missing_x - left), (0, 0)))
    # Half a pixel is rounded to even, as torchvision does: 227 -> 224 starts at 2.
    cut_y, cut_x = round((image.shape[0] - height) / 2.0), round((image.shape[1] - width) / 2.0)
    cut = image[cut_y : cut_y + height, cut_x : cut_x + width]
    moved_x, moved_y = geometry.offset_x + left - cut_x, geometry.offset_y + top - cut_y
    return cut, Geometry(geometry.height, geometry.width, geometry.scale_x, geometry.scale_y, moved_x, moved_y)


@dataclass(frozen=True)
class Batch:
    """One batch of images as network input.

    Attributes:
        first: index of the first image.
        count: how many rows are images; the other rows are padding and are never counted.
        array: float32 (batch, C, H, W), or with ``raw`` uint8 (batch, H, W, 3), RGB.
        geometries: the place of each image in its row.
        others: the other inputs, of a dataset of arrays; `array` is then the first, and there are no geometries.
        contents: of each image, a number that equal pixels share in this process; empty where nobody made them.
    """

    first: int
    count: int
    array: Array
    geometries: tuple[Geometry, ...]
    others: Mapping[str, Array] = field(default_factory=dict)
    contents: tuple[int, ...] = ()


def batches(
    dataset: Labelled,
    preprocessor: Preprocessor,
    batch: int,
    *,
    indices: Sequence[int] | None = None,
    raw: bool = False,
) -> Iterator[Batch]:
    """The dataset in batches, one at a time: memory does not depend on its length.

    The last batch is filled up with its last image; `Batch.count` says how many rows are real.

    Args:
        dataset: the images.
        preprocessor: makes the input.
        batch: images per inference.
        indices: consecutive images to take; default all.
        raw: return resized and cropped pixels, as AIPP takes them, instead of normalized values.

    Raises:
        DataError: an image cannot be read, or does not fit the input.
    """
    wanted = range(len(dataset)) if indices is None else indices
    for start in range(0, len(wanted), batch):
        chosen = wanted[start : start + batch]
        array: Floats | Pixels
        if raw:
            array = np.empty((batch, *preprocessor.spec.size, 3), dtype=np.uint8)
        else:
            array = np.empty((batch, *preprocessor.shape), dtype=np.float32)
        geometries, contents = [], []
        for row, index in enumerate(chosen):
            pixels, (geometry, content) = placed(dataset, preprocessor, index)
            array[row] = pixels if raw else preprocessor.normalize(pixels)
            geometries.append(geometry)
            contents.append(content)
        array[len(chosen) :] = array[len(chosen) - 1]
        yield Batch(chosen[0], len(chosen), array, tuple(geometries), contents=tuple(contents))


def placed(dataset: Labelled, preprocessor: Preprocessor, index: int) -> tuple[Pixels, tuple[Geometry, int]]:
    """An image of a dataset, resized and cropped; made once where `Labelled.kept` has room.

    Returns:
        The pixels, uint8 (H, W, 3), RGB, not to be written to; the place of the image in them, and a number that equal
        pixels share in this process.

    Raises:
        DataError: the image cannot be read, or does not fit the input.
    """

    def make() -> tuple[Pixels, tuple[Geometry, int]]:
        pixels, geometry = preprocessor.place(dataset.image(index), where=f"{dataset.file(index)} #{index}")
        return pixels, (geometry, hash(pixels.tobytes()))

    return dataset.kept.ready(index, preprocessor.how, make)


def plausibility(spec: Preprocess, inputs: Floats | None = None) -> list[Finding]:
    """Findings about a ``[preprocess]``, from its numbers and from some inputs that it made.

    Normalizing twice, or in grey levels instead of 0..1, keeps the cosine similarity high but ruins the metric; these
    checks find it without a model.

    Args:
        spec: the table.
        inputs: float32 (N, C, H, W) that it made of real images.
    """
    findings = []
    top = 255.0 / spec.scale
    if spec.mean and max(map(abs, spec.mean)) > 2 * max(top, 0.5):
        message = say("data.finding-mean-in-grey-levels", value=max(spec.mean, key=abs), scale=spec.scale, top=top)
        findings.append(Finding("data.mean-in-grey-levels", "warning", message))
    if spec.mean and spec.scale == 1 and max(spec.mean) <= 1 and max(spec.std) <= 1:
        findings.append(Finding("data.mean-in-unit-range", "warning", say("data.finding-mean-in-unit-range")))
    if inputs is None or not inputs.size or findings:
        return findings
    colours = inputs[:, : 1 if spec.color == "GRAY" else 3].astype(np.float64)
    deviation, peak = float(colours.std()), float(np.abs(colours).max())
    if deviation < 0.02:
        findings.append(
            Finding("data.nearly-constant", "warning", say("data.finding-nearly-constant", deviation=deviation))
        )
    if peak > 20 and spec.scale != 1:
        findings.append(Finding("data.huge", "warning", say("data.finding-huge", peak=peak)))
    if len(inputs) > 1 and np.array_equal(inputs, np.broadcast_to(inputs[:1], inputs.shape)):
        findings.append(Finding("data.all-alike", "warning", say("data.finding-all-alike")))
    return findings
