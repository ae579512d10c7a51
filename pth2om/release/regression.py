"""The question *regression*: did anything change since the baseline, by more than nights differ anyway?

Its gates are evidence like all others. ``failed``: worse by more than noise; ``inconclusive``: better by more than
noise, or changed where the noise is not known; ``not_reached``: the baseline has it, tonight has not; ``not_measured``:
it cannot be compared (another machine, ground or data). What is as it was is counted, one gate per model and variant.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pth2om.evidence import GateRecord, Verdict
from pth2om.language import Message, say
from pth2om.release import noise
from pth2om.release.baseline import Baseline, Entry, entry, kind_of
from pth2om.release.causes import first_changed, made_of
from pth2om.release.needs import weakness
from pth2om.release.night import Night
from pth2om.release.results import Results

_HIGHER_IS_BETTER = ("score", "cosine", "fps", "int8-layers", "agreement")
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Found:
    """What became of one figure.

    Attributes:
        verdict: see the module; ``passed`` where it is as it was.
        message: in words; None where it is as it was.
        change: tonight less the baseline.
        deviations: how far beyond noise, where that is known.
    """

    verdict: Verdict
    message: Message | None = None
    change: float | None = None
    probability: float | None = None


class Judge:
    """Compares nights with one baseline.

    Args:
        baseline: what to compare with.
        results: reads per-image results; None: intervals decide.
    """

    def __init__(self, baseline: Baseline, results: Results | None = None) -> None:
        self.baseline = baseline
        self._results = results
        self._level = noise.per_gate(len(baseline.entries))
        self._scales: dict[str, float] = {}
        machines: dict[tuple[str, ...], dict[str, tuple[float, ...]]] = {}
        for name, one in baseline.entries.items():
            if one.kind in ("latency", "closeness"):
                machine = (one.kind, one.ground) if one.kind == "closeness" else (one.kind, one.ground, one.host)
                machines.setdefault(machine, {})[name] = tuple(_distance(one.check, value) for value in one.values)
        for series in machines.values():
            self._scales |= noise.scales(series)

    def gate(self, gate: GateRecord, *, explained: Message | None = None) -> Found | None:
        """What became of one gate; None where its figure is not compared.

        Args:
            gate: of tonight.
            explained: what changed first, for the sentence.
        """
        kind = kind_of(gate)
        old = self.baseline.entries.get(gate.id)
        if kind is None or (old is None and gate.measured is None):
            return None
        if old is None:
            return Found("shown", say("release.new"))
        if gate.measured is None:
            return Found("not_measured", say("release.no-longer", before=_shown(old.value)))
        now = entry(gate, kind, [gate.measured])
        apart = _incomparable(old, now)
        if apart is not None:
            return Found("not_measured", apart)
        return self._compared(old, now, explained)

    def _compared(self, old: Entry, now: Entry, explained: Message | None) -> Found:
        change = now.value - old.value
        worse = (change < 0) if _higher_is_better(old.check) else (change > 0)
        probability: float | None = None
        if old.kind == "accuracy":
            change, worse, probability = self._accuracy(old, now, change, worse)
        elif old.kind == "count":
            probability = 1.0 if now.value == old.value else None
        elif math.isclose(now.value, old.value, rel_tol=_ROUNDING):
            probability = 1.0
        else:
            probability = self._scaled(old, now)
        if probability is not None and probability > self._level:
            return Found("passed", None, change, probability)
        values = {"before": _shown(old.value), "after": f"{_shown(now.value)} {old.unit}".rstrip()}
        cause = (explained or say("release.changed-nothing")).render()
        if probability is None:
            key = "release.count-changed" if old.kind == "count" else "release.noise-unknown"
            return Found("inconclusive", say(key, **values, cause=cause), change)
        key = "release.worse" if worse else "release.better"
        message = say(key, **values, change=_shown(change), probability=f"{probability:.1g}", cause=cause)
        return Found("failed" if worse else "inconclusive", message, change, probability)

    def _accuracy(self, old: Entry, now: Entry, change: float, worse: bool) -> tuple[float, bool, float | None]:
        found = None
        if self._results is not None and old.result and now.result:
            if old.result == now.result:
                return 0.0, False, 1.0
            found = self._results.difference(old.result, now.result, old.check)
        if found is not None:
            lost = found.drop
            if found.lost is not None and found.gained is not None:
                rate = noise.flips(old.flips)
                return -lost, lost > 0, noise.paired(found.lost, found.gained, found.images, rate)
            return -lost, lost > 0, noise.apart((0.0, 0.0, 0.0), (lost, *found.interval))
        if change == 0:
            return change, worse, 1.0
        if old.interval is None or now.interval is None:
            return change, worse, None
        return change, worse, noise.apart((old.value, *old.interval), (now.value, *now.interval))

    def _scaled(self, old: Entry, now: Entry) -> float | None:
        name = next((name for name, one in self.baseline.entries.items() if one is old), "")
        one_night = self._scales.get(name)
        values = [_distance(old.check, value) for value in old.values]
        tonight = _distance(old.check, now.value)
        if one_night is None or len(values) < noise.LEAST_NIGHTS or min(*values, tonight) <= 0:
            return None
        if old.kind == "latency":
            one_night = max(one_night, noise.own(old.value, old.interval), noise.own(now.value, now.interval))
        return noise.tail(noise.deviations(values, tonight, one_night))

    def night(self, night: Night) -> list[GateRecord]:
        """The gates of the question *regression*, of a whole night."""
        judged: list[GateRecord] = []
        same: dict[tuple[str, str], int] = {}
        causes: dict[tuple[str, str], Message | None] = {}
        for gate in night.gates.values():
            subject = (gate.model, gate.variant)
            if subject not in causes:
                causes[subject] = self._cause(night, *subject)
            if gate.verdict == "not_reached":
                continue
            found = self.gate(gate, explained=causes[subject])
            if found is None:
                continue
            if found.verdict == "passed":
                same[subject] = same.get(subject, 0) + 1
            else:
                judged.append(self._record(gate, found))
        judged += self._missing(night)
        judged += self._weak(night)
        for (model, variant), cause in causes.items():
            count = same.get((model, variant), 0)
            if count:
                judged.append(
                    self._summary(model, variant, "unchanged", "passed", say("release.unchanged", count=count))
                )
            if cause is not None:
                judged.append(self._summary(model, variant, "first-changed", "shown", cause))
        return judged

    def _cause(self, night: Night, model: str, variant: str) -> Message | None:
        old = self.baseline.made.get(f"{model}/{variant}")
        return None if old is None else first_changed(old, made_of(night, model, variant))

    def _missing(self, night: Night) -> Iterable[GateRecord]:
        """What the baseline has of a model that ran tonight; and the models that did not run."""
        ran = {gate.model for gate in night.gates.values()}
        # What other shards hold is compared there, or by whoever merges them.
        others = night.coverage.models_elsewhere if night.coverage.is_shard else set()
        unreached = [*night.coverage.unreached, *(one for one in night.gates.values() if one.verdict == "not_reached")]
        told = {one.id for one in unreached}
        whole = {(one.model, one.variant, one.soc, one.question) for one in unreached if one.details.get("whole")}
        absent: dict[str, int] = {}
        lost: dict[tuple[str, str], int] = {}
        for name, old in self.baseline.entries.items():
            # The run itself names these; one gate a variant counts them, without which `compare` would exit with 0.
            if name in told or (name not in night.gates and (old.model, old.variant, old.soc, old.question) in whole):
                lost[old.model, old.variant] = lost.get((old.model, old.variant), 0) + 1
                continue
            if name in night.gates:
                continue
            if old.model in others - ran:
                continue
            if old.model not in ran:
                absent[old.model] = absent.get(old.model, 0) + 1
                continue
            message = say("release.missing", before=_shown(old.value))
            yield GateRecord(
                old.model, old.variant, old.soc, "regression", f"{old.question}/{old.check}", None, old.unit, None,
                "not_reached", "host", message=message, details=self._details(old.dataset),
            )  # fmt: skip
        for (model, variant), count in lost.items():
            yield self._summary(model, variant, "lost", "not_reached", say("release.lost", count=count))
        for model, count in absent.items():
            yield self._summary(model, "", "not-run", "not_measured", say("release.not-run", count=count))

    def _weak(self, night: Night) -> Iterable[GateRecord]:
        """Models whose latency on a device is judged by few runs: a step that is not found is no proof of none."""
        runs: dict[str, int] = {}
        for name, old in self.baseline.entries.items():
            if old.kind == "latency" and old.ground != "host" and name in night.gates:
                runs[old.model] = min(len(old.values), runs.get(old.model, len(old.values)))
        for model, count in runs.items():
            message = weakness(count)
            if message is not None:
                yield self._summary(model, "", "weak-baseline", "shown", message)

    def _record(self, gate: GateRecord, found: Found) -> GateRecord:
        dataset = gate.details.get("dataset")
        details = self._details(dataset if isinstance(dataset, str) else "")
        details |= {"probability": found.probability, "level": self._level} if found.probability is not None else {}
        return GateRecord(
            gate.model, gate.variant, gate.soc, "regression", f"{gate.question}/{gate.check}", found.change, gate.unit,
            None, found.verdict, gate.ground if gate.provenance is not None else "host", message=found.message,
            provenance=gate.provenance, digests=dict(gate.digests), details=details, host=gate.host,
        )  # fmt: skip

    def _summary(self, model: str, variant: str, check: str, verdict: Verdict, message: Message) -> GateRecord:
        return GateRecord(
            model, variant, None, "regression", f"regression/{check}", None, "", None, verdict, "host",
            message=message, details=self._details(""),
        )  # fmt: skip

    def _details(self, dataset: str) -> dict[str, object]:
        return {"baseline": self.baseline.digest, **({"dataset": dataset} if dataset else {})}


_CONFIRMATIONS = 2


def confirmed(judge: Judge, gates: list[GateRecord], again: Callable[[], list[GateRecord]]) -> list[GateRecord]:
    """A latency as measured, or measured again where it would be an alarm: an alarm needs all measurements.

    Args:
        judge: of the baseline.
        gates: of the question *latency*.
        again: measures once more.

    Returns:
        The measurement that is nearest to the baseline.
    """
    nearest = gates
    for _ in range(_CONFIRMATIONS):
        if not _alarms(judge, nearest):
            break
        nearest = min((nearest, again()), key=lambda one: _far(judge, one))
    return nearest


def _alarms(judge: Judge, gates: Iterable[GateRecord]) -> bool:
    found = [judge.gate(gate) for gate in gates]
    return any(one is not None and one.probability is not None and one.verdict != "passed" for one in found)


def _far(judge: Judge, gates: Iterable[GateRecord]) -> float:
    """The distance from the baseline, of logarithms."""
    for gate in gates:
        old = judge.baseline.entries.get(gate.id)
        if old is not None and gate.measured and old.kind == "latency" and min(old.value, gate.measured) > 0:
            return abs(math.log(gate.measured / statistics.median(old.values)))
    return math.inf


def _incomparable(old: Entry, now: Entry) -> Message | None:
    """Why two figures are never compared: they stand on other ground, another machine, other data or another kind."""
    if old.ground != now.ground:
        return say("release.other-ground", before=old.ground, after=now.ground)
    if old.kind != now.kind or old.unit != now.unit:
        return say("release.other-kind", before=old.unit, after=now.unit)
    if old.kind == "latency" and old.host != now.host:
        return say("release.other-machine", before=old.host, after=now.host)
    for role in ("dataset", "samples"):
        before, after = old.digests.get(role, ""), now.digests.get(role, "")
        if before and after and before != after:
            return say("release.other-data", before=before[:12], after=after[:12])
    return None


def _higher_is_better(check: str) -> bool:
    return check.rpartition("/")[2] in _HIGHER_IS_BETTER


def _distance(check: str, value: float) -> float:
    """A figure as a positive number that is small when things are good: a cosine's distance from one."""
    return 1 - value if check.endswith("/cosine") else abs(value)


def _shown(value: float) -> str:
    return f"{value:.6g}"
