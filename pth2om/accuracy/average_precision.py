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
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pth2om.accuracy.detection import places

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
RECALLS: Floats = np.linspace(0, 1, 101)
THRESHOLDS_OF = {"mAP50-95": slice(None), "mAP50": slice(0, 1), "mAP75": slice(5, 6)}
"""Which of `THRESHOLDS` each figure averages."""

MOST_PER_CLASS = 100
_LONG_ROW = 32
_PAIRS = 1 << 17  # of a detection and an object, compared at once
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
    order = order[places(group) < MOST_PER_CLASS]
    objects = _Objects.of(truths, classes)
    hit, ignored = _matched(
        _as_xywh(detections.boxes[order]), image[order] * classes + detections.classes[order], objects
    )
    counted = np.bincount(objects.group[~objects.crowd], minlength=images * classes).reshape(images, classes)
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


@dataclass(frozen=True)
class _Objects:
    """The annotations of all images, by group; a group is one class of one image, and has its crowds last.

    Attributes:
        boxes: float64 (T, 4): x, y, w, h.
        crowd: bool (T,).
        group: int64 (T,), ascending: ``image * classes + class``.
    """

    boxes: Floats
    crowd: npt.NDArray[np.bool_]
    group: Ints

    @classmethod
    def of(cls, truths: Sequence[Sequence[Mapping[str, Any]]], classes: int) -> _Objects:
        every = [truth for of_image in truths for truth in of_image]
        image = np.repeat(np.arange(len(truths)), [len(of_image) for of_image in truths])
        group = image * classes + np.array([truth["class"] for truth in every], dtype=np.int64)
        crowd = np.array([bool(truth["iscrowd"]) for truth in every], dtype=bool)
        boxes = np.array([truth["bbox"] for truth in every], dtype=np.float64).reshape(-1, 4)
        order = np.lexsort((crowd, group))
        return cls(boxes[order], crowd[order], group[order])


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


def _matched(boxes: Floats, group: Ints, objects: _Objects) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Match detections to objects, all groups at once: first the best detection of each, then the second, and so on.

    Args:
        boxes: (D, 4) x, y, w, h: group after group, in each the best first.
        group: (D,), ascending, as `_Objects.group`.
        objects: what there is to find.

    Returns:
        Hit and ignored, bool (10, D).
    """
    hit = np.zeros((len(THRESHOLDS), len(boxes)), dtype=bool)
    ignored = np.zeros_like(hit)
    limits = np.minimum(THRESHOLDS, 1 - 1e-10)
    number, object_of, overlap = _near(boxes, group, objects, limits[0])
    if not number.size:
        return hit, ignored
    # The place of each detection among those of its group that are near some object: its round.
    each, of_pair = np.unique(number, return_inverse=True)
    place = places(group[each])
    by_round = np.argsort(place[of_pair], kind="stable")
    ends = np.cumsum(np.bincount(place[of_pair]))
    free = np.ones((len(objects.group), len(limits)), dtype=bool)
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        pairs = by_round[start:end]
        starts = np.flatnonzero(np.diff(number[pairs], prepend=-1))
        detection, member = number[pairs][starts], object_of[pairs]
        fits = free[member] & (overlap[pairs, None] >= limits)
        crowd = objects.crowd[member, None]
        values = np.where(fits & ~crowd, overlap[pairs, None], -1.0)
        best = np.maximum.reduceat(values, starts, axis=0)
        taken = best >= 0
        hit[:, detection] = taken.T
        # The last of equals, as the evaluator's loop leaves it.
        equal = values == np.repeat(best, np.diff(np.append(starts, len(pairs))), axis=0)
        last = np.maximum.reduceat(np.where(equal, np.arange(len(pairs))[:, None], -1), starts, axis=0)
        free[member[last[taken]], np.nonzero(taken)[1]] = False
        if crowd.any():
            crowded = ~taken & np.logical_or.reduceat(fits & crowd, starts, axis=0)
            hit[:, detection] |= crowded.T
            ignored[:, detection] = crowded.T
    return hit, ignored


def _near(boxes: Floats, group: Ints, objects: _Objects, least: float) -> tuple[Ints, Ints, Floats]:
    """Detections and objects of one group whose IoU is at least so much: their numbers and IoUs, each (pairs,).

    Pairs come detection after detection, and of a detection in the objects' order.
    """
    begin = np.searchsorted(objects.group, group, "left")
    many = np.searchsorted(objects.group, group, "right") - begin
    total = np.cumsum(many)
    found: list[tuple[Ints, Ints, Floats]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    start = 0
    while start < len(group):
        # In pieces: a crowded image has hundreds of objects beside a hundred detections.
        before = int(total[start - 1]) if start else 0
        end = max(int(np.searchsorted(total, before + _PAIRS, "right")), start + 1)
        count = many[start:end]
        number = np.repeat(np.arange(start, end), count)
        within = np.arange(len(number)) - np.repeat(total[start:end] - count - before, count)
        object_of = np.repeat(begin[start:end], count) + within
        overlap = _iou(boxes[number], objects.boxes[object_of], objects.crowd[object_of])
        near = np.flatnonzero(overlap >= least)
        found.append((number[near], object_of[near], overlap[near]))
        start = end
    numbers, members, overlaps = zip(*found, strict=True)
    return np.concatenate(numbers), np.concatenate(members), np.concatenate(overlaps)


def _iou(boxes: Floats, truths: Floats, crowd: npt.NDArray[np.bool_]) -> Floats:
    """Intersection over union, (N,), of x, y, w, h boxes in pairs; over the detection's own area for crowds."""
    across = np.minimum(boxes[:, 0] + boxes[:, 2], truths[:, 0] + truths[:, 2])
    across = np.maximum(across - np.maximum(boxes[:, 0], truths[:, 0]), 0)
    down = np.minimum(boxes[:, 1] + boxes[:, 3], truths[:, 1] + truths[:, 3])
    down = np.maximum(down - np.maximum(boxes[:, 1], truths[:, 1]), 0)
    both = across * down
    own = boxes[:, 2] * boxes[:, 3]
    union = np.where(crowd, own, own + truths[:, 2] * truths[:, 3] - both)
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
    drawn = _by_image(weights)
    for number in np.flatnonzero(matches.truths.any(axis=0)):
        truths = weights @ matches.truths[:, number]
        columns = np.flatnonzero(matches.classes == number)
        value = _class_precision(matches, columns, drawn, truths, which).mean(axis=1)
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
    drawn = _by_image(chosen)
    for number in range(classes):
        if not matches.truths[:, number].any():
            continue
        truths = chosen @ matches.truths[:, number]
        has = truths > 0
        present += has
        mine = matches.classes == number
        total += _class_precision(matches, np.flatnonzero(mine), drawn, truths) * has[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Floats = total / present[:, None]
    return means


def _by_image(weights: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
    """Weights (R, images) as int32 (images, R): a detection's row lies in one piece.

    Whole numbers are summed up several times as fast as floats.
    """
    return np.ascontiguousarray(weights.T, dtype=np.int32)


def _class_precision(
    matches: Matches,
    columns: npt.NDArray[np.intp],
    drawn: npt.NDArray[np.int32],
    truths: Ints,
    thresholds: Sequence[int] = range(len(THRESHOLDS)),
) -> Floats:
    """Average precision of one class per resampling and threshold, float64 (R, thresholds).

    Precision only matters where recall grows, that is at hits; a detection counted twice because its image was drawn
    twice gives the same figure as two detections of equal score one after the other.

    Args:
        matches: of all images.
        columns: which of them are of the class.
        drawn: see `_by_image`.
        truths: (R,): objects of the class in each resampling.
        thresholds: which of `THRESHOLDS`.
    """
    result = np.zeros((len(truths), len(thresholds)))
    hit, ignored = matches.hit[:, columns], matches.ignored[:, columns]
    true = hit & ~ignored
    anywhere = np.flatnonzero(true[list(thresholds)].any(axis=0))
    if not anywhere.size:
        return result
    last = int(anywhere[-1]) + 1  # what comes after the last hit changes nothing
    image = matches.image[columns[:last]]
    seen = drawn[image]
    _accumulate(np.add, seen)
    least = np.maximum(truths, 1)
    for place, index in enumerate(thresholds):
        at = np.flatnonzero(true[index, :last])
        if not at.size:
            continue
        # Of a good detector most thresholds have the same hits, and then the same figure.
        same = next((other for other in range(place) if _alike(hit, ignored, thresholds[other], index)), None)
        if same is not None:
            result[:, place] = result[:, same]
            continue
        found = drawn[image[at]]
        _accumulate(np.add, found)
        counted = seen[at]
        if ignored[index, :last].any():
            left_out = drawn[image] * ignored[index, :last, None]
            _accumulate(np.add, left_out)
            counted -= left_out[at]
        precision = found / (counted + np.spacing(1))
        _accumulate(np.maximum, precision[::-1])
        precision *= np.diff(_recalls_reached(found / least), axis=0, prepend=0)
        result[:, place] = precision.sum(axis=0) / len(RECALLS)
    return result


def _accumulate(step: np.ufunc, rows: npt.NDArray[Any]) -> None:
    """Running sums or maxima down the columns, in place.

    Of long rows one row at a time: NumPy itself goes down one column after the other, three times as slowly.
    """
    if rows.shape[1] < _LONG_ROW:
        rows[...] = step.accumulate(rows, axis=0, dtype=rows.dtype)
        return
    for above, row in itertools.pairwise(rows):
        step(above, row, out=row)


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
