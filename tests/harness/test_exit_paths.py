"""Every way in which a session of several tests ends early or in another order: nothing that was planned is lost."""

from __future__ import annotations

import pytest

from pth2om import evidence
from pth2om.report import load
from tests.harness.test_not_reached import CALM, report_of, second_model
from tests.harness.tiny import NET, records

WRONG = NET.replace("num_classes),", "num_classes + 1),")  # its weights do not fit
ENDS = {
    "first failure": (["-x"], ""),
    "failures": (["--maxfail=1"], ""),
    "first failure with workers": (["-x", "-n", "1"], ""),
    "without xdist": (["-p", "no:xdist", "-x"], ""),
    "exit in a hook": ([], "def pytest_runtest_teardown(item):\n    pytest.exit('enough', returncode=0)\n"),
    "exit in a test's set-up": ([], "def pytest_runtest_setup(item):\n    'tiny' in item.name and pytest.exit('so')\n"),
    "stop asked for": ([], "def pytest_runtest_teardown(item):\n    item.session.shouldstop = 'enough'\n"),
    "fail asked for": ([], "def pytest_runtest_teardown(item):\n    item.session.shouldfail = 'enough'\n"),
    "an error in a hook": ([], "def pytest_runtest_teardown(item):\n    raise ValueError('own hook')\n"),
    "stepwise": (["--stepwise"], ""),
}


DAILY = ("first failure with workers", "exit in a hook", "an error in a hook")


@pytest.mark.parametrize("how", [how if how in DAILY else pytest.param(how, marks=pytest.mark.nightly) for how in ENDS])
def test_what_was_planned_has_a_verdict_and_the_exit_status_follows(repo: pytest.Pytester, how: str) -> None:
    options, hook = ENDS[how]
    second_model(repo, WRONG)
    if hook:
        (repo.path / "conftest.py").write_text(f"import pytest\n\n\n{hook}")
    result = repo.runpytest_subprocess("-k", "checkpoint or exports", *options)
    assert result.ret != 0
    found = records(repo)
    (plan,) = (record for record in found if isinstance(record, evidence.PlanRecord))
    assert {item.model for item in plan.items} == {"second", "tiny"}
    (folder,) = (repo.path / "reports").iterdir()
    given = [gate for card in load(folder).cards for gate in card.gates]
    for item in plan.items:
        for each in item.gates:
            # A test that fails before its first gate has one of its own name.
            answers = (gate for gate in given if (gate.model, gate.variant) == (item.model, item.variant))
            assert any(each.is_given(gate) or gate.check == item.check for gate in answers), (item, each)
    assert any(isinstance(record, evidence.EndRecord) for record in found)
    assert CALM not in report_of(repo)


def test_last_failed_names_what_it_left_out(repo: pytest.Pytester) -> None:
    second_model(repo, WRONG)
    repo.runpytest_subprocess("-k", "checkpoint")
    for folder in (repo.path / "reports").iterdir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    result = repo.runpytest_subprocess("-k", "checkpoint", "--lf")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (plan,) = (record for record in records(repo) if isinstance(record, evidence.PlanRecord))
    assert [item.model for item in plan.items] == ["second"]
    assert CALM not in report_of(repo)
