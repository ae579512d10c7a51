"""The exit status of a run: what `pth2om.release.status` finds, and whether its report could be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pth2om.language import Message, say
from pth2om.release import status

if TYPE_CHECKING:
    from pth2om.harness.records import RunRecords


def reasons(records: RunRecords, fail_on: frozenset[str]) -> list[Message]:
    """Why the run must not exit with 0; none where it may."""
    found = status.reasons(records.judged, fail_on, planned=records.has_plan)
    return [*found, say("plugin.exit-unwritten")] if records.unwritten is not None else found


def apply(session: pytest.Session, because: list[Message]) -> None:
    """Change an exit status of 0 into that of failed tests where there is a reason."""
    if because and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
