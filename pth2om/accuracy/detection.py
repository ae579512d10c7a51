"""From a detector's output to boxes in the image: decoding, class-wise NMS."""

from __future__ import annotations

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
    """The detections in one image.

    Args:
        output: (rows, 5 + classes) of ``cx, cy, w, h, objectness, scores...`` in input pixels; float.
        postprocess: thresholds.
        geometry: where the image lies in the input.

    Raises:
        DataError: the output has another form.
    """
    if output.ndim != 2 or output.shape[1] < 6:
        raise DataError("accuracy.not-rows", shape="x".join(map(str, output.shape)))
    rows = output.astype(np.float32, copy=False)
    # Objectness times score, every class of a row on its own, as YOLOv6 evaluates.
    scores = rows[:, 5:] * rows[:, 4:5]
    with np.errstate(invalid="ignore"):
        row, number = np.nonzero(scores > postprocess.score_threshold)
    picked = scores[row, number]
    if len(picked) > MOST_CANDIDATES:
        best = np.argsort(-picked, kind="stable")[:MOST_CANDIDATES]
        row, number, picked = row[best], number[best], picked[best]
    centre, half = rows[row, :2].astype(np.float64), rows[row, 2:4].astype(np.float64) / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    finite = np.isfinite(boxes).all(axis=1) & np.isfinite(picked)
    boxes, number, picked = boxes[finite], number[finite], picked[finite]
    kept = suppress(boxes, picked, number, postprocess.iou_threshold, postprocess.max_detections)
    return Found(geometry.boxes_to_image(boxes[kept]), picked[kept], number[kept].astype(np.int64))


def suppress(
    boxes: npt.NDArray[np.float64],
    scores: npt.NDArray[np.floating[Any]],
    classes: npt.NDArray[np.integer[Any]],
    threshold: float,
    most: int | None = None,
) -> npt.NDArray[np.intp]:
    """Class-wise non-maximum suppression.

    Args:
        boxes: (N, 4) left, top, right, bottom.
        scores: (N,).
        classes: (N,).
        threshold: a box is dropped when its IoU with a better one of its class is above it.
        most: how many are wanted; default all.

    Returns:
        Indices of the kept boxes, best score first.
    """
    order = np.argsort(-scores, kind="stable")
    if most is None:
        return order[_greedy(boxes[order], classes[order], threshold)]
    # Only better boxes suppress, so the best so many candidates decide about themselves: the rest is often not needed.
    tried = 2 * most
    while True:
        part = order[:tried]
        kept = part[_greedy(boxes[part], classes[part], threshold)][:most]
        if len(kept) == most or len(part) == len(order):
            return kept
        tried *= 2


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
