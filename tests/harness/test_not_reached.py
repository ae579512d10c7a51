"""No model disappears from a report: what a run planned and did not come to is told by every face."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pth2om import evidence
from pth2om.report import load
from tests.harness.tiny import SPEC, records

CALM = "Nothing contradicts"
CRASH = "import os\n\nTEMPLATE_NAME = 'crash'\n\n\ndef build(num_classes, pretrained=False):\n    os._exit(139)\n"
QUICK = ("-k", "checkpoint or exports", "-p", "no:cacheprovider")


def report_of(repo: pytest.Pytester) -> str:
    (folder,) = (repo.path / "reports").iterdir()
    return (folder / "index.html").read_text(encoding="utf-8") + (folder / "results.md").read_text(encoding="utf-8")


def second_model(repo: pytest.Pytester, net: str | None = None, spec: str = SPEC) -> None:
    model = repo.path / "models" / "second"
    shutil.copytree(repo.path / "models" / "tiny", model)
    (model / "model.toml").write_text(spec)
    if net is not None:
        (model / "net.py").write_text(net)


@pytest.mark.parametrize("dist", ["load", "worksteal"])
def test_a_worker_that_crashes_is_a_failed_gate(repo: pytest.Pytester, dist: str) -> None:
    second_model(repo, CRASH)
    result = repo.runpytest_subprocess("-n", "2", "--dist", dist, *QUICK)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    gates = [record for record in records(repo) if isinstance(record, evidence.GateRecord)]
    crashed = [gate for gate in gates if gate.model == "second"]
    assert crashed
    assert {gate.verdict for gate in crashed} == {"failed"}
    assert "crashed" in str(crashed[0].message)
    assert any(gate.model == "tiny" and gate.verdict == "passed" for gate in gates)
    page = report_of(repo)
    assert "second" in page
    assert CALM not in page


def test_what_an_interrupted_run_did_not_reach_is_listed(repo: pytest.Pytester) -> None:
    second_model(repo)
    (repo.path / "conftest.py").write_text(
        "def pytest_runtest_call(item):\n    if 'exports' in item.name and 'tiny' in item.name:\n"
        "        raise KeyboardInterrupt\n"
    )
    result = repo.runpytest_subprocess(*QUICK, "--junitxml", "j.xml")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["4 gates not reached*"])
    page = report_of(repo)
    assert "4 gates were not reached" in page
    assert "onnx/findings" in page
    assert r"test\_exports\_to\_onnx" in page
    assert CALM not in page
    errors = [
        case.get("name") for case in ElementTree.parse("j.xml").iter("testcase") if case.find("error") is not None
    ]
    assert set(errors) == {"test_exports_to_onnx[tiny-bs1]", "test_exports_to_onnx[tiny-bs2]"}


def test_a_wrong_spec_is_in_the_report_whatever_is_asked(repo: pytest.Pytester) -> None:
    second_model(repo, spec=SPEC.replace("num_classes", "num_clases"))
    result = repo.runpytest_subprocess("test_cases/test_export.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    page = report_of(repo)
    assert "second" in page
    assert "num_classes" in page
    assert CALM not in page


def test_a_users_own_failing_test_is_a_failed_gate(repo: pytest.Pytester) -> None:
    (repo.path / "test_cases" / "test_own.py").write_text(
        "def test_of_nothing():\n    assert 1 == 2\n\n\ndef test_of_a_model(checkpoint):\n    {}['missing']\n"
        "\n\ndef test_passes():\n    pass\n"
    )
    result = repo.runpytest_subprocess("-k", "checkpoint or own")
    result.assert_outcomes(passed=2, failed=2)
    gates = {
        (gate.model, gate.check): str(gate.message)
        for gate in records(repo)
        if isinstance(gate, evidence.GateRecord) and gate.verdict == "failed"
    }
    assert "KeyError" in gates["tiny", "export/test_of_a_model"]
    assert "1 == 2" in gates["test_cases/test_own.py", "export/test_of_nothing"]
    assert len(gates) == 2
    assert CALM not in report_of(repo)


def test_a_killed_run_leaves_evidence_that_says_so(repo: pytest.Pytester) -> None:
    (repo.path / "conftest.py").write_text(
        "import time\n\n\ndef pytest_runtest_call(item):\n    if 'exports' in item.name:\n        time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-m", "pytest", *QUICK], cwd=repo.path, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 40
    try:
        while time.monotonic() < until:
            if any('"outcome"' in path.read_text() for path in repo.path.glob("reports/*/evidence.jsonl")):
                break
            time.sleep(0.1)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    (folder,) = (repo.path / "reports").iterdir()
    report = load(folder)
    assert not report.ended
    assert report.count("not_reached") == 4
    assert report.count("passed") >= 1


def test_a_gate_measured_twice_is_a_failure(repo: pytest.Pytester) -> None:
    (repo.path / "test_cases" / "test_again.py").write_text(
        "import pytest\n\npytestmark = pytest.mark.question('checkpoint')\n\n\n"
        "def test_again(checkpoint, accept):\n    accept.stage(checkpoint)\n"
    )
    result = repo.runpytest_subprocess("-k", "checkpoint or again")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["The run fails: 1 gate failed."])
    assert "measured the gate" in report_of(repo)


def test_a_spec_of_many_digits_ends_that_model_alone(repo: pytest.Pytester, tmp_path: Path) -> None:
    second_model(repo, spec=SPEC.replace("num_classes = 3", "num_classes = " + "3" * 5000))
    shutil.copytree(repo.path / "models" / "second", repo.path / "models" / "third")
    (repo.path / "models" / "third" / "model.toml").write_text("a = " + "[" * 20_000)
    result = repo.runpytest_subprocess("-k", "checkpoint")
    result.assert_outcomes(passed=1, errors=2)
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_a_file_of_tests_that_cannot_be_imported_is_a_failed_gate(repo: pytest.Pytester) -> None:
    (repo.path / "test_cases" / "test_own.py").write_text("import nosuchmodule\n")
    repo.runpytest_subprocess("-k", "checkpoint or own", "--continue-on-collection-errors")
    assert "nosuchmodule" in report_of(repo)
    assert CALM not in report_of(repo)
