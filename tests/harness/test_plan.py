"""The plan: only tests about models, with the gates that each has to give; a model of which nothing came is named."""

from __future__ import annotations

import hashlib
import shutil

import pytest

from pth2om import evidence
from pth2om.harness.fixtures import Accept
from pth2om.questions.expected import QUESTIONS_ASKED
from tests.harness.test_not_reached import CALM, report_of, second_model
from tests.harness.tiny import NET, SPEC, records

CLOSE = "test_cases/test_own.py::test_own[tiny-bs1]"


def gates(repo: pytest.Pytester) -> list[evidence.GateRecord]:
    return [record for record in records(repo) if isinstance(record, evidence.GateRecord)]


def own_test(repo: pytest.Pytester, *body: str, marks: str = "") -> None:
    for file in (repo.path / "test_cases").glob("test_*.py"):
        file.unlink()
    lines = "".join(f"    {line}\n" for line in body)
    (repo.path / "test_cases" / "test_own.py").write_text(
        f"import pytest\n\npytestmark = pytest.mark.question('closeness')\n\n\n{marks}\n"
        f"def test_own(torch_session, onnx_session, samples, accept):\n{lines}"
    )


def test_every_question_that_a_test_can_ask_has_its_gates() -> None:
    methods = {name for name in vars(Accept) if not name.startswith("_")} - {"judged", "keep_stages"}
    assert set(QUESTIONS_ASKED) == methods


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_session_without_a_test_about_a_model_writes_nothing(repo: pytest.Pytester, workers: str) -> None:
    (repo.path / "tests").mkdir()
    (repo.path / "tests" / "test_unit.py").write_text(
        "import pytest\n\n\ndef test_passes():\n    pass\n\n\ndef test_skips():\n    pytest.skip('no data')\n"
    )
    result = repo.runpytest_subprocess("tests", "-n", workers)
    result.assert_outcomes(passed=1, skipped=1)
    assert result.ret == 0
    assert not (repo.path / "reports").exists()


def test_tests_about_no_model_are_in_no_plan(repo: pytest.Pytester) -> None:
    (repo.path / "test_cases" / "test_unit.py").write_text(
        "import pytest\n\n\ndef test_skips():\n    pytest.skip('x')\n"
    )
    repo.runpytest_subprocess("-k", "checkpoint or skips").assert_outcomes(passed=1, skipped=1)
    (plan,) = (record for record in records(repo) if isinstance(record, evidence.PlanRecord))
    assert [each.model for each in plan.items] == ["tiny"]
    assert {gate.model for gate in gates(repo)} == {"tiny"}


def test_the_plan_holds_exactly_what_a_good_run_gives(repo: pytest.Pytester) -> None:
    """All that is given is planned, save what only the data decide."""
    assert repo.runpytest_subprocess("--soc", "Ascend310B1").ret == 0
    (plan,) = (record for record in records(repo) if isinstance(record, evidence.PlanRecord))
    planned = [(item, each) for item in plan.items for each in item.gates]
    assert all(item.gates for item in plan.items)
    for gate in gates(repo):
        assert gate.verdict != "not_reached"
        matching = [
            each for item, each in planned if (item.model, item.variant) == (gate.model, gate.variant)
            and each.is_given(gate)
        ]  # fmt: skip
        assert matching, gate.id
    # What a release needs to know: by which limits it was measured, of which artifacts, made of what.
    stages = {(stage.variant, stage.stage): stage for stage in records(repo) if isinstance(stage, evidence.StageRecord)}
    (spec,) = plan.specs
    file = repo.path / "models" / "tiny" / "model.toml"
    assert spec.text.encode() == file.read_bytes()
    assert spec.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert {gate.digests["spec"] for gate in gates(repo)} == {spec.digest}
    of_om = [gate for gate in gates(repo) if gate.ground == "emulated" and not gate.check.startswith("preflight/")]
    assert {gate.question for gate in of_om} == {"preflight", "closeness", "accuracy", "latency"}
    for gate in of_om:
        assert gate.digests["om"] == stages[gate.variant, "om"].digest
        assert gate.digests["checkpoint"] == stages["", "checkpoint"].digest
        assert stages[gate.variant, "om"].inputs["onnx"] == gate.digests["onnx"]
        assert gate.details.get("device") is None
    onnx = stages["bs2", "onnx"]
    assert onnx.inputs["checkpoint"] == stages["", "checkpoint"].digest
    assert {name for name in onnx.inputs if name.startswith("net/")}
    assert stages["fp16-bs1", "om"].details["compiler"]["name"] == "emulator"


def test_a_question_that_returns_fewer_gates_is_seen(repo: pytest.Pytester) -> None:
    (repo.path / "conftest.py").write_text(
        "from pth2om.questions import closeness as module\n\nwhole = module.closeness\n\n\n"
        "def fewer(*arguments):\n    return [gate for gate in whole(*arguments) if not gate.check.endswith('cosine')]\n"
        "\n\nmodule.closeness = fewer\n"
    )
    result = repo.runpytest_subprocess("-k", "onnx_matches and bs1", "--junitxml", "j.xml")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*onnx_matches_pytorch*: torch~onnx/scores/cosine"])
    assert [gate.check for gate in gates(repo) if gate.verdict == "not_reached"] == ["torch~onnx/scores/cosine"]
    page = report_of(repo)
    assert "torch~onnx/scores/cosine" in page
    assert CALM not in page
    assert "torch~onnx/scores/cosine" in (repo.path / "j.xml").read_text()


@pytest.mark.parametrize("fail_on", ["failed,not_reached", "failed"])
def test_a_question_that_is_never_asked_is_not_passed(repo: pytest.Pytester, fail_on: str) -> None:
    own_test(repo, "pass")
    result = repo.runpytest_subprocess("-k", "bs1", "--fail-on", fail_on)
    expected = {"failed": 1} if "not_reached" in fail_on else {"skipped": 1}
    result.assert_outcomes(**expected)
    assert [(gate.check, gate.verdict) for gate in gates(repo)] == [("closeness/test_own", "not_reached")]
    assert CALM not in report_of(repo)


def test_a_test_that_dies_after_its_first_gate(repo: pytest.Pytester) -> None:
    own_test(
        repo,
        "from pth2om.evidence import Judgement, Limit",
        "accept.judged([Judgement('torch~onnx/scores/cosine', 1.0, '', Limit('>=', 0.9), 'passed')], onnx_session)",
        "raise ValueError('in the middle')",
        marks="@pytest.mark.asks('closeness', 'torch', 'onnx')",
    )
    repo.runpytest_subprocess("-k", "bs1").assert_outcomes(failed=1)
    verdicts = {gate.check: gate.verdict for gate in gates(repo)}
    assert verdicts["torch~onnx/scores/cosine"] == "passed"
    assert verdicts["closeness/test_own"] == "failed"
    assert verdicts["torch~onnx/scores/relative_l2"] == "not_reached"


def test_a_mark_that_names_no_question_is_refused(repo: pytest.Pytester) -> None:
    own_test(repo, "pass", marks="@pytest.mark.asks('closness', 'torch')")
    result = repo.runpytest_subprocess()
    assert result.ret != 0
    assert "closness" in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize("words", ["pytest.skip('not here')", "sys.exit(0)"])
@pytest.mark.parametrize("place", ["build", "import"])
def test_a_net_that_ends_python_or_skips_is_an_error(repo: pytest.Pytester, words: str, place: str) -> None:
    line = f"    {words}\n" if place == "build" else ""
    top = f"{words}\n" if place == "import" else ""
    second_model(repo, f"import sys\nimport pytest\n{top}" + NET.replace("False):\n", f"False):\n{line}"))
    result = repo.runpytest_subprocess("-k", "checkpoint")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (bad,) = [gate for gate in gates(repo) if gate.model == "second"]
    assert bad.verdict == "failed"
    assert bad.message is not None
    assert bad.message.key == "checkpoint.net-broken"


def test_a_model_of_which_nothing_was_measured_is_named(repo: pytest.Pytester) -> None:
    second_model(repo)
    shutil.rmtree(repo.path / "models" / "second" / "weights")
    result = repo.runpytest_subprocess("-k", "atc_will and fp16-bs1", "--soc", "Ascend310B1")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["Nothing was measured of: second."])
    page = report_of(repo)
    assert "Nothing was measured of: second." in page
    assert "Nothing contradicts tiny." in page
    assert "Nothing contradicts the model" not in page


def test_a_wrong_spec_is_told_when_only_a_question_is_chosen(repo: pytest.Pytester) -> None:
    second_model(repo, spec=SPEC.replace("num_classes", "num_clases"))
    assert repo.runpytest_subprocess("-k", "exports").ret == pytest.ExitCode.TESTS_FAILED
    assert {gate.model for gate in gates(repo)} == {"tiny", "second"}
    shutil.rmtree(repo.path / "reports")
    assert repo.runpytest_subprocess("-k", "exports and tiny").ret == 0
