"""Which opened files are the user's."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pth2om.checkpoint.reads import folder_files, user_files, watched


def test_files_opened_for_reading_are_seen(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    opened: set[str] = set()
    with watched(opened):
        (tmp_path / "a").read_text()
        os.close(os.open(tmp_path / "b", os.O_RDONLY))
        (tmp_path / "written").write_text("1")
        with pytest.raises(FileNotFoundError):
            (tmp_path / "absent").read_text()
    (tmp_path / "written").read_text()
    assert [path.name for path in user_files(opened)] == ["a", "b"]


def test_files_read_by_a_database_or_another_program_are_seen(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("1")
    opened: set[str] = set()
    with watched(opened):
        sqlite3.connect(tmp_path / "d.db").close()
        sqlite3.connect(f"file:{tmp_path / 'e.db'}?mode=rwc", uri=True).close()
        program = [sys.executable, "-S", "-c", "pass"]
        subprocess.run([*program, tmp_path / "a"], check=True)
        subprocess.run([*program, "b"], cwd=tmp_path, check=True)
        subprocess.run(f"echo < {tmp_path / 'c'}", shell=True, check=True, stdout=subprocess.DEVNULL)
    (tmp_path / "d.db").write_text("")
    assert [path.name for path in user_files(opened) if path.parent == tmp_path] == ["a", "b", "c", "d.db", "e.db"]


def test_libraries_records_and_caches_are_not_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    places = [".cache/x.json", "x.egg-info/entry_points.txt", "lib/site-packages/x.py", "a/__pycache__/x.pyc"]
    for name in (*places, "data/x.json"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("1")
    found = user_files([json.__file__, __file__ + ".absent", *(str(home / name) for name in (*places, "data/x.json"))])
    assert found == (home / "data/x.json",)


def test_files_of_a_models_folder(tmp_path: Path) -> None:
    for name in (
        "net.py",
        "cfg/a.json",
        "model.toml",
        "weights/w.pth",
        "w.PTH",
        ".git/x",
        "README.md",
        "reports/r.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    assert [path.relative_to(tmp_path).as_posix() for path in folder_files(tmp_path)] == ["cfg/a.json", "net.py"]
