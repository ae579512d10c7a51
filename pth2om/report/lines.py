"""One gate in one line, for whoever prints verdicts: the tests of a run and the verbs."""

from __future__ import annotations

from collections.abc import Mapping

from pth2om.escaping import visible
from pth2om.evidence import GateRecord
from pth2om.language import bracketed, joined, say
from pth2om.report import figures


def line_of(gate: GateRecord, subject: str | None = None) -> str:
    """One gate in one line (and its fix in the next)."""
    if subject is None:
        subject = f"{gate.model}-{gate.variant}" if gate.variant else gate.model
    text = visible(f"{subject} {gate.check}".strip())
    if gate.measured is not None:
        text += f" = {figures.measured(gate)}{f' {gate.unit}' if gate.unit else ''}"
    if gate.limit is not None:
        text += bracketed(f"{say('plugin.limit').render()} {gate.limit}")
    if gate.ground == "emulated":
        text += f" [{say('plugin.ground-emulated').render()}]"
    if gate.message is not None:
        text = joined((text, gate.message.with_fix()), ": ")
    waived = gate.details.get("waived")
    if isinstance(waived, Mapping):
        by, until = str(waived.get("owner", "")), str(waived.get("expires", ""))
        text = joined((say("release.waived", owner=by, expires=until).render(), text), ": ")
    return text
