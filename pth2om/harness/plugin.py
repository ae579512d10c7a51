"""The hooks of the pytest plugin: options, the run, errors told in a paragraph, evidence on the reports.

Inert where there are no specs: without a ``models/*/model.toml`` (or ``--models DIR``) nothing is registered beyond the
options. Nothing here imports torch, onnx or onnxruntime.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from pth2om import progress
from pth2om.errors import Absent, Pth2omError
from pth2om.harness import options
from pth2om.harness.cases import case_of, question_of
from pth2om.harness.records import EVIDENCE, RECORDS, keep
from pth2om.harness.run import RUN, Run
from pth2om.language import say
from pth2om.terminal import choose_language, prepare_streams

AnyReport = pytest.CollectReport | pytest.TestReport

_EXPLANATIONS = 2
_MOST_CAPTURED = 20_000  # characters of a test's captured output that its log keeps
_TOLD = pytest.StashKey[dict[str, str]]()


# --- options -----------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of an acceptance run."""
    progress.keep_terminal()
    choose_language()
    options.add(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    """Keep pytest's root where the command was typed, also when it reads ``--data-dir /data``.

    Before it knows a plugin's options, pytest takes every word that exists as a path for the place of the tests, and
    looks for its configuration there. Where that led it away, it is started again with the words joined.
    """
    typed = early_config.invocation_params
    joined = options.joined([str(word) for word in typed.args], typed.dir)
    if len(joined) < len(typed.args) and early_config.rootpath != typed.dir:
        raise SystemExit(int(pytest.main(joined, plugins=typed.plugins)))
    yield


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Find the specs; without any, stay inert."""
    config.addinivalue_line("markers", "question(name): which question of the report a test answers")
    asked = config.getoption("--models")
    models = (config.invocation_params.dir / asked) if asked else config.rootpath / "models"
    if asked and not any(models.glob("*/model.toml")):
        key = "plugin.no-specs" if models.is_dir() else "plugin.no-models"
        raise pytest.UsageError(say(key, folder=str(models), parent=str(models.parent)).render())
    if not asked and not any(models.glob("*/model.toml")):
        return
    from pth2om.harness import fixtures

    prepare_streams()
    run = Run(config, models)
    config.stash[RUN] = run
    config.pluginmanager.register(run, "pth2om-run")
    config.pluginmanager.register(fixtures, "pth2om-fixtures")


# --- outcomes ----------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """A stage that fails while a fixture is made is told in a paragraph, not in a traceback."""
    met = None
    try:
        yield
    except Pth2omError as error:
        met = error
    if met is not None:  # outside of the handler: what is told has no second exception hanging on it
        _tell(item, met)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """As `pytest_runtest_setup`."""
    met = None
    try:
        yield
    except Pth2omError as error:
        met = error
    if met is not None:
        _tell(item, met)


def _tell(item: pytest.Item, error: Pth2omError) -> None:
    case = case_of(item)
    if case is not None and case.spec is not None and RUN in item.config.stash:
        from pth2om.harness.fixtures import subject_of

        subject = subject_of(item.config.stash[RUN], case)
        record = subject.failed(question_of(item), f"{question_of(item)}/{item.name.partition('[')[0]}", error)
        keep(item, [record])
        keep(item, list(subject.pipeline.records.values()))
    if isinstance(error, Absent):
        pytest.skip(str(error))
    # A stage that fails stops every question behind it: said in full once, referred to afterwards.
    first = item.config.stash.setdefault(_TOLD, {}).setdefault(str(error), item.name)
    if first != item.name:
        pytest.fail(say("plugin.same-error", test=first).render(), pytrace=False)
    pytest.fail(_explained(error), pytrace=False)


def _explained(error: Pth2omError) -> str:
    """The error, and what is known about what a tool said underneath it."""
    from pth2om.explain import explain_error

    lines = [str(error)]
    # A user's own net.py speaks for itself: what is known of PyTorch's loader would only mislead.
    found = [] if error.message.key == "checkpoint.net-broken" else explain_error(error)
    known = [each for each in found if each.stage][:_EXPLANATIONS]
    lines += [f"  [{each.id}] {each.cause()}\n  → {each.fix()}" for each in known]
    return "\n".join(lines)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Hang the evidence on the report, so that it travels through xdist."""
    report = yield
    if RUN in item.config.stash:
        report.sections = [(title, _bounded(text)) for title, text in report.sections]
    records = item.stash.get(EVIDENCE, [])
    if RUN in item.config.stash and report.skipped and isinstance(report.longrepr, tuple):
        # Not the line of this room, which says nothing, but the spec of the model that was not measured.
        case = case_of(item)
        path, _, reason = report.longrepr
        if case is not None and Path(path).resolve().parent == Path(__file__).resolve().parent:
            report.longrepr = (str(case.folder / "model.toml"), 1, reason)
    if records:
        from pth2om.evidence import properties, to_json

        # Also in JUnit's XML, for those who read nothing else.
        item.user_properties.extend(properties(records))
        setattr(report, RECORDS, [to_json(record) for record in records])
        item.stash[EVIDENCE] = []
    return report


def _bounded(text: str) -> str:
    """What a library printed, cut in the middle: a log of megabytes is read by nobody."""
    if len(text) <= _MOST_CAPTURED:
        return text
    half = _MOST_CAPTURED // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"


def pytest_report_teststatus(report: AnyReport) -> tuple[str, str, str] | None:
    """A pass on emulated ground is a pass, and says that it is unproven."""
    rows = getattr(report, RECORDS, None)
    if rows and report.when == "call" and report.passed:
        if any(row.get("verdict") == "inconclusive" for row in rows):
            return "passed", "?", say("plugin.word-inconclusive").render()
        if any(row.get("kind") == "gate" and row.get("ground") == "emulated" for row in rows):
            return "passed", ".", say("plugin.word-unproven").render()
    return None
