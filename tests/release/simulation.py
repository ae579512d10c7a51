"""Simulated nights, and what the judgement of `pth2om.release.noise` and its rivals make of them.

What varies between nights that changed nothing is stated here:

* accuracy: every night the artifacts are made anew (retrained or recalibrated). On 5,000 images each flips 0.5 %
  against the model's own answers, as many to wrong as right, so that two nights differ in 1 % of the images. The
  baseline's own noise is shared by all nights that are compared with it.
* latency: a night's median varies by 0.7 % from night to night and, as a rival sees it, by 1 % from repeat to repeat;
  every hundredth measurement is disturbed, by 5 to 30 %.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pth2om.release import noise
from pth2om.release.needs import least_alarm

GATES = 100  # of each kind
IMAGES = 5000
FLIPPED = 25  # images that one night's artifacts flip, on average
RUNS = 10  # of a baseline
NIGHT_NOISE = 0.007
REPEAT_NOISE = 0.01
REPEATS = 20
SCORE = 0.9


@dataclass
class Nights:
    """One baseline and one night after another.

    Attributes:
        lost: net images that the reference lost against the model's own answers, (gates,).
        flips: (images that flipped, images) between the baseline's runs, per gate.
        times: medians of the baseline's runs in ms, (runs, gates).
    """

    stream: np.random.Generator
    lost: np.ndarray
    flips: list[list[tuple[int, int]]]
    times: np.ndarray

    @classmethod
    def begin(cls, stream: np.random.Generator, runs: int = RUNS) -> Nights:
        wrong, right = (stream.poisson(FLIPPED / 2, (runs, GATES)) for _ in range(2))
        changed = wrong + right
        flips = [[(int(changed[i, g] + changed[i + 1, g]), IMAGES) for i in range(runs - 1)] for g in range(GATES)]
        return cls(stream, (wrong - right)[-1], flips, np.stack([latencies(stream) for _ in range(runs)]))

    def score(self, loss: float = 0.0) -> np.ndarray:
        """Net images lost against the reference by a night's artifacts, (gates,)."""
        wrong, right = (self.stream.poisson(FLIPPED / 2, GATES) for _ in range(2))
        return wrong - right + self.stream.poisson(loss * IMAGES, GATES) - self.lost


def latencies(stream: np.random.Generator, slower: float = 0.0) -> np.ndarray:
    """One measurement of every gate."""
    disturbed = np.where(stream.random(GATES) < 0.01, stream.uniform(0.05, 0.3, GATES), 0.0)
    return 10 * (1 + slower) * (1 + disturbed) * np.exp(NIGHT_NOISE * stream.standard_normal(GATES))


Judged = Callable[[Nights, np.ndarray, Callable[[], np.ndarray]], tuple[np.ndarray, np.ndarray]]
"""(nights, net images lost, measures all latencies) -> alarms of accuracy and of latency, bool (gates,) each."""


def ours() -> Judged:
    level = noise.per_gate(2 * GATES)
    known: list[tuple[Nights, list[int], dict[str, float]]] = []

    def judge(nights: Nights, lost: np.ndarray, measure: Callable[[], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        if not known or known[0][0] is not nights:
            limits = [least_alarm(IMAGES, noise.flips(counts), level) for counts in nights.flips]
            series = {str(g): nights.times[:, g].tolist() for g in range(GATES)}
            known[:] = [(nights, limits, noise.scales(series))]
        _, limits, scales = known[0]
        times = measure()

        def beyond(gate: int, value: float) -> bool:
            return noise.tail(noise.deviations(nights.times[:, gate].tolist(), value, scales[str(gate)])) <= level

        slow = np.array([abs(np.log(times[g] / 10)) > 0.01 and beyond(g, times[g]) for g in range(GATES)])
        for _ in range(2):
            if slow.any():
                again = measure()
                slow &= np.array([bool(slow[g]) and beyond(g, again[g]) for g in range(GATES)])
        return np.abs(lost) >= np.array(limits), slow

    return judge


def fixed(nights: Nights, lost: np.ndarray, measure: Callable[[], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """10 % of the figure, against the last run."""
    return np.abs(lost) > 0.1 * SCORE * IMAGES, np.abs(measure() / nights.times[-1] - 1) > 0.1


def t_test(nights: Nights, lost: np.ndarray, measure: Callable[[], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A t-test per gate at 5 %, of the images (paired) and of the repeats within both nights."""
    differing = np.maximum(nights.stream.poisson(2 * FLIPPED, GATES), np.abs(lost))
    error = np.sqrt(2 / REPEATS) * REPEAT_NOISE
    return np.abs(lost) / np.sqrt(np.maximum(differing, 1)) > 1.96, np.abs(
        np.log(measure() / nights.times[-1])
    ) > 2.02 * error


JUDGES: dict[str, Callable[[], Judged]] = {
    "pth2om": ours,
    "fixed 10 %": lambda: fixed,
    "t-test per gate": lambda: t_test,
}


@dataclass(frozen=True)
class Outcome:
    """Of one judge.

    Attributes:
        alarms: false ones in 1,000 nights of 200 gates.
        steps: part of the latency steps of 5 % that were found within two nights.
        losses: the same of accuracy losses of one point.
    """

    judge: str
    alarms: float
    steps: float
    losses: float


def simulate(
    nights: int, *, seed: int = 0, per_baseline: int = 100, runs: int = RUNS, only: str | None = None
) -> Iterator[Outcome]:
    """Every judge, or one, on the same kind of nights; ``runs`` of the baseline."""
    for name, make in JUDGES.items():
        if only not in (None, name):
            continue
        stream, judge = np.random.default_rng(seed), make()
        alarms = 0
        found = np.zeros(2)
        baselines = max(1, nights // per_baseline)
        for _ in range(baselines):
            past = Nights.begin(stream, runs)
            for _ in range(per_baseline):
                lost, slow = judge(past, past.score(), functools.partial(latencies, stream))
                alarms += int(lost.sum() + slow.sum())
            caught = np.zeros((2, GATES), dtype=bool)
            for _ in range(2):
                lost, slow = judge(past, past.score(0.01), functools.partial(latencies, stream, 0.05))
                caught |= np.stack([slow, lost])
            found += caught.mean(axis=1)
        yield Outcome(name, 1000 * alarms / (baselines * per_baseline), *(found / baselines))
