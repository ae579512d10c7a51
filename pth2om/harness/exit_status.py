"""Whether a run may exit with 0: the words of ``--fail-on`` against what the run came to."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pth2om.language import Message, say
from pth2om.release.waivers import is_waived

if TYPE_CHECKING:
    from pth2om.harness.records import RunRecords

WORDS = ("failed", "not_reached", "inconclusive", "not_measured", "nothing")
"""What ``--fail-on`` knows: verdicts, and ``nothing`` for a run in which nothing was measured at all."""
DEFAULT = "failed,not_reached,nothing"


def reasons(records: RunRecords, fail_on: frozenset[str]) -> list[Message]:
    """Why the run must not exit with 0; none where it may."""
    counts: Counter[str] = Counter(gate.verdict for gate in records.judged if not is_waived(gate))
    found = [
        say(f"plugin.exit-{word.replace('_', '-')}", count=counts[word])
        for word in WORDS
        if word in fail_on and counts[word]
    ]
    measured = counts["passed"] + counts["failed"] + counts["inconclusive"] + counts["shown"]
    if "nothing" in fail_on and records.has_plan and not measured:
        found.append(say("plugin.exit-nothing"))
    if records.unwritten is not None:
        found.append(say("plugin.exit-unwritten"))
    return found


def apply(session: pytest.Session, because: list[Message]) -> None:
    """Change an exit status of 0 into that of failed tests where there is a reason."""
    if because and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
