"""The one atomic writer."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from pth2om.files import is_file, is_folder, is_there, replacing, write_bytes, write_text


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_text(path, "eins\nzwei äöü 中文")
    assert path.read_bytes() == "eins\nzwei äöü 中文".encode()
    write_bytes(path, b"new", durable=True)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("folder", [False, True])
def test_what_fails_leaves_the_old_and_nothing_else(tmp_path: Path, error: type[BaseException], folder: bool) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("old")

    def broken() -> None:
        with replacing(path) as scratch:
            if folder:
                scratch.mkdir()
                scratch = scratch / "inner"
            scratch.write_text("half")
            assert path.read_text() == "old"
            raise error

    with pytest.raises(error):
        broken()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_not_replaced_by_one(tmp_path: Path) -> None:
    """A user who names a device, or a pipe, as the place for a file keeps it: root may rename over both."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to("/dev/null")
    for path in (pipe, tmp_path / "link", Path("/dev/null")):
        with pytest.raises(OSError, match="Invalid argument"):
            write_text(path, "text")
    assert pipe.is_fifo()
    assert Path("/dev/null").is_char_device()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with replacing(tmp_path / "bins") as scratch:
        scratch.mkdir()
        (scratch / "batch_0.bin").write_bytes(b"1")
        assert not (tmp_path / "bins").exists()
    assert [path.name for path in (tmp_path / "bins").iterdir()] == ["batch_0.bin"]
    assert len(list(tmp_path.iterdir())) == 1


def test_the_longest_name_that_a_file_may_have(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".json")
    write_text(path, "1")
    assert path.read_text() == "1"


def test_a_folder_that_is_not_there_is_the_callers_matter(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "absent" / "x.txt", "1")


WITH_REASON = {
    "pth2om/files.py": "the one writer",
    "pth2om/graph/fixing.py": "a copy that is checked, never renamed",
    "pth2om/fetch.py": "a download keeps its part, from which it is resumed",
    "pth2om/drafting/start.py": "all files of a new model appear, or none",
    "pth2om/checkpoint/watching.py": "names them; writes nothing",
    "pth2om/quantize/bins.py": "fills a folder that may exist",
    "pth2om/toolchain/cann/link.py": "what starts an agent runs on a board, without this package",
    "pth2om/toolchain/cann/agent/blobs.py": "likewise, and an upload keeps its part, from which it is resumed",
}


def test_nobody_else_writes_beside_a_name_and_renames(repository: Path) -> None:
    pattern = re.compile(
        r"temporary\.replace|scratch\.replace|with_name\(f\"\.\{|mkstemp|NamedTemporaryFile|os\.replace"
    )
    found = {
        path.relative_to(repository).as_posix()
        for path in (repository / "pth2om").rglob("*.py")
        if pattern.search(path.read_text(encoding="utf-8"))
    }
    assert found <= set(WITH_REASON), "use pth2om.files.replacing"


@pytest.mark.parametrize("name", ["a" * 5000, "b/" * 3000, "c\0d"])
def test_a_name_that_no_file_system_takes_names_nothing(tmp_path: Path, name: str) -> None:
    assert not any(names(tmp_path / name) for names in (is_file, is_folder, is_there))
    assert is_folder(tmp_path)
    assert not is_file(tmp_path)
    write_text(tmp_path / "file", "")
    assert is_file(tmp_path / "file")
    assert is_there(tmp_path / "file")
