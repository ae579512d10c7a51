"""One run, read as a night: what was measured, of which artifacts, on which machine, and whether it is whole."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pth2om import evidence
from pth2om.errors import DataError
from pth2om.evidence import Coverage, GateRecord, Joined, RunRecord, SpecText, StageRecord, WaiverRecord

REGRESSION = "regression"
"""The question whose gates compare a night with another; they are never compared themselves."""


@dataclass
class Night:
    """The records of one run, or of the shards of one night.

    Attributes:
        run: its first record; of a merged night one that stands for all.
        gates: by id, without those of the question *regression*.
        stages: by (model, variant, stage); of runs for several SoCs the last one's.
        made: all of them.
        compared: the gates of the question *regression*.
        coverage: which planned tests came to their end.
        waivers: what became of each waiver.
        specs: the specs as they were when the runs began.
        runs: the runs themselves.
    """

    run: RunRecord
    gates: dict[str, GateRecord] = field(default_factory=dict)
    stages: dict[tuple[str, str, str], StageRecord] = field(default_factory=dict)
    compared: list[GateRecord] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)
    waivers: list[WaiverRecord] = field(default_factory=list)
    specs: list[SpecText] = field(default_factory=list)
    runs: list[RunRecord] = field(default_factory=list)
    made: list[StageRecord] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether the run came to its end and every planned test has an outcome; a shard alone is not whole."""
        covered = self.coverage
        return covered.ended and not covered.interrupted and not covered.planned and not covered.is_shard

    def stages_of(self, model: str, variant: str) -> dict[str, StageRecord]:
        """The stages of a variant: its own, its batch size's and the model's."""
        batch = next((f"bs{part[2:]}" for part in variant.split("-") if part.startswith("bs")), "")
        found: dict[str, StageRecord] = {}
        for owner in dict.fromkeys(("", batch, variant)):
            found.update(
                (stage, record) for (of, name, stage), record in self.stages.items() if (of, name) == (model, owner)
            )
        return found


def file_of(source: Path) -> Path:
    """The evidence file of a run's folder, or the file itself.

    Raises:
        DataError: there is none.
    """
    file = source / "evidence.jsonl" if source.is_dir() else source
    if not file.is_file():
        raise DataError("release.no-evidence", where=str(source))
    return file


def read(source: Path) -> Night:
    """The one run of a folder or an evidence file, or the merged runs of one night.

    Raises:
        DataError: there is none, there are several that were not merged, a line is damaged, or a figure stands on two
            grounds.
    """
    file = file_of(source)
    try:
        joined = Joined().take(evidence.read(file))
    except OSError as error:
        raise DataError("release.unreadable", where=str(file), reason=error.strerror or str(error)) from None
    if not joined.runs or (len(joined.runs) > 1 and not joined.coverage.merged):
        raise DataError("release.not-one-run", where=str(file), count=len(joined.runs))
    night = Night(
        _one(joined.runs), coverage=joined.coverage, waivers=joined.waivers, specs=joined.specs, runs=joined.runs,
        made=joined.stages,
    )  # fmt: skip
    for gate in joined.gates:
        if gate.question == REGRESSION:
            night.compared.append(gate)
        elif gate.id in night.gates:
            grounds = sorted((gate.ground, night.gates[gate.id].ground))
            raise DataError("release.two-grounds", where=str(file), id=gate.id[:200], grounds=", ".join(grounds))
        else:
            night.gates[gate.id] = gate
    night.stages = {(stage.model, stage.variant, stage.stage): stage for stage in joined.stages}
    return night


def _one(runs: Sequence[RunRecord]) -> RunRecord:
    """The run, or one that stands for all shards: its name follows from theirs."""
    if len(runs) == 1:
        return runs[0]
    names = sorted({run.run for run in runs})
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
    started = min((run.started for run in runs), key=moment)
    return RunRecord(f"merged-{digest}", started, runs[0].command, {"shards": names})


def moment(started: str) -> tuple[float, str]:
    """When a run began, so that machines of different time zones are in order; what is no time comes first."""
    try:
        return datetime.fromisoformat(started).timestamp(), started
    except (ValueError, OverflowError):
        return -math.inf, started
