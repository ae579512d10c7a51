"""A run over gears: each gear has its own test, its own evidence, and the one that fails is named, in JUnit too."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from pth2om import evidence
from tests.harness.tiny import NET, SPEC

GEARED = SPEC.split("[preprocess]")[0] + '[[variants]]\nprecision = "fp16"\ngears.batch = [1, 2, 4]\n'
FROZEN = """

class Frozen(torch.nn.Sequential):
    # A trace at another batch size takes the branch away: only the gear of 2 is wrong.
    def forward(self, image):
        found = super().forward(image)
        return found + 3 if image.shape[0] == 2 else found


plain = build


def build(num_classes, pretrained=False):
    return Frozen(*plain(num_classes))
"""


def test_the_gear_that_fails_is_named(repo: pytest.Pytester) -> None:
    model = repo.path / "models" / "tiny"
    (model / "model.toml").write_text(GEARED)
    (model / "net.py").write_text(NET + FROZEN)
    result = repo.runpytest_subprocess("--soc", "Ascend310P3", "-k", "closeness or matches", "--junitxml", "junit.xml")
    assert result.ret == 1
    printed = [line for line in result.outlines if line.startswith("FAILED ")]
    assert printed
    assert all("gears1_2_4-bs2" in line or "-bs2]" in line for line in printed), printed
    (path,) = (repo.path / "reports").glob("*/evidence.jsonl")
    gates = [each for each in evidence.read(path) if isinstance(each, evidence.GateRecord)]
    compared = [gate for gate in gates if gate.question == "closeness" and "~" in gate.check]
    by_gear: dict[str, set[str]] = {}
    for gate in compared:
        by_gear.setdefault(gate.variant, set()).add(gate.verdict)
    gears = {f"fp16-gears1_2_4-bs{size}" for size in (1, 2, 4)}
    assert gears <= set(by_gear), by_gear
    assert {name for name, verdicts in by_gear.items() if "failed" in verdicts} == {
        name for name in by_gear if name.endswith("bs2")
    }
    cases = list(ElementTree.parse(Path(repo.path / "junit.xml")).iter("testcase"))
    failed = [case.get("name") or "" for case in cases if case.find("failure") is not None]
    assert failed
    assert all("bs2" in name for name in failed), failed
    passed = {case.get("name") or "" for case in cases if len(case) == 0 or case.find("failure") is None}
    for gear in ("bs1", "bs4"):
        assert any(f"gears1_2_4-{gear}" in name and "om_matches_pytorch" in name for name in passed), passed
