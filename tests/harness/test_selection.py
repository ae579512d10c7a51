"""What ``-k`` rules out before pytest makes tests of it: never one that pytest itself would keep."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pth2om.harness.selection import keyword, left_by

CASES = [
    SimpleNamespace(id=name) for name in ("lite-fp16-bs1", "lite-int8-bs1", "lite2-fp16-bs1", "resnet", "数字-bs1")
]
TESTS = """\
import pytest

@pytest.mark.slow
def test_exports(case): pass

def test_scores(case): pass
test_scores.nightly = True

@pytest.mark.parametrize("seed", ["one", "two"])
def test_seeded(case, seed): pass
"""


class _Asks:
    def __init__(self, *, early: bool) -> None:
        self.early = early
        self.kept: list[str] = []
        self.made = 0

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        expression = metafunc.config.option.keyword if self.early else ""
        cases = left_by(expression, metafunc.definition, CASES)
        metafunc.parametrize("case", cases, ids=[case.id for case in cases])

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.made = len(items)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.kept = [item.nodeid for item in session.items if "NOTSET" not in item.nodeid]


@pytest.mark.parametrize(
    "expression",
    [
        "lite and not LITE2",
        "not lite",
        "two and resnet",  # what another parameter adds to the name
        "not one and lite2",
        "slow and int8",
        "nightly or resnet",
        "not 数字",
        "nothing",
    ],
)
def test_the_same_tests_are_left(pytester: pytest.Pytester, expression: str) -> None:
    pytester.makepyfile(test_it=TESTS)
    late, early = _Asks(early=False), _Asks(early=True)
    for plugin in (late, early):
        pytester.inline_run("--collect-only", "-q", "-k", expression, plugins=[plugin])
    assert early.kept == late.kept
    assert early.made <= late.made


@pytest.mark.parametrize("specs", [True, False])
def test_only_a_run_with_specs_rests_the_collector_on_what_stays(pytester: pytest.Pytester, specs: bool) -> None:
    if specs:
        (pytester.mkdir("models") / "x").mkdir()
        (pytester.path / "models" / "x" / "model.toml").write_text("")
    pytester.makepyfile(f"import gc\ndef test_it():\n    assert (gc.get_freeze_count() > 10_000) is {specs}\n")
    pytester.runpytest_subprocess("-q").assert_outcomes(passed=1)


def test_models_that_nobody_asked_for_are_not_made_into_tests(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=TESTS)
    plugin = _Asks(early=True)
    pytester.inline_run("--collect-only", "-q", "-k", keyword(["lite"], ["lite", "lite2", "resnet"]), plugins=[plugin])
    assert len(plugin.kept) == 8
    assert plugin.made == 12  # and of each test the one whose name pytest escapes
