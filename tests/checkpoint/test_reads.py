"""Which of what was noted counts."""

from __future__ import annotations

import json
import types
from pathlib import Path

import pytest

from pth2om.checkpoint.reads import Reads, counted, folder_files, is_users
from pth2om.checkpoint.watching import Noted, watched


def note(source: str, folder: Path) -> Noted:
    """What is noted while a user's module with this text is executed."""
    file = folder / "user_code.py"
    file.write_text(source)
    noted = Noted()
    with watched(noted):
        exec(compile(source, str(file), "exec"), types.ModuleType("user_code").__dict__)
    return noted


def test_files_opened_for_reading_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    noted = note(
        "import os, pathlib, tempfile\n"
        "open('a').close()\nos.close(os.open('b', os.O_RDONLY))\npathlib.Path('written').write_text('1')\n"
        "with tempfile.TemporaryDirectory() as made:\n    pathlib.Path(made, 'x').write_text('1')\n"
        "    pathlib.Path(made, 'x').read_text()\n"
        "try:\n    open('absent')\nexcept FileNotFoundError:\n    pass\n",
        tmp_path,
    )
    (tmp_path / "written").read_text()
    assert counted(noted).files == {"a", "b", "absent"}


def test_what_nobody_asked_for_in_user_code_is_not_noted(tmp_path: Path) -> None:
    noted = Noted()
    with watched(noted):
        (tmp_path / "a").write_text("1")
        import linecache

        linecache.checkcache()
    assert str(tmp_path / "a") not in noted.files


def test_everything_is_as_before_once_the_block_is_left(tmp_path: Path) -> None:
    import builtins
    import os

    before = (os.stat, os.getcwd, builtins.__import__, type(os.environ).__getitem__)
    with pytest.raises(ZeroDivisionError):
        note("1 / 0", tmp_path)
    assert (os.stat, os.getcwd, builtins.__import__, type(os.environ).__getitem__) == before


def test_libraries_records_and_caches_are_not_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    places = [".cache/x.json", "x.egg-info/entry_points.txt", "lib/site-packages/x.py", "a/__pycache__/x.pyc"]
    assert not any(is_users(path) for path in (*(home / name for name in places), Path(json.__file__)))
    assert is_users(home / "data/x.json")
    (home / ".cache").mkdir(parents=True)
    monkeypatch.chdir(home / ".cache")  # who works there means it
    assert is_users(home / ".cache/x.json")


def test_reads_survive_json_and_cover_one_another() -> None:
    some = Reads(frozenset({"a"}), unseen=(("c", "fopen"),))
    more = some | Reads(frozenset({"b"}), variables=frozenset({"X"}), place=True)
    assert Reads.from_json(json.loads(json.dumps(more.to_json()))) == more
    assert more.covers(some)
    assert not some.covers(more)
    assert not Reads(frozenset({"a"})).covers(some)


def test_a_secret_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NET_TOKEN", "hunter2")
    state = Reads(variables=frozenset({"NET_TOKEN"})).state(lambda _: "", str)
    assert "hunter2" not in repr(state)


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


def test_links_are_followed_to_whose_files_they_are(tmp_path: Path) -> None:
    packages, own = tmp_path / "site-packages", tmp_path / "own" / "deep"
    packages.mkdir()
    own.mkdir(parents=True)
    (own / "a.py").write_text("")
    (packages / "linked").symlink_to(own)  # an editable installation
    (packages / "b.py").symlink_to(own / "a.py")
    (tmp_path / "lib").symlink_to(packages)
    (tmp_path / "c.py").symlink_to(packages / "own.py")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    users = [packages / "linked" / "a.py", packages / "b.py", own / "absent", tmp_path / "lib" / "linked" / "x.py"]
    others = [packages / "x.py", tmp_path / "lib" / "x.py", tmp_path / "c.py", tmp_path / "circle"]
    found = counted(Noted(files={str(path) for path in (*users, *others)})).files
    assert found == {str(path) for path in users}
    assert [is_users(path) for path in (*users, *others)] == [True] * 4 + [False] * 4
