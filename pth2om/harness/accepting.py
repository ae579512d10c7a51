"""An acceptance run from Python: pytest in a process of its own, its evidence as records."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pth2om.errors import Pth2omError
from pth2om.evidence import GateRecord, Record
from pth2om.harness.watching import watch

_USAGE_ERROR = 4
_LAST_LINES = 8


@dataclass(frozen=True)
class Accepted:
    """What an acceptance run came to.

    Attributes:
        exit_status: 0 where nothing of ``--fail-on`` occurred in a complete run; see `pth2om.harness.exit_status`.
        folder: with ``evidence.jsonl``, ``index.html`` and ``results.md``; None where the run wrote no evidence.
        records: the evidence, in the order in which it was written.
        complete: whether the run came to its end: its process did, and its evidence has an end record. What ends a
            process at once (``os._exit``, a crash in a library) leaves neither, and its exit status may be 0.
    """

    exit_status: int
    folder: Path | None
    records: tuple[Record, ...]
    complete: bool = True

    @property
    def gates(self) -> tuple[GateRecord, ...]:
        """The records that hold a value against a limit."""
        return tuple(record for record in self.records if isinstance(record, GateRecord))


def accept_models(
    root: Path | None = None,
    *,
    match: str = "",
    soc: str | None = None,
    reports: Path | None = None,
    options: Sequence[str] = (),
    quiet: bool = False,
) -> Accepted:
    """Convert, compare, score and report the models of a repository, as ``pytest -k MATCH --soc SOC`` does.

    Args:
        root: the repository, which holds ``models/`` and ``test_cases/``; default the current folder.
        match: pytest's ``-k``: the models, variants or questions to run; all by default.
        soc: the SoC to compile for, such as ``Ascend310B1``; without one nothing is compiled.
        reports: folder of the reports; default ``reports`` in ``root``.
        options: further words of the command line, such as ``["--om-subset=64", "-n", "2"]``.
        quiet: print nothing.

    Raises:
        Pth2omError: pytest refuses the command line; its last lines are quoted.
        DataError: the evidence cannot be read.
    """
    root = (root or Path()).absolute()
    reports = (root / (reports or "reports")).absolute()
    words = [f"--om-reports-dir={reports}", *(["-k", match] if match else [])]
    words += [f"--soc={soc}"] if soc else []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as printed:
        run = watch([*words, *options], root, printed if quiet else None, printed)
        printed.seek(0)
        last = printed.read().splitlines()[-_LAST_LINES:]
    if run.exit_status == _USAGE_ERROR:
        raise Pth2omError("plugin.refused", where=str(root), reason="\n".join(line for line in last if line.strip()))
    return Accepted(run.exit_status, run.folder if run.records else None, run.records, run.complete)
