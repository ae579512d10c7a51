"""The evidence and report of a verb's run, in the form of an acceptance run's."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pth2om.errors import DataError
from pth2om.evidence import (
    EndRecord,
    EvidenceFile,
    GateRecord,
    OutcomeRecord,
    Planned,
    PlanRecord,
    Record,
    RunRecord,
    SpecText,
)


def record_run(
    reports: Path,
    name: str,
    command: Sequence[str],
    planned: Planned,
    records: Sequence[Record],
    specs: Sequence[SpecText] = (),
) -> Path:
    """Write ``reports/<time>-<name>``: ``evidence.jsonl``, ``index.html``, ``results.md``.

    Args:
        reports: the folder of reports.
        name: what the run was about.
        command: as it was typed.
        planned: what it was to answer.
        records: its stages and gates.
        specs: of the models.

    Returns:
        The page.

    Raises:
        DataError: it cannot be written.
    """
    from pth2om import host
    from pth2om.report import render

    base = f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
    free = (reports / (base if number == 1 else f"{base}-{number}") for number in itertools.count(1))
    folder = next(place for place in free if not place.exists())
    failed = any(isinstance(one, GateRecord) and one.verdict == "failed" for one in records)
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    run = RunRecord(folder.name, started, tuple(command), host.environment())
    whole: list[Record] = [run, PlanRecord((planned,), specs=tuple(specs)), *records]
    whole.append(OutcomeRecord(planned.item, "failed" if failed else "passed", 0.0))
    try:
        file = EvidenceFile(folder / "evidence.jsonl")
        file.append(whole)
        file.append([EndRecord(file.records)])
    except OSError as error:
        raise DataError("report.not-writable", where=str(folder), reason=error.strerror or str(error)) from None
    return render(folder / "evidence.jsonl", folder)
