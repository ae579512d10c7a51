"""Outputs in another layout than the decoder's are refused by name, before anything is scored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.accuracy import measuring
from pth2om.accuracy.layout import check_classifier, check_detector, check_masks
from pth2om.errors import DataError

SHAPES = {
    (84, 8400): "looks-like-no-objectness-boxes-last",
    (85, 8400): "looks-like-boxes-last",
    (8400, 84): "looks-like-no-objectness",
    (300, 6): "looks-like-after-nms",
    (300, 7): "looks-like-after-nms",
    (8400, 96): "score-columns",
    (8400, 8): "score-columns",
    (255, 20, 20): "looks-like-raw-head",
    (3, 20, 20, 85): "looks-like-raw-head",
    (85,): "not-rows",
    (8400, 5): "not-rows",
}


@pytest.mark.parametrize(("shape", "key"), SHAPES.items())
def test_detectors(shape: tuple[int, ...], key: str) -> None:
    with pytest.raises(DataError) as caught:
        check_detector(shape, 80)
    message = caught.value.message
    assert message.key == f"accuracy.{key}"
    assert "x".join(map(str, shape)) in message.render("en")
    assert "x".join(map(str, shape)) in message.render("zh")
    assert "{" not in message.render("en") + message.render("zh") + (message.fix("en") or "") + (
        message.fix("zh") or ""
    )


@given(st.integers(1, 1500), st.integers(1, 10_000))
def test_rows_of_the_datasets_categories_are_taken(classes: int, boxes: int) -> None:
    check_detector((boxes, 5 + classes), classes)
    check_detector((boxes, 5 + classes), None)


@given(st.integers(1, 300), st.integers(6, 9000), st.integers(6, 9000))
def test_no_other_number_of_columns_is(classes: int, first: int, last: int) -> None:
    if last == 5 + classes:
        return
    with pytest.raises(DataError):
        check_detector((first, last), classes)


def test_without_categories_boxes_on_the_last_axis_are_noticed() -> None:
    with pytest.raises(DataError) as caught:
        check_detector((84, 8400), None)
    assert caught.value.message.key == "accuracy.looks-like-boxes-last"


def test_classifiers_and_masks() -> None:
    check_classifier(10, 10)
    check_classifier(1000, None)
    for values, classes, key in (
        (3, 10, "too-few-classes"),
        (1001, 1000, "too-many-values"),
        (1, None, "too-few-classes"),
    ):
        with pytest.raises(DataError) as caught:
            check_classifier(values, classes)
        assert caught.value.message.key == f"accuracy.{key}"
    for shape in ((21, 8, 8), (1, 8, 8), (8, 8)):
        check_masks(shape, 21)
    for shape, key in (((8, 8, 21), "looks-like-channels-last"), ((5, 8, 8), "mask-channels"), ((8,), "not-a-mask")):
        with pytest.raises(DataError) as caught:
            check_masks(shape, 21)
        assert caught.value.message.key == f"accuracy.{key}"


@pytest.mark.parametrize(("kind", "metric"), [("classification", "top1"), ("detection", "mAP50-95")])
def test_a_kind_of_task_is_judged_by_the_first_metric_of_its_decoder(kind, metric):
    assert measuring.first_metric(kind) == metric
    assert metric in {name for each in measuring.SCORINGS.values() if each.kind == kind for name in each.metrics}


def test_a_decoder_that_scores_nothing_is_refused():
    with pytest.raises(DataError, match="decoder"):
        measuring.scoring("none")
