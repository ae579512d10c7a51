"""The plan of a run against what it came to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pth2om.evidence.records import EndRecord, GateRecord, OutcomeRecord, Planned, PlanRecord, Record
from pth2om.language import Message


@dataclass
class Coverage:
    """Which planned tests of one run came to their end.

    Attributes:
        planned: by node id, those without an outcome.
        ended: whether the run wrote its last line; True for a run without a plan.
        interrupted: whether it was stopped from outside.
    """

    planned: dict[str, Planned] = field(default_factory=dict)
    ended: bool = True
    interrupted: bool = False

    def take(self, records: Iterable[Record]) -> None:
        """Note plan, outcomes and end among the records of the run."""
        for record in records:
            if isinstance(record, PlanRecord):
                self.planned.update((each.item, each) for each in record.items)
                self.ended = False
            elif isinstance(record, OutcomeRecord):
                self.planned.pop(record.item, None)
            elif isinstance(record, EndRecord):
                self.ended, self.interrupted = True, record.interrupted

    @property
    def unreached(self) -> list[GateRecord]:
        """One gate per planned test that has no outcome."""
        return [each.gate("not_reached", Message("evidence.not-reached")) for each in self.planned.values()]
