"""Bars on a terminal, silence elsewhere."""

from __future__ import annotations

import os
import sys

import pytest

from pth2om import progress


def test_no_bar_in_a_pipe_or_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    with progress.counted("work", 3) as seen:
        assert seen is None
    monkeypatch.setattr(progress, "_terminal", sys.stdout)
    monkeypatch.setenv("CI", "true")
    with progress.counted("work", 3) as seen:
        assert seen is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    import pty

    ours, theirs = pty.openpty()
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "_SLOW_SECONDS", 0.0)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(progress, "_terminal", terminal)
        with progress.counted("counting images", 2) as seen:
            assert seen is not None
            seen(1)
            seen(2)
        terminal.flush()
        shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "counting images" in shown
