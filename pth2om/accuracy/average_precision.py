"""COCO average precision: matches per image, and the figure of all images or of any resampling of them.

The figure itself comes from faster-coco-eval (`evaluate`), which equals pycocotools. The matches are found here once
per measurement and kept: from them the figure of any resampling of the images follows without matching again
(`Matches`, `class_precision`), and they reproduce the evaluator's own figure, which the tests hold them to.

The protocol is COCO's (pycocotools, cocoeval.py): detections of one class in one image are matched in the order of
their scores, each to the free ground truth of highest IoU at or above the threshold, crowds only where nothing else
fits and as often as needed; at most 100 detections per image and class; precision made monotone and read at 101
recalls; the mean over classes that occur and over IoU 0.50 to 0.95.
"""

from __future__ import annotations

import contextlib
import gc
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
RECALLS: Floats = np.linspace(0, 1, 101)
THRESHOLDS_OF = {"mAP50-95": slice(None), "mAP50": slice(0, 1), "mAP75": slice(5, 6)}
"""Which of `THRESHOLDS` each figure averages."""

MOST_PER_CLASS = 100
STATISTICS = (
    "mAP50-95",
    "mAP50",
    "mAP75",
    "mAP50-95-small",
    "mAP50-95-medium",
    "mAP50-95-large",
    "AR1",
    "AR10",
    "AR100",
    "AR-small",
    "AR-medium",
    "AR-large",
)


@dataclass(frozen=True)
class Detections:
    """The detections of all images, image after image.

    Attributes:
        counts: int64 (images,): how many belong to each image.
        boxes: float64 (N, 4): left, top, right, bottom in image pixels.
        scores: float64 (N,).
        classes: int64 (N,).
    """

    counts: Ints
    boxes: Floats
    scores: Floats
    classes: Ints


@dataclass(frozen=True)
class Matches:
    """What became of every detection that counts, best score first.

    Attributes:
        image: int64 (N,).
        classes: int64 (N,).
        scores: float64 (N,), descending.
        hit: bool (10, N): matched at each IoU threshold.
        ignored: bool (10, N): matched to a crowd, so counted neither way.
        truths: int64 (images, classes): how many objects there are to find.
    """

    image: Ints
    classes: Ints
    scores: Floats
    hit: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_]
    truths: Ints


def match(detections: Detections, truths: Sequence[Sequence[Mapping[str, Any]]], classes: int) -> Matches:
    """Match detections to annotations.

    Args:
        detections: of all images.
        truths: annotations of each image, as `pth2om.data.Labelled.annotations` gives them.
        classes: number of classes.
    """
    images = len(truths)
    image = np.repeat(np.arange(images), detections.counts)
    # By image, class and score; equal scores stay in their order, as the evaluator's merge sort leaves them.
    order = np.lexsort((-detections.scores, detections.classes, image))
    group = image[order] * classes + detections.classes[order]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    order = order[rank < MOST_PER_CLASS]
    group = image[order] * classes + detections.classes[order]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    ends = np.append(starts, len(order))[1:]
    place = {int(group[start]): (int(start), int(end)) for start, end in zip(starts, ends, strict=True)}

    hit = np.zeros((len(THRESHOLDS), len(order)), dtype=bool)
    ignored = np.zeros_like(hit)
    counted = np.zeros((images, classes), dtype=np.int64)
    boxes = _as_xywh(detections.boxes)
    for index, of_image in enumerate(truths):
        by_class: dict[int, list[Mapping[str, Any]]] = {}
        for annotation in of_image:
            by_class.setdefault(annotation["class"], []).append(annotation)
            counted[index, annotation["class"]] += not annotation["iscrowd"]
        for number, members in by_class.items():
            found = place.get(index * classes + number)
            if found is not None:
                part = slice(*found)
                hit[:, part], ignored[:, part] = _match_group(boxes[order[part]], members)
    best_first = np.argsort(-detections.scores[order], kind="stable")
    chosen = order[best_first]
    return Matches(
        image[chosen],
        detections.classes[chosen],
        detections.scores[chosen],
        hit[:, best_first],
        ignored[:, best_first],
        counted,
    )


def perfect(truths: Sequence[Sequence[Mapping[str, Any]]]) -> Detections:
    """The annotations themselves as detections."""
    objects = [[truth for truth in of_image if not truth["iscrowd"]] for of_image in truths]
    every = [truth for of_image in objects for truth in of_image]
    boxes = np.array([truth["bbox"] for truth in every], dtype=np.float64).reshape(-1, 4)
    return Detections(
        np.array([len(of_image) for of_image in objects], dtype=np.int64),
        np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        np.ones(len(every)),
        np.array([truth["class"] for truth in every], dtype=np.int64),
    )


def exchanged(detections: Detections) -> Detections:
    """The same detections, each image's given to another image: right only by chance.

    The images pass them on in a ring of random order, always the same, so that no pattern in their order matters.
    """
    images = len(detections.counts)
    ring = np.random.default_rng(0).permutation(images)
    to = np.empty(images, dtype=np.int64)
    to[ring] = np.roll(ring, -1)
    order = np.argsort(np.repeat(to, detections.counts), kind="stable")
    counts = np.empty_like(detections.counts)
    counts[to] = detections.counts
    return Detections(counts, detections.boxes[order], detections.scores[order], detections.classes[order])


def _as_xywh(boxes: Floats) -> Floats:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _match_group(
    boxes: Floats, members: Sequence[Mapping[str, Any]]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Match one class of one image: boxes (D, 4) x, y, w, h, best first; returns hit and ignored, bool (10, D)."""
    # Objects before crowds, each in its order: a crowd is only taken when no object fits.
    members = sorted(members, key=lambda member: bool(member["iscrowd"]))
    crowd = np.array([bool(member["iscrowd"]) for member in members])
    overlap = _iou(boxes, np.array([member["bbox"] for member in members], dtype=np.float64), crowd)
    limits = np.minimum(THRESHOLDS, 1 - 1e-10)
    hit = np.zeros((len(limits), len(boxes)), dtype=bool)
    ignored = np.zeros_like(hit)
    free = np.ones((len(limits), len(members)), dtype=bool)
    rows = np.arange(len(limits))
    objects = int(np.count_nonzero(~crowd))
    for number in np.flatnonzero(overlap.max(axis=1) >= limits[0]):
        here = overlap[number]
        fits = free & (here[None, :] >= limits[:, None])
        if objects:
            values = np.where(fits[:, :objects], here[None, :objects], -1.0)
            # The last of equals, as the evaluator's loop leaves it.
            best = objects - 1 - np.argmax(values[:, ::-1], axis=1)
            taken = values[rows, best] >= 0
            hit[taken, number] = True
            free[rows[taken], best[taken]] = False
        else:
            taken = np.zeros(len(limits), dtype=bool)
        if objects < len(members):
            crowded = ~taken & fits[:, objects:].any(axis=1)
            hit[crowded, number] = True
            ignored[crowded, number] = True
    return hit, ignored


def _iou(boxes: Floats, truths: Floats, crowd: npt.NDArray[np.bool_]) -> Floats:
    """Intersection over union, (D, G), of x, y, w, h boxes; over the detection's own area for crowds."""
    across = np.minimum(boxes[:, None, 0] + boxes[:, None, 2], truths[None, :, 0] + truths[None, :, 2])
    across = np.maximum(across - np.maximum(boxes[:, None, 0], truths[None, :, 0]), 0)
    down = np.minimum(boxes[:, None, 1] + boxes[:, None, 3], truths[None, :, 1] + truths[None, :, 3])
    down = np.maximum(down - np.maximum(boxes[:, None, 1], truths[None, :, 1]), 0)
    both = across * down
    own = (boxes[:, 2] * boxes[:, 3])[:, None]
    union = np.where(crowd[None, :], own, own + (truths[:, 2] * truths[:, 3])[None, :] - both)
    overlap: Floats = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return overlap


# ---------------------------------------------------------------------------------------------------- the figure


def class_precision(matches: Matches, weights: npt.NDArray[np.integer[Any]], thresholds: slice = slice(None)) -> Floats:
    """Average precision of each class, averaged over thresholds.

    Args:
        matches: of all images.
        weights: (R, images): how often each image counts in each of R resamplings.
        thresholds: which of `THRESHOLDS` are averaged.

    Returns:
        float64 (R, classes), as fractions; NaN where a class has no object.
    """
    classes = matches.truths.shape[1]
    which = range(len(THRESHOLDS))[thresholds]
    found = np.full((len(weights), classes), np.nan)
    for number in np.flatnonzero(matches.truths.any(axis=0)):
        truths = weights @ matches.truths[:, number]
        columns = np.flatnonzero(matches.classes == number)
        value = _class_precision(matches, columns, weights, truths, which).mean(axis=1)
        found[:, number] = np.where(truths > 0, value, np.nan)
    return found


def average_precision(matches: Matches, weights: npt.NDArray[np.integer[Any]] | None = None) -> Floats:
    """Average precision per threshold, averaged over classes.

    Args:
        matches: of all images.
        weights: (R, images): how often each image counts in each of R resamplings; default once.

    Returns:
        float64 (R, 10), as fractions; NaN where no class has an object.
    """
    images, classes = matches.truths.shape
    chosen: npt.NDArray[Any] = np.ones((1, images), dtype=np.int64) if weights is None else weights
    total = np.zeros((len(chosen), len(THRESHOLDS)))
    present = np.zeros(len(chosen))
    for number in range(classes):
        if not matches.truths[:, number].any():
            continue
        truths = chosen @ matches.truths[:, number]
        has = truths > 0
        present += has
        mine = matches.classes == number
        total += _class_precision(matches, np.flatnonzero(mine), chosen, truths) * has[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Floats = total / present[:, None]
    return means


def _class_precision(
    matches: Matches,
    columns: npt.NDArray[np.intp],
    weights: npt.NDArray[np.integer[Any]],
    truths: Ints,
    thresholds: Sequence[int] = range(len(THRESHOLDS)),
) -> Floats:
    """Average precision of one class per resampling and threshold, float64 (R, thresholds).

    Precision only matters where recall grows, that is at hits; a detection counted twice because its image was drawn
    twice gives the same figure as two detections of equal score one after the other.
    """
    result = np.zeros((len(weights), len(thresholds)))
    hit, ignored = matches.hit[:, columns], matches.ignored[:, columns]
    true = hit & ~ignored
    anywhere = np.flatnonzero(true.any(axis=0))
    if not anywhere.size:
        return result
    last = int(anywhere[-1]) + 1  # what comes after the last hit changes nothing
    image = matches.image[columns[:last]]
    drawn = weights[:, image].astype(np.int32)  # whole numbers are summed up several times as fast as floats
    seen = np.cumsum(drawn, axis=1, dtype=np.int32)
    least = np.maximum(truths, 1)[:, None]
    for place, index in enumerate(thresholds):
        at = np.flatnonzero(true[index, :last])
        if not at.size:
            continue
        # Of a good detector most thresholds have the same hits, and then the same figure.
        same = next((other for other in range(place) if _alike(hit, ignored, thresholds[other], index)), None)
        if same is not None:
            result[:, place] = result[:, same]
            continue
        found = np.cumsum(drawn[:, at], axis=1, dtype=np.int32)
        counted = seen[:, at]
        if ignored[index, :last].any():
            counted = counted - np.cumsum(drawn * ignored[index, :last], axis=1, dtype=np.int32)[:, at]
        precision = found / (counted + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = _recalls_reached(found / least)
        result[:, place] = (precision * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)
    return result


def _alike(hit: npt.NDArray[np.bool_], ignored: npt.NDArray[np.bool_], one: int, other: int) -> bool:
    """Whether two thresholds have the same hits and leave the same detections out."""
    return np.array_equal(hit[one], hit[other]) and np.array_equal(ignored[one], ignored[other])


def _recalls_reached(recall: Floats) -> Ints:
    """How many of `RECALLS` are at or below each recall, compared as floating-point numbers, as the evaluator does."""
    below = np.minimum((recall * 100).astype(np.int64), 100)
    below -= RECALLS[below] > recall
    below += RECALLS[np.minimum(below + 1, 100)] <= recall
    reached: Ints = np.minimum(below, 100) + 1
    return reached


# ---------------------------------------------------------------------------------------------------- the evaluator


def evaluate(detections: Detections, truths: Sequence[Sequence[Mapping[str, Any]]], classes: int) -> dict[str, float]:
    """The twelve COCO statistics from faster-coco-eval, as fractions (-1 where there is nothing to measure).

    Args:
        detections: of all images.
        truths: annotations of each image.
        classes: number of classes.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    annotations = [
        {
            "id": number,
            "image_id": image + 1,
            "category_id": truth["class"] + 1,
            "bbox": list(truth["bbox"]),
            "area": truth["area"],
            "iscrowd": truth["iscrowd"],
        }
        for number, (image, truth) in enumerate(
            ((image, truth) for image, of_image in enumerate(truths) for truth in of_image), 1
        )
    ]
    images = [{"id": image + 1} for image in range(len(truths))]
    categories = [{"id": number + 1, "name": str(number)} for number in range(classes)]
    if not len(detections.scores) or not annotations:
        return dict.fromkeys(STATISTICS, 0.0 if annotations else -1.0)
    shared = {"images": images, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()), _collector_resting():
        truth = COCO({**shared, "annotations": annotations})
        # Not loadRes, which also draws a polygon around every box: a third of the whole time, and nobody reads it.
        results = COCO({**shared, "annotations": _result_rows(detections)})
        evaluation = COCOeval_faster(truth, results, iouType="bbox", print_function=_silent)
        evaluation.run()
    return {name: float(value) for name, value in zip(STATISTICS, evaluation.stats, strict=False)}


def _result_rows(detections: Detections) -> list[dict[str, Any]]:
    """Detections as the evaluator's annotations: what ``loadRes`` makes of them, without segmentation."""
    boxes = _as_xywh(detections.boxes)
    image = np.repeat(np.arange(len(detections.counts)), detections.counts) + 1
    columns = (image, boxes, boxes[:, 2] * boxes[:, 3], detections.scores, detections.classes + 1)
    return [
        {"id": number, "image_id": of, "bbox": box, "area": area, "score": score, "category_id": kind, "iscrowd": 0}
        for number, (of, box, area, score, kind) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), 1
        )
    ]


@contextlib.contextmanager
def _collector_resting() -> Iterator[None]:
    """No cyclic garbage collection: hundreds of thousands of rows are made at once and none is garbage (-30 % time)."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _silent(*_: object) -> None:
    """Takes the evaluator's progress lines."""
