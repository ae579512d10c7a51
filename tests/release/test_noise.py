from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pth2om.release import noise
from pth2om.release.needs import least_alarm
from tests.release.simulation import simulate


@given(st.integers(0, 300), st.integers(0, 300))
def test_without_a_known_rate_it_is_the_exact_binomial_test(lost: int, gained: int) -> None:
    expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert noise.paired(lost, gained, 5000) == pytest.approx(expected, rel=1e-6)


@given(st.integers(1, 120), st.floats(1e-4, 0.05))
def test_with_a_known_rate_it_is_the_tail_of_a_skellam(lost: int, rate: float) -> None:
    mean = rate * 5000 / 2
    expected = min(1.0, 2 * stats.skellam.sf(lost - 1, mean, mean))
    assert noise.paired(lost, 0, 5000, rate) == pytest.approx(expected, rel=1e-4, abs=1e-13)


def test_levels_are_shared_by_the_gates_of_a_night() -> None:
    assert noise.per_gate(10) == noise.per_gate(200) == pytest.approx(5e-6)
    assert noise.per_gate(400) == pytest.approx(2.5e-6)
    assert noise.tail(noise.quantile(1e-5)) == pytest.approx(1e-5)


def test_the_scale_is_one_nights_deviation_whatever_a_gate_measures() -> None:
    stream = np.random.default_rng(0)
    series = {str(g): (10 * g * np.exp(0.01 * stream.standard_normal(20))).tolist() for g in range(1, 101)}
    found = noise.scales(series)
    assert found.keys() == series.keys()
    # Of a series' own scale the larger one is taken, which twenty nights leave uncertain; none is below the pool's.
    assert min(found.values()) == pytest.approx(0.01, rel=0.1)
    assert max(found.values()) < 0.03
    restless = {"restless": np.exp(0.05 * stream.standard_normal(60)).tolist()}
    assert noise.scales(series | restless)["restless"] == pytest.approx(0.05, rel=0.3)
    assert noise.scales({"few": [1.0, 1.1]}) == {}


def test_the_least_alarm_is_the_least() -> None:
    for rate in (None, 0.01):
        least = least_alarm(5000, rate, 5e-6)
        assert noise.paired(least, 0, 5000, rate) <= 5e-6 < noise.paired(least - 1, 0, 5000, rate)


def _holds(nights: int) -> None:
    ours, fixed, t_test = simulate(nights)
    # Three standard errors of the count, and none below one.
    assert ours.alarms <= 1 + 3 * math.sqrt(1000 / nights)
    assert ours.steps >= 0.95
    assert ours.losses >= 0.95
    assert fixed.losses < 0.05
    assert t_test.alarms > 1000


def test_a_few_nights_alarm_on_steps_and_losses_and_hardly_on_nothing() -> None:
    _holds(300)


@pytest.mark.nightly
def test_one_false_alarm_in_a_thousand_nights() -> None:
    _holds(20_000)
