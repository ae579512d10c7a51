"""Latency: the interval of a median, when repeating stops, and what is judged on which ground."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pth2om.latency import disturbed, judge, measure, median_ranks, same_chip, summarize
from pth2om.session import Provenance, TensorSpec
from pth2om.spec import Gates


class Clocked:
    """A session and the clock that sees it take so many nanoseconds each time."""

    def __init__(self, durations) -> None:
        self.durations = iter(durations)
        self.now = 0
        self.runs = 0
        self.inputs = self.outputs = (TensorSpec("x", (1,), np.dtype("float32")),)
        self.digest, self.provenance = "0" * 64, Provenance("test", "0", "host")

    def run(self, feeds):
        self.runs += 1
        self.now += next(self.durations)
        return dict(feeds)

    def clock(self) -> int:
        return self.now

    def close(self) -> None: ...
    def __enter__(self):
        return self

    def __exit__(self, *_) -> None: ...


def forever(values):
    while True:
        yield from values


@given(st.integers(6, 400))
def test_the_ranks_hold_the_median_with_95_percent_and_no_narrower_pair_does(count: int) -> None:
    low, high = median_ranks(count)
    assert high == count - 1 - low

    def coverage(rank: int) -> float:
        return float(stats.binom.cdf(count - rank - 1, count, 0.5) - stats.binom.cdf(rank, count, 0.5))

    assert coverage(low) >= 0.95
    if low + 1 <= (count - 1) // 2:
        assert coverage(low + 1) < 0.95


def test_few_values_give_the_first_and_the_last() -> None:
    assert [median_ranks(count) for count in (1, 2, 5)] == [(0, 0), (0, 1), (0, 4)]


def test_a_steady_session_stops_early_and_a_restless_one_at_the_cap() -> None:
    steady = Clocked(forever([10_000_000]))
    measured = measure(steady, {}, batch=4, clock=steady.clock)
    assert measured["runs"] == 20
    assert steady.runs == 23
    assert measured["narrow"]
    assert measured["fps"] == pytest.approx(400)
    restless = Clocked(forever([10_000_000, 30_000_000]))
    measured = measure(restless, {}, cap_seconds=2, clock=restless.clock)
    assert not measured["narrow"]
    assert measured["runs"] == pytest.approx(101, abs=1)
    slow = Clocked(forever([9_000_000_000]))
    measured = measure(slow, {}, cap_seconds=1, clock=slow.clock)
    assert (measured["runs"], measured["warm_up"], slow.runs) == (3, 2, 5)


def test_a_first_run_that_loads_ends_no_warm_up() -> None:
    session = Clocked([9_000_000_000, 10**6, 10**6, *[10**6] * 200])
    measured = measure(session, {}, cap_seconds=1, clock=session.clock)
    assert (measured["warm_up"], measured["narrow"]) == (3, True)


def test_the_warm_up_is_not_counted() -> None:
    session = Clocked([10**12, 10**12, 10**12, *[10**6] * 200])
    assert measure(session, {}, clock=session.clock)["median_ms"] == 1.0


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=300), st.integers(1, 64))
def test_figures_against_numpy(times: list[float], batch: int) -> None:
    measured = json.loads(json.dumps(summarize(times, batch)))
    assert measured["median_ms"] == pytest.approx(np.median(times))
    assert measured["p90_ms"] == pytest.approx(np.percentile(times, 90))
    assert measured["p99_ms"] == pytest.approx(np.percentile(times, 99))
    assert measured["interval_ms"][0] <= measured["median_ms"] <= measured["interval_ms"][1]
    assert measured["fps"] == pytest.approx(1000 * batch / np.median(times))
    assert measured["interval_fps"][0] <= measured["fps"] <= measured["interval_fps"][1]


class TestJudge:
    STEADY = summarize([10.0] * 20, 1)
    GATES = Gates(reference_fps={"fp16-bs1": 44.445}, reference_soc="Ascend710", latency_ms={"fp16-bs1": 12.0})

    def test_an_om_without_a_device_is_not_measured_and_shows_the_estimate(self) -> None:
        estimate = {"milliseconds": 0.5, "fps": 2000.0, "soc": "Ascend310B1", "estimate": True}
        for ground in ("emulated", "double", "host"):
            judged, *shown = judge(
                self.STEADY, subject="om", ground=ground, gates=self.GATES, variant="fp16-bs1", estimate=estimate
            )
            assert judged.verdict == "not_measured"
            assert judged.measured is None
            # A double's time is a figure that nothing is judged by.
            assert [(one.check, one.verdict, one.limit) for one in shown] == (
                [("om/median_ms", "shown", None)] if ground == "double" else []
            )
            assert judged.limit.value == 44.445
            assert judged.details["estimate"]["fps"] == 2000.0
            assert "stimate" in judged.message.render("en")
            assert "估计" in judged.message.render("zh")
        (judged,) = judge(None, subject="om", ground="emulated")
        assert judged.verdict == "not_measured"

    def test_torch_and_onnx_are_shown_not_judged(self) -> None:
        judged = judge(self.STEADY, subject="torch", ground="host", gates=self.GATES, variant="fp16-bs1")
        assert [(each.check, each.limit, each.verdict) for each in judged] == [
            ("torch/median_ms", None, "shown"),
            ("torch/fps", None, "shown"),
        ]

    @pytest.mark.parametrize(
        ("times", "fps", "latency"),
        [
            ([10.0] * 20, "passed", "passed"),
            ([30.0] * 20, "failed", "failed"),
            ([11.0, 30.0] * 10, "inconclusive", "inconclusive"),
        ],
    )
    def test_gates_on_device_ground(self, times: list[float], fps: str, latency: str) -> None:
        judged = judge(
            summarize(times, 1),
            subject="om",
            ground="device",
            gates=self.GATES,
            variant="fp16-bs1",
            soc="Ascend310P3",
        )
        assert {each.check: each.verdict for each in judged} == {"om/median_ms": latency, "om/fps": fps}

    def test_a_reference_of_another_chip_is_no_gate(self) -> None:
        judged = judge(
            summarize([90.0] * 20, 1),
            subject="om",
            ground="device",
            gates=self.GATES,
            variant="fp16-bs1",
            soc="Ascend310B4",
        )
        fps = next(each for each in judged if each.check == "om/fps")
        assert (fps.verdict, fps.limit) == ("shown", None)
        assert "Ascend710" in str(fps.message)

    def test_same_chip(self) -> None:
        assert same_chip("Ascend710", "Ascend310P3")
        assert same_chip("Ascend310B1", "Ascend310B1")
        assert not same_chip("Ascend310B1", "Ascend310B4")
        assert not same_chip("Ascend710", None)

    def test_an_unsteady_machine_is_said(self) -> None:
        judged = judge(summarize([1.0, 3.0] * 10, 1), subject="onnx", ground="host")
        assert "busy" in str(judged[0].message)
        assert math.isfinite(judged[0].measured)


class OnDevice:
    """Knows what its device took; the link costs twice that again."""

    def __init__(self, chips=()) -> None:
        self.ran: list[int] = []
        self.total = 0
        self.chips = list(chips)

    def run(self, feeds):
        self.ran.append(2_000_000 + self.total)
        self.total += 1
        return {}

    def device_times(self):
        ran, self.ran = self.ran, []
        return ran

    def readings(self):
        return self.chips


class Behind:
    def __init__(self, inner) -> None:
        self.inner = inner

    def run(self, feeds):
        return self.inner.run(feeds)


def test_the_devices_own_time_counts_and_the_hosts_stands_beside_it() -> None:
    clock = itertools.count(0, 3_000_000)
    measured = measure(Behind(OnDevice()), {}, batch=4, clock=lambda: next(clock), warm_up=5)
    assert measured["median_ms"] == pytest.approx(2.0, rel=1e-3)
    assert measured["host_median_ms"] == pytest.approx(3.0)
    assert measured["min_ms"] > 2.0000049  # the warm-up is not among them
    assert measured["fps"] == pytest.approx(2000, rel=1e-3)


@pytest.mark.parametrize(
    ("chip", "key"),
    [
        ({"aicore_mhz": 1000, "aicore_max_mhz": 1000, "processes": [{"pid": 1}]}, None),
        ({"aicore_mhz": 600, "aicore_max_mhz": 1000}, "latency.throttled"),
        ({"processes": [{"pid": 1}, {"pid": 2}]}, "latency.shared"),
        ({}, None),
    ],
)
def test_a_disturbed_chip_is_shown_and_not_judged(chip, key) -> None:
    measured = measure(OnDevice([chip]), {}, clock=itertools.count(0, 3_000_000).__next__)
    found = judge(
        measured, subject="om", ground="device", gates=Gates(latency_ms={"fp16-bs1": 1.0}), variant="fp16-bs1"
    )
    verdicts = {each.check: each.verdict for each in found}
    assert verdicts["om/median_ms"] == ("failed" if key is None else "shown")
    message = disturbed(measured)
    assert (message.key if message else None) == key


def test_a_way_that_does_not_tell_the_devices_time_is_shown_and_not_judged() -> None:
    class Silent(OnDevice):
        def device_times(self) -> list[int]:
            return []

    measured = measure(Behind(Silent()), {}, clock=itertools.count(0, 3_000_000).__next__)
    assert measured["host_only"] is True
    gates = Gates(latency_ms={"fp16-bs1": 100.0})
    found = judge(measured, subject="om", ground="device", gates=gates, variant="fp16-bs1")
    assert {each.verdict for each in found} == {"shown"}
    assert {each.message.key for each in found if each.message} == {"latency.host-only"}
