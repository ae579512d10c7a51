"""From a detector's output to boxes in the image: decoding, class-wise NMS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pth2om.data.preprocess import Geometry
from pth2om.errors import DataError
from pth2om.spec import Postprocess

MOST_CANDIDATES = 30_000
"""Kept before NMS, best first: bounds time and memory when a broken model scores everything high."""


@dataclass(frozen=True)
class Found:
    """The detections of one image, best first.

    Attributes:
        boxes: float64 (N, 4): left, top, right, bottom in image pixels.
        scores: float32 (N,).
        classes: int64 (N,).
    """

    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]


def decode(output: npt.NDArray[Any], postprocess: Postprocess, geometry: Geometry) -> Found:
    """The detections in one image; see `decode_each`.

    Args:
        output: (rows, 5 + classes).
        postprocess: thresholds.
        geometry: where the image lies in the input.
    """
    return decode_each(output[None], postprocess, (geometry,))[0]


def decode_each(outputs: npt.NDArray[Any], postprocess: Postprocess, geometries: Sequence[Geometry]) -> list[Found]:
    """The detections in several images; what is found in one does not depend on the others.

    Args:
        outputs: (N, rows, 5 + classes) of ``cx, cy, w, h, objectness, scores...`` in input pixels; float.
        postprocess: thresholds.
        geometries: where each image lies in the input.

    Raises:
        DataError: the output has another form.
    """
    if outputs.ndim != 3 or outputs.shape[2] < 6:
        raise DataError("accuracy.not-rows", shape="x".join(map(str, outputs.shape[1:])))
    outputs = outputs.astype(np.float32, copy=False)
    # Objectness times score, every class of a row on its own, as YOLOv6 evaluates.
    scores = outputs[:, :, 5:] * outputs[:, :, 4:5]
    with np.errstate(invalid="ignore"):
        image, row, number = np.nonzero(scores > postprocess.score_threshold)
    picked = scores[image, row, number]
    if len(picked) > MOST_CANDIDATES:
        order = np.lexsort((-picked, image))
        best = order[places(image[order]) < MOST_CANDIDATES]
        image, row, number, picked = image[best], row[best], number[best], picked[best]
    boxed = outputs[image, row, :4].astype(np.float64)
    centre, half = boxed[:, :2], boxed[:, 2:] / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(picked)
    boxes, number, picked, image = boxes[finite], number[finite], picked[finite], image[finite]
    kept = suppress(boxes, picked, number, postprocess.iou_threshold, postprocess.max_detections, image)
    parts = np.split(kept, np.searchsorted(image[kept], np.arange(1, len(outputs))))
    return [
        Found(geometry.boxes_to_image(boxes[part]), picked[part], number[part].astype(np.int64))
        for part, geometry in zip(parts, geometries, strict=True)
    ]


def suppress(
    boxes: npt.NDArray[np.float64],
    scores: npt.NDArray[np.floating[Any]],
    classes: npt.NDArray[np.integer[Any]],
    threshold: float,
    most: int | None = None,
    image: npt.NDArray[np.integer[Any]] | None = None,
) -> npt.NDArray[np.intp]:
    """Class-wise non-maximum suppression.

    Args:
        boxes: (N, 4) left, top, right, bottom.
        scores: (N,).
        classes: (N,).
        threshold: a box is dropped when its IoU with a better one of its class is above it.
        most: how many are wanted of each image; default all.
        image: (N,): of each box; default all of one.

    Returns:
        Indices of the kept boxes: image after image, of each the best score first.
    """
    of = np.zeros(len(scores), dtype=np.int64) if image is None else image
    order = np.lexsort((-scores, of))
    group = of * (int(classes.max(initial=0)) + 1) + classes  # a class of one image
    if most is None:
        return order[_greedy(boxes[order], group[order], threshold)]
    # Only better boxes suppress, so the best so many candidates decide about themselves: the rest is often not needed.
    tried = 2 * most
    found = []
    while True:
        place = places(of[order])
        part = order[place < tried]
        kept = part[_greedy(boxes[part], group[part], threshold)]
        kept = kept[places(of[kept]) < most]
        # Of an image with fewer than are wanted, more candidates are tried, if there are more.
        wanting = np.setdiff1d(of[order[place >= tried]], np.flatnonzero(np.bincount(of[kept]) == most))
        found.append(kept[~np.isin(of[kept], wanting)])
        if not wanting.size:
            whole = np.concatenate(found)
            return whole[np.argsort(of[whole], kind="stable")]
        order = order[np.isin(of[order], wanting)]
        tried *= 2


def places(group: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.intp]:
    """The place of each entry within its group, (N,); a group's entries lie together."""
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    return np.arange(len(group)) - np.repeat(starts, np.diff(np.append(starts, len(group))))


def _greedy(
    boxes: npt.NDArray[np.float64], classes: npt.NDArray[np.integer[Any]], threshold: float
) -> npt.NDArray[np.intp]:
    """Indices of kept boxes, ascending; boxes come best first.

    All classes at once: in each round the best box left of every class is kept and suppresses others of its class.
    """
    left = np.argsort(classes, kind="stable")
    kept = []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while left.size:
        first = np.empty(left.size, dtype=bool)
        first[0] = True
        np.not_equal(classes[left[1:]], classes[left[:-1]], out=first[1:])
        kept.append(left[first])
        best = left[first][np.cumsum(first) - 1][~first]
        left = left[~first]
        ours, theirs = boxes[best], boxes[left]
        across = np.minimum(ours[:, 2], theirs[:, 2]) - np.maximum(ours[:, 0], theirs[:, 0])
        down = np.minimum(ours[:, 3], theirs[:, 3]) - np.maximum(ours[:, 1], theirs[:, 1])
        both = np.maximum(across, 0) * np.maximum(down, 0)
        union = areas[best] + areas[left] - both
        overlap = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
        left = left[overlap <= threshold]
    return np.sort(np.concatenate(kept)) if kept else np.zeros(0, dtype=np.intp)
