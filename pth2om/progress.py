"""Progress of long work: a bar on a terminal, nothing in CI or in a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

_SLOW_SECONDS = 2.0
"""Work shorter than this shows no bar at all."""

_terminal: TextIO | None = None


def keep_terminal() -> None:
    """Remember standard error as it is now, if it is a terminal: pytest is about to capture it."""
    global _terminal
    if _terminal is None and sys.stderr.isatty():
        _terminal = os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding or "utf-8")


def _shown_on() -> TextIO | None:
    if os.environ.get("CI") or os.environ.get("PYTEST_XDIST_WORKER"):
        return None
    return _terminal or (sys.stderr if sys.stderr.isatty() else None)


@contextlib.contextmanager
def counted(title: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """A bar for ``total`` steps.

    Args:
        title: what is being done.
        total: number of steps.

    Yields:
        A function that is told how many steps are done; None where no bar is shown.
    """
    terminal = _shown_on()
    if terminal is None:
        yield None
        return
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(file=terminal), transient=True)
    task = progress.add_task(title, total=total)
    running = False

    def seen(done: int) -> None:
        nonlocal running
        if not running and time.monotonic() - started > _SLOW_SECONDS:
            running = True
            print(file=terminal, flush=True)  # pytest's own line is not finished yet
            progress.start()
        progress.update(task, completed=done)

    try:
        yield seen
    finally:
        if running:
            progress.stop()
