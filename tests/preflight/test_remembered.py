"""What is found out about a file is kept as long as the file does not change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pth2om.preflight import remembered as module
from pth2om.preflight.remembered import remembered


def test_a_file_is_asked_about_once_until_it_changes(tmp_path: Path) -> None:
    file, asked = tmp_path / "a", []

    def answer(question: str) -> str:
        return remembered(file, question, lambda: asked.append(question) or f"{question} {file.read_text()}")

    file.write_text("1")
    assert [answer("x"), answer("y"), answer("x")] == ["x 1", "y 1", "x 1"]
    assert asked == ["x", "y"]
    times = file.stat()
    file.write_text("2")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # of the same size, too
    assert answer("x") == "x 2"


def test_nothing_is_kept_of_what_is_absent_or_failed(tmp_path: Path) -> None:
    assert [remembered(tmp_path / "absent", "x", lambda number=number: number) for number in (1, 2)] == [1, 2]
    (tmp_path / "a").write_text("1")
    with pytest.raises(ZeroDivisionError):
        remembered(tmp_path / "a", "x", lambda: 1 / 0)
    assert remembered(tmp_path / "a", "x", lambda: 3) == 3


def test_only_so_many_answers_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 3)
    (tmp_path / "a").write_text("1")
    for number in range(10):
        remembered(tmp_path / "a", number, lambda: None)
    assert len(module._kept) == 3
