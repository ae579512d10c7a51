"""The statistics of a drop against closed formulas and exact enumeration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pth2om.accuracy import can_decide
from pth2om.accuracy.bounds import (
    TWO_SIDED,
    binomial_upper,
    drop_bounds,
    images_to_settle,
    least_images,
    zero_disagreement_bound,
)


def test_zero_disagreements_leave_what_the_design_says() -> None:
    assert round(100 * zero_disagreement_bound(141), 1) == 2.1
    assert round(100 * zero_disagreement_bound(650), 2) == 0.46
    for images in (1, 2, 141, 650, 50_000):
        low, high, method = drop_bounds(0, 0, images)
        assert method == "exact"
        assert high == pytest.approx(-low) == pytest.approx(1 - 0.05 ** (1 / images))
        assert drop_bounds(0, 0, images, TWO_SIDED)[1] == pytest.approx(1 - 0.025 ** (1 / images))


@pytest.mark.parametrize(("images", "gate", "decides"), [(141, 1.0, False), (298, 1.0, False), (299, 1.0, True)])
def test_gates_that_can_never_be_decided_are_known_beforehand(images: int, gate: float, decides: bool) -> None:
    answer, message = can_decide(images, gate)
    assert answer is decides
    assert (message is None) is decides
    if message is not None:
        assert "299" in message.render("en")
        assert "299" in message.render("zh")
    assert can_decide(10**6, 0.0)[0] is False


@pytest.mark.parametrize("images", [6, 15, 30])
def test_the_exact_bound_covers_at_least_95_percent(images: int) -> None:
    upper = np.full((images + 1, images + 1), np.nan)
    ways = np.zeros_like(upper)
    for lost in range(images + 1):
        for gained in range(images + 1 - lost):
            upper[lost, gained] = drop_bounds(lost, gained, images)[1]
            ways[lost, gained] = math.factorial(images) / (
                math.factorial(lost) * math.factorial(gained) * math.factorial(images - lost - gained)
            )
    b, c = np.meshgrid(np.arange(images + 1), np.arange(images + 1), indexing="ij")
    rest = np.maximum(images - b - c, 0)
    worst = 1.0
    for p_lost in np.linspace(0, 1, 26):
        for p_gained in np.linspace(0, 1 - p_lost, 12):
            weight = ways * p_lost**b * p_gained**c * max(1 - p_lost - p_gained, 0) ** rest
            assert weight.sum() == pytest.approx(1)
            covered = np.nan_to_num(upper, nan=-9) >= p_lost - p_gained - 1e-9
            worst = min(worst, float(weight[covered].sum()))
    # The bisection stops 2e-6 beyond the bound, so the level is met, not just approached.
    assert worst >= 0.95 - 1e-6
    assert worst < 0.97  # and it is not merely wide


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 2000))
@settings(max_examples=60, deadline=None)
def test_mirror_images_and_order(lost: int, gained: int, more: int) -> None:
    images = lost + gained + more
    if not images:
        return
    low, high, _ = drop_bounds(lost, gained, images)
    mirror_low, mirror_high, _ = drop_bounds(gained, lost, images)
    assert low == pytest.approx(-mirror_high)
    assert high == pytest.approx(-mirror_low)
    assert -1 <= low <= (lost - gained) / images <= high <= 1


@given(st.integers(0, 70), st.integers(0, 70), st.integers(1, 2000), st.floats(0.8, 0.999))
@settings(max_examples=40, deadline=None)
def test_bounds_grow_with_the_level(lost: int, gained: int, more: int, level: float) -> None:
    images = lost + gained + more
    low, high, _ = drop_bounds(lost, gained, images, level)
    lower, higher, _ = drop_bounds(lost, gained, images, (1 + level) / 2)
    assert lower <= low <= high <= higher


def test_exact_and_score_bounds_meet_where_the_method_changes() -> None:
    exact, score = drop_bounds(35, 25, 5000), drop_bounds(36, 25, 5000)
    assert (exact[2], score[2]) == ("exact", "score")
    assert exact[1] == pytest.approx(score[1], abs=3e-4)


def test_tangos_published_example() -> None:
    # Tango 1998, table I and section 5: 44 patients, 0 against 1 discordant; two-sided 95 % score interval of the
    # difference -0.027 to 0.118 (here one-sided 95 % bounds are compared with the test they invert).
    from pth2om.accuracy.bounds import _score_signed, _upper_score

    upper = _upper_score(1, 0, 44, 0.95)
    assert _score_signed(1, 0, 44, upper) == pytest.approx(-stats.norm.ppf(0.95), abs=1e-9)
    # The statistic itself from first principles: the estimate under d maximizes the likelihood.
    for lost, gained, images, drop in [(5, 2, 50, 0.01), (0, 3, 40, 0.05), (7, 7, 100, -0.02)]:
        grid = np.linspace(max(0, -drop) + 1e-9, (1 - abs(drop)) / 2, 400_001)
        with np.errstate(divide="ignore", invalid="ignore"):
            likelihood = (
                stats.binom.logpmf(0, 0, 0.5)
                + (lost and lost * np.log(grid + drop))
                + (gained and gained * np.log(grid))
                + (images - lost - gained) * np.log(1 - 2 * grid - drop)
            )
        q = grid[np.nanargmax(likelihood)]
        expected = (lost - gained - images * drop) / math.sqrt(images * (2 * q + drop - drop**2))
        assert _score_signed(lost, gained, images, drop) == pytest.approx(expected, abs=1e-4)


@given(st.integers(0, 300), st.integers(1, 300))
def test_clopper_pearson_against_the_beta_quantile(cases: int, images: int) -> None:
    cases = min(cases, images)
    for level in (0.95, TWO_SIDED):
        expected = 1.0 if cases == images else stats.beta.ppf(level, cases + 1, images - cases)
        assert binomial_upper(cases, images, level) == pytest.approx(expected, abs=1e-9)


def test_the_images_named_do_settle_it() -> None:
    for lost, gained, images, gate in [(0, 0, 141, 0.01), (3, 1, 300, 0.01), (10, 10, 650, 0.01), (14, 2, 650, 0.01)]:
        low, high, _ = drop_bounds(lost, gained, images)
        assert low <= gate < high
        needed = images_to_settle(lost, gained, images, gate)
        assert needed is not None
        assert needed > images
        scale = needed / images
        low, high, _ = drop_bounds(round(lost * scale), round(gained * scale), needed)
        # The normal approximation may be off by a little; a tenth more always does.
        scale *= 1.1
        again = drop_bounds(round(lost * scale), round(gained * scale), round(images * scale))
        assert high <= gate or low > gate or again[1] <= gate or again[0] > gate
    assert images_to_settle(10, 0, 1000, 0.01) is None
    assert least_images(0.01) == 299
