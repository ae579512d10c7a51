"""A picture gives in a batch what it gives alone; graphs that mix pictures are found, whatever axis the batch is on."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from pth2om.compare.batching import against_singles, judge_batch, judge_replaced, others_replaced
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


def judged_alone(function, count: int = 4):
    graph = Graph(function)
    measured = against_singles(graph, graph, batch(count))
    json.dumps(measured)
    (judged,) = judge_batch(measured, "onnx")
    assert judged.check == "onnx/batch/y"
    return judged


def judged_apart(function, count: int = 4):
    measured = others_replaced(Graph(function), batch(count))
    json.dumps(measured)
    (judged,) = judge_replaced(measured, "om")
    assert judged.check == "om/apart/y"
    return judged


@pytest.mark.parametrize("count", [2, 4, 5])
@pytest.mark.parametrize("name", RIGHT)
def test_pictures_that_stay_apart_pass(name, count):
    assert judged_alone(RIGHT[name], count).verdict == "passed"
    assert judged_apart(RIGHT[name], count).verdict == "passed"


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", WRONG)
def test_pictures_that_are_mixed_fail(name, count):
    assert judged_alone(WRONG[name], count).verdict == "failed"


@pytest.mark.parametrize("count", [2, 3, 4, 8])
@pytest.mark.parametrize("name", [name for name in WRONG if name != "not finite in a batch"])
def test_pictures_that_others_reach_are_found_without_a_session_of_one(name, count):
    # The middle one of three stays where it is when they are turned round; the others do not.
    judged = judged_apart(WRONG[name], count)
    assert judged.verdict == "failed"
    assert "other pictures" in str(judged.message)


@pytest.mark.parametrize("share", [1e-1, 2e-4, 1e-5, 2e-6])
def test_a_trace_of_the_batch_mean_is_found(share):
    """Far below the limits of closeness: the picture's own output may not move at all."""
    mixed = lambda x: x @ WEIGHT + np.float32(share) * (x @ WEIGHT).mean(0, keepdims=True)  # noqa: E731 - one of several of a line each
    assert judged_apart(mixed).verdict == "failed"
    if share > 1e-5:
        assert judged_alone(mixed).verdict == "failed"


@pytest.mark.parametrize("pair", list(itertools.permutations(range(5), 2)))
def test_any_picture_that_reaches_any_other_is_found(pair):
    to, origin = pair

    def reached(x):
        y = x @ WEIGHT
        y[to] += 1e-5 * y[origin]
        return y

    judged = judged_apart(reached, 5)
    assert judged.verdict == "failed"
    assert judged.details["worst"] == f"random-{to}"


def test_indices_stay_indices_when_pictures_are_replaced():
    table = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    sample = Sample(("a", "b"), {"x": np.array([[1, 2], [9, 0]])})
    (judged,) = judge_replaced(others_replaced(Graph(lambda x: table[x]), sample), "onnx")
    assert judged.verdict == "passed"


@pytest.mark.parametrize(("value", "verdict"), [(0.77, "failed"), (0.02, "passed")])
def test_an_om_is_held_against_single_pictures_within_its_own_rounding(value, verdict):
    """Channels that are mixed within a picture move with no other picture, and are wrong all the same."""
    measured = {"samples": ["random-0"], "outputs": {"y": {"rows": [value], "own": [1e-7]}}}
    (judged,) = judge_batch(measured, "om", 0.05)
    assert judged.verdict == verdict


def test_an_input_that_all_pictures_share_stays():
    class Shifted:
        def run(self, feeds):
            return {"y": feeds["x"] @ WEIGHT + feeds["shift"].sum()}

    sample = Sample(("a", "b"), {**batch(2).feeds, "shift": np.ones((2, 5), np.float32)}, frozenset({"shift"}))
    (judged,) = judge_replaced(others_replaced(Shifted(), sample), "onnx")
    assert judged.verdict == "passed"
    (judged,) = judge_batch(against_singles(Graph(RIGHT["rows"]), Graph(RIGHT["rows"]), batch(2)), "onnx")
    assert judged.verdict == "passed"


def test_zeros_beside_other_samples_do_not_count():
    def verdict(names, rows):
        measured = {"samples": names, "outputs": {"y": {"rows": rows, "own": [1e-7] * len(rows)}}}
        (judged,) = judge_batch(measured, "torch")
        return judged.verdict

    assert verdict(["zeros", "random-0"], [1.0, 1e-7]) == "passed"
    assert verdict(["zeros"], [1.0]) == "failed"


@pytest.mark.parametrize(
    ("rows", "own", "verdict"),
    [
        ([1e-2, 1e-7], [1e-2, 1e-7], "passed"),
        ([1e-2, 1e-2], [1.0, 1.0], "inconclusive"),
        ([1e-2, 1e-2], [1e-2, 1e-7], "failed"),
        ([0.2, 1e-7], [1e-2, 1e-7], "failed"),
        ([1e-7, 5e-5], [1e-7, 1e-7], "failed"),
    ],
)
def test_the_originals_own_rounding_is_the_limit(rows, own, verdict):
    measured = {"samples": ["random-0", "random-1"], "outputs": {"y": {"rows": rows, "own": own}}}
    (judged,) = judge_batch(measured, "torch")
    assert judged.verdict == verdict
