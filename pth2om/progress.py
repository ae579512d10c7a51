"""Progress of long work: a terminal's bar and a page subscribe to the same steps."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

_SLOW_SECONDS = 2.0
"""Work shorter than this shows no bar."""

_terminal: TextIO | None = None


@dataclass(frozen=True)
class Step:
    """How far one piece of work is.

    Attributes:
        title: what is being done.
        done: number of steps that are done.
        total: number of all steps; None where it is unknown.
        ended: whether the work is over, well or not; nothing more comes of it.
    """

    title: str
    done: int
    total: int | None
    ended: bool = False


Listener = Callable[[Step], None]
"""Told of each step; steps of work inside other work come between those of the outer."""

Seen = Callable[..., None]
"""``seen(done)`` or ``seen(done, total)``, where the total becomes known later."""


class Cancelled(KeyboardInterrupt):
    """Work was stopped by `Progress.cancel`; it leaves what an interrupted run leaves: finished stages, no files."""


class Progress:
    """Where long work reports how far it is, and where it learns that it shall stop.

    Args:
        *listeners: who is told; more may `subscribe`.
    """

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = list(listeners)
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Stop the work at its next step, from any thread: there `Cancelled` is raised."""
        self._cancelled.set()

    @contextlib.contextmanager
    def following(self, other: Progress) -> Iterator[None]:
        """Inside the block, hear each step that this thread reports to ``other``; `cancel` then stops that work."""
        thread = threading.get_ident()

        def hear(step: Step) -> None:
            if threading.get_ident() == thread:
                self._tell(step)
                if self._cancelled.is_set() and not step.ended:
                    raise Cancelled

        end = other.subscribe(hear)
        try:
            yield
        finally:
            end()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell ``listener`` too.

        Returns:
            A function that ends the subscription.
        """
        self._listeners.append(listener)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return end

    @contextlib.contextmanager
    def counted(self, title: str, total: int | None) -> Iterator[Seen]:
        """Work of ``total`` steps.

        Yields:
            A function to call with the number of steps that are done, and optionally the total.
        """
        now = Step(title, 0, total)
        self._tell(now)

        def seen(done: int, total: int | None = None) -> None:
            nonlocal now
            now = Step(title, done, now.total if total is None else total)
            self._tell(now)

        try:
            yield seen
        finally:
            self._tell(Step(title, now.done, now.total, ended=True))

    def _tell(self, step: Step) -> None:
        for listener in tuple(self._listeners):
            listener(step)


class Bar:
    """A listener that draws a bar on a terminal, once work is slow; nothing in CI, in a worker or in a pipe."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._drawn: Any = None
        self._tasks: dict[str, Any] = {}

    def __call__(self, step: Step) -> None:
        """See `Listener`."""
        if step.ended:
            self._end(step.title)
            return
        started = self._started.setdefault(step.title, time.monotonic())
        terminal = _shown_on()
        if terminal is None or (step.title not in self._tasks and time.monotonic() - started <= _SLOW_SECONDS):
            return
        if self._drawn is None:
            self._drawn = _bars(terminal)
        if step.title not in self._tasks:
            self._tasks[step.title] = self._drawn.add_task(step.title, total=step.total)
        self._drawn.update(self._tasks[step.title], completed=step.done, total=step.total)

    def _end(self, title: str) -> None:
        self._started.pop(title, None)
        task = self._tasks.pop(title, None)
        if task is not None:
            self._drawn.remove_task(task)
        if self._drawn is not None and not self._tasks:
            self._drawn.stop()
            self._drawn = None


def _bars(terminal: TextIO) -> Any:  # noqa: ANN401 - rich is imported when a bar is drawn
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Title(ProgressColumn):
        """The title as it is: a model's name is not markup."""

        def render(self, task: Task) -> Text:
            return Text(task.description)

    print(file=terminal, flush=True)  # pytest's own line is not finished yet
    columns = (Title(), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars = Bars(*columns, console=Console(file=terminal), transient=True)
    bars.start()
    return bars


terminal = Progress(Bar())
"""The progress of this process; a page subscribes to it as the terminal's bar does."""


def counted(title: str, total: int | None) -> contextlib.AbstractContextManager[Seen]:
    """Work of this process; see `Progress.counted`."""
    return terminal.counted(title, total)


def keep_terminal() -> None:
    """Remember standard error as it is now, if it is a terminal: pytest is about to capture it."""
    global _terminal
    if _terminal is None and sys.stderr.isatty():
        _terminal = os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding or "utf-8")


def _shown_on() -> TextIO | None:
    if os.environ.get("CI") or os.environ.get("PYTEST_XDIST_WORKER"):
        return None
    return _terminal or (sys.stderr if sys.stderr.isatty() else None)
