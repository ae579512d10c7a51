"""The records of evidence: plan, outcome, stage and gate of a run, as frozen dataclasses."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal

from pth2om.language import Message, joined, say
from pth2om.session import Ground, Provenance

Verdict = Literal["passed", "failed", "inconclusive", "not_measured", "not_reached", "shown"]
"""``not_reached``: the run ended before the gate was measured; ``shown``: a figure that has no limit."""
Severity = Literal["error", "warning", "info"]
Question = Literal[
    "checkpoint", "export", "preflight", "closeness", "quantization", "accuracy", "latency", "regression"
]
Relation = Literal["<=", ">=", "==", "<", ">"]

FORMAT = 2
"""Version of the record layout; readers refuse a newer one."""
_RELATIONS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Limit:
    """What a measured value must satisfy, e.g. ``Limit(">=", 0.999)``."""

    relation: Relation
    value: float

    def holds(self, measured: float) -> bool:
        """Whether ``measured <relation> value``; NaN satisfies nothing."""
        return not math.isnan(measured) and _RELATIONS[self.relation](measured, self.value)

    @property
    def text(self) -> str:
        """The value with the digits it was written with: 0.9999999 is not 1."""
        return f"{self.value:.12g}"

    def beside(self, measured: float) -> str:
        """A measured value with six digits, or with as many more as keep it on its own side of the limit.

        >>> Limit("<=", 0.17).beside(0.17000000012), Limit("<=", 0.17).beside(1 / 6)
        ('0.1700000001', '0.166667')
        """
        held = self.holds(measured)
        for digits in range(6, 18):
            shown = f"{measured:.{digits}g}"
            if self.holds(float(shown)) == held:
                break
        return shown

    def __str__(self) -> str:
        return f"{self.relation} {self.text}"


@dataclass(frozen=True)
class Finding:
    """Something noticed that is not a measurement: a tracer warning, a pre-flight rule, a mended graph.

    Attributes:
        rule: stable id, e.g. ``export.tracer-warning`` or ``preflight.int64-arithmetic``.
        severity: ``error`` stops the stage's verdict from passing.
        message: what, with its fix in the catalogue.
        node: the graph node, layer or key concerned.
        details: JSON values a program may want.
    """

    rule: str
    severity: Severity
    message: Message
    node: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def line(self, place: str = "", *, rule: bool = False, fix: bool = True) -> str:
        """How a finding is printed: place, severity, perhaps its rule, the sentence, and below it what to do.

        Args:
            place: of what, e.g. a file and line, or a layer; made visible already.
            rule: whether its id is printed.
            fix: whether it says what to do.
        """
        said = self.message.with_fix() if fix else self.message.render()
        return joined((place, self.severity_name, self.rule if rule else "", said), ": ")

    @property
    def severity_name(self) -> str:
        """The severity in the reader's language."""
        return say(f"evidence.severity-{self.severity}").render()

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "message": self.message.to_json(),
            "node": self.node,
            "details": dict(self.details),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finding:
        """The inverse of `to_json`."""
        return cls(
            data["rule"],
            data["severity"],
            Message.from_json(data["message"]),
            data.get("node"),
            data.get("details", {}),
        )


@dataclass(frozen=True)
class RunRecord:
    """The first line of an evidence file: one pytest (or CLI) run.

    Attributes:
        run: id of the run, also its folder's name under ``reports/``.
        started: ISO 8601 time with zone.
        command: the command line as typed.
        environment: versions, CPU, memory, OS; what a reader needs to repeat the run.
    """

    run: str
    started: str
    command: tuple[str, ...]
    environment: Mapping[str, Any]
    format: int = FORMAT
    kind: Literal["run"] = "run"


@dataclass(frozen=True)
class StageRecord:
    """One conversion step of one model or variant.

    Attributes:
        model: the spec's name.
        variant: ``fp16-bs1``, or ``""`` where the step is the model's.
        stage: ``checkpoint``, ``onnx``, ``quantized``, ``om``.
        digest: sha256 of the artifact (of its main file).
        key: the store's key, for ``pth2om store why``.
        cached: whether the artifact came from the store.
        seconds: what building it took when it was built.
        provenance: who built it.
        command: the exact command line, where the step is one (atc); the same for emulator and real toolchain.
        findings: what was noticed.
        details: stage specific: exporter, opset and reason; branch of the checkpoint; sizes in bytes.
        inputs: role -> digest of what it was made of: weights, the net's files, the model before.
    """

    model: str
    variant: str
    stage: str
    digest: str
    key: str
    cached: bool
    seconds: float
    provenance: Provenance
    command: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["stage"] = "stage"


@dataclass(frozen=True)
class Judgement:
    """What a measuring room says of one gate; the caller adds model, variant, toolchain and digests to make evidence.

    Attributes: as in `GateRecord`.
    """

    check: str
    measured: float | None
    unit: str
    limit: Limit | None
    verdict: Verdict
    interval: tuple[float, float] | None = None
    message: Message | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True)
class GateRecord:
    """One measured value against one gate.

    Attributes:
        model: the spec's name.
        variant: ``fp16-bs1``, or ``""`` for a gate of the model itself.
        soc: the SoC asked for, or None.
        question: which question of the report it answers.
        check: what was measured, stable and machine readable: ``<subject>/<slice>/<metric>``, e.g.
            ``onnx~om/scores/cosine``, ``top1/drop``, ``om/fps``.
        measured: the value; None when not measured.
        unit: ``""``, ``points``, ``ms``, ``fps``, ``images``, ...
        limit: what it had to satisfy; None for a figure that is shown but not judged.
        interval: the 95 % interval of `measured`, where it has one.
        verdict: see the design's two axes.
        ground: where the figure comes from.
        message: why, in words; with what to do as its fix.
        provenance: who computed the judged side.
        digests: sha256 of spec, checkpoint, onnx, quantized, om, dataset, calibration, samples as far as they took
            part.
        details: check specific: worst sample, histogram, per-image disagreements, pictures, both bands.
        seed: of whatever was random.
        cached: whether the measurement came from the store, and then `measured_at` says when it was made.
        measured_at: ISO 8601 time of the measurement.
        host: fingerprint of the machine that measured.
    """

    model: str
    variant: str
    soc: str | None
    question: Question
    check: str
    measured: float | None
    unit: str
    limit: Limit | None
    verdict: Verdict
    ground: Ground
    interval: tuple[float, float] | None = None
    message: Message | None = None
    provenance: Provenance | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    cached: bool = False
    measured_at: str = ""
    host: str = ""
    kind: Literal["gate"] = "gate"

    @functools.cached_property
    def id(self) -> str:
        """``yolov6n/fp16-bs1/Ascend310B1/accuracy/om/mAP50-95/drop@coco``: the same gate has the same id in every run.

        `check` names the roles and the slice; the version of CANN is no part, so that an upgrade keeps its history.
        """
        dataset = self.details.get("dataset")
        where = f"{self.model}/{self.variant or '-'}/{self.soc or '-'}/{self.question}/{self.check}"
        return f"{where}@{dataset}" if isinstance(dataset, str) and dataset else where


@dataclass(frozen=True)
class Expected:
    """A gate that a planned test has to give.

    Attributes:
        question: as in `GateRecord`.
        checks: names of the gate; where only the data decide which of them is measured, any one will do. A name that
            ends in ``*`` stands for all that begin so, of which at least one is required.
        dataset: the dataset in the gate's id, or ``""``.
    """

    question: Question
    checks: tuple[str, ...]
    dataset: str = ""

    def is_given(self, gate: GateRecord) -> bool:
        """Whether ``gate`` is the one, or one of those."""
        if gate.question != self.question or (self.dataset and gate.details.get("dataset") != self.dataset):
            return False
        return any(
            gate.check.startswith(name[:-1]) if name.endswith("*") else gate.check == name for name in self.checks
        )


@dataclass(frozen=True)
class Planned:
    """One test about a model that a run collected.

    Attributes:
        item: pytest's node id.
        model: the spec's name; of a test that is about no model, its file.
        variant: as in `GateRecord`.
        soc: as in `GateRecord`.
        question: which question of the report it answers.
        check: what a gate is called that stands for the whole test, ``<question>/<test>``.
        gates: what it has to give, as far as that is known before it runs.
        measures: whether it has to give any gate at all, also where `gates` names none.
    """

    item: str
    model: str
    variant: str
    soc: str | None
    question: Question
    check: str
    gates: tuple[Expected, ...] = ()
    measures: bool = False

    @property
    def row(self) -> tuple[str, str, str, str, Question, str]:
        """Its name, as `PlanRecord.elsewhere` holds it."""
        return self.item, self.model, self.variant, self.soc or "", self.question, self.check

    @classmethod
    def of_row(cls, row: tuple[str, str, str, str, Question, str]) -> Planned:
        """A test of another shard, of which the gates are not known here."""
        item, model, variant, soc, question, check = row
        return cls(item, model, variant, soc or None, question, check, measures=True)

    def gate(self, verdict: Verdict, message: Message) -> GateRecord:
        """A gate that stands for the whole test, where the test left none of its own."""
        return self._gate(verdict, message, self.question, self.check, whole=True)

    def missing(self, given: Iterable[GateRecord], message: Message) -> list[GateRecord]:
        """What the test has to give and is not among ``given``, as gates that were not reached.

        Gates that stand for a whole test answer for all of them: beside an error that says why nothing was measured
        nothing else is missing. Next to other gates they do not, since these show that the test began to measure.

        Args:
            given: what the test gave.
            message: why.
        """
        own = [gate for gate in given if (gate.model, gate.variant, gate.soc) == (self.model, self.variant, self.soc)]
        if own and all(gate.details.get("whole") for gate in own):
            return []
        if not self.gates and self.measures and not own:
            return [self.gate("not_reached", message)]
        return [
            self._gate("not_reached", message, each.question, each.checks[0], dataset=each.dataset)
            for each in self.gates
            if not any(each.is_given(gate) for gate in own)
        ]

    def _gate(
        self, verdict: Verdict, message: Message, question: Question, check: str, **details: object
    ) -> GateRecord:
        details = {"item": self.item, **{name: value for name, value in details.items() if value}}
        return GateRecord(
            self.model, self.variant, self.soc, question, check, None, "", None, verdict, "host",
            message=message, details=details,
        )  # fmt: skip


@dataclass(frozen=True)
class SpecText:
    """A model's spec as it was when the run began: its limits were fixed before anything was measured.

    Attributes:
        model: its name.
        digest: sha256 of the file ``model.toml``.
        text: the file.
    """

    model: str
    digest: str
    text: str


@dataclass(frozen=True)
class PlanRecord:
    """What a run is to answer; written before anything is measured.

    Attributes:
        items: every collected test about a model.
        soc: the SoC that the run names, or None; runs for two SoCs have tests of the same names.
        shard: ``2/4`` where the run is one of several that share the tests among them, else empty.
        elsewhere: the tests that the other shards have: the first six fields of `Planned`, with ``""`` for no SoC. A
            night of ten shards names each test nine times, so they are rows and no records.
        specs: of the models that the items are about.
    """

    items: tuple[Planned, ...]
    soc: str | None = None
    shard: str = ""
    elsewhere: tuple[tuple[str, str, str, str, Question, str], ...] = ()
    specs: tuple[SpecText, ...] = ()
    kind: Literal["plan"] = "plan"


@dataclass(frozen=True)
class OutcomeRecord:
    """That a planned test came to its end; its gates, if it has any, stand before.

    Attributes:
        item: pytest's node id.
        outcome: pytest's word for it.
        seconds: what it took.
    """

    item: str
    outcome: Literal["passed", "failed", "skipped"]
    seconds: float
    kind: Literal["outcome"] = "outcome"


@dataclass(frozen=True)
class EndRecord:
    """The last line of a run that came to its end, also of an interrupted one; a killed run has none.

    Attributes:
        records: how many lines the run wrote before this one.
        interrupted: whether it was stopped from outside.
    """

    records: int
    interrupted: bool = False
    kind: Literal["end"] = "end"


@dataclass(frozen=True)
class WaiverRecord:
    """What became of one entry of the waivers in a run; of one that cannot be read, what is wrong with it.

    Attributes:
        gate: the pattern of evidence ids.
        stage: the question.
        owner: who answers for it.
        expires: its last day, ISO 8601.
        days: how many days were left on the day of the run; negative after its last day.
        used: whether it waived anything.
        passed: the first gate that passed although it is waived, or empty.
        wrong: why the entry, or the whole file, waives nothing; then the others are empty.
    """

    gate: str
    stage: str
    owner: str
    expires: str
    days: int
    used: bool = False
    passed: str = ""
    wrong: Message | None = None
    kind: Literal["waiver"] = "waiver"


@dataclass(frozen=True)
class MergedRecord:
    """The first line of a file that holds several runs, each as it was written.

    Attributes:
        seals: the running digest at the end of each run, sorted; a run that is missing or was changed is found by it.
    """

    seals: tuple[str, ...]
    kind: Literal["merged"] = "merged"


Record = RunRecord | PlanRecord | StageRecord | GateRecord | OutcomeRecord | WaiverRecord | EndRecord | MergedRecord


def to_json(record: Record) -> dict[str, Any]:
    """The record as JSON values (NaN and infinities as the strings ``NaN``, ``Infinity``, ``-Infinity``)."""
    written: dict[str, Any] = {}
    if isinstance(record, StageRecord):
        written["findings"] = [finding.to_json() for finding in record.findings]
    elif isinstance(record, GateRecord) and record.message is not None:
        written["message"] = record.message.to_json()
    elif isinstance(record, WaiverRecord) and record.wrong is not None:
        written["wrong"] = record.wrong.to_json()
    return {name: _json_value(written.get(name, getattr(record, name))) for name in record.__dataclass_fields__}


def properties(records: Iterable[Record]) -> Iterator[tuple[str, str]]:
    """The gates among `records` as JUnit shows them: ``gate.<check>``, ``passed emulated 0.99998 >= 0.999``."""
    for record in records:
        if isinstance(record, GateRecord):
            words: list[str] = [record.verdict, record.ground]
            if record.measured is not None:
                shown = f"{record.measured:.9g}" if record.limit is None else record.limit.beside(record.measured)
                words += [shown, record.unit]
            words += [] if record.limit is None else [str(record.limit)]
            waived = record.details.get("waived")
            words += [f"WAIVED by {waived.get('owner')}"] if isinstance(waived, Mapping) else []
            yield f"gate.{record.check}", " ".join(word for word in words if word)


def _json_value(value: Any) -> Any:  # noqa: ANN401 - JSON values of any depth
    """Dataclasses to objects, tuples to lists, NumPy scalars to Python ones, non-finite floats to their names."""
    if value is None or isinstance(value, str | int):
        return value
    if is_dataclass(value):
        return {name: _json_value(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number
