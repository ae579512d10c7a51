"""The hooks around each test of a run: errors told in a paragraph, evidence on the reports, words for the verdicts.

Registered with the run, so that a project without specs never loads them.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pth2om.errors import Absent, Pth2omError
from pth2om.evidence import GateRecord, from_json, properties, to_json
from pth2om.harness import options
from pth2om.harness.cases import case_of, question_of
from pth2om.harness.fixtures import subject_of
from pth2om.harness.planning import PLANNED, check_of, planned
from pth2om.harness.records import EVIDENCE, MISSING, RECORDS, keep
from pth2om.harness.run import RUN
from pth2om.language import Message, joined, say
from pth2om.release.waivers import is_waived
from pth2om.report.lines import line_of

AnyReport = pytest.CollectReport | pytest.TestReport

_EXPLANATIONS = 2
AT_EXIT = "om/exit"
"""The check of a worker that crashes when its test is over; the test's own figures stand beside it."""

_MOST_CAPTURED = 20_000  # characters of a test's captured output that its log keeps
_TOLD = pytest.StashKey[dict[str, str]]()


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
    """As `pytest_runtest_setup`; then the test's device job ends, and a worker that crashes there fails the test."""
    met = None
    try:
        yield
    except Pth2omError as error:
        met = error
    except BaseException:  # also what pytest raises to skip or to fail
        _rested(item)  # what failed the test comes first
        raise
    ended = _rested(item)
    if met is not None:
        _tell(item, met)
    if ended is not None:
        _tell(item, ended, at_exit=True)


def _rested(item: pytest.Item) -> Pth2omError | None:
    """End the device job of a test; the error if its worker did not leave in peace."""
    try:
        if RUN in item.config.stash:
            item.config.stash[RUN].rest()
    except Pth2omError as error:
        return error
    return None


def _tell(item: pytest.Item, error: Pth2omError, *, at_exit: bool = False) -> None:
    case = case_of(item)
    if case is not None and case.spec is not None and RUN in item.config.stash:
        subject = subject_of(item.config.stash[RUN], case)
        record = item.config.stash[RUN].waivers.over(
            subject.failed(question_of(item), AT_EXIT if at_exit else check_of(item), error)
        )
        keep(item, [record])
        keep(item, list(subject.pipeline.records.values()))
        if is_waived(record):
            pytest.skip(line_of(record))
    elif case is not None and RUN in item.config.stash:
        keep(item, [planned(item, None).gate("failed", error.message)])
    if isinstance(error, Absent) and "not_measured" not in options.fail_on(item.config):
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
    gates = [record for record in records if isinstance(record, GateRecord)]
    if report.when == "call" and PLANNED in item.stash and (gates or report.passed):
        # A test that failed or was skipped without a gate is told as a whole, with its reason.
        lost = item.stash[PLANNED].missing(gates, Message("plugin.not-given"))
        gates, records = [*gates, *lost], [*records, *lost]
    if report.when == "call" and report.passed:
        _as_judged(report, item, gates)
    if RUN in item.config.stash and report.skipped and isinstance(report.longrepr, tuple):
        # Not the line of this room, which says nothing, but the spec of the model that was not measured.
        case = case_of(item)
        path, _, reason = report.longrepr
        if case is not None and Path(path).resolve().parent == Path(__file__).resolve().parent:
            report.longrepr = (str(case.folder / "model.toml"), 1, reason)
    if records:
        # Also in JUnit's XML, for those who read nothing else.
        item.user_properties.extend(properties(records))
        setattr(report, RECORDS, list(records))
        item.stash[EVIDENCE] = []
    return report


def _bounded(text: str) -> str:
    """What a library printed, cut in the middle: a log of megabytes is read by nobody."""
    if len(text) <= _MOST_CAPTURED:
        return text
    half = _MOST_CAPTURED // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"


def _as_judged(report: pytest.TestReport, item: pytest.Item, gates: Sequence[GateRecord]) -> None:
    """A test of which a gate is inconclusive or was not reached, or nothing was measured, does not read passed."""
    lost = [gate for gate in gates if gate.verdict == "not_reached"]
    if lost:
        told = say("plugin.gates-missing", gates=", ".join(gate.check for gate in lost)).with_fix()
        report.outcome = "failed" if "not_reached" in options.fail_on(item.config) else "skipped"
        setattr(report, MISSING, True)
        report.longrepr = told if report.failed else (str(item.path), 1, f"Skipped: {told}")
        return
    unsure = [gate for gate in gates if gate.verdict == "inconclusive" and not is_waived(gate)]
    waived = [gate for gate in gates if is_waived(gate)]
    missing = [gate for gate in gates if gate.verdict == "not_measured"]
    if not unsure and not waived and (not gates or len(missing) < len(gates)):
        return
    word = say("plugin.word-inconclusive").render() if unsure else ""
    reason = joined(dict.fromkeys(line_of(gate) for gate in waived + unsure or missing), "; ")
    case = case_of(item)
    place = str(case.folder / "model.toml") if case is not None else str(item.path)
    report.outcome = "skipped"
    report.longrepr = (place, 1, f"Skipped: {joined((word, reason), ': ')}")


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
    """Evidence as JSON, for xdist's controller."""
    data = yield
    if data and data.get(RECORDS):
        data[RECORDS] = [to_json(record) for record in data[RECORDS]]
    return data


@pytest.hookimpl(wrapper=True)
def pytest_report_from_serializable(data: dict[str, Any]) -> Generator[None, AnyReport | None, AnyReport | None]:
    """The inverse of `pytest_report_to_serializable`."""
    rows = data.pop(RECORDS, [])
    report = yield
    if report is not None and rows:
        setattr(report, RECORDS, [from_json(row) for row in rows])
    return report


def pytest_report_teststatus(report: AnyReport) -> tuple[str, str, str] | None:
    """Inconclusive has a word of its own; a pass on emulated ground says that it is unproven."""
    gates = [record for record in getattr(report, RECORDS, ()) if isinstance(record, GateRecord)]
    if report.when != "call" or not gates:
        return None
    if report.skipped and any(gate.verdict == "inconclusive" for gate in gates):
        return "inconclusive", "?", say("plugin.word-inconclusive").render()
    if report.passed and any(gate.ground == "emulated" for gate in gates):
        return "passed", ".", say("plugin.word-unproven").render()
    return None
