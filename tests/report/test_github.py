"""The step summary and the annotations of a run inside GitHub Actions."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.cli import main
from pth2om.escaping import visible
from pth2om.evidence import GateRecord, Limit
from pth2om.language import say
from pth2om.report import github
from tests.evidence.test_merging import gate, shard

FAILED = dataclasses.replace(gate("net", 3.0), verdict="failed", limit=Limit("<=", 1.0))
WAIVED = dataclasses.replace(FAILED, details={"waived": {"owner": "Li Wei", "expires": "2026-12-31"}})
COMMAND = re.compile(r"::(error|warning|notice) (?:file=([^:,]*),line=1,)?title=([^:,]*)::([^\r\n]*)")


def unescaped(text: str) -> str:
    """As the runner does it: the percent sign last."""
    for code, letter in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, letter)
    return text


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models" / "net").mkdir(parents=True)
    (tmp_path / "models" / "net" / "model.toml").write_text("")
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("one", "level"),
    [
        (FAILED, "error"),
        (dataclasses.replace(FAILED, verdict="not_reached"), "error"),
        (dataclasses.replace(FAILED, verdict="inconclusive"), "warning"),
        (WAIVED, "notice"),
        (dataclasses.replace(FAILED, verdict="passed", limit=None), None),
        (dataclasses.replace(FAILED, verdict="not_measured"), None),
    ],
)
def test_levels_and_the_place_of_the_spec(models: Path, one: GateRecord, level: str | None) -> None:
    found = github.commands([one], models, str(models.parent))
    assert [COMMAND.fullmatch(line).groups()[:3] for line in found] == (
        [(level, "models/net/model.toml", "net-fp16-bs1 accuracy")] if level else []
    )
    if level:
        assert "om/drop = 3.00 points (limit <= 1) [emulated]" in found[0]


@pytest.mark.parametrize("name", ["gone", "../net", "..", "a/b", "x\0y", "n" * 300])
def test_a_model_without_a_spec_gets_no_place(models: Path, name: str) -> None:
    (line,) = github.commands([dataclasses.replace(FAILED, model=name)], models, str(models.parent))
    assert "file=" not in line


@given(st.text(), st.text(min_size=1, max_size=40))
def test_text_never_becomes_a_command_or_a_property(text: str, name: str) -> None:
    wild = dataclasses.replace(
        FAILED, model=name, check=f"{text}::error file=x::%0A", message=say("plugin.test-failed", reason=text)
    )
    (line,) = github.commands([wild], Path("models"))
    match = COMMAND.fullmatch(line)
    assert match is not None
    assert match[2] is None
    assert visible(line) == line
    assert "\x1b" not in unescaped(match[4])


def test_no_more_than_github_shows(models: Path) -> None:
    many = [dataclasses.replace(FAILED, model=f"m{n}") for n in range(25)]
    found = github.commands(many, models)
    assert len(found) == github.MOST_SHOWN
    assert "16" in found[-1]
    same = [dataclasses.replace(FAILED, check=f"c{n}") for n in range(25)]
    assert len(github.commands(same, models)) == 1


def told(tmp_path: Path, text: str, before: bytes = b"", **more: str) -> tuple[list[str], bytes]:
    (tmp_path / "results.md").write_text(text, encoding="utf-8")
    target = tmp_path / "summary.md"
    target.write_bytes(before)
    lines: list[str] = []
    environment = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(target), **more}
    github.tell(tmp_path, [FAILED], tmp_path / "models", lines.append, environment)
    return lines, target.read_bytes()


def test_the_summary_is_added_to_what_is_there(tmp_path: Path) -> None:
    lines, summary = told(tmp_path, "# Report\n", b"before\n")
    assert summary == b"before\n# Report\n\n"
    assert len(lines) == 1


def test_a_long_summary_is_cut_at_a_line(tmp_path: Path) -> None:
    _, summary = told(tmp_path, "行\n" * 400_000, b"x" * 1000)
    assert len(summary) <= github.MOST_SUMMARY
    assert summary.decode().endswith("行\n\nThe rest is in the report.\n")
    assert told(tmp_path, "a\n", b"x" * github.MOST_SUMMARY)[1] == b"x" * github.MOST_SUMMARY


def test_a_summary_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    lines, _ = told(tmp_path, "a", GITHUB_STEP_SUMMARY=str(tmp_path))
    assert "cannot be written" in lines[-1]


def test_outside_of_github_nothing_is_printed(tmp_path: Path) -> None:
    assert told(tmp_path, "a", GITHUB_ACTIONS="")[0] == []


def test_merged_shards_are_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert main(["report", "merge", str(shard(tmp_path / "a", 0, gate("a"))), "-o", "night"]) == 1
    assert "::error title=b-fp16-bs1 accuracy::" in capsys.readouterr().out
    assert (tmp_path / "summary.md").read_text() == (tmp_path / "night" / "results.md").read_text() + "\n"
