"""JUnit's XML holds what was not reached, the comparison with the baseline, and who waived what."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from _pytest.junitxml import LogXML

from pth2om.evidence import GateRecord
from pth2om.harness import junit
from pth2om.language import say

WAIVED = {"waived": {"owner": "Li Wei", "expires": "2026-12-31"}}


def gate(verdict: str, check: str, **details: object) -> GateRecord:
    return GateRecord(
        "net", "fp16-bs1", "Ascend310B1", "regression", check, None, "", None, verdict, "host",
        message=say("release.new"), details=details,
    )  # fmt: skip


def written(tmp_path: Path, gates: list[GateRecord], unreached: list[GateRecord]) -> ElementTree.Element:
    xml = LogXML(tmp_path / "j.xml", None)
    config = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugins=lambda: [object(), xml]))
    xml.pytest_sessionstart()
    junit.complete(config, gates, unreached)
    xml.pytest_sessionfinish()
    return ElementTree.parse(tmp_path / "j.xml").getroot()[0]


@pytest.mark.parametrize(
    ("verdict", "waived", "expected"),
    [
        ("failed", False, "failure"),
        ("not_reached", False, "failure"),
        ("failed", True, "skipped"),
        ("not_reached", True, "skipped"),
        ("inconclusive", False, "skipped"),
        ("not_measured", False, "skipped"),
        ("passed", False, None),
        ("shown", False, None),
    ],
)
def test_a_compared_figure_is_a_test(tmp_path: Path, verdict: str, waived: bool, expected: str | None) -> None:
    one = gate(verdict, "closeness/torch~om/scores/cosine", **(WAIVED if waived else {}))
    suite = written(tmp_path, [one], [])
    (case,) = suite.iter("testcase")
    assert (case.get("classname"), case.get("name")) == ("regression", one.id)
    found = [kind for kind in ("failure", "skipped", "error") if case.find(kind) is not None]
    assert found == ([expected] if expected else [])
    if expected:
        assert "the baseline does not hold it" in ElementTree.tostring(case, encoding="unicode")
    properties = {one.get("name"): one.get("value") for one in suite.findall("properties/property")}
    assert properties == ({"WAIVED": "1: 1 by Li Wei"} if waived else {})


def test_what_was_not_reached_is_an_error(tmp_path: Path) -> None:
    lost = gate("not_reached", "regression/x", item="t.py::test_a[net]")
    suite = written(tmp_path, [], [lost])
    (case,) = suite.iter("testcase")
    assert case.get("name") == "test_a[net]"
    assert case.find("error") is not None
