"""Baselines and waivers in a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pth2om.evidence import GateRecord, read
from pth2om.release.comparing import update
from pth2om.release.waivers import owner
from tests.harness.tiny import records

QUICK = ("-k", "checkpoint_fits or exports", "-p", "no:cacheprovider")
WAIVER = """[[waiver]]
gate = "second/*"
stage = "checkpoint"
owner = "Li Wei"
reason = "the net moves"
link = "https://example.com/1"
expires = {expires}
"""


def newest(repo: pytest.Pytester) -> Path:
    return max((repo.path / "reports").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


@pytest.mark.parametrize(("expires", "status"), [("2999-12-31", 0), ("2020-01-01", 1)])
def test_a_waived_failure_keeps_its_verdict_and_not_the_exit_status(
    repo: pytest.Pytester, expires: str, status: int
) -> None:
    second = repo.path / "models" / "second"
    shutil.copytree(repo.path / "models" / "tiny", second)
    (second / "weights" / "tiny.pth").write_bytes(b"nothing")
    (repo.path / "waivers.toml").write_text(WAIVER.format(expires=expires))
    result = repo.runpytest_subprocess("-k", "checkpoint_fits", "-p", "no:cacheprovider", "--junitxml", "j.xml")
    assert result.ret == status
    failed = [gate for gate in records(repo) if isinstance(gate, GateRecord) and gate.verdict == "failed"]
    assert failed
    assert {owner(gate) for gate in failed} == {None if status else "Li Wei"}
    seen = result.stdout.str(), (repo.path / "j.xml").read_text(), (newest(repo) / "results.md").read_text()
    assert [("WAIVED" in text) for text in seen] == [not status] * 3
    assert ("lapsed on 2020-01-01" in seen[0]) == bool(status)
    assert ('name="WAIVED" value="1: 1 by Li Wei"' in seen[1]) == (not status)


def test_a_run_is_compared_with_its_baseline(repo: pytest.Pytester) -> None:
    import torch

    assert repo.runpytest_subprocess(*QUICK).ret == 0
    update([newest(repo)], repo.path / "b.json")
    assert repo.runpytest_subprocess(*QUICK, "--baseline", "b.json").ret == 0
    page = (newest(repo) / "index.html").read_text(encoding="utf-8")
    assert "Regression" in page
    weights = repo.path / "models" / "tiny" / "weights" / "tiny.pth"
    state = torch.load(weights)
    torch.save({name: value * 1.5 for name, value in state.items()}, weights)
    repo.runpytest_subprocess(*QUICK, "--baseline", "b.json", "--junitxml", "j.xml")
    suite = ElementTree.parse(repo.path / "j.xml").getroot()[0]
    cases = {case.get("name"): case for case in suite.iter("testcase") if case.get("classname") == "regression"}
    gates = {gate.id: gate for gate in read(newest(repo) / "evidence.jsonl") if isinstance(gate, GateRecord)}
    compared = {name: gate for name, gate in gates.items() if gate.question == "regression"}
    assert set(cases) == set(compared)
    assert compared
    text = (newest(repo) / "evidence.jsonl").read_text(encoding="utf-8")
    assert "release.changed-checkpoint" in text
    assert repo.runpytest_subprocess(*QUICK, "--baseline", "waivers.toml").ret == pytest.ExitCode.USAGE_ERROR
