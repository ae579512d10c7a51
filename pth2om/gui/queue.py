"""Starts, limits and ends the processes of jobs. All that it must know again after a restart is in the journals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from pth2om.errors import Pth2omError
from pth2om.files import write_text
from pth2om.gui import journal
from pth2om.gui.children import ISOLATED
from pth2om.gui.settings import Settings

_LOOK_SECONDS = 0.5
_GRACE_SECONDS = 1.2
_KILL_SECONDS = 0.6
"""How long a cancelled job may tidy up, and how long it is killed then: less than two seconds together."""


class Queue:
    """The jobs of a project: as many at once as the settings say, one a board."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pth2om-queue", daemon=True)

    def start(self) -> None:
        """Begin to look for waiting jobs; those of an earlier server count too."""
        self._thread.start()

    def stop(self) -> None:
        """Start no more jobs; those that run go on, and a later server finds them."""
        self._ended.set()
        self._wake.set()
        self._thread.join(timeout=5)

    def add(self, asked: journal.Asked, nonce: str) -> str:
        """Write down a job and let it start when its turn comes; see `pth2om.gui.journal.create`."""
        name = journal.create(self._settings.jobs, asked, nonce)
        self._wake.set()
        return name

    def cancel(self, name: str) -> bool:
        """End a job with every process that it started, within two seconds.

        The verb is interrupted first, as by Ctrl-C, so that it tidies up; what is left then is killed.

        Returns:
            Whether it was not over yet.
        """
        job = journal.read(self._settings.jobs, name)
        if job is None or job.over:
            return False
        with self._lock:
            (job.folder / "cancelled").touch()
        number = journal.process_of(job.folder)
        _signal(_family(number, name), signal.SIGINT)
        end = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < end and (family := _family(number, name)):
            if number not in family:
                break  # the job itself is over: what is left of it has no one to wait for
            time.sleep(0.05)
            self._reap()
        end = time.monotonic() + _KILL_SECONDS
        while (family := _family(number, name)) and time.monotonic() < end:
            _signal(family, getattr(signal, "SIGKILL", signal.SIGTERM))
            self._reap()
            time.sleep(0.02)
        self._wake.set()
        return True

    def look(self) -> None:
        """Start what may start now."""
        self._reap()
        jobs = [job for job in journal.listed(self._settings.jobs) if not job.over]
        running = [job for job in jobs if job.state == "running"]
        boards = {job.asked.board for job in running if job.asked.board}
        free = self._settings.at_once - len(running)
        for job in reversed([job for job in jobs if job.state == "queued"]):
            if free <= 0:
                return
            if job.asked.board and job.asked.board in boards:
                continue
            self._begin(job)
            boards.add(job.asked.board)
            free -= 1

    def _begin(self, job: journal.Job) -> None:
        with self._lock:
            if (job.folder / "cancelled").exists():
                return
            (job.folder / "spawned").touch()
        try:
            self._spawn(job)
        except OSError:
            (job.folder / "spawned").unlink(missing_ok=True)  # it waits on: a full disk may have room later
            raise

    def _spawn(self, job: journal.Job) -> None:
        environment = {**os.environ, journal.MARK: job.id, "PTH2OM_LANG": job.asked.language, "PYTHONUNBUFFERED": "1"}
        environment["PYTHONIOENCODING"] = "utf-8"
        with (job.folder / "log.txt").open("wb") as log:
            self._children[job.id] = subprocess.Popen(
                [sys.executable, *ISOLATED, "-m", "pth2om.gui.runner", str(job.folder.absolute())],
                cwd=self._settings.project,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        with contextlib.suppress(OSError):  # it runs; its number is in its own journal too
            write_text(job.folder / "spawned", str(self._children[job.id].pid))

    def _reap(self) -> None:
        for name, child in list(self._children.items()):
            if child.poll() is not None:
                self._children.pop(name, None)

    def _watch(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(OSError, Pth2omError):  # a full disk today may have room tomorrow
                self.look()
            self._wake.wait(_LOOK_SECONDS)
            self._wake.clear()


def _family(number: int | None, name: str) -> list[int]:
    """Every living process of a job: its own, its group's, and those that left the group but carry its mark.

    A number whose process does not carry the mark was given to somebody else since: then no group is the job's.
    """
    mark = f"{journal.MARK}={name}".encode()
    found = set()
    if number is not None:
        with contextlib.suppress(OSError):
            if mark not in Path(f"/proc/{number}/environ").read_bytes().split(b"\0"):
                number = None
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, _, group = (place / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[:3]
            marked = mark in (place / "environ").read_bytes().split(b"\0")
            if state != "Z" and (marked or group == str(number)):
                found.add(int(place.name))
    if not found and number is not None and not Path("/proc/self").exists():
        found.add(number)  # no such file system: the process alone, and its group by `_signal`
    return sorted(found - {os.getpid()})


def _signal(numbers: list[int], which: signal.Signals) -> None:
    for number in numbers:
        with contextlib.suppress(OSError):
            if not Path("/proc/self").exists() and hasattr(os, "killpg"):
                os.killpg(number, which)
            else:
                os.kill(number, which)
