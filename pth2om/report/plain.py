"""The gates of a card as lines of plain text: what a page of tens of thousands of gates can afford.

A browser lays text out in a fraction of the time that it needs for a table, and shows, searches and prints it without
any script. Each line holds the check, the measured value with its unit, the limit, the sign of the verdict and the
ground.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from markupsafe import Markup, escape

from pth2om.evidence import GateRecord
from pth2om.report import figures

_LONGEST = 60
_VALUE = 12
_LIMIT = 12
# Names are made visible before, so that these two are in none of them; HTML's own signs could be.
_OPEN, _CLOSE = "\x01", "\x02"


def gate_lines(gates: Sequence[GateRecord], sign: Callable[[GateRecord], str], bad: Iterable[str]) -> Markup:
    """One line a gate, those with a bad verdict in bold.

    Args:
        gates: of one card, in their order.
        sign: the sign of a gate's verdict.
        bad: verdicts that a reader looks for.
    """
    verdicts = frozenset(bad)
    names = [_named(gate.check) for gate in gates]
    width = max(map(len, names), default=0)
    lines = []
    for name, gate in zip(names, gates, strict=True):
        value = figures.measured(gate)
        if gate.unit:
            value = f"{value} {figures.short(gate.unit, 12)}"
        line = f"{name:<{width}} {value:>{_VALUE}} {figures.limit(gate.limit):<{_LIMIT}} {sign(gate)}"
        lines.append(f"{_OPEN}{line}{_CLOSE}" if gate.verdict in verdicts else line)
    text = str(escape("\n".join(lines)))
    return Markup(text.replace(_OPEN, "<b class=f>").replace(_CLOSE, "</b>"))  # noqa: S704 - escaped above


def _named(check: str) -> str:
    return check if len(check) <= _LONGEST and check.isprintable() else figures.short(check, _LONGEST)
