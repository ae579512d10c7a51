"""Limits that a constant answer would meet decide nothing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.compare import judge, measure, worse
from pth2om.compare.figures import closeness
from pth2om.compare.spread import share, undecided
from pth2om.data.samples import Sample
from pth2om.evidence import Limit
from pth2om.spec import Closeness, Gates, Slice

ROWS = np.random.default_rng(0).normal(size=(6, 50)).astype(np.float32)
SAMPLES = [Sample((f"real-{row}",), {"row": np.array([row])}) for row in range(len(ROWS))]
OFFSET = np.float32(5.0)


class Gives:
    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def run(self, feeds):
        return {"out": self.rows[feeds["row"]]}


def judged(reference, candidate, *, pair="onnx~om", gates=None, kind="values"):
    slices = () if kind == "values" else [Slice(name="out", kind=kind)]
    measured = measure(Gives(reference), Gives(candidate), SAMPLES, slices)
    json.dumps(measured)
    return {each.check.split("/")[-1]: each for each in judge(measured, pair=pair, gates=gates or Gates())}


def whole(verdicts) -> str:
    words = {each.verdict for each in verdicts.values()}
    return next(word for word in ("failed", "inconclusive", "passed") if word in words)


def near(offset: float, size: float) -> np.ndarray:
    return (ROWS * np.float32(size) + np.float32(offset)).astype(np.float32)


BROKEN = {
    "constant": lambda y: np.repeat(y[:1], len(y), 0),
    "mean": lambda y: np.repeat(y.mean(0, keepdims=True), len(y), 0),
    "other samples'": lambda y: np.roll(y, 1, 0),
    "classes turned round": lambda y: y[:, ::-1],
    "rounded to halves": lambda y: y.astype(np.float16).astype(np.float32),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize(("pair", "size"), [("onnx~om", 1e-4), ("onnx~om", 1e-3), ("torch~onnx", 1e-5)])
def test_an_output_that_hardly_depends_on_its_input_does_not_pass(name, pair, size):
    if name == "rounded to halves" and size == 1e-3:
        size = 3e-4
    reference = near(OFFSET, size)
    found = judged(reference, BROKEN[name](reference), pair=pair)
    assert found["relative_l2"].verdict == "passed", "the limit alone does not see it"
    assert found["follows"].verdict == "inconclusive"
    assert "hardly depends" in str(found["follows"].message)
    assert whole(found) == "inconclusive"


@pytest.mark.parametrize("size", [1e-4, 1e-3, 1e-2])
def test_a_small_error_beside_a_small_spread_passes(size):
    reference = near(OFFSET, size)
    found = judged(reference, reference + ROWS[::-1] * size / 50)
    assert found["follows"].verdict == "passed"
    assert found["follows"].measured == pytest.approx(0.02, rel=0.5)
    assert whole(found) == "passed"


def test_a_large_offset_does_not_let_the_cosine_pass():
    gates = Gates(onnx_om=Closeness(relative_l2=math.inf, max_abs=1.0))
    reference = near(100, 0.3)
    assert whole(judged(reference, np.roll(reference, 1, 0), gates=gates)) != "passed"


@pytest.mark.parametrize("metric", ["max_abs", "mean_abs", "relative_l2", "sqnr_db"])
def test_wide_limits_of_any_kind_do_not_pass(metric):
    wide = {"max_abs": 9.0, "mean_abs": 9.0, "relative_l2": 2.0, "sqnr_db": -40.0}[metric]
    limits = {"cosine": -1.0, "relative_l2": math.inf, metric: wide}
    found = judged(ROWS, np.roll(ROWS, 1, 0), gates=Gates(onnx_om=Closeness(**limits)))
    assert found["follows"].verdict == "inconclusive"


def test_outputs_that_answer_to_their_input_get_no_further_gate():
    assert "follows" not in judged(ROWS, ROWS)
    assert "follows" not in judged(ROWS, ROWS, pair="torch~onnx")


@pytest.mark.parametrize("kind", ["labels", "integers"])
def test_labels_that_hardly_change_do_not_pass(kind):
    """A mask of background but for one pixel in a thousand: any other mask agrees with it."""
    masks = np.zeros((6, 2000), np.int64)
    masks[np.arange(6), np.arange(6)] = 1
    found = judged(masks, np.zeros_like(masks), kind="values" if kind == "integers" else kind)
    assert found["equal"].verdict == "passed"
    assert found["follows"].verdict == "inconclusive"
    assert whole(judged(masks, masks, kind="labels")) == "passed"


def test_the_bands_of_an_om_are_joined_to_the_worse():
    reference = near(OFFSET, 1e-4)
    bands = [measure(Gives(reference), Gives(other), SAMPLES) for other in (reference, np.roll(reference, 1, 0))]
    joined = worse(*bands, ("fused", "unfused"))
    found = {each.check.split("/")[-1]: each for each in judge(joined, pair="onnx~om", gates=Gates())}
    assert found["follows"].verdict == "inconclusive"


def test_a_single_sample_has_no_spread():
    measured = measure(Gives(ROWS), Gives(ROWS), SAMPLES[:1])
    assert not any(each.check.endswith("follows") for each in judge(measured, pair="onnx~om", gates=Gates()))


@given(
    st.integers(0, 2**32 - 1),
    st.floats(-3, 3),
    st.floats(1e-6, 10),
    st.sampled_from(["relative_l2", "cosine", "max_abs", "mean_abs", "sqnr_db"]),
)
def test_no_constant_answer_is_better_than_its_bound(seed, offset, size, metric):
    """Whatever is tried as a constant answer, its worst row is no better than the bound that was measured."""
    stream = np.random.default_rng(seed)
    rows = offset + size * stream.normal(size=(4, 6))
    spread = measure(Gives(rows), Gives(rows), SAMPLES[:4])["slices"]["out"]["spread"]
    tried = [*rows, rows.mean(0), (rows[0] + rows[1]) / 2, np.median(rows, 0), np.zeros(6)]
    tried += [rows.mean(0) + size * 0.1 * stream.normal(size=6) for _ in range(5)]
    # Where directions count, the middle of two is that of their directions.
    tried += [rows[0] / np.linalg.norm(rows[0]) + row / np.linalg.norm(row) for row in rows[1:]]
    for answer in tried:
        values = [closeness(row, answer)[0][metric] for row in rows]
        if metric in ("cosine", "sqnr_db"):
            assert min(values) <= spread[metric] + 1e-6
        else:
            assert max(values) >= spread[metric] - 1e-9


def test_limits_of_which_nothing_is_known_decide():
    assert not undecided({"error": 0.0, "distance": 1.0}, {"within_tolerance": Limit(">=", 0.9)})
    assert math.isinf(share({"error": 0.0, "distance": 0.0}))
