"""Whether a run, or the merged shards of a night, may exit with 0."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pth2om.language import Message, say

if TYPE_CHECKING:
    from pth2om.evidence import GateRecord

WORDS = ("failed", "not_reached", "inconclusive", "not_measured", "nothing")
"""What ``--fail-on`` knows: verdicts, and ``nothing`` for a run in which nothing was measured at all."""
DEFAULT = "failed,not_reached,nothing"


def reasons(
    gates: Iterable[GateRecord], fail_on: Iterable[str] = tuple(DEFAULT.split(",")), *, planned: bool = True
) -> list[Message]:
    """Why a run must not exit with 0; none where it may.

    Args:
        gates: all of the run, those that were not reached too, with the waivers over them.
        fail_on: some of `WORDS`.
        planned: whether it was to answer anything.
    """
    from pth2om.release.waivers import is_waived  # here: pytest's options name `WORDS` wherever pth2om is installed

    counts: Counter[str] = Counter(gate.verdict for gate in gates if not is_waived(gate))
    found = [
        say(f"plugin.exit-{word.replace('_', '-')}", count=counts[word])
        for word in WORDS
        if word in fail_on and counts[word]
    ]
    measured = counts["passed"] + counts["failed"] + counts["inconclusive"] + counts["shown"]
    if "nothing" in fail_on and planned and not measured:
        found.append(say("plugin.exit-nothing"))
    return found
