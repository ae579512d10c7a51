"""A worker process, and how it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import Any, Dict, List, Optional

from .frames import FrameError, Header, Pipe

_TAIL = 8192
_LINES = 40
_SOON = 0.2


class ChildError(Exception):
    """The worker did not answer.

    Attributes:
        how: ``crash`` or ``hang``.
        values: ``signal`` (``SIGSEGV``; ``""`` where it left by itself), ``code``, ``seconds``, ``text`` (the end of
            what it printed).
    """

    def __init__(self, how: str, **values: Any) -> None:
        super().__init__("%s %s" % (how, values))
        self.how = how
        self.values = values


class Child:
    """A started worker.

    Args:
        command: to start.
        environment: for it.
        folder: its working directory; what it prints lies there as ``worker.log``.
    """

    def __init__(self, command: List[str], environment: Dict[str, str], folder: str) -> None:
        self._log = os.path.join(folder, "worker.log")
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._pipe = Pipe(self._process.stdout.fileno(), self._process.stdin.fileno())
        self.pid = self._process.pid

    def send(self, header: Header) -> None:
        """Hand over a command; a worker that is gone is told by `receive`."""
        with contextlib.suppress(OSError):
            self._pipe.send(header)

    def receive(self, limit: float) -> Header:
        """The answer to the command that was sent first.

        Raises:
            ChildError: it died, or did not answer within ``limit`` seconds and was ended.
        """
        begun = time.monotonic()
        try:
            return self._pipe.receive(begun + limit)[0]
        except FrameError as error:
            if error.kind == "late":
                self.signal()
                self._wait(_SOON)  # one that does not die in the driver is not waited for: the caller does that
                raise ChildError("hang", seconds=round(time.monotonic() - begun, 3), text=self.tail()) from None
            self._wait(1.0)
            raise ChildError("crash", **self.ended(), text=self.tail()) from None

    def ask(self, header: Header, limit: float) -> Header:
        """`send`, then `receive`."""
        self.send(header)
        return self.receive(limit)

    def finish(self, limit: float) -> Optional[Dict[str, Any]]:
        """Wait for the end of a worker that was asked to leave.

        Returns:
            None if it left with 0; else what `ended` tells, with ``text``, and ``seconds`` where it had to be ended.
        """
        begun = time.monotonic()
        if not self._wait(limit):
            self.kill()
            return {"signal": "", "code": 0, "seconds": round(time.monotonic() - begun, 3), "text": self.tail()}
        self.kill()  # what it may have started
        how = self.ended()
        return None if how["code"] == 0 else {**how, "text": self.tail()}

    def signal(self) -> None:
        """End it and what it started, without waiting for it."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End it and what it started."""
        self.signal()
        self._wait(5.0)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def ended(self) -> Dict[str, Any]:
        """The name of the signal that ended it, if one did, and its status."""
        return how_ended(self._process.poll())

    def tail(self) -> str:
        """The end of what it printed."""
        return tail_of(self._log)

    def _wait(self, limit: float) -> bool:
        try:
            self._process.wait(limit)
        except subprocess.TimeoutExpired:
            return False
        return True


def how_ended(code: Optional[int]) -> Dict[str, Any]:
    """``{"signal": "SIGSEGV", "code": -11}`` of a status; a shell's 139 is read as its signal too."""
    if code is None:
        return {"signal": "", "code": -1}
    number = -code if code < 0 else code - 128 if code > 128 else 0
    try:
        name = signal.Signals(number).name if number else ""
    except ValueError:
        name = ""
    return {"signal": name, "code": code}


def tail_of(path: str, most: int = _TAIL, lines: int = _LINES) -> str:
    """The last lines of a file; ``""`` where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - most))
            return "\n".join(file.read(most).decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""
