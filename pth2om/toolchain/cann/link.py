"""One connection to a board agent: a child over a pipe on this machine, one ``ssh`` process to a board.

The agent's file goes there inside the connection, once for each content. Requests and answers are frames
(`pth2om.toolchain.cann.agent.frames`); a time limit ends the process, so that no call waits for ever.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pth2om.errors import LostError, ToolchainError, first_line
from pth2om.toolchain.cann.agent.child import how_ended
from pth2om.toolchain.cann.agent.frames import PROTOCOL, FrameError, Header, Pipe
from pth2om.toolchain.cann.place import Place
from pth2om.toolchain.cann.shipping import Shipment, agent

CONNECT = 60.0
"""Seconds until a started agent has to answer."""

SLOWEST = 50_000.0
"""Bytes a second that a link has to move; below it a board counts as not answering."""

GRACE = 15.0
"""Seconds that an answer may come later than the limit of what was asked."""

_GREETING = b"PTH2OM "
_MOST_GREETING = 4096
_MOST_SAID = 64 << 10
_SHOWN = 200
_BOOT = """
import hashlib, os, sys
n, d = {size}, {digest!r}
say = lambda word: (sys.stdout.write("PTH2OM %s %s\\n" % (word, sys.version.split()[0])), sys.stdout.flush())
if sys.version_info < (3, 7):
    say("old"); sys.exit(3)
cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
c = os.environ.get("PTH2OM_BOARD_CACHE") or os.path.join(cache, "pth2om", "board")
try:
    os.makedirs(c, mode=0o700, exist_ok=True)
except OSError as error:
    sys.stderr.write("%s\\n" % error); say("full"); sys.exit(4)
p = os.path.join(c, "agent-" + d + ".pyz")
def ok():
    try:
        if not os.path.isfile(p): return False
        with open(p, "rb") as f: return hashlib.sha256(f.read()).hexdigest() == d
    except OSError: return False
if ok():
    say("have")
else:
    t = "%s.%d" % (p, os.getpid())
    try:
        f = open(t, "wb")
    except OSError as error:
        sys.stderr.write("%s\\n" % error); say("full"); sys.exit(4)
    say("want")
    b = sys.stdin.buffer.read(n)
    try:
        with f: f.write(b)
        os.replace(t, p)
    except OSError as error:
        sys.stderr.write("%s\\n" % error)
        try: os.unlink(t)
        except OSError: pass
        sys.exit(4)
    if not ok(): sys.exit(5)
os.execv(sys.executable, [sys.executable, "-X", "utf8", p, "serve"])
"""
"""What starts the agent: it runs in any Python, tells the version, takes the agent's file where it is not there yet."""

_CUT = re.compile(r"^(Syntax|Name)Error:", re.MULTILINE)  # Python was given a part of the line that was sent
_FULL, _DAMAGED = 4, 5  # statuses of `_BOOT`
_SSH = {
    "HOST IDENTIFICATION HAS CHANGED": "host-changed",
    "Host key verification failed": "host-key",
    "Permission denied": "denied",
    "Could not resolve hostname": "no-host",
    "Connection refused": "refused",
    "Connection timed out": "unreachable",
    "Operation timed out": "unreachable",
    "No route to host": "unreachable",
    "Network is unreachable": "unreachable",
    "python3: command not found": "no-python",
    "python3: not found": "no-python",
}


class Link:
    """A started agent.

    Args:
        place: where it runs.
        shipment: the agent's file.

    Raises:
        LostError: the machine cannot be reached, or did not answer in time.
        ToolchainError: it answers, but an agent cannot run there.
    """

    def __init__(self, place: Place, shipment: Shipment | None = None) -> None:
        self.place = place
        self._shipment = shipment or agent()
        self._number = 0
        self._greeted = False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has ended
        try:
            self._process = subprocess.Popen(
                place.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, bufsize=0
            )
        except OSError as error:
            raise ToolchainError("cann.no-ssh", where=place.name, reason=str(error)) from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._read, self._write = self._process.stdout.fileno(), self._process.stdin.fileno()
        self._pipe = Pipe(self._read, self._write)
        self._limit = _Limit(self._process)
        try:
            self._start()
        except BaseException:  # an interrupt too: ssh may not outlive us
            self.close()
            raise

    def _start(self) -> None:
        with self._limit.of(CONNECT):
            boot = _BOOT.format(size=len(self._shipment.data), digest=self._shipment.digest)
            try:
                _put(self._write, f"exec({boot!r})\n".encode())
                word, version = self._greeting()
                self._greeted = True
                if word == "old":
                    raise ToolchainError("cann.old-python", where=self.place.name, version=version)
                if word == "full":
                    raise ToolchainError("cann.no-cache", where=self.place.name, reason=_last(self._said()))
                if word == "want":
                    _put(self._write, self._shipment.data)
                header, length = self._pipe.receive()
            except (OSError, FrameError) as error:
                raise self._lost(error) from None
        if header.get("kind") != "hello" or header.get("protocol") != PROTOCOL or length:
            found = header.get("protocol")
            raise ToolchainError("cann.protocol", where=self.place.name, wanted=PROTOCOL, found=str(found))
        if header.get("agent") != self._shipment.digest:
            raise ToolchainError("cann.other-agent", where=self.place.name)

    def _greeting(self) -> tuple[str, str]:
        line = b""
        while not line.endswith(b"\n") and len(line) < _MOST_GREETING:
            byte = os.read(self._read, 1)
            if not byte:
                break
            line += byte
        if not line.startswith(_GREETING):
            if line:
                text = first_line(line.decode(errors="replace"))[:_SHOWN]
                raise ToolchainError("cann.garbage", where=self.place.name, text=text)
            raise FrameError("ended")
        word, _, version = line.decode(errors="replace")[len(_GREETING) :].strip().partition(" ")
        return word, version

    # --- asking -------------------------------------------------------------------------------------------------------

    def send(self, header: Mapping[str, Any], payload: Sequence[Any] = ()) -> int:
        """Send a request without waiting for its answer; returns its number.

        Raises:
            LostError: the agent is gone.
        """
        self._number += 1
        size = sum(memoryview(part).nbytes for part in payload)
        try:
            with self._limit.of(CONNECT + size / SLOWEST):
                self._pipe.send({**header, "id": self._number}, payload)
        except OSError as error:
            raise self._lost(error) from None
        return self._number

    def receive(
        self, number: int, limit: float, progress: Callable[[Header], None] | None = None
    ) -> tuple[Header, bytearray]:
        """The answer to a request.

        Args:
            number: of `send`; answers come in the order of the requests, and those that nobody took are dropped.
            limit: seconds that the agent may take.
            progress: gets the reports that come before.

        Returns:
            Header and payload; the header may be an ``error``.

        Raises:
            LostError: the agent is gone, or does not answer in time.
            ToolchainError: what came is no frame.
        """
        try:
            with self._limit.of(limit + GRACE):
                while True:
                    header, length = self._pipe.receive()
                    payload = self._pipe.payload(length)
                    answered = header.get("id")
                    if isinstance(answered, int) and answered < number:
                        continue  # of a stream that was given up
                    if header.get("kind") != "progress":
                        break
                    self._limit.again()
                    if progress is not None:
                        progress(header)
        except (OSError, FrameError) as error:
            raise self._lost(error) from None
        if header.get("id") not in (number, None):
            raise ToolchainError("cann.protocol", where=self.place.name, wanted=number, found=str(header.get("id")))
        return header, payload

    def ask(
        self,
        header: Mapping[str, Any],
        payload: Sequence[Any] = (),
        *,
        limit: float = 60.0,
        progress: Callable[[Header], None] | None = None,
    ) -> tuple[Header, bytearray]:
        """`send`, then `receive`."""
        return self.receive(self.send(header, payload), limit, progress)

    def close(self) -> None:
        """End the connection; the agent then ends its worker and gives its lease back."""
        self._limit.stop()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def cut(self) -> None:
        """End the connection without a word: ssh is killed, or here the agent's stdin ends."""
        if not self.place.is_here:
            self._process.kill()
        elif self._process.stdin is not None:
            self._process.stdin.close()

    # --- what went wrong ----------------------------------------------------------------------------------------------

    def _lost(self, error: OSError | FrameError) -> ToolchainError:
        """The error for a connection that failed, by what ssh or Python printed."""
        where = self.place.name
        if self._limit.passed is not None:
            key = "cann.silent" if self._greeted else "cann.silent-start"
            return LostError(key, where=where, seconds=round(self._limit.passed))
        if isinstance(error, FrameError) and error.kind in ("garbage", "length", "header"):
            return ToolchainError(f"cann.frame-{error.kind}", where=where, text=error.text)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        said = self._said()
        for text, key in _SSH.items():
            if text in said and not self.place.is_here:
                return LostError(f"cann.ssh-{key}", where=where, reason=_last(said))
        code = self._process.returncode
        if self._number == 0 and code == _FULL:
            return ToolchainError("cann.no-cache", where=where, reason=_last(said))
        if not self._greeted and _CUT.search(said):
            return ToolchainError("cann.eaten", where=where)
        if self._number == 0 and code == _DAMAGED:
            return ToolchainError("cann.other-agent", where=where)
        # A broken pipe is only how it shows; how the other end left says more.
        left = "" if code is None else how_ended(code)["signal"] or f"status {code}"
        return LostError("cann.lost", where=where, reason=_last(said) or left or str(error))

    def _said(self) -> str:
        try:
            self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - _MOST_SAID))  # ssh's own words come last
            return self._stderr.read(_MOST_SAID).decode("utf-8", "replace")
        except (OSError, ValueError):
            return ""


class _Limit:
    """Ends a process when what is done with it takes too long.

    Attributes:
        passed: the limit that passed, in seconds; None while none did.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._seconds = 0.0
        self._stopped = False
        self.passed: float | None = None
        threading.Thread(target=self._watch, daemon=True).start()

    @contextlib.contextmanager
    def of(self, seconds: float) -> Any:  # noqa: ANN401 - a context manager
        """Within this, the process has that long."""
        # The watcher wakes by itself now and then; waking it here would cost each call a switch of threads.
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            self._deadline = None

    def again(self) -> None:
        """Begin anew: something came."""
        self._deadline = time.monotonic() + self._seconds

    def stop(self) -> None:
        """Watch no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._stopped:
                deadline = self._deadline
                if deadline is not None and time.monotonic() > deadline:
                    self.passed = self._seconds
                    self._process.kill()
                    return
                self._changed.wait(0.25)


def _put(number: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(number, view) :]


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300].rstrip(".") if lines else ""  # the sentence that it stands in has a full stop
