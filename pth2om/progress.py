"""Progress of long work: a bar on a terminal, nothing in CI or in a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

_SLOW_SECONDS = 2.0
"""Work shorter than this shows no bar at all."""


def _shown() -> bool:
    return sys.stderr.isatty() and not os.environ.get("CI") and not os.environ.get("PYTEST_XDIST_WORKER")


@contextlib.contextmanager
def counted(title: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """A bar for ``total`` steps.

    Args:
        title: what is being done.
        total: number of steps.

    Yields:
        A function that is told how many steps are done; None where no bar is shown.
    """
    if not _shown():
        yield None
        return
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task(title, total=total)
    running = False

    def seen(done: int) -> None:
        nonlocal running
        if not running and time.monotonic() - started > _SLOW_SECONDS:
            running = True
            progress.start()
        progress.update(task, completed=done)

    try:
        yield seen
    finally:
        if running:
            progress.stop()
