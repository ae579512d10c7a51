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
    kept = suppress(boxes, picked, number, postprocess.iou_threshold)[: postprocess.max_detections]
    return Found(geometry.boxes_to_image(boxes[kept]), picked[kept], number[kept].astype(np.int64))


def suppress(
    boxes: npt.NDArray[np.float64],
    scores: npt.NDArray[np.floating[Any]],
    classes: npt.NDArray[np.integer[Any]],
    threshold: float,
) -> npt.NDArray[np.intp]:
    """Class-wise non-maximum suppression.

    Args:
        boxes: (N, 4) left, top, right, bottom.
        scores: (N,).
        classes: (N,).
        threshold: a box is dropped when its IoU with a better one of its class is above it.

    Returns:
        Indices of the kept boxes, best score first.
    """
    order = np.argsort(-scores, kind="stable")
    kept = np.zeros(len(scores), dtype=bool)
    by_class = order[np.argsort(classes[order], kind="stable")]
    edges = np.flatnonzero(np.diff(classes[by_class], prepend=-1))
    for members in np.split(by_class, edges[1:]):
        left = members
        while left.size:
            first, rest = left[0], left[1:]
            kept[first] = True
            left = rest[_overlap(boxes[first], boxes[rest]) <= threshold]
    return order[kept[order]]


def _overlap(box: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """IoU of one box with others, both left, top, right, bottom."""
    across = (np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])).clip(0)
    down = (np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])).clip(0)
    both = across * down
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    union = (box[2] - box[0]) * (box[3] - box[1]) + areas - both
    overlap: npt.NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return overlap
