"""``pth2om report merge``: what it writes, refuses and prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from pth2om.cli import main
from tests.evidence.test_merging import gate, shard


def test_shards_become_one_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = [str(shard(tmp_path / name, n, gate(name)).parent) for n, name in enumerate("abc")]
    (tmp_path / "a" / "pictures").mkdir()
    (tmp_path / "a" / "pictures" / "1.webp").write_bytes(b"RIFF")
    out = tmp_path / "night"
    assert main(["report", "merge", *shards[:2], "-o", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "Collected and not reported: t.py::t[c]" in printed
    assert "1 gate was not reached" in printed
    assert main(["report", "merge", *shards, "-o", str(out)]) == 0
    assert "3 runs, 3 gates" in capsys.readouterr().out
    assert (out / "pictures" / "1.webp").read_bytes() == b"RIFF"
    before = (out / "evidence.jsonl").read_bytes()
    # Merging renders what it has in hand; the file that it wrote gives the same page.
    assert main(["report", str(out), "-o", str(out / "again.html")]) == 0
    assert _cards((out / "again.html").read_text()) == _cards((out / "index.html").read_text())
    assert main(["report", "merge", str(out), shards[1], "-o", str(out)]) == 0
    assert (out / "evidence.jsonl").read_bytes() == before
    assert "shard" not in (out / "results.md").read_text(encoding="utf-8")


def _cards(page: str) -> str:
    return page.partition("<main>")[2]


def test_a_run_is_never_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = [shard(tmp_path / name, n, gate(name)).parent for n, name in enumerate("ab")]
    before = (shards[0] / "evidence.jsonl").read_bytes()
    assert main(["report", "merge", str(shards[1]), "-o", str(shards[0])]) == 1
    assert "would be lost" in capsys.readouterr().err
    assert (shards[0] / "evidence.jsonl").read_bytes() == before
    assert main(["report", "merge", str(tmp_path / "nothing")]) == 1
    assert main(["report", str(shards[0]), str(shards[1])]) == 1
    assert "report merge" in capsys.readouterr().err


def test_a_shard_says_that_it_is_one(tmp_path: Path) -> None:
    folder = shard(tmp_path / "a", 0, gate("a")).parent
    assert main(["report", str(folder), "--lang", "en"]) == 0
    assert "shard 1/3" in (folder / "results.md").read_text(encoding="utf-8")


def test_a_merged_night_makes_a_baseline_and_a_shard_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = [str(shard(tmp_path / name, n, gate(name)).parent) for n, name in enumerate("abc")]
    file = str(tmp_path / "b.json")
    assert main(["baseline", "update", shards[0], "-o", file]) == 1
    assert "shard 1/3" in capsys.readouterr().err
    main(["report", "merge", *shards, "-o", str(tmp_path / "night")])
    assert main(["baseline", "update", str(tmp_path / "night"), "-o", file]) == 0
    # A shard compared with the whole night's baseline misses nothing of what the other shards have.
    capsys.readouterr()
    again = shard(tmp_path / "later", 1, gate("b"))
    assert main(["compare", file, str(again)]) == 0
    assert "missing" not in (printed := capsys.readouterr().out)
    assert "did not run" not in printed


def test_an_empty_file_or_no_run_at_all_is_no_night(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "evidence.jsonl").touch()
    run = shard(tmp_path / "run", 0, gate("a")).parent
    assert main(["report", "merge", str(run), str(tmp_path / "none"), "-o", str(tmp_path / "night")]) == 1
    assert "evidence.jsonl is empty" in capsys.readouterr().out
    assert main(["report", "merge"]) == 1
    assert "No run is named" in capsys.readouterr().err
