"""``pth2om doctor --selftest`` as text and as JSON, of boards of which one does not answer."""

from __future__ import annotations

import json

import pytest

from pth2om.cli import main
from pth2om.language import say
from pth2om.toolchain.cann import diagnosis, selftest

FACTS = {"machine": {"device": True, "nodes": [], "driver": "", "soc": "", "cann": ""}, "smi": {}, "dcmi": {}}


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The boards of which the self-test was asked; `far` does not answer."""
    asked: list[str] = []

    def examined(place: object) -> diagnosis.Diagnosis:
        url = str(place.url)
        if "far" in url:
            return diagnosis.unreachable(url, say("cann.ssh-refused", reason="no"))
        return diagnosis.Diagnosis(url, FACTS, ())

    def test(url: str, progress: object) -> list[selftest.Trial]:
        asked.append(url)
        return [selftest.Trial("R1", "holds", "0 | 1"), selftest.Trial("R2", "untried", "")]

    monkeypatch.setattr(diagnosis, "asked", examined)
    monkeypatch.setattr(diagnosis, "_rows", lambda *_: iter(()))
    monkeypatch.setattr(selftest, "selftest", test)
    return asked


def test_the_trials_are_in_the_json(tried: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "doctor",
        "--selftest",
        "--json",
        "--board",
        "ssh://near",
        "--board",
        "ssh://far",
        "--board",
        "ssh://near/",
    ]
    assert main(words) == 1
    near, far = json.loads(capsys.readouterr().out)  # nothing else, and a board that is named twice once
    assert near["selftest"][0] == {"id": "R1", "result": "holds", "seen": "0 | 1"}
    assert far["selftest"] == []
    assert tried == ["ssh://near"]
    assert main(["doctor", "--selftest", "--json", "--board", "ssh://near"]) == 0
    assert main(["doctor", "--json", "--board", "ssh://near"]) == 0
    assert "selftest" not in capsys.readouterr().out.rpartition("[\n {")[2]


def test_a_board_that_does_not_answer_is_told_once(tried: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--selftest", "--board", "ssh://far"]) == 1
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("Nothing listens there") == 1
    assert tried == []
    assert main(["doctor", "--selftest", "--board", "ssh://near"]) == 0
    assert "| R1 | holds | 0 / 1 |" in capsys.readouterr().out
