"""A board that somebody else holds: what is said of the holder, and what becomes of a lock that is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pth2om.errors import LostError
from pth2om.toolchain.cann import CannToolchain
from pth2om.toolchain.cann import machine as board_at
from pth2om.toolchain.cann.agent.lease import Lease, place, running
from pth2om.toolchain.cann.board import Limits
from pth2om.toolchain.cann.boards import busy
from tests.toolchain.cann.conftest import feeds

HOUR, DAY = 3600, 86400


@pytest.fixture
def held(machine) -> Iterator[Path]:
    """The file of a lock that somebody else holds all the time."""
    other = Lease()
    assert other.take({"who": "ada", "host": "pc7"}) is None
    yield Path(place(0))
    other.give_back()


def ago(seconds: float) -> set[str]:
    """How a time so long ago is written, a second earlier or later."""
    form = "%H:%M:%S" if seconds < DAY else "%Y-%m-%d %H:%M"
    return {time.strftime(form, time.localtime(time.time() - seconds + late)) for late in (-1, 0, 1)}


def said(*, since: float | None = None, up: float | None = None, text: str | bytes | None = None) -> str:
    """What is said of a lock file."""
    row = {"who": "ada", "host": "pc7", "pid": 4711, "since": since, "up": up}
    data = json.dumps(row) if text is None else text
    Path(place(0)).write_bytes(data if isinstance(data, bytes) else data.encode())
    board = board_at()
    found = board.lease(0.0)
    assert found is not None
    error = busy(board.name, 0.0, found)
    assert "fuser" in error.message.with_fix("en")
    assert "fuser" in error.message.with_fix("zh")
    return str(error)


@pytest.mark.parametrize(
    ("clock", "up", "seconds"),
    [
        (5, None, 5),
        (DAY + HOUR, None, DAY + HOUR),
        (2 * HOUR, 5, 5),  # the clock was put forward since
        (-HOUR, 5, 5),  # it was put back
        (56 * 365 * DAY, 5, 5),  # a board without a battery began in 1970 and has asked for the time since
    ],
    ids=["5 s", "a day", "forward", "back", "1970"],
)
def test_since_when_a_board_is_held(held: Path, clock: float, up: float | None, seconds: float) -> None:
    text = said(since=time.time() - clock, up=None if up is None else running() - up)
    found = re.search(r"held by ada@pc7 \(since ([^)]+)\)", text)
    assert found is not None, text
    assert found[1] in ago(seconds)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps({"who": "ada", "host": "pc7", "since": time.time() + HOUR}), "by ada@pc7 .* not known since when"),
        (json.dumps({"who": "ada", "since": True}), r"by ada@\? .* not known since when"),
        ('{"who": "ada", "host": "pc', "does not say by whom"),
        ("", "does not say by whom"),
        (b"\xff\x00\x1b[2J" * 100_000, "does not say by whom"),
        ("[" * 100_000, "does not say by whom"),
        (json.dumps({"who": ["x"] * 99, "host": "\x1b[2J\n"}), "not known since when"),
    ],
    ids=["future", "no time", "cut", "empty", "bytes", "deep", "types"],
)
def test_what_a_lock_does_not_tell_is_not_invented(held: Path, text: str | bytes, words: str) -> None:
    found = said(text=text)
    assert re.search(words, found), found
    assert "\x1b" not in found
    assert len(found) < 1000


def test_the_limit_of_the_wait_is_kept(held: Path, toolchain, compiled) -> None:
    impatient = CannToolchain(toolchain.target, limits=Limits(compile=120, run=9, wait=0.3))
    board_at().limits = impatient.limits
    begun = time.monotonic()
    with pytest.raises(LostError, match=r"held by ada@pc7 \(since"):
        impatient.open(compiled, "device").run(feeds())
    assert 0.3 <= time.monotonic() - begun < 5


def test_who_waits_gets_a_board_whose_holder_dies(machine) -> None:
    taken = "from pth2om.toolchain.cann.agent.lease import Lease; Lease().take({'who': 'ada'})"
    code = f"{taken}; print(1, flush=True); input()"
    board = board_at()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert board.lease(0.0) == {"who": "ada", "seconds": pytest.approx(0, abs=30), "pid": other.pid}
        threading.Timer(0.2, os.kill, (other.pid, signal.SIGKILL)).start()
        assert board.lease(20.0) is None
    assert board.is_leased
    board.rest()
    assert Lease().look() == {"held": False}
