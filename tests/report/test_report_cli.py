from __future__ import annotations

import json

import pytest

from pth2om import evidence
from pth2om.cli import main


@pytest.fixture
def folder(small, tmp_path):
    evidence.EvidenceFile(tmp_path / "evidence.jsonl").append(small)
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_html_beside_the_evidence(folder, capsys):
    assert main(["report", str(folder)]) == 0
    assert names(folder) == ["evidence.jsonl", "index.html", "results.md", "results.zh.md"]
    assert capsys.readouterr().out == f"Report: {folder / 'index.html'}\n"


def test_markdown_in_the_language_asked_for(folder, capsys):
    assert main(["report", str(folder / "evidence.jsonl"), "--format", "markdown", "--lang", "zh"]) == 0
    assert names(folder) == ["evidence.jsonl", "results.zh.md"]
    assert "芯片型号" in (folder / "results.zh.md").read_text(encoding="utf-8")
    assert "results.zh.md" in capsys.readouterr().out


def test_a_file_of_ones_own(folder, tmp_path):
    assert main(["report", str(folder), "-o", str(tmp_path / "deep" / "for customer.html"), "--lang", "zh"]) == 0
    assert '<html lang="zh"' in (tmp_path / "deep" / "for customer.html").read_text(encoding="utf-8")
    assert "index.html" not in names(folder)


@pytest.mark.parametrize("form", ["html", "markdown"])
def test_standard_output_holds_the_report_alone(folder, capsys, form):
    assert main(["report", str(folder), "--format", form, "-o", "-"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("<!doctype html>" if form == "html" else "# Acceptance report")
    assert names(folder) == ["evidence.jsonl"]


@pytest.mark.parametrize("content", [None, b"", b"\x89PNG\r\n\x1a\n\x00", b"{}\n{}\n", b"[1]\n[2]\n", b"not json\nx\n"])
def test_bad_evidence_is_one_paragraph(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "evidence.jsonl").write_bytes(content)
    assert main(["report", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "evidence.jsonl" in error
    assert "Traceback" not in error
    assert "index.html" not in names(tmp_path)


def test_a_damaged_record_is_named_by_its_line(folder, capsys):
    lines = (folder / "evidence.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(lines[4])
    del record["provenance"], record["model"]
    lines[4] = json.dumps(record)
    (folder / "evidence.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main(["report", str(folder)]) == 1
    assert "evidence.jsonl:5" in capsys.readouterr().err
