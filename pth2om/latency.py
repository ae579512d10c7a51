"""The latency of one inference, with its interval.

Measured is the duration of ``session.run`` in the caller, or where the session knows it the time that the device
computed. The median's 95 % interval is that of order statistics: for
every distribution, the number of times below the true median is binomial (n, 1/2) (David and Nagaraja 2003, Order
Statistics, section 7.1). Latency of an NPU is measured on an NPU only; elsewhere it is *not measured*, and the roofline
estimate of `pth2om.roofline` is shown beside it.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pth2om.evidence import Judgement, Limit, Verdict
from pth2om.language import Message, say
from pth2om.session import Feeds, Ground, Session, innermost
from pth2om.spec import Gates

VERSION = 1

NARROW = 0.02
"""Measuring stops when the median's interval is this narrow, relative to the median."""

_THROTTLED = 0.95  # share of the highest clock
_LEVEL = 0.95
_LEAST_RUNS = 20
_MOST_RUNS = 5000
_CHECK_EVERY = 10


def measure(
    session: Session,
    feeds: Feeds,
    *,
    batch: int = 1,
    cap_seconds: float = 5.0,
    warm_up: int = 3,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, Any]:
    """Measure a session until the median's interval is at most 2 % wide, or the time is up.

    Args:
        session: the session to run.
        feeds: its inputs, the same each time.
        batch: images per inference, for frames per second.
        cap_seconds: the longest duration without the warm-up; at least three runs are made.
        warm_up: untimed runs before; two are enough of a session whose second run fills a third of ``cap_seconds``.
        clock: returns nanoseconds.

    Returns:
        JSON: ``median_ms`` with its 95 % interval, ``p90_ms``, ``p99_ms``, ``mean_ms``, ``fps = 1000 * batch / median``
        with its interval, ``runs``, ``narrow`` (whether the interval is at most 2 % wide), ``times_ms``; ``host_only``
        where a device computed and did not say how long.
    """
    warmed = _warm(session, feeds, warm_up, cap_seconds, clock)
    device = innermost(session)
    chips_before = _readings(device)
    _device_times(device)
    times: list[int] = []
    started = clock()
    collecting = gc.isenabled()
    gc.disable()
    try:
        while len(times) < _MOST_RUNS:
            before = clock()
            session.run(feeds)
            after = clock()
            times.append(after - before)
            if len(times) >= 3 and after - started > cap_seconds * 1e9:
                break
            if len(times) >= _LEAST_RUNS and len(times) % _CHECK_EVERY == 0 and _width(times) <= NARROW:
                break
    finally:
        if collecting:
            gc.enable()
    found = {"version": VERSION, "warm_up": warmed}
    on_device = _device_times(device)
    if len(on_device) != len(times):
        # A session that could tell and does not: the copies and the link are in what is left.
        found |= {"host_only": True} if hasattr(device, "device_times") else {}
        return {**summarize([value / 1e6 for value in times], batch), **found}
    # The device's own time is what a reference names; the host's has the copies and the link in it.
    host = summarize([value / 1e6 for value in times], batch)
    kept = {"host_median_ms": host["median_ms"], "host_interval_ms": host["interval_ms"]}
    readings = {"before": chips_before, "after": _readings(device)}
    return {**summarize([value / 1e6 for value in on_device], batch), **found, **kept, "readings": readings}


def _warm(session: Session, feeds: Feeds, most: int, cap_seconds: float, clock: Callable[[], int]) -> int:
    """Untimed runs; how many.

    The first also loads, so that it tells nothing of the rest. What is slow after it is slow by its arithmetic, which a
    third run before the clock starts does not change.
    """
    for number in range(1, most + 1):
        before = clock()
        session.run(feeds)
        if number > 1 and clock() - before > cap_seconds * 1e9 / 3:
            return number
    return most


def _device_times(session: Session) -> list[int]:
    """Nanoseconds that the device computed in each run since this was asked last; empty where nobody measures it."""
    ask = getattr(session, "device_times", None)
    return list(ask()) if ask is not None else []


def _readings(session: Session) -> list[Mapping[str, Any]]:
    ask = getattr(session, "readings", None)
    return list(ask()) if ask is not None else []


def disturbed(measured: Mapping[str, Any]) -> Message | None:
    """Why a measured time is not the chip's own: a low clock, somebody else's process, the host's own; or None.

    Args:
        measured: of `measure`; without readings of the chip nothing is known.
    """
    if measured.get("host_only"):
        return say("latency.host-only")
    for chips in measured.get("readings", {}).values():
        for chip in chips:
            now, most = chip.get("aicore_mhz"), chip.get("aicore_max_mhz")
            if now and most and now < _THROTTLED * most:
                return say("latency.throttled", now=now, most=most)
            if len(chip.get("processes") or ()) > 1:
                return say("latency.shared", count=len(chip["processes"]))
    return None


def summarize(times_ms: Sequence[float], batch: int) -> dict[str, Any]:
    """The figures of given times, as `measure` returns them.

    Args:
        times_ms: milliseconds of each inference; not empty.
        batch: images per inference.
    """
    ordered = np.sort(np.asarray(times_ms, dtype=np.float64))
    median = float(np.median(ordered))
    low, high = (float(ordered[rank]) for rank in median_ranks(len(ordered)))
    return {
        "batch": batch,
        "runs": len(ordered),
        "median_ms": median,
        "interval_ms": [low, high],
        "mean_ms": float(ordered.mean()),
        "min_ms": float(ordered[0]),
        "p90_ms": float(np.quantile(ordered, 0.9)),
        "p99_ms": float(np.quantile(ordered, 0.99)),
        "fps": 1000.0 * batch / median if median else math.inf,
        "interval_fps": [1000.0 * batch / high if high else math.inf, 1000.0 * batch / low if low else math.inf],
        "narrow": bool(high - low <= NARROW * median),
        "times_ms": [round(float(value), 5) for value in times_ms],
    }


def median_ranks(count: int) -> tuple[int, int]:
    """The ranks (from 0) of two order statistics with the median between them with at least 95 % probability.

    Below six values no two ranks reach that; then the ranks of the first and the last value are returned.
    """
    # P(B <= k) for B ~ binomial(count, 1/2), summed up to the largest k with P <= 2.5 %.
    total, rank = 0.0, 0
    for k in range(count):
        log_ways = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        total += math.exp(log_ways - count * math.log(2))
        if total > (1 - _LEVEL) / 2:
            break
        rank = k + 1
    # The rank-th smallest (from 1) and its mirror image; ranks from 0.
    low = max(rank - 1, 0)
    return low, count - 1 - low


def _width(times: Sequence[int]) -> float:
    ordered = sorted(times)
    low, high = median_ranks(len(ordered))
    middle = ordered[len(ordered) // 2]
    return (ordered[high] - ordered[low]) / middle if middle else 0.0


def judge(
    measured: Mapping[str, Any] | None,
    *,
    subject: str,
    ground: Ground,
    gates: Gates | None = None,
    variant: str = "",
    soc: str | None = None,
    estimate: Mapping[str, Any] | None = None,
) -> list[Judgement]:
    """Judge a latency.

    Args:
        measured: what `measure` returned; None if there is nothing to measure.
        subject: ``torch``, ``onnx`` or ``om``.
        ground: of the session; an ``om`` is judged only on ``device``. What a double takes is shown, for those who try
            out baselines where there is no NPU.
        gates: of the spec.
        variant: name of the variant, for the gates.
        soc: what it ran on.
        estimate: what `pth2om.roofline.estimate` returned, shown beside an OM that was not measured.
    """
    if subject == "om" and ground != "device":
        judged = [_not_measured(f"{subject}/fps", gates, variant, estimate, ground)]
        if ground == "double" and measured is not None:
            details = {name: value for name, value in measured.items() if name != "version"}
            millis, interval = measured["median_ms"], measured["interval_ms"]
            judged.append(_figure(f"{subject}/median_ms", "ms", millis, interval, details, measured))
        return judged
    if measured is None:
        return [Judgement(f"{subject}/fps", None, "fps", None, "not_measured", message=say("latency.nothing"))]
    details = {name: value for name, value in measured.items() if name != "version"}
    judgements = [
        _figure(f"{subject}/median_ms", "ms", measured["median_ms"], measured["interval_ms"], details, measured),
        _figure(f"{subject}/fps", "fps", measured["fps"], measured["interval_fps"], {}, measured),
    ]
    if subject != "om" or gates is None:
        return judgements
    message = disturbed(measured)
    if message is not None:
        return [replace(judgement, message=message) for judgement in judgements]
    if variant in gates.reference_fps:
        judgements[1] = _fps_gate(measured, gates, gates.reference_fps[variant], soc)
    if variant in gates.latency_ms:
        judgements[0] = _limited(
            f"{subject}/median_ms",
            "ms",
            measured["median_ms"],
            measured["interval_ms"],
            Limit("<=", gates.latency_ms[variant]),
            details,
        )
    return judgements


def _figure(
    check: str,
    unit: str,
    value: float,
    interval: Sequence[float],
    details: Mapping[str, Any],
    measured: Mapping[str, Any],
) -> Judgement:
    message = None
    if not measured["narrow"]:
        width = 100 * (measured["interval_ms"][1] - measured["interval_ms"][0]) / measured["median_ms"]
        message = say("latency.unsteady", runs=measured["runs"], width=round(width, 1))
    return Judgement(
        check, value, unit, None, "shown", interval=(interval[0], interval[1]), message=message, details=details
    )


def _limited(
    check: str, unit: str, value: float, interval: Sequence[float], limit: Limit, details: Mapping[str, Any]
) -> Judgement:
    ends = limit.holds(interval[0]), limit.holds(interval[1])
    verdict: Verdict = "passed" if all(ends) else "inconclusive" if any(ends) else "failed"
    key = {"passed": None, "failed": "latency.too-slow", "inconclusive": "latency.unsettled"}[verdict]
    message = None
    if key is not None:
        low, high = round(interval[0], 3), round(interval[1], 3)
        message = say(key, value=round(value, 3), unit=unit, limit=str(limit), low=low, high=high)
    return Judgement(
        check, value, unit, limit, verdict, interval=(interval[0], interval[1]), message=message, details=details
    )


def _fps_gate(measured: Mapping[str, Any], gates: Gates, reference: float, soc: str | None) -> Judgement:
    limit = Limit(">=", reference)
    if gates.reference_soc is not None and not same_chip(gates.reference_soc, soc):
        message = say("latency.other-soc", reference=reference, reference_soc=gates.reference_soc, soc=soc or "-")
        interval = measured["interval_fps"]
        return Judgement(
            "om/fps",
            measured["fps"],
            "fps",
            None,
            "shown",
            interval=(interval[0], interval[1]),
            message=message,
            details={"reference_fps": reference, "reference_soc": gates.reference_soc},
        )
    return _limited(
        "om/fps", "fps", measured["fps"], measured["interval_fps"], limit, {"reference_soc": gates.reference_soc}
    )


def same_chip(reference: str, soc: str | None) -> bool:
    """Whether a reference measured on one SoC is valid for another: the same name, or an old name of its family."""
    if soc is None:
        return False
    if reference == soc:
        return True
    from pth2om.ascend import socs

    if reference not in socs.OLD_NAMES:
        return False
    old, new = socs.find(reference), socs.find(soc)
    return old is not None and new is not None and old.family == new.family


def _not_measured(
    check: str, gates: Gates | None, variant: str, estimate: Mapping[str, Any] | None, ground: Ground
) -> Judgement:
    reference = gates.reference_fps.get(variant) if gates else None
    limit = Limit(">=", reference) if reference is not None else None
    details: dict[str, Any] = {"ground": ground}
    if estimate is None or estimate.get("milliseconds") is None:
        message = say("latency.no-device")
        if estimate is not None:
            details["estimate"] = dict(estimate)
    else:
        details["estimate"] = dict(estimate)
        message = say(
            "latency.estimated",
            milliseconds=float(f"{estimate['milliseconds']:.3g}"),
            # Whole numbers in full: 1,670,000 is read at a glance, 1.67e+06 is not.
            fps=f"{estimate['fps']:.3g}"
            if estimate["fps"] < 999.5
            else f"{float(format(estimate['fps'], '.3g')):,.0f}",
            soc=estimate["soc"],
        )
    return Judgement(check, None, "fps", limit, "not_measured", message=message, details=details)


def _rate(fps: float) -> str:
    """Three digits, and large rates in full: 1,670,000 is read at a glance, 1.67e+06 is not."""
    shown = f"{fps:.3g}"
    return shown if fps < 999.5 else f"{float(shown):,.0f}"
