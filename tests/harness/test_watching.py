"""A process that ends without a word: its parent notices, writes the report and does not exit with 0."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pth2om
from pth2om.report import load
from tests.harness.test_not_reached import CALM, report_of, second_model
from tests.harness.tiny import NET

ENDS = {
    "exit": "os._exit(0)",
    "segfault": "os.kill(os.getpid(), signal.SIGSEGV)",
    "import": "os._exit(0)",
}


@pytest.mark.parametrize("how", ENDS)
def test_a_run_whose_process_ends_is_not_complete(repo: pytest.Pytester, how: str) -> None:
    line = ENDS[how]
    top, inside = (line, "") if how == "import" else ("", f"    {line}\n")
    second_model(repo, f"import os, signal\n{top}\n" + NET.replace("False):\n", f"False):\n{inside}"))
    accepted = pth2om.accept_models(repo.path, match="checkpoint", options=["-p", "no:cacheprovider"], quiet=True)
    assert accepted.exit_status != 0
    assert not accepted.complete
    assert accepted.folder is not None
    report = load(accepted.folder)
    assert not report.ended
    lost = {(gate.model, gate.check) for card in report.cards for gate in card.gates if gate.verdict == "not_reached"}
    assert lost == {("second", "checkpoint/findings"), ("tiny", "checkpoint/findings")}
    assert CALM not in report_of(repo)


@pytest.mark.parametrize("where", ["module", "test"])
def test_an_end_outside_of_any_net(repo: pytest.Pytester, where: str) -> None:
    inside = "def test_ends(checkpoint):\n    __import__('os')._exit(0)\n"
    body = "import os\nos._exit(0)\n" if where == "module" else inside
    (repo.path / "test_cases" / "test_ends.py").write_text(body)
    command = [sys.executable, "-m", "pth2om.harness", "-k", "ends", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=repo.path, capture_output=True, text=True, timeout=100)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "ended before its session did" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_watched_run_is_as_a_plain_one(repo: pytest.Pytester) -> None:
    done = pth2om.accept_models(repo.path, match="checkpoint", options=["-p", "no:cacheprovider"], quiet=True)
    assert (done.exit_status, done.complete) == (0, True)
    none = pth2om.accept_models(repo.path, match="nosuch", quiet=True)
    assert (none.exit_status, none.complete, none.folder) == (pytest.ExitCode.NO_TESTS_COLLECTED, True, None)
