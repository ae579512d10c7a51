"""Comparisons in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pth2om.escaping import visible
from pth2om.evidence import GateRecord
from pth2om.language import bracketed, joined, say
from pth2om.release.waivers import owner

ORDER = ("failed", "not_reached", "inconclusive", "not_measured", "shown", "passed")


def lines(gates: Sequence[GateRecord]) -> Iterable[str]:
    """One line a gate, the worst first, with what to do below it."""
    for gate in sorted(gates, key=lambda one: (ORDER.index(one.verdict), one.id)):
        subject = "-".join(part for part in (gate.model, gate.variant) if part)
        dataset = gate.details.get("dataset")
        where = f"{subject} {gate.check}" + (f"@{dataset}" if dataset else "")
        ground = "" if gate.ground == "host" else f" [{say(f'release.ground-{gate.ground}')}]"
        text = gate.message.with_fix() if gate.message is not None else ""
        by = owner(gate)
        ground += f" WAIVED{bracketed(visible(by))}" if by is not None else ""
        verdict = say(f"release.verdict-{gate.verdict.replace('_', '-')}").render()
        yield joined((verdict, f"{visible(where)}{ground}", text), ": ")
