"""Bars on a terminal, silence elsewhere."""

from __future__ import annotations

import os
import sys

import pytest

from pth2om import progress


def test_no_bar_in_a_pipe_or_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(progress, "_bars", drawn.append)
    monkeypatch.setattr(progress, "_SLOW_SECONDS", -1.0)
    with progress.counted("work", 3) as seen:
        seen(1)
    monkeypatch.setattr(progress, "_terminal", sys.stdout)
    monkeypatch.setenv("CI", "true")
    with progress.counted("work", 3) as seen:
        seen(1)
    assert drawn == []


def test_terminal_and_page_see_the_same_steps() -> None:
    one: list[progress.Step] = []
    two: list[progress.Step] = []
    source = progress.Progress(one.append)
    end = source.subscribe(two.append)

    def broken() -> None:
        with source.counted("work", None) as seen:
            seen(1)
            seen(2, 3)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    end()
    with source.counted("more", 1):
        pass
    assert two == [
        progress.Step("work", 0, None),
        progress.Step("work", 1, None),
        progress.Step("work", 2, 3),
        progress.Step("work", 2, 3, ended=True),
    ]
    assert one[: len(two)] == two
    assert [step.title for step in one[len(two) :]] == ["more", "more"]


def test_following_hears_this_thread_only_and_cancels_its_work() -> None:
    import threading

    work, page = progress.Progress(), progress.Progress()
    heard: list[progress.Step] = []
    page.subscribe(heard.append)

    def elsewhere() -> None:
        with work.counted("other", 1) as seen:
            seen(1)

    def through() -> None:
        with work.counted("mine", 3) as seen:
            for number in range(3):
                seen(number)
                page.cancel()

    with page.following(work):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        with pytest.raises(progress.Cancelled):
            through()
    elsewhere()
    assert [(step.title, step.done, step.ended) for step in heard] == [
        ("mine", 0, False),
        ("mine", 0, False),
        ("mine", 1, False),
        ("mine", 1, True),
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    import pty

    ours, theirs = pty.openpty()
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "_SLOW_SECONDS", -1.0)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(progress, "_terminal", terminal)
        with progress.counted("counting [/images]", 2) as seen:
            seen(1)
            seen(2)
        terminal.flush()
        shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "counting [/images]" in shown
