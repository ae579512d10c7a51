"""What JUnit's XML does not hold by itself: tests that were not reached, the comparison with the baseline, waivers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import pytest

from pth2om.evidence import GateRecord, properties
from pth2om.language import joined, say
from pth2om.release.night import REGRESSION
from pth2om.release.waivers import is_waived, owner
from pth2om.report.lines import line_of

_Outcome = Literal["passed", "failed", "skipped"]
_When = Literal["setup", "call", "teardown"]


def complete(config: pytest.Config, gates: Sequence[GateRecord], unreached: Sequence[GateRecord]) -> None:
    """Complete the XML file, where one is written.

    Tests that were not reached are added as errors. Gates of the question *regression* are added as tests: failed where
    a figure is worse or missing, skipped with the reason where it is not known, better, or waived. How many gates are
    waived, and by whom, is a property of the suite.

    Args:
        config: of the run.
        gates: those that were written.
        unreached: one or more a test that the run did not come to.
    """
    for xml in _files(config):
        for gate in unreached:
            item = str(gate.details.get("item", gate.check))
            told = gate.message.render() if gate.message is not None else ""
            reason = joined((say("report.verdict-not-reached").render(), told), ": ")
            _add(xml, item, "failed", reason, gate, when="setup")
        for gate in gates:
            if gate.question == REGRESSION:
                outcome = _outcome(gate)
                _add(xml, f"{REGRESSION}::{gate.id}", outcome, line_of(gate) if outcome != "passed" else "", gate)
        owners = Counter(owner(gate) for gate in (*gates, *unreached) if is_waived(gate))
        if owners:
            told = ", ".join(f"{count} by {name}" for name, count in sorted(owners.items(), key=str))
            xml.add_global_property("WAIVED", f"{sum(owners.values())}: {told}")


def _outcome(gate: GateRecord) -> _Outcome:
    if gate.verdict in ("failed", "not_reached"):
        return "skipped" if is_waived(gate) else "failed"
    return "passed" if gate.verdict in ("passed", "shown") else "skipped"


def _files(config: pytest.Config) -> Iterator[Any]:
    """Pytest's private LogXML, in a run that writes one."""
    plugins: Iterable[object] = config.pluginmanager.get_plugins()
    for plugin in plugins:
        if type(plugin).__name__ == "LogXML" and hasattr(plugin, "logfile"):
            yield plugin


def _add(xml: Any, item: str, outcome: _Outcome, reason: str, gate: GateRecord, when: _When = "call") -> None:  # noqa: ANN401 - as above
    place = item.partition("::")[0]
    longrepr = {"failed": reason, "skipped": (place, 0, f"Skipped: {reason}"), "passed": None}[outcome]
    steps: list[tuple[_When, _Outcome, Any]] = [(when, outcome, longrepr), ("teardown", "passed", None)]
    for step, of, told in steps:
        report = pytest.TestReport(
            item,
            (place, None, item.rpartition("::")[2]),
            {},
            of,
            told,
            step,
            user_properties=list(properties([gate])),
        )
        xml.pytest_runtest_logreport(report)
