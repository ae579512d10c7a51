from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.evidence import GateRecord, Limit
from pth2om.report import figures


def gate(measured, relation, value, unit=""):
    verdict = "passed" if Limit(relation, value).holds(measured) else "failed"
    return GateRecord("m", "", None, "closeness", "c", measured, unit, Limit(relation, value), verdict, "host")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.99998712, "0.999987"),
        (0.9999999999996, "1 − 4.0e-13"),
        (26.4712, "26.47"),
        (0.0, "0"),
        (-0.0000321, "-3.21e-05"),
        (1.0, "1"),
        (249, "249"),
        (1e300, "1e+300"),
        (math.nan, "NaN"),
        (math.inf, "∞"),
        ("-Infinity", "−∞"),
        (None, "–"),
        ("rubbish", "–"),
        (True, "–"),
    ],
)
def test_numbers_read_short(value, shown):
    assert figures.text(value) == shown


@given(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["<=", ">=", "<", ">"]),
)
def test_a_shown_value_stays_on_its_side_of_the_limit(measured, value, relation):
    one = gate(measured, relation, value)
    shown = figures.measured(one)
    try:
        back = float(shown)
    except ValueError:
        assert shown.startswith("1 − ")
        return
    assert one.limit.holds(back) == one.limit.holds(measured)


@given(
    st.floats(min_value=0, max_value=2, allow_nan=False),
    st.floats(min_value=1e-6, max_value=1 - 1e-6),
    st.sampled_from(["<=", ">="]),
)
def test_the_share_used_exceeds_one_exactly_when_the_gate_fails(measured, value, relation):
    one = gate(measured, relation, value)
    share = figures.share_used(one)
    if share is not None and abs(measured - value) > 1e-9:
        assert (share <= 1) == (one.verdict == "passed")


def test_a_share_beside_the_limit_does_not_round_onto_it():
    assert figures.percent(0.9999) == "99 %"
    assert figures.percent(1.0001) == "101 %"
    assert figures.percent(0.001) == "< 1 %"
    assert figures.percent(4.2) == "× 4.2"
    assert figures.percent(0) == "0 %"


def test_no_share_without_meaning():
    assert figures.share_used(gate(math.nan, "<=", 1.0)) is None
    assert figures.share_used(gate(0.0, "<=", 0.0)) is None
    assert figures.share_used(gate(3.0, "==", 3.0)) is None
    assert figures.share_used(gate(50.0, ">=", 100.0, "fps")) == 2


def test_durations():
    assert [figures.seconds(value) for value in (0.0042, 7.31, 125.0, math.nan)] == ["4 ms", "7.3 s", "2 min 5 s", "–"]


def test_nested_values_become_dotted_rows():
    rows = figures.flat({"packages": {"torch": "2.13"}, "cores": 2, "none": None, "list": [1, "a"]})
    assert rows == [("packages.torch", "2.13"), ("cores", "2"), ("list", "1, a")]


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.0213, "points", "0.02"),
        (-0.001, "points", "0.00"),
        (58213.7, "fps", "58.2 k"),
        (1.67e6, "fps", "1.67 M"),
        (999.4, "fps", "999.4"),
        (26.4712, "ms", "26.47"),
        (10**400, "fps", "∞"),
    ],
)
def test_the_unit_decides_the_digits(value, unit, shown):
    assert figures.amount(value, unit) == shown


def test_a_figure_stays_on_its_side_of_the_limit_in_every_unit(factory):
    for unit, value, limit in (("points", 1.0004, 1.0), ("fps", 58_200.3, 58_200.0), ("fps", 1_670_001.0, 1_670_000.0)):
        gate = factory.gate("m", "v", "latency", "om/fps", value, Limit("<=", limit), "failed", unit=unit)
        shown = figures.measured(gate)
        assert "e+" not in shown
        assert shown not in ("1.00", "58.2 k", "1.67 M")
    assert figures.limit(Limit(">=", 0.9999999)) == "≥ 0.9999999"


@pytest.mark.parametrize("share", [-1e308, -2.5, float("nan"), float("-inf"), float("inf")])
def test_a_share_that_nobody_measured_is_written_as_it_is(share: float) -> None:
    from pth2om.report.figures import percent

    assert percent(share).removeprefix("× ") == f"{share:.3g}"
