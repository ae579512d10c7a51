"""INT8's default limits follow the depth, and a metric that judges the same model decides instead of them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.compare import judge
from pth2om.compare.judging import int8_limits
from pth2om.errors import Absent
from pth2om.questions.closeness import _judging_metric
from pth2om.spec import Closeness, Dataset, Gates
from tests.compare.test_closeness import pair


def noisy(share: float):
    stream = np.random.default_rng(0)
    noise = stream.normal(0, 1, (4, 400))
    values = stream.normal(0, 1, (4, 400))
    reach = share * np.linalg.norm(values, axis=1) / np.linalg.norm(noise, axis=1)

    def rows(x: np.ndarray) -> np.ndarray:
        return np.arange(len(x))

    return pair(lambda x: {"out": values[rows(x)]}, lambda x: {"out": (values + noise * reach[:, None])[rows(x)]})


def verdicts(share: float, **options) -> dict[str, str]:
    judged = judge(noisy(share), pair="onnx~om", gates=options.pop("gates", Gates()), int8=True, **options)
    return {each.check.rpartition("/")[2]: each.verdict for each in judged}


@given(st.integers(0, 5000))
def test_limits_grow_with_the_layers_within_their_ends(layers: int) -> None:
    here, deeper = int8_limits(layers), int8_limits(layers + 1)
    assert 0.1 <= here["relative_l2"] <= deeper["relative_l2"] <= 0.3
    assert 0.95 < deeper["cosine"] <= here["cosine"] <= 0.99
    assert here["shift_pixels"] <= deeper["shift_pixels"]
    # Noise at the limit has the cosine of the limit, and not a better one.
    assert here["cosine"] <= 1 / math.sqrt(1 + here["relative_l2"] ** 2)


def test_the_noise_of_a_quantizer_is_what_the_limit_is_made_of() -> None:
    stream = np.random.default_rng(0)
    values = np.clip(stream.normal(0, 1, 200_000), -4, 4)
    step = 8 / 256
    error = np.sqrt(((np.round(values / step) * step - values) ** 2).mean() / (values**2).mean())
    assert int8_limits(52)["relative_l2"] == pytest.approx(2 * error * math.sqrt(2 * 52), abs=0.006)


def test_depth_decides_where_no_metric_does() -> None:
    assert verdicts(0.15, layers=5)["relative_l2"] == "failed"
    assert verdicts(0.15, layers=60)["relative_l2"] == "passed"
    assert verdicts(0.35, layers=5000)["relative_l2"] == "failed"


def test_a_metric_decides_and_tensors_warn() -> None:
    judged = judge(noisy(0.5), pair="onnx~om", gates=Gates(), int8=True, layers=5, metric="top1 (digits)")
    beyond = {each.check: each for each in judged if each.verdict != "passed"}
    assert {each.verdict for each in beyond.values()} == {"shown"}
    one = beyond["onnx~om/out/relative_l2"]
    assert one.limit is None
    assert all(text in one.message.render("en") for text in ("top1 (digits)", "0.5", "<= 0.1"))
    assert all(text in one.message.render("zh") for text in ("top1 (digits)", "0.5"))


def test_limits_of_the_spec_and_broken_numbers_fail_all_the_same() -> None:
    gates = Gates(int8=Closeness(relative_l2=0.2))
    assert verdicts(0.5, layers=5, metric="top1 (digits)", gates=gates)["relative_l2"] == "failed"
    broken = pair(lambda x: {"out": x}, lambda x: {"out": x * np.nan})
    judged = judge(broken, pair="onnx~om", gates=Gates(), int8=True, layers=5, metric="top1 (digits)")
    assert "failed" in {each.verdict for each in judged if each.check.endswith("new_nonfinite")}
    # Without INT8 no metric takes a limit's place.
    floating = judge(noisy(0.5), pair="onnx~om", gates=Gates(), metric="top1 (digits)")
    assert "failed" in {each.verdict for each in floating}


@pytest.mark.parametrize(
    ("metric", "seeded", "here", "judges"),
    [
        ("top1", False, True, "top1 (d)"),
        ("top1", True, True, ""),
        ("top1", False, False, ""),
        ("agreement", False, True, ""),
    ],
)
def test_a_metric_judges_only_where_it_is_measured(metric: str, seeded: bool, here: bool, judges: str) -> None:
    def dataset(name: str, subset: int | None) -> None:
        if not here:
            raise Absent("data.absent")

    spec = SimpleNamespace(datasets=[Dataset(name="d", metric=metric)])
    pipeline = SimpleNamespace(seeded=seeded, spec=spec, data=SimpleNamespace(dataset=dataset))
    assert _judging_metric(SimpleNamespace(pipeline=pipeline)) == judges
