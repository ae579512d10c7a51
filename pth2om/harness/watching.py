"""A run in a process of its own, watched by its parent: how a process that ends without a word is noticed.

``os._exit(0)`` in a net, a segmentation fault in a library or an ``exit(0)`` in C end pytest at once: no hook runs, no
report is written, and the exit status may be 0. Nothing inside the process can help, and from outside its exit status
cannot be changed. So ``make accept``, `pth2om.accept_models` and the commands of a CI start pytest as a child and ask
two things when it has gone: did its session come to its end, and has its evidence an end record. If not, the parent
writes the report of what there is, in which the rest is not reached, and does not exit with 0.

Considered and left: starting pytest again from its plugin, or forking in it (debuggers, IDEs and callers of
``pytest.main`` lose their process); building each net first in a child (imports torch twice on every cold run); a
watchdog beside every run (cannot change the exit status either). Under a plain ``pytest`` the evidence without an end
record remains, and ``pth2om report`` says so. With pytest-xdist the controller notices a dead worker itself.

The child leaves its words in a file that the environment names; a warm run pays one write for it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from pth2om.errors import Pth2omError
from pth2om.evidence import EndRecord, Joined, Record, read
from pth2om.language import say
from pth2om.report import github

_NOTE = "PTH2OM_RUN_NOTE"
_ENDED = "ended"
_PLACE = pytest.StashKey[Path]()


def take_note(config: pytest.Config) -> None:
    """In the child: remember where the parent reads; not in workers of xdist, nor in a pytest that a test starts."""
    place = os.environ.pop(_NOTE, None)
    if place is not None and not hasattr(config, "workerinput"):
        config.stash[_PLACE] = Path(place)


def note_folder(config: pytest.Config, folder: Path) -> None:
    """In the child: where the run writes its evidence."""
    _add(config, str(folder))


def note_end(config: pytest.Config) -> None:
    """In the child: that the session came to its end."""
    _add(config, _ENDED)


def _add(config: pytest.Config, line: str) -> None:
    if _PLACE in config.stash:
        with contextlib.suppress(OSError), config.stash[_PLACE].open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


@dataclass(frozen=True)
class Watched:
    """What became of a run.

    Attributes:
        exit_status: pytest's; never 0 where the run did not come to its end, and 128 + the signal that killed it.
        folder: of the run's evidence; None where it has none.
        records: the evidence.
        complete: whether session and evidence came to their end.
    """

    exit_status: int
    folder: Path | None
    records: tuple[Record, ...]
    complete: bool


def watch(words: Sequence[str], root: Path, stdout: IO[str] | None = None, stderr: IO[str] | None = None) -> Watched:
    """Run ``pytest WORDS`` as a child, and see what became of it.

    Ctrl-C reaches the child too, which then writes its report; it is waited for.

    Args:
        words: of pytest's command line.
        root: the folder in which it runs.
        stdout: where it prints; default the caller's.
        stderr: likewise.

    Raises:
        DataError: the evidence cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="pth2om-run-") as place:
        note = Path(place) / "note"
        child = subprocess.Popen(
            [sys.executable, "-m", "pytest", *words],
            cwd=root, stdout=stdout, stderr=stderr, env={**os.environ, _NOTE: str(note)},
        )  # fmt: skip
        status: int | None = None
        while status is None:
            with contextlib.suppress(KeyboardInterrupt):
                status = child.wait()
        lines = note.read_text(encoding="utf-8").splitlines() if note.exists() else []
    ended = _ENDED in lines
    folder = next((Path(line) for line in lines if line != _ENDED), None)
    evidence = folder / "evidence.jsonl" if folder is not None else None
    records = tuple(read(evidence)) if evidence is not None and evidence.exists() else ()
    refused = status in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERNAL_ERROR)
    complete = (ended or refused) and (folder is None or any(isinstance(each, EndRecord) for each in records))
    if status < 0:
        status = 128 - status
    if not complete:
        status = status or int(pytest.ExitCode.TESTS_FAILED)
        if evidence is not None and evidence.exists():
            from pth2om.report import render

            with contextlib.suppress(Pth2omError, OSError):
                render(evidence, evidence.parent)
    return Watched(status, folder, records, complete)


def main(words: Sequence[str]) -> int:
    """``python -m pth2om.harness WORDS``: as ``pytest WORDS``, and never 0 for a run that did not come to its end."""
    try:
        run = watch(words, Path())
    except Pth2omError as error:
        print(error, file=sys.stderr)
        return 1
    if not run.complete:
        folder = str(run.folder / "index.html") if run.folder is not None else "-"
        print(say("plugin.died", status=run.exit_status, path=folder).with_fix(), file=sys.stderr)
        if run.folder is not None and run.records:
            joined = Joined().take(run.records)
            github.tell(run.folder, [*joined.gates, *joined.coverage.unreached], Path("models"), print)
    return run.exit_status
