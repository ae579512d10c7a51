"""The child process that simplifies: started ahead where somebody will need it, given one file, and ended.

Half of its time goes into imports; who exports first lets it begin with them meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pth2om.host import end_group, started_alike
from pth2om.language import Message, say

_waiting: list[subprocess.Popen[bytes]] = []


@contextlib.contextmanager
def started(wanted: bool = True) -> Iterator[None]:
    """Within it a child waits, its imports done; the first `simplified` takes it, and what is left over is ended.

    Args:
        wanted: whether to start one.
    """
    if not wanted:
        yield
        return
    child = _start()
    _waiting.append(child)
    try:
        yield
    finally:
        if child in _waiting:
            _waiting.remove(child)
            _end(child)


def simplified(tool: str, source: Path, made: Path, time_limit: float) -> Message | None:
    """Have a child simplify one file.

    Args:
        tool: ``onnxslim`` or ``onnxsim``.
        source: the ONNX file.
        made: the file to write.
        time_limit: in seconds.

    Returns:
        None if the file was written, else the reason why not.
    """
    child = _waiting.pop() if _waiting and _waiting[-1].poll() is None else _start()
    words = json.dumps([tool, str(source), str(made)]).encode()
    try:
        _, errors = child.communicate(words, timeout=time_limit)
    except subprocess.TimeoutExpired:
        return say("graph.simplify-slow", tool=tool, seconds=f"{time_limit:g}")
    finally:
        _end(child)
    if child.returncode == 0 and made.is_file():
        return None
    if child.returncode == 3:
        return say("graph.simplify-absent", tool=tool)
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name if -child.returncode in list(signal.Signals) else "signal"
        return say("graph.simplify-crashed", tool=tool, reason=f"{name} ({child.returncode})")
    lines = [line.strip() for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
    return say("graph.simplify-crashed", tool=tool, reason=lines[-1][:300] if lines else f"status {child.returncode}")


def _start() -> subprocess.Popen[bytes]:
    return started_alike("pth2om.graph.simplify_child", errors=True)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        end_group(child)
    for stream in (child.stdin, child.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
