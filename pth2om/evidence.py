"""Evidence: the one data structure that leaves a test.

A run writes ``evidence.jsonl``, one JSON object a line, of three kinds:

* ``run`` (first line): who ran, when, on what, with which command;
* ``stage``: one conversion step: its artifact, options, exact command, findings, whether it came from the store;
* ``gate``: one measured value against one limit, with its verdict and its ground.

Reports, baselines, trends and sign-off are pure functions of that file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pth2om.errors import DataError
from pth2om.language import Message
from pth2om.session import Ground, Provenance

Verdict = Literal["passed", "failed", "inconclusive", "not_measured", "not_reached", "shown"]
"""``not_reached``: the run ended before the gate was measured; ``shown``: a figure that has no limit."""
Severity = Literal["error", "warning", "info"]
Question = Literal[
    "checkpoint", "export", "preflight", "closeness", "quantization", "accuracy", "latency", "robustness"
]
Relation = Literal["<=", ">=", "==", "<", ">"]

FORMAT = 1
"""Version of the record layout; readers refuse a newer one."""


@dataclass(frozen=True)
class Limit:
    """What a measured value must satisfy, e.g. ``Limit(">=", 0.999)``."""

    relation: Relation
    value: float

    def holds(self, measured: float) -> bool:
        """Whether ``measured <relation> value``; NaN satisfies nothing."""
        if math.isnan(measured):
            return False
        return {
            "<=": measured <= self.value,
            ">=": measured >= self.value,
            "==": measured == self.value,
            "<": measured < self.value,
            ">": measured > self.value,
        }[self.relation]

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
        stage: ``checkpoint``, ``onnx``, ``clean``, ``quantized``, ``om``.
        digest: sha256 of the artifact (of its main file).
        key: the store's key, for ``pth2om store why``.
        cached: whether the artifact came from the store.
        seconds: what building it took when it was built.
        provenance: who built it.
        command: the exact command line, where the step is one (atc); the same for emulator and real toolchain.
        findings: what was noticed.
        details: stage specific: exporter, opset and reason; branch of the checkpoint; sizes in bytes.
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
        digests: sha256 of checkpoint, onnx, om, dataset, samples as far as they took part.
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


Record = RunRecord | StageRecord | GateRecord


def to_json(record: Record) -> dict[str, Any]:
    """The record as JSON values (NaN and infinities as the strings ``NaN``, ``Infinity``, ``-Infinity``)."""
    data = asdict(record)
    if isinstance(record, StageRecord):
        data["findings"] = [finding.to_json() for finding in record.findings]
    if isinstance(record, GateRecord) and record.message is not None:
        data["message"] = record.message.to_json()
    plain: dict[str, Any] = _plain(data)
    return plain


def from_json(data: Mapping[str, Any]) -> Record:
    """The inverse of `to_json`; unknown keys of the same format are ignored, so old readers read newer files.

    Raises:
        DataError: the record is of a kind or format this version does not know.
    """
    kind = data.get("kind")
    if kind == "run":
        if int(data.get("format", 0)) > FORMAT:
            raise DataError("evidence.newer-format", format=data["format"], known=FORMAT)
        return RunRecord(
            run=data["run"],
            started=data["started"],
            command=tuple(data["command"]),
            environment=data["environment"],
            format=int(data["format"]),
        )
    if kind == "stage":
        return StageRecord(
            **{name: data[name] for name in ("model", "variant", "stage", "digest", "key", "cached", "seconds")},
            provenance=Provenance(**data["provenance"]),
            command=tuple(data.get("command", ())),
            findings=tuple(Finding.from_json(finding) for finding in data.get("findings", ())),
            details=data.get("details", {}),
        )
    if kind == "gate":
        names = ("model", "variant", "soc", "question", "check", "unit", "verdict", "ground")
        interval = data.get("interval")
        return GateRecord(
            **{name: data[name] for name in names},
            measured=_number(data.get("measured")),
            limit=Limit(data["limit"]["relation"], float(data["limit"]["value"])) if data.get("limit") else None,
            interval=None if interval is None else (float(interval[0]), float(interval[1])),
            message=Message.from_json(data["message"]) if data.get("message") else None,
            provenance=Provenance(**data["provenance"]) if data.get("provenance") else None,
            digests=data.get("digests", {}),
            details=data.get("details", {}),
            seed=data.get("seed"),
            cached=bool(data.get("cached", False)),
            measured_at=data.get("measured_at", ""),
            host=data.get("host", ""),
        )
    raise DataError("evidence.unknown-kind", kind=str(kind))


def properties(records: Iterable[Record]) -> Iterator[tuple[str, str]]:
    """The gates among `records` as JUnit shows them: ``gate.<check>``, ``passed emulated 0.99998 >= 0.999``."""
    for record in records:
        if isinstance(record, GateRecord):
            words: list[str] = [record.verdict, record.ground]
            if record.measured is not None:
                shown = f"{record.measured:.9g}" if record.limit is None else record.limit.beside(record.measured)
                words += [shown, record.unit]
            words += [] if record.limit is None else [str(record.limit)]
            yield f"gate.{record.check}", " ".join(word for word in words if word)


class EvidenceFile:
    """Appends records to a run's ``evidence.jsonl``, each line flushed, so that an interrupted run keeps what it had.

    Args:
        path: the file; its folder is made when the first record comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, records: Iterable[Record]) -> None:
        """Write ``records``, one line each, and flush them to the disk."""
        lines = [json.dumps(to_json(record), ensure_ascii=False, allow_nan=False) + "\n" for record in records]
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8", newline="\n") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())


def read(path: Path) -> Iterator[Record]:
    """The records of an evidence file, in order; a last line that was cut off in mid-write is left out.

    Raises:
        DataError: a line in the middle is not a record, named with its number.
    """
    with path.open(encoding="utf-8") as file:
        lines = file.read().split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            data = json.loads(line)
        except ValueError:
            if number == len(lines):
                return
            raise DataError("evidence.not-json", where=f"{path}:{number}") from None
        try:
            yield from_json(data)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError("evidence.not-a-record", where=f"{path}:{number}", reason=str(error)) from None


def _number(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]  # JSON: a number, or "NaN" and "Infinity"


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON values of any depth
    """Tuples to lists, NumPy scalars to Python ones, non-finite floats to their names."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, Path):
        return value.as_posix()
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number
