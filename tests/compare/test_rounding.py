"""What the reference's own rounding excuses, and what it cannot hide."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.compare import judge, measure, own_rounding
from pth2om.compare.rounding import BOTH, HALF, ILL_CONDITIONED, allowed
from pth2om.data.samples import Sample
from pth2om.evidence import Limit
from pth2om.spec import Gates

NAMES = ("zeros", "random-0", "random-1", "random-2")
TRUE = np.random.default_rng(0).normal(size=(4, 200))


class Gives:
    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def run(self, feeds):
        return {"out": self.rows[feeds["row"]]}


def noisy(*sizes: float, seed: int = 1) -> np.ndarray:
    """The true values, each row off by so much (relative L2) in a direction of its own."""
    noise = np.random.default_rng(seed).normal(size=TRUE.shape)
    noise *= (np.linalg.norm(TRUE, axis=1) / np.linalg.norm(noise, axis=1))[:, None]
    return TRUE + noise * np.array(sizes)[:, None]


def verdicts(reference, candidate, pair, *, excuse=True) -> dict[str, str]:
    samples = [Sample((name,), {"row": np.array([row])}) for row, name in enumerate(NAMES)]
    own = own_rounding(measure(Gives(TRUE), Gives(reference), samples)) if excuse else None
    measured = measure(Gives(reference), Gives(candidate), samples)
    return {each.check.split("/")[-1]: each for each in judge(measured, pair=pair, gates=Gates(), own=own)}


@pytest.mark.parametrize(("pair", "off"), [("torch~onnx", 1e-2), ("torch~onnx", 1.0), ("onnx~om", 1.0)])
def test_a_sample_on_which_the_reference_is_noise_is_excused_and_named(pair, off):
    own = noisy(1e-2 if pair == "torch~onnx" and off < 1 else 1.0, 1e-7, 1e-7, 1e-7)
    other = noisy(off, 1e-7, 1e-7, 1e-7, seed=2)
    assert verdicts(own, other, pair, excuse=False)["relative_l2"].verdict == "failed"
    judged = verdicts(own, other, pair)
    assert {judged[metric].verdict for metric in ("cosine", "relative_l2")} == {"passed"}
    assert "ill-conditioned on zeros" in str(judged["relative_l2"].message)
    assert list(judged["relative_l2"].details["ill_conditioned"]) == ["zeros"]
    assert judged["relative_l2"].measured < 1e-6, "the others decide"


@pytest.mark.parametrize(
    ("pair", "sizes"),
    [
        ("torch~onnx", (1e-2, 1e-2, 1e-7, 1e-7)),  # another sample is off too
        ("torch~onnx", (0.2, 1e-7, 1e-7, 1e-7)),  # by far more than the reference's own rounding
        ("torch~onnx", (1e-2, 2e-4, 2e-4, 2e-4)),
        ("onnx~om", (1.0, 0.06, 1e-3, 1e-3)),
    ],
)
def test_a_fault_beyond_the_own_rounding_still_fails(pair, sizes):
    judged = verdicts(noisy(1e-2, 1e-7, 1e-7, 1e-7), noisy(*sizes, seed=2), pair)
    assert judged["relative_l2"].verdict == "failed"
    assert "own rounding is" in str(judged["relative_l2"].message)


def test_where_every_sample_is_ill_conditioned_nothing_is_decided():
    judged = verdicts(noisy(1e-2, 1e-2, 1e-2, 1e-2), noisy(1e-2, 1e-2, 1e-2, 1e-2, seed=2), "torch~onnx")
    assert judged["relative_l2"].verdict == "inconclusive"
    assert judged["relative_l2"].measured is None


@given(
    st.floats(1e-8, 2.0),
    st.sampled_from(["relative_l2", "cosine", "sqnr_db", "mean_abs", "max_abs"]),
    st.booleans(),
)
def test_an_excuse_is_bounded_by_what_was_measured(relative, metric, half):
    own = {"relative_l2": relative, "mean_abs": relative, "max_abs": relative, "cosine": 1 - relative, "sqnr_db": 1.0}
    relation = ">=" if metric in ("cosine", "sqnr_db") else "<="
    bound = allowed(own, metric, Limit(relation, 0.5), half=half)
    if half and relative < ILL_CONDITIONED:
        assert bound is None
        return
    share = relative * (HALF if half else BOTH)
    if share >= 1:
        assert bound == (math.inf if relation == "<=" else -math.inf), "nothing but noise is left"
    elif relation == "<=":
        assert bound == pytest.approx(share)
    elif metric == "sqnr_db":
        assert bound == pytest.approx(-20 * math.log10(share))
    else:
        assert bound == pytest.approx(math.sqrt(1 - share**2))
