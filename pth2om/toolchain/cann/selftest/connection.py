"""What is assumed of the lease and of the connection."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pth2om.errors import Pth2omError
from pth2om.toolchain.cann.agent.frames import described
from pth2om.toolchain.cann.board import Board
from pth2om.toolchain.cann.place import Place
from pth2om.toolchain.cann.selftest.trials import Trial, line, trial

_GONE = 20.0
_BYTES = 8 << 20
_PARTS = 8
_SHARE = 0.9


def lease(board: Board, place: Place) -> Iterator[Trial]:
    """L2: a second connection waits for the first."""
    other = Board(place)
    with contextlib.closing(other):
        first = board.lease(5.0)
        if first is not None:
            yield Trial("L2", "untried", "somebody else holds the board")
            return
        second = other.lease(0.0)
        board.rest()
        third = other.lease(5.0)
        other.rest()
    yield trial("L2", second is not None and third is None, f"held: {second is not None}; given back: {third is None}")


def cut(board: Board, place: Place, model: Path, compile_request: Mapping[str, Any]) -> Iterator[Trial]:
    """L3: a connection that is cut while a worker has a model loaded and a compile is under way.

    Args:
        board: sees what is left.
        place: of both.
        model: an OM.
        compile_request: of an atc that runs some seconds.
    """
    other = Board(place)
    try:
        with contextlib.closing(other):
            if other.lease(60.0) is not None:
                yield Trial("L3", "untried", "somebody else holds the board")
                return
            other.load("cut", {"static.om": model}, "static.om")
            token = other.ask({"kind": "left"})[0]["token"]
            other.link.send(compile_request)
            before = _wait(board, token, lambda names: len(names) > 1)
            other.link.cut()
        after = _wait(board, token, lambda names: not names)
    except Pth2omError as error:
        yield Trial("L3", "fails", line(error))
        return
    seen = f"running: {', '.join(before) or 'nothing'}; left after the cut: {', '.join(after) or 'none'}"
    yield trial("L3", not after if before else None, seen)


def _wait(board: Board, token: str, done: Any) -> list[str]:  # noqa: ANN401 - a predicate
    """The processes of an agent, once they are as wanted, or the time is over."""
    deadline = time.monotonic() + _GONE
    while True:
        names = [str(name) for name in board.ask({"kind": "left", "agent": token})[0]["processes"]]
        if done(names) or time.monotonic() > deadline:
            return names
        time.sleep(0.1)


def rate(board: Board, place: Place) -> Iterator[Trial]:
    """L4: inputs through the agent against ``cat`` behind another ssh."""
    if place.is_here:
        yield Trial("L4", "untried", "there is no ssh between")
        return
    data = np.random.default_rng(0).integers(0, 256, _BYTES, np.uint8)
    try:
        begun = time.perf_counter()
        numbers = []
        for _ in range(_PARTS):
            numbers.append(board.link.send({"kind": "run", "model": "", "tensors": described([("x", data)])}, [data]))
            if len(numbers) > 1:
                board.link.receive(numbers.pop(0), 60.0)
        board.link.receive(numbers.pop(), 60.0)
        ours = _PARTS * _BYTES / (time.perf_counter() - begun)
        bare = _bare(place, data.tobytes())
    except (Pth2omError, OSError, subprocess.SubprocessError) as error:
        yield Trial("L4", "fails", line(error) if isinstance(error, Pth2omError) else str(error))
        return
    yield rated(ours, bare)


def _bare(place: Place, data: bytes) -> float:
    """Bytes a second that ``cat`` takes behind ssh, without the time that a connection takes."""
    words = [*place.command()[:-1], "echo; cat > /dev/null; echo"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        begun = time.perf_counter()
        for _ in range(_PARTS):
            process.stdin.write(data)
        process.stdin.close()
        process.stdout.readline()
        took = time.perf_counter() - begun
    if process.returncode != 0:
        raise subprocess.SubprocessError(f"ssh ended with {process.returncode}")
    return _PARTS * len(data) / took


def rated(ours: float, bare: float) -> Trial:
    """L4, of two rates in bytes a second."""
    return trial("L4", ours >= _SHARE * bare, f"{ours / 1e6:.1f} MB/s, a bare cat {bare / 1e6:.1f} MB/s")
