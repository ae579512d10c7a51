from __future__ import annotations

import codecs
import dataclasses
import re
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.cli import main
from pth2om.evidence import properties
from pth2om.language import say
from pth2om.release.waivers import is_waived, listed, owner, read, remarks
from pth2om.report import load, render
from tests.release.nights import gate, write

TODAY = date(2026, 6, 1)
ROW = {
    "gate": '"net/int8-*/Ascend310B1/accuracy/om/top1/drop@d"',
    "stage": '"accuracy"',
    "owner": '"Li Wei"',
    "reason": '"half a pixel"',
    "link": '"https://example.com/1"',
    "expires": "2026-12-31",
}
FAILED = dataclasses.replace(gate(value=3.0), verdict="failed")


def file(tmp_path: Path, **changed: str | None) -> Path:
    path = tmp_path / "waivers.toml"
    rows = [f"{key} = {value}" for key, value in {**ROW, **changed}.items() if value is not None]
    path.write_text("[[waiver]]\n" + "\n".join(rows), encoding="utf-8")
    return path


def keys(waivers: object) -> list[str]:
    return [one.key.removeprefix("release.") for one in remarks(waivers.records())]


def test_a_waiver_is_laid_over_and_the_verdict_stays(tmp_path: Path) -> None:
    waivers = read(file(tmp_path), TODAY)
    over = waivers.over(FAILED)
    assert over.verdict == "failed"
    assert owner(over) == "Li Wei"
    assert keys(waivers) == []
    assert dict(properties([over])) == {"gate.om/top1/drop": "failed double 3 points WAIVED by Li Wei"}
    assert not is_waived(waivers.over(dataclasses.replace(FAILED, model="other")))
    assert not is_waived(waivers.over(dataclasses.replace(FAILED, question="latency")))


@pytest.mark.parametrize("key", ROW)
def test_every_key_is_required(tmp_path: Path, key: str) -> None:
    waivers = read(file(tmp_path, **{key: None}), TODAY)
    assert not is_waived(waivers.over(FAILED))
    assert keys(waivers) == ["waiver-wrong"]
    assert key in waivers.wrong[0].render("en")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("expires", '"soon"'), ("owner", '" "'), ("stage", '"om"'),
        *(("gate", f'"{pattern}"') for pattern in
          ("*", "**", "*-*", "*_?/*", "?*/int8-bs1/*", "[!x]*", "*/", "[a-z]*[0-9]/*")),
    ],
)  # fmt: skip
def test_what_cannot_be_read_waives_nothing(tmp_path: Path, key: str, value: str) -> None:
    waivers = read(file(tmp_path, **{key: value}), TODAY)
    assert not is_waived(waivers.over(FAILED))
    assert keys(waivers) == ["waiver-wrong"]


@pytest.mark.parametrize("pattern", ["*A*", "*cc*", "*int8*", "*310B1/*", "int8*"])
def test_a_word_of_the_rest_of_an_id_names_no_model(tmp_path: Path, pattern: str) -> None:
    """``*A*`` fits every id for a SoC that begins so: it would waive all models."""
    waivers = read(file(tmp_path, gate=f'"{pattern}"'), TODAY)
    assert not is_waived(waivers.over(FAILED))
    assert keys(waivers) == ["waiver-unused"]
    assert all(
        is_waived(read(file(tmp_path, gate=f'"{name}"'), TODAY).over(FAILED)) for name in ("net*", "n*t/*", "*e*")
    )


def test_a_file_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    path = file(tmp_path)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().replace(b"\n", b"\r\n"))
    assert is_waived(read(path, TODAY).over(FAILED))


def test_a_lapsed_one_waives_nothing_from_the_day_after(tmp_path: Path) -> None:
    assert is_waived(read(file(tmp_path), date(2026, 12, 31)).over(FAILED))
    waivers = read(file(tmp_path), date(2027, 1, 1))
    assert not is_waived(waivers.over(FAILED))
    assert keys(waivers) == ["waiver-lapsed"]


def test_an_unused_one_and_an_unexpected_pass_are_reported(tmp_path: Path) -> None:
    unused = read(file(tmp_path), TODAY)
    assert keys(unused) == ["waiver-unused"]
    passed = read(file(tmp_path), TODAY)
    over = passed.over(dataclasses.replace(FAILED, verdict="passed"))
    assert not is_waived(over)
    assert keys(passed) == ["waiver-passed"]


@given(st.text(max_size=200))
def test_any_text_is_read_without_a_traceback(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("w") / "waivers.toml"
    path.write_text(text, encoding="utf-8", errors="replace")
    assert not is_waived(read(path, TODAY).over(FAILED))


def test_no_file_waives_nothing(tmp_path: Path) -> None:
    assert keys(read(tmp_path / "none.toml")) == []


def test_what_lapses_soon_is_listed_and_what_lapsed_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTH2OM_LANG", "en")
    path = file(tmp_path)
    assert listed(read(path, date(2026, 12, 16)))[0][0].key == "release.waivers-fine"
    assert [one.key for one in listed(read(path, date(2026, 12, 17)))[0]] == ["release.waiver-soon"]
    assert listed(read(path, date(2026, 12, 17)))[1] is False
    assert main(["waivers", str(file(tmp_path, expires="2020-01-01"))]) == 1
    assert "lapsed on 2020-01-01" in capsys.readouterr().out
    assert main(["waivers", str(file(tmp_path, expires="2999-01-01"))]) == 0
    assert main(["waivers", str(tmp_path / "none.toml")]) == 1
    monkeypatch.chdir(tmp_path / "..")
    assert main(["waivers"]) == 0  # a repository without waivers waives nothing


def test_reports_print_waived_and_the_owner(tmp_path: Path) -> None:
    over = read(file(tmp_path, owner='"<b>Li"'), TODAY).over(FAILED)
    page = render(write(tmp_path / "run", [over]), tmp_path / "run").read_text(encoding="utf-8")
    assert "WAIVED (&lt;b&gt;Li)" in page
    assert "<b>Li" not in page
    assert "WAIVED (" in (tmp_path / "run" / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("also", [False, True])
def test_summaries_count_waived_gates_apart(tmp_path: Path, also: bool) -> None:
    waivers = read(file(tmp_path, expires="2026-06-10"), TODAY)
    over = [waivers.over(FAILED), *([dataclasses.replace(FAILED, check="om/top5/drop")] if also else [])]
    folder = write(tmp_path / "run", [*over, *waivers.records()])
    page = render(folder, folder).read_text(encoding="utf-8")
    results = (folder / "results.md").read_text(encoding="utf-8")
    for text in (page, results):
        assert ("1 of 1 gate did not pass, and all of them are WAIVED" in text) != also
        assert ("1 gate is WAIVED" in text) == also
        assert "lapses on 2026-06-10, in 9 days" in text
    report = load(folder)
    assert (report.count("failed"), report.unwaived("failed"), report.waived) == (1 + also, int(also), 1)
    assert re.search(r"<b>.*WAIVED.*</b><td colspan.*<td class=r>1", page)


def test_the_report_names_what_changed_first(tmp_path: Path) -> None:
    """Also where no figure moved beyond noise, so that nothing failed."""
    named = say("release.changed-onnx", before="a", after="b", told="onnx opset 17 → 13")
    changed = gate("regression", "regression/first-changed", None, message=named)
    page = render(write(tmp_path / "run", [gate(), changed]), tmp_path / "run").read_text(encoding="utf-8")
    assert "onnx opset 17 → 13" in page


def test_remarks_are_in_both_reports(tmp_path: Path) -> None:
    path = file(tmp_path)
    lapsed, wrong = ROW | {"expires": "2020-01-01", "owner": '"<i>Wang"'}, {"gate": ROW["gate"]}
    rows = ["[[waiver]]\n" + "\n".join(f"{key} = {value}" for key, value in row.items()) for row in (lapsed, wrong)]
    path.write_text("\n".join([path.read_text(encoding="utf-8"), *rows]), encoding="utf-8")
    folder = write(tmp_path / "run", [gate(), *read(path, TODAY).records()])
    page = render(folder, folder).read_text(encoding="utf-8")
    for text in (page, (folder / "results.md").read_text(encoding="utf-8")):
        assert "waived nothing in this run" in text
        assert "lapsed on 2020-01-01" in text
        assert "entry 3 waives nothing" in text
        assert "<i>Wang" not in text
