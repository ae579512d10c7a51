"""Jobs on disk: what was asked, how far it is, how it ended. Whoever reads a journal needs no memory of the job.

::

    jobs/<id>/job.json        what was asked; written first, whole
              alive           locked by the job's process as long as it lives
              spawned         it was started; its number
              process.json    its number, written by itself
              progress.json   the steps that are going on
              log.txt         what it prints
              end.json        its exit status; written last
              cancelled       somebody asked for its end
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from pth2om.escaping import visible
from pth2om.files import replacing, write_text
from pth2om.language import say

Program = Literal["pth2om", "pytest"]
State = Literal["queued", "running", "done", "failed", "cancelled", "died"]
OVER: frozenset[State] = frozenset({"done", "failed", "cancelled", "died"})
MARK = "PTH2OM_GUI_JOB"
"""Environment variable of every process of a job: also those that left its process group are found by it."""

_STARTING_SECONDS = 30.0
_LATEST = 1e11
_ID = re.compile(r"[0-9a-f]{16}")
_MOST_BYTES = 4 << 20
_TAIL = 64 << 10
_LONGEST_LINE = 2_000


@dataclass(frozen=True)
class Asked:
    """What a form asked for.

    Attributes:
        program: ``pth2om`` or ``pytest``.
        words: behind the program.
        page: the page whose form it was.
        title: shown in lists; a file's or a model's name.
        language: in which the process prints.
        values: the form, for another go.
        board: what only one job at a time may use.
        results: what the page of the job shows besides the log: role -> path.
    """

    program: Program
    words: tuple[str, ...]
    page: str
    title: str
    language: str = "en"
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    board: str = ""
    results: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One job as its journal has it now.

    Attributes:
        id: 16 hexadecimal digits.
        folder: its journal.
        asked: what was asked.
        created: seconds since 1970.
        state: how it stands.
        status: exit status, where it ended by itself.
        started: seconds since 1970; None while it waits.
        ended: likewise; None while it is not over.
        steps: title, done, total of what is going on.
    """

    id: str
    folder: Path
    asked: Asked
    created: float
    state: State
    status: int | None
    started: float | None
    ended: float | None
    steps: tuple[tuple[str, int, int | None], ...]

    @property
    def over(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in OVER

    @property
    def seconds(self) -> float:
        """How long it has been running, or ran."""
        if self.started is None:
            return 0.0
        return max(0.0, (self.ended or time.time()) - self.started)

    @property
    def when(self) -> str:
        """When it was asked for, in the machine's time."""
        return datetime.fromtimestamp(self.created, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def create(jobs: Path, asked: Asked, nonce: str) -> str:
    """Write down a job; the same form sent twice is one job.

    Args:
        jobs: folder of the journals.
        asked: what the form asks.
        nonce: of the form, new each time that the form is shown.

    Returns:
        The job's id.

    Raises:
        OSError: the journal cannot be written.
    """
    text = json.dumps([nonce, asked.program, asked.words], ensure_ascii=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = jobs / name
    if folder.exists():
        return name
    try:
        with replacing(folder) as scratch:
            scratch.mkdir(mode=0o700)
            write_text(scratch / "job.json", json.dumps({"created": time.time(), **asdict(asked)}))
    except OSError:
        if not folder.exists():  # else the same form was sent twice at once
            raise
    return name


def read(jobs: Path, name: str) -> Job | None:
    """The job of that id; None where there is none, or its journal is damaged."""
    folder = jobs / name
    if not _ID.fullmatch(name):
        return None
    data = _json(folder / "job.json")
    try:
        created = _number(data["created"])
        say(f"gui.page-{data['page']}").render()  # a page of that name, also in the reader's language
        if created is None or data["program"] not in get_args(Program):
            return None
        asked = Asked(
            program=data["program"],
            words=tuple(map(str, data["words"])),
            page=str(data["page"]),
            title=str(data["title"]),
            language=str(data["language"]),
            values={str(key): tuple(map(str, value)) for key, value in data["values"].items()},
            board=str(data["board"]),
            results={str(key): str(value) for key, value in data["results"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    end = _json(folder / "end.json")
    lives = not end and alive(folder)
    if not end and not lives:
        end = _json(folder / "end.json")  # a job writes it before it gives up its lock: perhaps between the two looks
    process = _json(folder / "process.json")
    started, ended = _number(process.get("started")), _number(end.get("ended"))
    status = end.get("status") if isinstance(end.get("status"), int) else None
    state = _state(folder, status, started, lives)
    if state in OVER and ended is None:
        ended = _modified(folder / "log.txt") or started or created
    steps = tuple(_steps(_json(folder / "progress.json"))) if state == "running" else ()
    return Job(name, folder, asked, created, state, status, started, ended, steps)


def listed(jobs: Path) -> list[Job]:
    """All jobs, newest first."""
    found = (read(jobs, folder.name) for folder in jobs.iterdir())
    return sorted((job for job in found if job is not None), key=lambda job: (-job.created, job.id))


def process_of(folder: Path) -> int | None:
    """Number of the job's process, while that lives."""
    number = _json(folder / "process.json").get("pid")
    return number if isinstance(number, int) and alive(folder) else None


def alive(folder: Path) -> bool:
    """Whether the job's process lives: it holds a lock as long as it does, whoever started it."""
    lock = FileLock(folder / "alive")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False


def log(folder: Path, start: int = 0) -> tuple[str, int]:
    """What the job printed from byte ``start`` on, at most the last 64 KiB; and where to read on.

    A bar that redraws itself shows its last state; signs that act on a terminal are escaped.
    """
    try:
        with (folder / "log.txt").open("rb") as file:
            size = file.seek(0, 2)
            begin = max(start if start <= size else 0, size - _TAIL)
            file.seek(begin)
            data = file.read(_TAIL)
    except OSError:
        return "", 0
    whole = data.rfind(b"\n") + 1 or len(data)
    text = data[:whole].decode("utf-8", "replace")
    lines = [visible(line.rstrip("\r").rsplit("\r", 1)[-1].expandtabs(), _LONGEST_LINE) for line in text.split("\n")]
    return "\n".join(lines), begin + whole


def delete(jobs: Path, name: str) -> bool:
    """Remove the journal of a job that is over; the files that the job wrote elsewhere stay.

    Returns:
        Whether it was removed; that of a waiting or running job is not.

    Raises:
        OSError: it cannot be removed.
    """
    job = read(jobs, name)
    if job is None or not job.over or alive(job.folder):
        return False
    shutil.rmtree(job.folder)
    return True


def remember(file: Path, data: Mapping[str, Any]) -> None:
    """Write a small JSON file of a journal, whole."""
    write_text(file, json.dumps(data))


def _state(folder: Path, status: int | None, started: float | None, lives: bool) -> State:
    cancelled = (folder / "cancelled").exists()
    if status is not None:
        return "cancelled" if cancelled and status != 0 else "done" if status == 0 else "failed"
    if lives:
        return "running"
    if started is None:
        spawned = _modified(folder / "spawned")
        if spawned is None:
            return "cancelled" if cancelled else "queued"
        # A clock that was put back makes the start lie ahead: then only the process tells.
        if not cancelled and (0 <= time.time() - spawned < _STARTING_SECONDS or _exists(folder / "spawned")):
            return "running"
    return "cancelled" if cancelled else "died"


def _json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MOST_BYTES:
            return {}
        data = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _steps(data: Mapping[str, Any]) -> list[tuple[str, int, int | None]]:
    rows = data.get("steps")
    return [
        (visible(str(row[0]), 200), row[1], row[2] if isinstance(row[2], int) else None)
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, list) and len(row) == 3 and isinstance(row[1], int)
    ]


def _number(value: object) -> float | None:
    """Seconds since 1970 that a clock can show."""
    return float(value) if isinstance(value, int | float) and 0 <= value < _LATEST else None


def _exists(file: Path) -> bool:
    """Whether a process of the number in this file exists: on a busy machine a start may take long."""
    try:
        os.kill(int(file.read_text(encoding="ascii")), 0)
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _modified(file: Path) -> float | None:
    try:
        return file.stat().st_mtime
    except OSError:
        return None
