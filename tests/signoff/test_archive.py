"""Bundles: the same documents are the same bytes, and no other file is one."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pth2om.errors import SignoffError
from pth2om.signoff import archive

DOCUMENTS = {"statement.json": b"{}\n", "specs/net.toml": b"task", "evidence.jsonl": b"x" * 40}


def zipped(fill: Callable[[zipfile.ZipFile], None], start: bytes = b"") -> bytes:
    memory = io.BytesIO(start)
    with zipfile.ZipFile(memory, "a") as file:
        fill(file)
    return memory.getvalue()


def entry(name: str) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    made.create_system, made.external_attr = 3, 0o100644 << 16
    return made


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.from_regex(r"\A[a-z]{1,9}(\.json)?\Z"), st.binary(max_size=60), max_size=5))
def test_what_is_written_is_read(documents: dict[str, bytes]) -> None:
    documents.pop(archive.MANIFEST, None)
    data = archive.write(documents)
    assert archive.read(data) == documents
    assert archive.write(dict(reversed(documents.items()))) == data


def test_anybody_can_open_it() -> None:
    with zipfile.ZipFile(io.BytesIO(archive.write(DOCUMENTS))) as file:
        assert file.testzip() is None
        assert sorted(file.namelist()) == sorted([archive.MANIFEST, *DOCUMENTS])


def test_any_changed_byte_is_found() -> None:
    data = archive.write(DOCUMENTS)
    for place in range(len(data)):
        for change in (0x01, 0x80):
            spoilt = bytearray(data)
            spoilt[place] ^= change
            with pytest.raises(SignoffError):
                archive.read(bytes(spoilt))
    for length in range(len(data)):
        with pytest.raises(SignoffError):
            archive.read(data[:length])


def bomb() -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", b"\0" * 50_000_000)
    return memory.getvalue()


def lying_size() -> bytes:
    data = bytearray(archive.write(DOCUMENTS))
    place = data.index(b"PK\x01\x02")
    data[place + 20 : place + 28] = struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFF0)
    return bytes(data)


def overlapping() -> bytes:
    """Many names for the bytes of one entry."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as file:
        file.writestr(entry("a"), b"x" * 1000)
        first = file.infolist()[0]
        for number in range(2000):
            again = entry(f"b{number}")
            again.header_offset, again.CRC = first.header_offset, first.CRC
            again.file_size = again.compress_size = first.file_size
            file.filelist.append(again)
            file.NameToInfo[again.filename] = again
    return memory.getvalue()


WHOLE = archive.write(DOCUMENTS)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(zipped(lambda file: file.writestr(entry("../../etc/cron.d/x"), b"x")), id="points outside"),
        pytest.param(zipped(lambda file: file.writestr(entry("/etc/passwd"), b"x")), id="absolute"),
        pytest.param(zipped(lambda file: file.writestr(entry("a\\b"), b"x")), id="backslash"),
        pytest.param(zipped(lambda file: file.writestr(entry("a/.hidden"), b"x")), id="hidden"),
        pytest.param(bomb(), id="bomb"),
        pytest.param(lying_size(), id="size that is not there"),
        pytest.param(overlapping(), id="one entry under many names"),
        pytest.param(WHOLE + b"!", id="bytes behind"),
        pytest.param(b"!" + WHOLE, id="bytes before"),
        pytest.param(WHOLE + WHOLE, id="twice"),
        pytest.param(zipped(lambda file: file.writestr(entry("extra.txt"), b"x"), WHOLE), id="one more"),
        pytest.param(zipped(lambda file: setattr(file, "comment", b"hello"), WHOLE), id="comment"),
        pytest.param(b"PK", id="no zip"),
        pytest.param(b"PK\x05\x06" + b"\0" * 18, id="empty"),
        pytest.param(b"PK\x05\x06" + b"\xff" * 18, id="damaged end"),
    ],
)
def test_hostile_files_are_refused(data: bytes) -> None:
    with pytest.raises(SignoffError):
        archive.read(data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_is_refused() -> None:
    with pytest.raises(SignoffError):
        archive.read(zipped(lambda file: file.writestr(entry("statement.json"), b"other"), WHOLE))


@given(st.binary(max_size=200))
def test_no_bytes_are_a_traceback(data: bytes) -> None:
    with pytest.raises(SignoffError):
        archive.read(b"PK" + data)


@pytest.mark.parametrize("name", ["../x", "/x", "", "a//b", "a\nb", archive.MANIFEST, "a/../b", ".x", "a" * 200])
def test_such_names_are_never_written(name: str) -> None:
    with pytest.raises(SignoffError):
        archive.write({name: b""})
