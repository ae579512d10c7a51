from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.cli import main
from pth2om.errors import DataError
from pth2om.release import history, night
from pth2om.report.trend import curve, page
from tests.release.nights import FAKE, gate, stages, write


def test_nights_are_appended_once_and_read_back(tmp_path: Path) -> None:
    for name in ("a", "b", "a"):
        folder = tmp_path / name
        if not folder.exists():
            write(folder, [*stages(), gate(value=0.5)])
        history.append(night.read(folder), tmp_path / "history")
    points, skipped = history.read(tmp_path / "history" / "net.jsonl")
    assert [one.run for one in points] == ["a", "b"]
    assert list(points[0].values.values()) == [(0.5, "double", "m1")]
    assert points[0].toolchain == "fake 1"
    assert skipped == []


def test_a_line_that_was_cut_off_costs_that_line_only(tmp_path: Path) -> None:
    file = tmp_path / "history" / "net.jsonl"
    history.append(night.read(write(tmp_path / "a", [gate()])), file.parent)
    file.write_bytes(file.read_bytes() + b'{"run": "cut", "sta')
    history.append(night.read(write(tmp_path / "b", [gate()])), file.parent)
    points, skipped = history.read(file)
    assert [one.run for one in points] == ["a", "b"]
    assert "net.jsonl:2" in skipped[0].render("en")


@given(st.binary(max_size=300))
def test_any_bytes_are_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.mktemp("h") / "net.jsonl"
    file.write_bytes(data)
    assert history.read(file)[0] == []


def test_a_name_that_is_a_path_is_refused(tmp_path: Path) -> None:
    bad = write(tmp_path / "a", [dataclasses.replace(gate(), model="../up")])
    with pytest.raises(DataError):
        history.append(night.read(bad), tmp_path / "history")


def test_the_page_marks_other_toolchains_and_holds_no_markup_of_a_file(tmp_path: Path) -> None:
    new = dataclasses.replace(FAKE, version="<b>2")
    for name, tool in (("a", FAKE), ("b", new)):
        made = [dataclasses.replace(one, provenance=tool) if one.stage == "om" else one for one in stages()]
        history.append(night.read(write(tmp_path / name, [*made, gate()])), tmp_path / "history")
    points, _ = history.read(tmp_path / "history" / "net.jsonl")
    text = page("net", points)
    assert text.count("class=t") == 1
    assert "fake 1 → fake &lt;b&gt;2" in text
    assert curve([1.0, None, 2.0], []).count(",") == 2
    assert curve([], []) == ""


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "a", [gate()])
    assert main(["history", str(run), "-o", str(tmp_path / "h")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "h" / "net.html")
    assert "<svg" in (tmp_path / "h" / "net.html").read_text(encoding="utf-8")
