"""A picture gives in a batch what it gives alone; graphs that mix pictures are found, whatever axis the batch is on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pth2om.compare.batching import against_repeats, against_singles, judge_batch
from pth2om.data.samples import Sample

WEIGHT = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)


class Graph:
    def __init__(self, function) -> None:
        self.function = function

    def run(self, feeds):
        return {"y": np.asarray(self.function(feeds["x"]))}


def softmax(x):
    wide = np.exp(x - x.max(-1, keepdims=True))
    return wide / wide.sum(-1, keepdims=True)


RIGHT = {
    "rows": lambda x: x @ WEIGHT,
    "softmax": lambda x: softmax(x @ WEIGHT),
    "time first": lambda x: np.stack([x @ WEIGHT, 2 * (x @ WEIGHT)]),
    "constant": lambda _: np.arange(6.0).reshape(2, 3),
    "labels": lambda x: np.argmax(x @ WEIGHT, -1),
    "flat": lambda x: (x @ WEIGHT).reshape(-1),
}
WRONG = {
    "softmax over the batch": lambda x: softmax((x @ WEIGHT).reshape(1, 5, -1)),
    "mean of the batch taken away": lambda x: x @ WEIGHT - (x @ WEIGHT).mean(0, keepdims=True),
    "first picture for all": lambda x: np.repeat((x @ WEIGHT)[:1], len(x), 0),
    "turned round": lambda x: (x @ WEIGHT)[::-1],
    "one number": lambda x: (x @ WEIGHT).mean(),
    "batch on two axes": lambda x: (x @ WEIGHT) @ (x @ WEIGHT).T,
    "not finite in a batch": lambda x: x @ WEIGHT if len(x) == 1 else (x @ WEIGHT) / 0.0,
}


def batch(count: int = 4) -> Sample:
    x = np.random.default_rng(1).normal(size=(count, 8)).astype(np.float32)
    return Sample(tuple(f"random-{row}" for row in range(count)), {"x": x})


def verdict(measured) -> str:
    json.dumps(measured)
    (judged,) = judge_batch(measured, "onnx", half=False)
    assert judged.check == "onnx/batch/y"
    return judged.verdict


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", RIGHT)
def test_pictures_that_stay_apart_pass(name, count):
    graph = Graph(RIGHT[name])
    assert verdict(against_singles(graph, graph, batch(count))) == "passed"
    for judged in judge_batch(against_repeats(graph, batch(count)), "om", half=True):
        assert judged.verdict == "passed"


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", WRONG)
def test_pictures_that_are_mixed_fail(name, count):
    graph = Graph(WRONG[name])
    assert verdict(against_singles(graph, graph, batch(count))) == "failed"


@pytest.mark.parametrize("name", ["mean of the batch taken away", "first picture for all", "turned round"])
def test_what_takes_one_batch_size_only_is_held_against_itself(name):
    (judged,) = judge_batch(against_repeats(Graph(WRONG[name]), batch()), "om", half=True)
    assert (judged.check, judged.verdict) == ("om/batch/y", "failed")
    assert "pictures of a batch are mixed" in str(judged.message)


def test_zeros_beside_other_samples_do_not_count():
    measured = {"samples": ["zeros", "random-0"], "outputs": {"y": {"rows": [1.0, 1e-7]}}}
    assert verdict(measured) == "passed"
    assert verdict({"samples": ["zeros"], "outputs": {"y": {"rows": [1.0]}}}) == "failed"


@pytest.mark.parametrize(
    ("rows", "own", "verdict"),
    [
        ([1e-2, 1e-7], [1e-2, 1e-7], "passed"),
        ([1e-2, 1e-2], [1e-2, 1e-2], "inconclusive"),
        ([1e-2, 1e-2], [1e-2, 1e-7], "failed"),
        ([0.2, 1e-7], [1e-2, 1e-7], "failed"),
    ],
)
def test_the_originals_own_rounding_excuses_no_more_than_it_is(rows, own, verdict):
    names = ["random-0", "random-1"]
    rounding = {"y": {name: {"relative_l2": value} for name, value in zip(names, own, strict=True)}}
    measured = {"samples": names, "outputs": {"y": {"rows": rows}}}
    (judged,) = judge_batch(measured, "torch", half=False, own=rounding)
    assert judged.verdict == verdict
