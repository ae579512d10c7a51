"""Tests that a run did not reach, in JUnit's XML, which otherwise holds only those that ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pth2om.evidence import GateRecord, properties


def add_unreached(config: pytest.Config, gates: Sequence[GateRecord]) -> None:
    """Add each of `gates` to the XML file, where one is written, as a test that ended in an error."""
    for plugin in config.pluginmanager.get_plugins():
        if type(plugin).__name__ == "LogXML" and hasattr(plugin, "logfile"):
            for gate in gates:
                _add(plugin, gate)


def _add(xml: Any, gate: GateRecord) -> None:  # noqa: ANN401 - pytest's private LogXML
    item = str(gate.details.get("item", gate.check))
    where = (item.partition("::")[0], None, item.rpartition("::")[2])
    reason = f"not reached: {gate.message.render() if gate.message is not None else ''}"
    for when, outcome in (("setup", "failed"), ("teardown", "passed")):
        report = pytest.TestReport(
            item,
            where,
            {},
            outcome,  # type: ignore[arg-type]
            reason if outcome == "failed" else None,
            when,  # type: ignore[arg-type]
            user_properties=list(properties([gate])),
        )
        xml.pytest_runtest_logreport(report)
