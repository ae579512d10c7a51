"""Several runs as one: shards of a night, or a run that was killed and the one that went on.

A merged file holds the runs line by line as they were written, sorted by their running digests, behind one line with
the set of these digests. So merging is the union of sets: in whatever order, and as often as one likes, the same bytes
come out, and no figure is written anew. What the runs have in common is put together when the file is read (`Joined`).

Refused are gates and stages of one id whose digests differ: they are of different artifacts, and one report, baseline
or statement of both would be of neither. A gate that has two grounds keeps both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pth2om.errors import DataError
from pth2om.evidence.file import MOST_BYTES, scan, uncollected
from pth2om.evidence.plan import Coverage
from pth2om.evidence.records import (
    GateRecord,
    MergedRecord,
    PlanRecord,
    Record,
    RunRecord,
    SpecText,
    StageRecord,
    WaiverRecord,
    to_json,
)

_BY_WEIGHT = ("failed", "inconclusive", "passed", "shown", "not_measured", "not_reached")
"""Of several records of one gate the first of these counts: what one shard measured, another one need not have."""


@dataclass
class Joined:
    """What a file says, its runs taken together.

    Attributes:
        runs: in the order of the file.
        gates: each once for every ground it stands on.
        stages: each once.
        waivers: each entry once, used where any run used it.
        specs: each text of a model's spec once; a model has several where its spec changed between the runs.
        coverage: which planned tests came to their end.
    """

    runs: list[RunRecord] = field(default_factory=list)
    gates: list[GateRecord] = field(default_factory=list)
    stages: list[StageRecord] = field(default_factory=list)
    waivers: list[WaiverRecord] = field(default_factory=list)
    specs: list[SpecText] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)
    _places: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    _known: set[tuple[str, ...]] = field(default_factory=set)

    def take(self, records: Iterable[Record]) -> Joined:
        """Note records; returns itself."""
        for record in records:
            self.coverage.note(record)
            if isinstance(record, GateRecord):
                self._gate(record)
            elif isinstance(record, StageRecord):
                self._stage(record)
            elif isinstance(record, WaiverRecord):
                self._waiver(record)
            elif isinstance(record, RunRecord):
                self.runs.append(record)
            elif isinstance(record, PlanRecord):
                self.specs += [spec for spec in record.specs if spec not in self.specs]
        return self

    def _gate(self, gate: GateRecord) -> None:
        run = len(self.runs)
        of, place = self._places.get((gate.id, gate.ground), (run, -1))
        if of == run or not self.coverage.merged:
            self._places[gate.id, gate.ground] = run, len(self.gates)
            self.gates.append(gate)
        elif _weight(gate) < _weight(self.gates[place]):
            self.gates[place] = gate

    def _stage(self, stage: StageRecord) -> None:
        name = (*_name(stage), stage.digest)
        if not self.coverage.merged or name not in self._known:
            self.stages.append(stage)
        self._known.add(name)

    def _waiver(self, waiver: WaiverRecord) -> None:
        for place, one in enumerate(self.waivers):
            same = (one.gate, one.stage, one.owner, one.expires, one.wrong)
            if same == (waiver.gate, waiver.stage, waiver.owner, waiver.expires, waiver.wrong):
                days = min(one.days, waiver.days)
                used, passed = one.used or waiver.used, min(filter(None, (one.passed, waiver.passed)), default="")
                self.waivers[place] = replace(one, days=days, used=used, passed=passed)
                return
        self.waivers.append(waiver)


@dataclass(frozen=True)
class Merged:
    """What `merge` made.

    Attributes:
        parts: of the text of the evidence file, in order: its first line, then each run.
        seals: the running digests of its runs, sorted.
        joined: what they say together; its coverage is what was collected against what was reported.
        empty: files in which no run had begun.
    """

    parts: tuple[bytes, ...]
    seals: tuple[str, ...]
    joined: Joined
    empty: tuple[str, ...] = ()

    @property
    def text(self) -> bytes:
        """Of the evidence file."""
        return b"".join(self.parts)


def merge(files: Sequence[Path]) -> Merged:
    """The union of the runs of evidence files, which may be merged ones.

    Raises:
        DataError: a file is damaged, or written before lines carried digests; an id has two digests; together they
            would be larger than what is read.
        OSError: a file cannot be read.
    """
    with uncollected():
        return _merge(files)


def _merge(files: Sequence[Path]) -> Merged:
    runs: dict[str, bytes] = {}
    inner: set[str] = set()
    empty: list[str] = []
    records: dict[str, list[Record]] = {}
    for file in files:
        lines: list[bytes] = []
        kept: list[Record] = []
        name, last = "", ""
        for line, record, seal in scan(file):
            if isinstance(record, MergedRecord):
                continue
            if isinstance(record, RunRecord):
                if last:
                    runs[last], records[last] = b"\n".join((*lines, b"")), kept
                lines, kept, name = [], [], record.run
            elif last:
                inner.add(last)
            if not seal or not name:
                raise DataError("evidence.unsealed", where=str(file))
            last = seal
            lines.append(line)
            kept.append(record)
        if last:
            runs[last], records[last] = b"\n".join((*lines, b"")), kept
        elif file.stat().st_size == 0:
            empty.append(str(file))
    # A run that was read while it was being written is the beginning of the same run, read later.
    chosen = tuple(sorted(runs.keys() - inner))
    if not chosen:
        raise DataError("evidence.nothing-to-merge")
    _agree({seal: records[seal] for seal in chosen})
    head = MergedRecord(chosen)
    parts = json.dumps(to_json(head)).encode() + b"\n", *(runs[seal] for seal in chosen)
    if (size := sum(map(len, parts))) > MOST_BYTES:
        raise DataError("evidence.too-large", size=size, most=MOST_BYTES)
    joined = Joined().take([head])
    for seal in chosen:
        joined.take(records[seal])
    return Merged(parts, chosen, joined, tuple(sorted(empty)))


def _weight(gate: GateRecord) -> tuple[int, bool]:
    """Lower is worse; a failure that nobody waived in one run is not waived by another run."""
    return _BY_WEIGHT.index(gate.verdict), "waived" in gate.details


def _name(stage: StageRecord) -> tuple[str, str, str, str]:
    return stage.model, stage.variant, stage.stage, stage.provenance.soc or ""


def _agree(runs: Mapping[str, Sequence[Record]]) -> None:
    """Compare the digests of each id between runs.

    Runs are told apart by their running digests: two machines may give theirs the same name.

    Args:
        runs: running digest -> records.

    Raises:
        DataError: two runs have different digests for one id.
    """
    known: dict[str, tuple[Mapping[str, str], str, str]] = {}
    roles: dict[tuple[str, str], tuple[str, str, str]] = {}
    for seal, records in runs.items():
        run = ""
        for record in records:
            if isinstance(record, RunRecord):
                run = record.run
                continue
            if isinstance(record, GateRecord):
                name, digests = record.id, record.digests
            elif isinstance(record, StageRecord):
                name, digests = " ".join(_name(record)), {record.stage: record.digest}
            else:
                continue
            # Nearly every id is in one run only, and is then compared with nothing.
            first_digests, first_seal, first_run = known.setdefault(name, (digests, seal, run))
            if first_digests is digests:
                continue
            for role, digest in first_digests.items():
                roles.setdefault((name, role), (digest, first_seal, first_run))
            for role, digest in digests.items():
                before, other, of = roles.setdefault((name, role), (digest, seal, run))
                if before != digest and other != seal:
                    first, second = sorted(((of, before[:12]), (run, digest[:12])))
                    raise DataError(
                        "evidence.mixed", id=name[:200], role=role[:40],
                        first=first[0], first_digest=first[1], second=second[0], second_digest=second[1],
                    )  # fmt: skip
