"""COCO mAP: matches, figure and bootstrap against pycocotools, to 1e-9."""

from __future__ import annotations

import contextlib
import io
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pth2om.accuracy.average_precision import (
    STATISTICS,
    Detections,
    average_precision,
    evaluate,
    match,
    resampled,
)
from pth2om.accuracy.measuring import matches_from_json, matches_to_json


def drawn(seed: int, images: int, per_image: int, classes: int, crowds: float = 0.1, ties: bool = False):
    """Objects in images and detections around some of them."""
    stream = np.random.default_rng(seed)
    truths, boxes, scores, numbers, counts = [], [], [], [], []
    for _ in range(images):
        objects = []
        for _ in range(int(stream.integers(0, 8))):
            x, y = stream.uniform(0, 400, 2)
            w, h = stream.uniform(5, 200, 2)
            area = w * h * stream.uniform(0.4, 1)
            crowd = int(stream.random() < crowds)
            kind = int(stream.integers(0, classes))
            objects.append({"bbox": [x, y, w, h], "area": area, "iscrowd": crowd, "class": kind})
        truths.append(objects)
        count = int(stream.integers(0, per_image + 1))
        counts.append(count)
        for _ in range(count):
            if objects and stream.random() < 0.6:
                near = objects[int(stream.integers(len(objects)))]
                x, y, w, h = np.array(near["bbox"]) * (1 + stream.normal(0, 0.08, 4))
                kind = near["class"] if stream.random() < 0.9 else int(stream.integers(0, classes))
            else:
                (x, y), (w, h), kind = (
                    stream.uniform(0, 400, 2),
                    stream.uniform(5, 200, 2),
                    int(stream.integers(classes)),
                )
            boxes.append([x, y, x + w, y + h])
            scores.append(round(stream.random(), 1) if ties else stream.random())
            numbers.append(kind)
    found = Detections(
        np.array(counts, dtype=np.int64),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(scores, dtype=np.float64),
        np.array(numbers, dtype=np.int64),
    )
    return found, truths


def official(found: Detections, truths, classes: int) -> np.ndarray:
    """The twelve figures of pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        annotations = [
            {**truth, "id": 0, "image_id": image + 1, "category_id": truth["class"] + 1}
            for image, of_image in enumerate(truths)
            for truth in of_image
        ]
        for number, annotation in enumerate(annotations, 1):
            annotation["id"] = number
        coco.dataset = {
            "images": [{"id": image + 1} for image in range(len(truths))],
            "categories": [{"id": number + 1} for number in range(classes)],
            "annotations": annotations,
            "info": {},
        }
        coco.createIndex()
        image = np.repeat(np.arange(len(truths)), found.counts)
        rows = [
            {
                "image_id": int(image[index]) + 1,
                "category_id": int(found.classes[index]) + 1,
                "bbox": [*found.boxes[index, :2], *(found.boxes[index, 2:] - found.boxes[index, :2])],
                "score": float(found.scores[index]),
            }
            for index in range(len(image))
        ]
        evaluation = COCOeval(coco, coco.loadRes(rows), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed: int, ties: bool) -> None:
    found, truths = drawn(seed, 40, 30, 5, ties=ties)
    expected = official(found, truths, 5)
    figures = evaluate(found, truths, 5)
    assert list(figures) == list(STATISTICS)
    assert np.array(list(figures.values())) == pytest.approx(expected, abs=1e-9)
    ours = average_precision(match(found, truths, 5))[0]
    assert ours.mean() == pytest.approx(expected[0], abs=1e-9)
    assert ours[0] == pytest.approx(expected[1], abs=1e-9)
    assert ours[5] == pytest.approx(expected[2], abs=1e-9)


def test_more_than_a_hundred_of_one_class_in_one_image() -> None:
    found, truths = drawn(9, 6, 300, 1)
    assert average_precision(match(found, truths, 1)).mean() == pytest.approx(official(found, truths, 1)[0], abs=1e-9)


@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_small_cases_equal_pycocotools(seed: int, images: int, classes: int) -> None:
    found, truths = drawn(seed, images, 12, classes, crowds=0.4, ties=True)
    if not len(found.scores) or not any(truths):
        return
    expected = official(found, truths, classes)[0]
    got = float(average_precision(match(found, truths, classes)).mean())
    assert got == pytest.approx(expected, abs=1e-9) or (expected == -1 and np.isnan(got))
    assert evaluate(found, truths, classes)["mAP50-95"] == pytest.approx(expected, abs=1e-9)


def test_nothing_detected_and_nothing_to_detect() -> None:
    none = Detections(np.zeros(2, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))
    objects = [[{"bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 0, "class": 0}], []]
    assert evaluate(none, objects, 1)["mAP50-95"] == 0
    assert average_precision(match(none, objects, 1)).tolist() == [[0.0] * 10]
    assert evaluate(none, [[], []], 1)["mAP50-95"] == -1


def test_a_resampling_equals_pycocotools_on_the_drawn_images() -> None:
    found, truths = drawn(3, 25, 20, 4)
    matches = match(found, truths, 4)
    stream = np.random.default_rng(0)
    weights = np.stack([np.bincount(stream.integers(0, 25, 25), minlength=25) for _ in range(3)])
    got = average_precision(matches, weights)
    starts = np.concatenate([[0], np.cumsum(found.counts)])
    for row, weight in enumerate(weights):
        images = np.repeat(np.arange(25), weight)
        picks = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in images]).astype(int)
        again = Detections(found.counts[images], found.boxes[picks], found.scores[picks], found.classes[picks])
        expected = official(again, [truths[i] for i in images], 4)
        assert got[row].mean() == pytest.approx(expected[0], abs=1e-9)
        assert got[row, 0] == pytest.approx(expected[1], abs=1e-9)


def test_the_bootstrap_is_paired_and_repeatable() -> None:
    found, truths = drawn(5, 60, 20, 4)
    matches = match(found, truths, 4)
    one, other = resampled(matches, matches, slice(None), resamples=200, seed=3)
    assert np.array_equal(one, other)
    assert np.array_equal(one, resampled(matches, matches, slice(None), resamples=200, seed=3)[0])
    assert one.std() > 0
    assert one.mean() == pytest.approx(average_precision(matches).mean(), abs=4 * one.std())


def test_matches_survive_json() -> None:
    matches = match(*drawn(5, 10, 20, 4), 4)
    again = matches_from_json(matches_to_json(matches))
    for name in ("image", "classes", "hit", "ignored", "truths"):
        assert np.array_equal(getattr(matches, name), getattr(again, name))
    assert np.allclose(matches.scores, again.scores, atol=1e-7)


def test_the_bootstrap_of_a_real_size_is_quick() -> None:
    found, truths = drawn(1, 141, 290, 80)
    matches = match(found, truths, 80)
    started = time.process_time()
    resampled(matches, matches, slice(None), resamples=1000, seed=0)
    assert time.process_time() - started < 20
