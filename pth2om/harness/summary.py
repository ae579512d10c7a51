"""What a run prints about itself in the terminal: first the SoC and the toolchain, at the end verdicts and costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pth2om.errors import Pth2omError
from pth2om.escaping import visible
from pth2om.evidence import GateRecord, unmeasured_models
from pth2om.harness import options
from pth2om.harness.cases import Case, Selection
from pth2om.harness.records import RunRecords
from pth2om.language import Message, joined, say
from pth2om.release.night import REGRESSION
from pth2om.release.waivers import is_waived, owner, remarks
from pth2om.release.wording import lines
from pth2om.report import github

if TYPE_CHECKING:
    from pth2om.conversion.settings import RunSettings

_MOST_LISTED = 20


def header(config: pytest.Config, settings: RunSettings, cases: Sequence[Case], selection: Selection) -> list[str]:
    """Which SoC, which toolchain, that no model has a variant that was asked for, and every wrong spec."""
    soc = settings.soc
    if soc is None:
        lines = [say("plugin.header-no-soc").render()]
    else:
        key = "plugin.header-emulator" if settings.toolchain == "emulator" else "plugin.header-cann"
        lines = [say(key, soc=soc, cann=settings.cann, toolchain=settings.toolchain).render()]
    variants = [variant for case in cases if case.spec is not None for variant in case.spec.variants]
    if variants and not any(selection.has(variant.precision, variant.batch) for variant in variants):
        lines.append(joined(("pth2om", say("plugin.no-variant", options=options.filters(config)).render()), ": "))
    for case in cases:
        if case.error is not None:
            lines.append(joined(("pth2om", str(case.error)), ": "))
    return lines


def summarise(
    reporter: pytest.TerminalReporter,
    records: RunRecords,
    reasons: Sequence[Message],
    models: Path,
    *,
    interrupted: bool,
) -> None:
    """Verdicts by ground, what INT8 costs, and where the report is; inside GitHub also its summary and annotations."""
    gates = records.judged
    if not (gates or reasons or records.unwritten or interrupted):
        return
    reporter.section("pth2om")
    if interrupted:
        _print(reporter, say("plugin.interrupted"))
    error = records.unwritten
    if error is not None:
        reason = error.message.values.get("reason") if isinstance(error, Pth2omError) else error.strerror
        _print(reporter, say("plugin.report-unwritten", path=str(records.folder), reason=str(reason or error)))
    for (verdict, ground), count in sorted(Counter((gate.verdict, gate.ground) for gate in gates).items()):
        name = "unproven" if (verdict, ground) == ("passed", "emulated") else verdict
        line = say(f"plugin.count-{name}", count=count, ground=say(f"plugin.ground-{ground}").render())
        reporter.line(line.render())
    if any(gate.question == "accuracy" and gate.variant.startswith("int8-") for gate in gates):
        from pth2om.report.cost import costs

        for one in costs(gates):
            reporter.line(one.line())
    waived = [gate for gate in gates if is_waived(gate)]
    if waived:
        owners = ", ".join(sorted({owner(gate) or "" for gate in waived}))
        reporter.line(say("release.count-waived", count=len(waived), owners=owners).render())
    for remark in remarks(records.waivers.records()):
        _print(reporter, remark)
    _compared(reporter, [gate for gate in gates if gate.question == REGRESSION])
    _unreached(reporter, [gate for gate in gates if gate.question != REGRESSION])
    unmeasured = unmeasured_models(gates)
    if unmeasured:
        _print(reporter, say("plugin.unmeasured", models=", ".join(map(visible, unmeasured[:_MOST_LISTED]))))
    for because in reasons:
        _print(reporter, because)
    if records.has_folder and (records.folder / "index.html").exists():
        reporter.line(say("plugin.report", path=str(records.folder / "index.html")).render())
        github.tell(records.folder, gates, models, reporter.line)


def _compared(reporter: pytest.TerminalReporter, gates: Sequence[GateRecord]) -> None:
    """What the comparison with the baseline found: how much is as it was, and each figure that is not."""
    if not gates:
        return
    same = [gate for gate in gates if gate.verdict == "passed"]
    count = sum(int(gate.message.values.get("count", 0) or 0) for gate in same if gate.message is not None)
    reporter.line(say("release.compared", same=count, others=len(gates) - len(same)).render())
    told = list(lines([gate for gate in gates if gate.verdict != "passed"]))
    for line in told[:_MOST_LISTED]:
        reporter.line(f"  {line}")
    if len(told) > _MOST_LISTED:
        reporter.line(f"  ... (+{len(told) - _MOST_LISTED})")


def _unreached(reporter: pytest.TerminalReporter, gates: Sequence[GateRecord]) -> None:
    """The gates that were not reached, by the test that had to give them."""
    by_test: dict[str, list[str]] = {}
    for gate in gates:
        if gate.verdict == "not_reached":
            by_test.setdefault(str(gate.details.get("item") or gate.id), []).append(gate.check)
    for item, checks in list(by_test.items())[:_MOST_LISTED]:
        reporter.line(visible(f"  {item}: {', '.join(checks)}"))
    if len(by_test) > _MOST_LISTED:
        reporter.line(f"  ... (+{len(by_test) - _MOST_LISTED})")


def _print(reporter: pytest.TerminalReporter, message: Message) -> None:
    for line in message.with_fix().splitlines():
        reporter.line(line)
