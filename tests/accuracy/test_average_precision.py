"""COCO mAP: matches, figure and bootstrap against pycocotools, to 1e-9."""

from __future__ import annotations

import contextlib
import io
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pth2om.accuracy.average_precision import (
    STATISTICS,
    Detections,
    average_precision,
    class_precision,
    evaluate,
    exchanged,
    match,
)
from pth2om.accuracy.bootstrap import Resampled, mean_drop, precision_drop
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


def test_objects_compared_in_small_pieces_are_matched_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    from pth2om.accuracy import average_precision as module

    found, truths = drawn(9, 12, 150, 2, crowds=0.3, ties=True)
    whole = match(found, truths, 2)
    monkeypatch.setattr(module, "_PAIRS", 5)
    pieces = match(found, truths, 2)
    assert np.array_equal(whole.hit, pieces.hit)
    assert np.array_equal(whole.ignored, pieces.ignored)
    assert whole.ignored.any()


def test_many_resamplings_at_once_equal_one_at_a_time() -> None:
    found, truths = drawn(12, 20, 20, 3, crowds=0.3)
    matches = match(found, truths, 3)
    weights = np.random.default_rng(0).integers(0, 3, (40, 20))
    alone = np.concatenate([average_precision(matches, row[None]) for row in weights])
    assert average_precision(matches, weights) == pytest.approx(alone, abs=1e-12)


def test_classes_average_to_the_figure() -> None:
    found, truths = drawn(6, 30, 20, 5)
    matches = match(found, truths, 5)
    weights = np.random.default_rng(0).integers(0, 3, (4, 30))
    by_class = class_precision(matches, weights)
    assert np.nanmean(by_class, axis=1) == pytest.approx(average_precision(matches, weights).mean(axis=1))
    fifty = class_precision(matches, weights, slice(0, 1))
    assert np.nanmean(fifty, axis=1) == pytest.approx(average_precision(matches, weights)[:, 0])


def test_the_bootstrap_is_paired_and_repeatable() -> None:
    found, truths = drawn(5, 60, 20, 4)
    other, _ = drawn(55, 60, 20, 4)
    matches, worse = match(found, truths, 4), match(other, truths, 4)
    options = {"images": np.arange(60), "resamples": 200, "seed": 3}
    same = precision_drop(matches, matches, 0.0, slice(None), **options)
    assert (same.error, same.bias) == (0, 0)
    assert same.bounds(0.95) == (0, 0)
    lost = 100 * float(average_precision(matches).mean() - average_precision(worse).mean())
    one = precision_drop(matches, worse, lost, slice(None), **options)
    assert np.array_equal(one.draws, precision_drop(matches, worse, lost, slice(None), **options).draws)
    assert one.error >= one.draws.std() > 0
    assert one.draws.mean() == pytest.approx(lost, abs=4 * one.error)
    (low, high), (lower, higher) = one.bounds(0.95), one.bounds(0.975)
    assert lower < low < lost < high < higher


def test_a_remembered_reference_is_not_taken_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    found, truths = drawn(5, 40, 20, 4)
    matches, worse = match(found, truths, 4), match(drawn(55, 40, 20, 4)[0], truths, 4)
    hit = matches.hit.copy()
    hit[:, np.flatnonzero(hit[0])[0]] = False
    options = {"images": np.arange(40), "resamples": 50}
    sides = [matches, replace(matches, hit=hit), replace(matches, truths=matches.truths + 1)]
    known = [
        precision_drop(side, worse, 1.0, part, **options) for side in sides * 2 for part in (slice(None), slice(1))
    ]
    assert len({each.draws.tobytes() for each in known}) == 6
    for each, (side, part) in zip(
        known, [(side, part) for side in sides for part in (slice(None), slice(1))] * 2, strict=True
    ):
        monkeypatch.setattr("pth2om.accuracy.bootstrap._REFERENCES", {})
        assert np.array_equal(each.draws, precision_drop(side, worse, 1.0, part, **options).draws)


def test_images_seen_twice_count_once() -> None:
    found, truths = drawn(5, 40, 20, 4)
    other, _ = drawn(55, 40, 20, 4)
    starts = np.concatenate([[0], np.cumsum(found.counts)])
    other_starts = np.concatenate([[0], np.cumsum(other.counts)])

    def twice(part: Detections, starts: np.ndarray) -> Detections:
        picks = np.concatenate([np.arange(starts[-1])] * 2).astype(int)
        return Detections(np.tile(part.counts, 2), part.boxes[picks], part.scores[picks], part.classes[picks])

    once = [match(part, truths, 4) for part in (found, other)]
    doubled = [match(twice(part, places), truths * 2, 4) for part, places in ((found, starts), (other, other_starts))]
    options = {"images": np.arange(40), "resamples": 100}
    expected, got = (precision_drop(*pair, 1.0, slice(None), **options) for pair in (once, doubled))
    assert got.draws == pytest.approx(expected.draws)
    assert got.error == pytest.approx(expected.error)


def test_exchanged_boxes_belong_to_other_images() -> None:
    for images in (1, 2, 7, 40):
        counts = np.random.default_rng(0).integers(1, 5, images)
        owner = np.repeat(np.arange(images), counts)
        boxes = np.stack([owner.astype(float)] * 4, axis=1)
        moved = exchanged(Detections(counts, boxes, np.ones(len(owner)), owner))
        now = np.repeat(np.arange(images), moved.counts)
        assert sorted(moved.classes) == sorted(owner)
        assert images == 1 or (now != moved.classes).all()
        assert all(len(set(moved.classes[now == image])) == 1 for image in range(images))
        assert np.array_equal(moved.boxes[:, 0], moved.classes)


@given(st.integers(0, 10_000), st.integers(2, 60))
@settings(max_examples=30, deadline=None)
def test_bounds_hold_the_measured_drop_and_grow_with_the_level(seed: int, images: int) -> None:
    lost = np.random.default_rng(seed).normal(0, 3, images)
    drop = mean_drop(lost, float(lost.mean()), resamples=100, seed=seed)
    bounds = [drop.bounds(level) for level in (0.9, 0.95, 0.99)]
    lows, highs = zip(*bounds, strict=True)
    assert list(lows) == sorted(lows, reverse=True)
    assert list(highs) == sorted(highs)
    assert all(low <= drop.measured <= high for low, high in bounds)
    assert Resampled(1.0, np.zeros(0), float("inf")).bounds(0.95) == (-np.inf, np.inf)


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
    precision_drop(matches, matches, 0.0, slice(None), images=np.arange(141))
    assert time.process_time() - started < 20
