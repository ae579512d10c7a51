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

The child leaves its words in a file that the environment names; a warm run pays one write for it. It ends with its
parent: a parent that is told to end (a CI that cancels a job, a terminal that closes) ends it as Ctrl-C does, and one
that is killed lets go of a pipe that the child listens to.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from pth2om.errors import Pth2omError
from pth2om.language import say

if TYPE_CHECKING:
    from pth2om.evidence import Record

_NOTE = "PTH2OM_RUN_NOTE"
_PARENT = "PTH2OM_RUN_PARENT"
_ENDED = "ended"
_PLACE = pytest.StashKey[Path]()


def take_note(config: pytest.Config) -> None:
    """In the child: remember where the parent reads; not in workers of xdist, nor in a pytest that a test starts."""
    place, pipe = os.environ.pop(_NOTE, None), os.environ.pop(_PARENT, None)
    if place is not None and not hasattr(config, "workerinput"):
        config.stash[_PLACE] = Path(place)
        if os.name == "posix" and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _interrupt)
        if pipe is not None:
            threading.Thread(target=_end_with_parent, args=(int(pipe),), daemon=True).start()


def _end_with_parent(pipe: int) -> None:
    """In the child: wait until the parent is gone, then end as by Ctrl-C."""
    with contextlib.suppress(OSError):
        os.read(pipe, 1)
        os.kill(os.getpid(), signal.SIGTERM)


def _interrupt(number: int, _: object) -> None:
    """In the child: end as by Ctrl-C; told again, at once.

    Not by SIGINT itself: what a shell starts with ``&`` or under ``nohup`` ignores that, and so do its children.
    """
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt


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

    Ctrl-C reaches the child too, which then writes its report; it is waited for. So it is after SIGTERM and SIGHUP.

    Args:
        words: of pytest's command line.
        root: the folder in which it runs.
        stdout: where it prints; default the caller's.
        stderr: likewise.

    Raises:
        DataError: the evidence cannot be read.
    """
    from pth2om.evidence import EndRecord, read  # here: the child, and every pytest, reads no evidence

    with tempfile.TemporaryDirectory(prefix="pth2om-run-") as place:
        note = Path(place) / "note"
        environment = {**os.environ, _NOTE: str(note)}
        with _pipe() as ends:
            if ends:
                environment[_PARENT] = str(ends[0])
            child = subprocess.Popen(
                [sys.executable, "-m", "pytest", *words],
                cwd=root, stdout=stdout, stderr=stderr, env=environment, pass_fds=ends,
            )  # fmt: skip
            status: int | None = None
            with _told_to_end(child):
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


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, ...]]:
    """The end of a pipe that reads nothing for as long as this process lives; none where a child cannot have it."""
    if os.name != "posix":
        yield ()
        return
    read_end, write_end = os.pipe()
    try:
        yield (read_end,)
    finally:
        os.close(read_end)
        os.close(write_end)


@contextlib.contextmanager
def _told_to_end(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Inside the block, what tells this process to end interrupts the child; told again, it ends it at once.

    What is ignored stays so: ``nohup`` asks for it.
    """

    def end(_number: int, _frame: object) -> None:
        child.send_signal(signal.SIGTERM)

    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return
    told = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in told}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
            from pth2om.evidence import Joined
            from pth2om.report import github

            joined = Joined().take(run.records)
            github.tell(run.folder, [*joined.gates, *joined.coverage.unreached], Path("models"), print)
    return run.exit_status
