"""What the figures of a baseline need before a change of them can be told from noise: repeats, and images."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pth2om.language import Message, say
from pth2om.release import noise
from pth2om.release.baseline import Baseline, Entry

SIMULATED = ((3, 7.75, 75.8, 98.5), (5, 0.35, 90.9, 98.9), (10, 0.05, 97.9, 99.1))
"""Runs of the baseline; false alarms in 1,000 nights of 200 figures; percent of latency steps of 5 %, and of losses of
1 point at n = 5,000, that are found within two nights: ``python -m benchmarks.regression``, 20,000 nights each.
"""


ENOUGH_PERCENT = 95
"""Of latency steps of 5 % that a baseline finds within two nights: with fewer it is called a weak one."""


def weakness(runs: int) -> Message | None:
    """What a baseline of so many runs of a latency misses; None where it finds `ENOUGH_PERCENT` of the steps."""
    enough, _, found, _ = next(row for row in SIMULATED if row[2] >= ENOUGH_PERCENT)
    if runs >= enough:
        return None
    less = max((row[2] for row in SIMULATED if noise.LEAST_NIGHTS <= row[0] <= runs), default=0)
    key = "release.weak-baseline" if less else "release.weak-baseline-unused"
    return say(key, runs=runs, less=less, wanted=enough, found=found)


def needs(baseline: Baseline) -> Iterator[Message]:
    """One sentence per kind of figure and per dataset of accuracy, and what baselines of so many runs are good for."""
    level = noise.per_gate(len(baseline.entries))
    yield say("release.needs-level", level=f"{level:.1g}", gates=max(len(baseline.entries), noise.GATES))
    yield from _scaled("closeness", [one for one in baseline.entries.values() if one.kind == "closeness"])
    machines: dict[str, list[Entry]] = {}
    for one in baseline.entries.values():
        if one.kind == "latency":
            machines.setdefault(f"{_ground(one.ground)} {one.host}", []).append(one)
    for machine, entries in sorted(machines.items()):
        yield from _scaled(machine, entries)
    images: dict[tuple[str, int, bool], tuple[int, Entry]] = {}
    for one in baseline.entries.values():
        if one.kind == "accuracy" and one.n:
            name = (one.dataset, one.n, bool(one.flips))
            images[name] = (images.get(name, (0, one))[0] + 1, one)
    for (dataset, n, known), (count, one) in sorted(images.items()):
        rate = noise.flips(one.flips)
        least = least_alarm(n, rate, level)
        yield say(
            f"release.needs-{'flips' if known else 'images'}",
            dataset=dataset,
            count=count,
            images=n,
            points=f"{100 * least / n:.3g}",
            least=least,
            rate=f"{100 * rate:.2g}" if rate is not None else "-",
        )
    yield say("release.needs-simulated")
    for runs, alarms, steps, losses in SIMULATED:
        key = "release.needs-row" if runs >= noise.LEAST_NIGHTS else "release.needs-row-unused"
        yield say(key, runs=runs, alarms=alarms, steps=steps, losses=losses)


def least_alarm(images: int, rate: float | None, level: float) -> int:
    """How many images more must be lost than gained before it is an alarm.

    Args:
        images: of the dataset.
        rate: at which they flip, see `noise.flips`; None: nothing is gained, and whatever differs was lost.
        level: of one gate.
    """
    low, high = 1, images
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if noise.paired(middle, 0, images, rate) <= level else (middle + 1, high)
    return low


def _ground(name: str) -> str:
    return name if name == "host" else say(f"release.ground-{name}").render()


def _scaled(name: str, entries: list[Entry]) -> Iterator[Message]:
    if not entries:
        return
    pairs = sum(max(0, len(one.values) - 1) for one in entries)
    runs = min(len(one.values) for one in entries)
    wanted = max(noise.LEAST_NIGHTS, 1 + math.ceil(noise.LEAST_DIFFERENCES / len(entries)))
    enough = pairs >= noise.LEAST_DIFFERENCES and runs >= noise.LEAST_NIGHTS
    key = "release.needs-met" if enough else "release.needs-runs"
    yield say(key, name=name, count=len(entries), runs=runs, wanted=wanted)
