"""Dice against counting by hand: absent classes drop out, missed and invented ones count 0, per class and paired."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om import accuracy
from pth2om.accuracy.dice import class_metrics, counted, counts_of, image_dice
from pth2om.accuracy.packed import pack, pack_names
from pth2om.errors import DataError

NAMES = ["background", "ball", "box"]


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_counts_are_those_of_masks(seed: int, classes: int) -> None:
    stream = np.random.default_rng(seed)
    truth, predicted = stream.integers(0, classes, (2, 4, 5, 3))
    predicted = np.where(stream.random((4, 5, 3)) < 0.1, -1, predicted)
    truth = np.where(stream.random((4, 5, 3)) < 0.1, -1, truth)
    found = counted(predicted, truth, classes)
    for number in range(classes):
        ours, theirs = (predicted == number) & (truth >= 0), truth == number
        assert found[number].tolist() == [ours.sum(), theirs.sum(), (ours & theirs).sum()]


def measured(predictions: list[list[int]], truths: list[list[int]]) -> dict:
    counts = np.stack([counted(np.array(p), np.array(t), 3) for p, t in zip(predictions, truths, strict=True)])
    dice = {"dice": 100 * float(image_dice(counts).mean()), **class_metrics(counts, NAMES)}
    names = [f"case {number}" for number in range(len(counts))]
    return {
        "kind": "segmentation",
        "images": len(counts),
        "dataset": "d",
        "files": pack_names(names),
        "classes": NAMES,
        "counts": pack(counts),
        "metrics": dice,
        "unreadable": 0,
    }


def test_empty_classes_as_nnunet_has_them() -> None:
    """Case 0: ball half found, box nowhere. Case 1: ball missed, box invented."""
    found = measured([[1, 1, 0, 0], [0, 2, 0, 0]], [[1, 0, 1, 0], [1, 0, 0, 0]])
    assert found["metrics"] == pytest.approx({"dice": 25.0, "dice:ball": 25.0, "dice:box": 0.0})
    nobody = measured([[1, 1, 0, 0]], [[1, 1, 0, 0]])
    assert nobody["metrics"] == pytest.approx({"dice": 100.0, "dice:ball": 100.0})
    with pytest.raises(DataError) as caught:
        accuracy.difference(nobody, nobody, metric="dice:box")
    assert caught.value.message.key == "accuracy.class-never"
    assert counts_of(found, "dice:none") is None


def test_each_class_is_judged_in_the_cases_that_have_it() -> None:
    """40 cases; the candidate loses all boxes, of which half of the cases have one, and no ball."""
    truths = [[1, 1, 2 * (number % 2), 2 * (number % 2), 0, 0] for number in range(40)]
    lost = [[1, 1, 0, 0, 0, 0] for _ in truths]
    before, after = measured(truths, truths), measured(lost, truths)
    box = accuracy.difference(before, after, metric="dice:box")
    assert (box["images"], box["reference"], box["candidate"], box["drop"]) == (20, 100.0, 0.0, 100.0)
    assert accuracy.judge(box, 1.0).verdict == "failed"
    ball = accuracy.judge(accuracy.difference(before, after, metric="dice:ball"), 10.0)
    assert (ball.measured, ball.verdict, ball.check) == (0.0, "passed", "dice:ball/drop")
    # Together: half of the cases fall from 1 to 1/2.
    assert accuracy.difference(before, after, metric="dice")["drop"] == pytest.approx(25.0)
    assert accuracy.judged_metrics(before, "dice") == ["dice", "dice:ball", "dice:box"]
    assert accuracy.judged_metrics(before, "agreement") == ["agreement"]


def test_intervals_are_of_resampled_cases() -> None:
    """Half of 40 cases score 1, half 0.5: the mean 0.75 within twice its standard error, 0.25 / sqrt(40)."""
    truths = [[1, 1, 0, 2] for _ in range(40)]
    found = [[1, 1, 0, 2] if number % 2 else [1, 0, 0, 2] for number in range(40)]
    scores = measured(found, truths)
    judged = accuracy.class_scores(scores, [accuracy.least(scores, None, metric="dice")], 0)
    by_check = {each.check: each for each in judged}
    assert [*by_check] == ["dice/score", "dice:ball/score", "dice:box/score"]
    ball = by_check["dice:ball/score"]
    assert ball.verdict == "shown"
    assert ball.measured == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert ball.interval is not None
    low, high = ball.interval
    error = 100 / 6 / np.sqrt(39)
    assert low == pytest.approx(ball.measured - 2 * error, abs=error / 2)
    assert high == pytest.approx(ball.measured + 2 * error, abs=error / 2)
    assert by_check["dice:box/score"].interval == (100.0, 100.0)
    single = measured([[1, 1, 0, 2]], [[1, 1, 0, 2]])
    assert accuracy.class_scores(single, [], 0)[0].interval is None
