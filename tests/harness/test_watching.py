"""A process that ends without a word: its parent notices, writes the report and does not exit with 0."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pth2om
from pth2om.evidence import Joined, read
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


WAITS = """
import os, pathlib, time

def test_waits(checkpoint):
    pathlib.Path("pid").write_text(str(os.getpid()))
    time.sleep(100)
"""


DEAF = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"


def is_running(number: int) -> bool:
    """Whether the process is there, and no dead child that nobody waited for."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.parametrize(("how", "deaf"), [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGKILL, True)])
def test_a_run_ends_with_the_process_that_watches_it(repo: pytest.Pytester, how: signal.Signals, deaf: bool) -> None:
    """A CI ends the process that it started; what runs on alone would hold the machine.

    Deaf: started with SIGINT ignored, as a shell starts what ends in ``&``.
    """
    (repo.path / "test_cases" / "test_waits.py").write_text(WAITS)
    words = [sys.executable, "-m", "pth2om.harness", "-k", "waits", "-p", "no:cacheprovider"]
    if deaf:
        words = [sys.executable, "-c", DEAF, *words]
    parent = subprocess.Popen(words, cwd=repo.path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    pid, deadline = repo.path / "pid", time.monotonic() + 60
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    child = int(pid.read_text())
    parent.send_signal(how)
    assert parent.wait(60) == (-how if how == signal.SIGKILL else pytest.ExitCode.INTERRUPTED)
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(child)
    (file,) = repo.path.glob("reports/*/evidence.jsonl")
    coverage = Joined().take(read(file)).coverage
    assert coverage.ended
    assert coverage.interrupted
    assert (file.parent / "index.html").is_file()


def test_a_watched_run_is_as_a_plain_one(repo: pytest.Pytester) -> None:
    done = pth2om.accept_models(repo.path, match="checkpoint", options=["-p", "no:cacheprovider"], quiet=True)
    assert (done.exit_status, done.complete) == (0, True)
    none = pth2om.accept_models(repo.path, match="nosuch", quiet=True)
    assert (none.exit_status, none.complete, none.folder) == (pytest.ExitCode.NO_TESTS_COLLECTED, True, None)
