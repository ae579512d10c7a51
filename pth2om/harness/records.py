"""The evidence of a run: hung on the tests' reports, written into the run's folder as they come in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pth2om.errors import Pth2omError
from pth2om.evidence import (
    Coverage,
    EndRecord,
    EvidenceFile,
    GateRecord,
    OutcomeRecord,
    Planned,
    PlanRecord,
    RunRecord,
    StageRecord,
)
from pth2om.harness import planning
from pth2om.language import say

if TYPE_CHECKING:
    from pth2om.evidence import Record
    from pth2om.release.regression import Judge
    from pth2om.release.waivers import Waivers

RECORDS = "pth2om_records"
"""Attribute of a test's report that carries its evidence."""
MISSING = "pth2om_missing"
"""Attribute of the report of a test that passed for pytest and fails because gates are missing, which tell of it."""
EVIDENCE = pytest.StashKey[list["Record"]]()
"""What a test has measured and no report carries yet."""
_MOST_REASON = 400


def keep(item: pytest.Item, records: Sequence[Record]) -> None:
    """Keep evidence until the test's next report."""
    item.stash.setdefault(EVIDENCE, []).extend(records)


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test failed or was skipped, in one line."""
    longrepr = report.longrepr
    if isinstance(longrepr, tuple):
        text = str(longrepr[2]).removeprefix("Skipped: ")
    else:
        crash = getattr(longrepr, "reprcrash", None)
        text = str(crash.message) if crash is not None else report.longreprtext
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # A traceback without an entry for its error ends with it, after an E in the margin.
    error = [line[1:].strip() for line in lines if line.startswith("E ")]
    line = (error[-1:] or lines[:1] or [report.outcome])[0]
    return line if len(line) <= _MOST_REASON else line[: _MOST_REASON - 1] + "…"


class RunRecords:
    """Writes the evidence of a run.

    Args:
        config: of the run.
        soc: the SoC that the run names, or None.
        waivers: laid over the gates.

    Attributes:
        gates: all gates of the run so far.
        unwritten: the first error that kept something from the report, or None.
    """

    def __init__(self, config: pytest.Config, soc: str | None, waivers: Waivers) -> None:
        self.waivers = waivers
        self._config = config
        self._soc = soc
        self._folder: Path | None = None
        self._file: EvidenceFile | None = None
        self._stages: set[tuple[str, str, str]] = set()
        self._ids: set[str] = set()
        self._planned: dict[str, Planned] = {}
        self._outcomes: dict[str, tuple[str, float, bool, bool]] = {}
        self._coverage = Coverage()
        self.gates: list[GateRecord] = []
        self.unwritten: OSError | Pth2omError | None = None

    @property
    def folder(self) -> Path:
        """``reports/<time>-<soc>``; made when something is written into it."""
        if self._folder is None:
            asked = self._config.getoption("--om-reports-dir")
            root = self._config.invocation_params.dir / asked if asked else self._config.rootpath / "reports"
            name = f"{datetime.now():%Y%m%d-%H%M%S}-{self._soc or 'host'}"
            folder, number = root / name, 1
            while folder.exists():
                number += 1
                folder = root / f"{name}-{number}"
            self._folder = folder
        return self._folder

    @property
    def has_folder(self) -> bool:
        """Whether the run's folder has been named."""
        return self._folder is not None

    @property
    def path(self) -> Path:
        """The evidence file."""
        return self.folder / "evidence.jsonl"

    @property
    def has_plan(self) -> bool:
        """Whether the run was to answer anything."""
        return bool(self._planned)

    @property
    def unreached(self) -> list[GateRecord]:
        """A gate for each planned test that has no outcome."""
        return self._coverage.unreached

    @property
    def judged(self) -> list[GateRecord]:
        """All gates, those of unreached tests too, with the waivers over them."""
        return [*self.gates, *map(self.waivers.over, self.unreached)]

    def plan(self, plan: PlanRecord) -> None:
        """Write what the run is to answer, and by which limits, before anything is measured."""
        self._planned = {each.item: each for each in plan.items}
        self.write([plan])

    def take(self, report: pytest.TestReport) -> None:
        """Write the evidence that a report carries; after a test's last report, that it came to its end.

        Of a test that is in no plan only a failure is written down, and only in a run that has a plan.
        """
        gates = [record for record in getattr(report, RECORDS, ()) if isinstance(record, GateRecord)]
        before, seconds, failed, any_gate = self._outcomes.pop(report.nodeid, ("passed", 0.0, False, False))
        rank = ("passed", "skipped", "failed")
        outcome = max(before, report.outcome, key=lambda word: rank.index(word) if word in rank else -1)
        failed = failed or any(gate.verdict == "failed" for gate in gates) or getattr(report, MISSING, False)
        any_gate = any_gate or bool(gates)
        records = list(getattr(report, RECORDS, ()))
        planned = self._planned.get(report.nodeid)
        stands_for = planned or (planning.other(report.nodeid) if self._planned and outcome == "failed" else None)
        if stands_for is not None and outcome != "passed" and report.outcome == outcome:
            reason = reason_of(report)
            if outcome == "failed" and not failed:
                crashed = report.when not in ("setup", "call", "teardown")
                key = "plugin.test-crashed" if crashed else "plugin.test-failed"
                records.append(stands_for.gate("failed", say(key, reason=reason)))
                failed = any_gate = True
            elif outcome == "skipped" and not any_gate:
                records.append(stands_for.gate("not_measured", say("plugin.test-skipped", reason=reason)))
                any_gate = True
        seconds += report.duration if isinstance(report.duration, float) else 0.0
        if report.when in ("setup", "call"):
            self._outcomes[report.nodeid] = (outcome, seconds, failed, any_gate)
        elif planned is not None and outcome in rank:
            records.append(OutcomeRecord(report.nodeid, outcome, round(seconds, 3)))  # type: ignore[arg-type]  # one of the words of pytest
        self.write(records)

    def compare(self, judge: Judge) -> None:
        """Write the gates of the question *regression*, once all others are there."""
        if self._file is None or self.unwritten is not None:
            return
        from pth2om.release import night

        try:
            self.write(judge.night(night.read(self.path)))
        except Pth2omError as error:
            self.unwritten = self.unwritten or error

    def end(self, *, interrupted: bool) -> None:
        """Write the last line."""
        if self._file is not None and self._planned:
            self.write([*self.waivers.records()])
            self.write([EndRecord(self._file.records, interrupted)])

    def write(self, records: Sequence[Record]) -> None:
        """Append records to the run's evidence; a stage that several tests used is written once.

        A report that cannot be written does not end the run: what is measured stays in the store, and the run does not
        exit with 0.
        """
        from pth2om.questions import pictures

        fresh: list[Record] = []
        for record in records:
            if isinstance(record, StageRecord):
                name = (record.model, record.variant, record.stage)
                if name in self._stages:
                    continue
                self._stages.add(name)
            elif isinstance(record, GateRecord):
                record = self.waivers.over(self._once(pictures.carry(record, self.folder)))
                self.gates.append(record)
            fresh.append(record)
        if not fresh:
            return
        self._coverage.take(fresh)
        try:
            if self._file is None:
                self._file = EvidenceFile(self.path)
                self._file.append([self._run(), *fresh])
            else:
                self._file.append(fresh)
        except OSError as error:
            self.unwritten = self.unwritten or error

    def _once(self, gate: GateRecord) -> GateRecord:
        """The gate; one that the run holds already is a failure of its own, whatever it measured."""
        if gate.id not in self._ids:
            self._ids.add(gate.id)
            return gate
        number = 2
        while (again := dataclasses.replace(gate, check=f"{gate.check}#{number}")).id in self._ids:
            number += 1
        self._ids.add(again.id)
        return dataclasses.replace(again, verdict="failed", message=say("plugin.measured-twice", id=gate.id))

    def _run(self) -> RunRecord:
        from pth2om import host

        command = ("pytest", *(str(argument) for argument in self._config.invocation_params.args))
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        return RunRecord(self.folder.name, started, command, host.environment())
