"""A night as ``make nightly`` runs it: killed, started again, and with a baseline at hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pth2om.errors import DataError
from pth2om.evidence import GateRecord, Joined, Limit, StageRecord, merge, read
from pth2om.harness.night import main, words_of
from pth2om.harness.watching import Watched
from pth2om.release import history, night
from tests.release import nights

SOC = "Ascend310B1"
WORDS = ("-k", "fp16-bs1 and (preflight or om_matches) or exports", "--soc", SOC, "-p", "no:cacheprovider")


def command(repo: pytest.Pytester) -> list[str]:
    return [sys.executable, "-m", "pth2om.harness.night", *WORDS]


def killed(repo: pytest.Pytester, gates: int) -> Path:
    """Start a night, and kill it with all its processes when its evidence holds so many gates."""
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(command(repo), cwd=repo.path, stdout=quiet, stderr=quiet, start_new_session=True)
    deadline = time.monotonic() + 120
    try:
        while time.monotonic() < deadline and child.poll() is None:
            for file in repo.path.glob("reports/*/evidence.jsonl"):
                if file.read_bytes().count(b'"kind": "gate"') >= gates:
                    return file
            time.sleep(0.02)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    raise AssertionError("the night ended before it could be killed")


def named(records: list[object]) -> dict[str, GateRecord]:
    return {one.id: one for one in records if isinstance(one, GateRecord)}


def test_a_killed_night_goes_on_where_it_was(
    repo: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PTH2OM_STORE", str(tmp_path / "store"))
    first = killed(repo, 12)
    begun = Joined().take(read(first))
    assert not begun.coverage.ended
    with pytest.raises(DataError, match="did not come to its end"):
        history.append(night.read(first), repo.path / "reports" / "history")
    found = [path for path in (tmp_path / "store").glob("*/*/artifact.json") if path.parts[-3] != "building"]
    built = {path.parent: path.read_bytes() for path in found}

    result = subprocess.run(command(repo), cwd=repo.path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout
    (second,) = set(repo.path.glob("reports/*/evidence.jsonl")) - {first}
    whole = list(read(second))
    joined = Joined().take(whole)
    assert night.read(second).whole
    assert "not reached" not in result.stdout
    # What was done is not done again: each artifact of the killed night is the one that is used now.
    assert {folder: (folder / "artifact.json").read_bytes() for folder in built} == built
    after = {(one.model, one.variant, one.stage): one for one in joined.stages}
    assert [one for one in begun.stages if not after[one.model, one.variant, one.stage].cached] == []
    assert any(isinstance(one, StageRecord) for one in whole)
    # Nothing is counted twice: by id, in the two runs together, and in the history.
    before, now = named(begun.gates), named(whole)
    assert before.keys() <= now.keys()
    assert {name: one.measured for name, one in before.items()} == {name: now[name].measured for name in before}
    together = merge([first, second]).joined
    assert {one.id for one in together.gates} == now.keys()
    assert len(together.gates) == len(now)
    assert together.coverage.ended
    points, _ = history.read(repo.path / "reports" / "history" / "tiny.jsonl")
    assert [point.run for point in points] == [second.parent.name]

    # The night after: there is a baseline now, and nothing changed.
    result = subprocess.run(command(repo), cwd=repo.path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout
    points, _ = history.read(repo.path / "reports" / "history" / "tiny.jsonl")
    assert len(points) == 2
    third = repo.path / "reports" / points[1].run / "evidence.jsonl"
    compared = [one for one in named(list(read(third))).values() if one.question == "regression"]
    assert {one.check for one in compared} == {"regression/unchanged"}
    assert {one.verdict for one in compared} == {"passed"}
    assert (repo.path / "reports" / "history" / "tiny.html").is_file()


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ([], []),
        (["--soc", SOC], ["--baseline", f"reports/baselines/{SOC}.json"]),
        ([f"--soc={SOC}", "--baseline", "mine.json"], []),
        (["--soc", "Ascend310P3"], []),
        (["--om-toolchain", "fake"], ["--om-remeasure"]),
        (["--om-toolchain=emulator"], []),
        (["--board", "ssh://root@192.0.2.7"], ["--om-remeasure"]),
        (["--board=x", "--om-remeasure"], []),
    ],
)
def test_the_words_of_a_night(tmp_path: Path, words: list[str], more: list[str]) -> None:
    (tmp_path / "reports" / "baselines").mkdir(parents=True)
    (tmp_path / "reports" / "baselines" / f"{SOC}.json").write_text("{}")
    assert words_of(words, tmp_path)[0] == [*words, *more]


def test_a_baseline_that_cannot_be_written_is_no_good_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A night that is not good enough makes none, and exits as its run did; a full disk is another thing."""
    folder = nights.write(tmp_path / "reports" / "a", [*nights.stages(), nights.gate()])
    bad = nights.write(tmp_path / "reports" / "b", [nights.gate(verdict="failed", limit=Limit("<=", -1.0))])
    (tmp_path / "reports" / "baselines").touch()  # where the folder should be
    for run, status, told in ((folder, 1, "cannot be written"), (bad, 0, "no baseline is made from it")):
        watched = Watched(0, run, tuple(read(run / "evidence.jsonl")), complete=True)
        monkeypatch.setattr("pth2om.harness.night.watch", lambda *_, done=watched: done)
        assert main([], tmp_path) == status
        printed = capsys.readouterr()
        assert told in printed.out + printed.err
