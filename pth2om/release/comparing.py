"""``pth2om baseline update`` and ``pth2om compare``: the functions behind the faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pth2om.errors import DataError
from pth2om.evidence import GateRecord
from pth2om.release import baseline, night
from pth2om.release.baseline import Baseline
from pth2om.release.regression import Judge
from pth2om.release.results import Results
from pth2om.store import Store

BAD = ("failed", "not_reached")
"""Verdicts of a comparison that make it exit with 1."""


def update(runs: Sequence[Path], output: Path, store: Store | None = None) -> Baseline:
    """Make a baseline of runs and write it in place of the one that is there.

    Raises:
        DataError: a run must not make one: it failed, regressed, is not whole, or the old one judged it.
    """
    nights = [night.read(run) for run in runs]
    results = Results(store or Store())
    replaced = baseline.read(output) if output.is_file() else None
    made = baseline.make(nights, results, replaced)
    baseline.write(made, output)
    return made


def compare(old: Path, new: Path, store: Store | None = None) -> list[GateRecord]:
    """The gates of the question *regression* of a run against a baseline or another run.

    Raises:
        DataError: one of them cannot be read, they were exchanged or are of other SoCs, or the baseline was made from
            this run.
    """
    if new.suffix == ".json" and new.is_file():
        raise DataError("release.swapped", where=str(new))
    results = Results(store or Store())
    is_run = old.is_dir() or old.suffix == ".jsonl"
    against = baseline.of([night.read(old)], results) if is_run else baseline.read(old)
    tonight = night.read(new)
    if tonight.run.run in against.runs:
        raise DataError("release.own-run", where=str(new))
    baseline.check_soc(against, {gate.soc for gate in tonight.gates.values() if gate.soc}, str(old))
    return Judge(against, results).night(tonight)
