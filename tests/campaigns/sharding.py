"""The outcomes of a campaign: those of several processes joined, and the total that is printed at the end.

An interrupt ends it: what was found until then is in the total, and the processes clean up behind themselves.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Protocol

_PATIENCE = 60.0
INTERRUPTED = 130
_EVERY = 50


class Found(Protocol):
    """An outcome."""

    @property
    def number(self) -> int:
        """Of what was tried."""

    @property
    def kind(self) -> str:
        """Of what was tried."""

    @property
    def wrong(self) -> list[str]:
        """One sentence each."""


class Row:
    """An outcome that another process told."""

    def __init__(self, number: int, kind: str, wrong: list[str]) -> None:
        self.number = number
        self.kind = kind
        self.wrong = wrong


def tell(outcomes: Iterable[Found]) -> int:
    """Print outcomes for `joined`, one JSON object a line."""
    try:
        for each in outcomes:
            print(json.dumps([each.number, each.kind, each.wrong]), flush=True)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def joined(lines: Sequence[Sequence[str]]) -> Iterator[Found]:
    """The outcomes of commands that `tell` them, as they come.

    A process that ends badly is an outcome of its own: what it was to try is not there.
    """
    told: queue.Queue[Found | None] = queue.Queue()
    # Sessions of their own: an interrupt of the terminal reaches them through this process, once.
    started = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True, start_new_session=True) for line in lines]
    threads = [threading.Thread(target=_read, args=(process, told), daemon=True) for process in started]
    for thread in threads:
        thread.start()
    waiting = len(started)
    try:
        while waiting:
            row = told.get()
            if row is None:
                waiting -= 1
            else:
                yield row
    finally:
        for process in started:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        end = time.monotonic() + _PATIENCE
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
            process.kill()
            process.wait()


def _read(process: subprocess.Popen[str], told: queue.Queue[Found | None]) -> None:
    assert process.stdout is not None
    seen = 0
    try:
        for line in process.stdout:
            told.put(Row(*json.loads(line)))
            seen += 1
    except ValueError as error:
        told.put(Row(-1, "shard", [f"process {process.pid} printed something else: {error}"]))
    status = process.wait()
    if status not in (0, INTERRUPTED):
        told.put(Row(-1, "shard", [f"process {process.pid} ended with {status} after {seen}"]))
    told.put(None)


def total(outcomes: Iterable[Found], to: IO[str] | None = None) -> int:
    """Print what goes wrong as it does, a line now and then, and at the end how many of each kind.

    Returns:
        0 where all went well; 1; `INTERRUPTED`.
    """
    to = to or sys.stdout
    begun = time.monotonic()
    kinds: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    interrupted = False

    def so_far() -> str:
        return f"{kinds.total()} faults, {wrong.total()} wrong, {time.monotonic() - begun:.0f} s"

    try:
        for each in outcomes:
            kinds[each.kind] += 1
            wrong[each.kind] += bool(each.wrong)
            for text in each.wrong:
                print(text, file=to, flush=True)
            if kinds.total() % _EVERY == 0:
                print(so_far(), file=to, flush=True)
    except KeyboardInterrupt:
        interrupted = True
        close = getattr(outcomes, "close", None)
        if close is not None:
            close()
    for kind in sorted(kinds):
        print(f"  {kind:24} {kinds[kind]:5} {wrong[kind]:5} wrong", file=to)
    print(so_far() + (", interrupted" if interrupted else ""), file=to, flush=True)
    if interrupted:
        return INTERRUPTED
    return int(wrong.total() > 0 or not kinds)
