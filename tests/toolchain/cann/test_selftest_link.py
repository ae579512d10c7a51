"""Rows of the self-test about the connection, here and behind a real sshd."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pth2om.toolchain.cann.board import Board
from pth2om.toolchain.cann.compiling import Asked
from pth2om.toolchain.cann.place import Place
from pth2om.toolchain.cann.selftest import connection
from tests.toolchain.cann.conftest import OPTIONS, write_model
from tests.toolchain.cann.sshd import needs_sshd
from tests.toolchain.cann.test_ssh import board, keys  # noqa: F401 - fixtures


def cut(place: Place, compiled, model) -> connection.Trial:
    first = Board(place)
    files, options = Asked(model, OPTIONS, 60.0).files()
    words = replace(options, output="out/m").command_line()[1:]
    request = {"kind": "compile", "program": "atc", "arguments": words, "limit": 60.0, "files": first.upload(files)}
    try:
        (found,) = connection.cut(first, place, compiled.path, request)
    finally:
        first.close()
    return found


def test_a_connection_that_is_cut_leaves_nothing(machine, compiled, tmp_path) -> None:
    found = cut(Place(), compiled, write_model(tmp_path / "m.onnx"))
    assert (found.id, found.result) == ("L3", "holds"), found.seen
    assert found.seen.endswith("left after the cut: none")


@pytest.mark.nightly
def test_a_process_that_stays_is_seen(machine, compiled, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(connection, "_GONE", 4.0)
    machine.rules({"where": "load_from_file", "do": "stray"})
    try:
        found = cut(Place(), compiled, write_model(tmp_path / "m.onnx"))
    finally:
        machine.rules()
    assert (found.result, "sleep" in found.seen.partition("left after")[2]) == ("fails", True), found.seen


def test_without_ssh_there_is_no_rate_to_compare() -> None:
    (found,) = connection.rate(Board(Place()), Place())
    assert found.result == "untried"


@needs_sshd
@pytest.mark.nightly
def test_the_rate_and_the_cut_over_ssh(machine, board, compiled, tmp_path) -> None:  # noqa: F811 - fixtures
    place = Place.of(board.url)
    first = Board(place)
    try:
        (found,) = connection.rate(first, place)
    finally:
        first.close()
    assert found.id == "L4"
    assert "MB/s" in found.seen  # which of the two is faster here says nothing of a board
    assert cut(place, compiled, write_model(tmp_path / "m.onnx")).result == "holds"
