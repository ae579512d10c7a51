"""The plan of a run against what it came to.

Absence is never success, on three levels. A test that the run did not come to leaves all its gates not reached. A test
that ended without a gate it had to give leaves that gate not reached: the run itself writes this down when the test
ends. A model of which nothing was measured is named, so that nobody takes the good figures of another one for its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pth2om.evidence.records import EndRecord, GateRecord, OutcomeRecord, Planned, PlanRecord, Record, Verdict
from pth2om.language import Message

_MEASURED: tuple[Verdict, ...] = ("passed", "failed", "inconclusive", "shown")


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
    _gates: dict[tuple[str, str], list[GateRecord]] = field(default_factory=dict)

    def take(self, records: Iterable[Record]) -> None:
        """Note plan, gates, outcomes and end among the records of the run."""
        for record in records:
            if isinstance(record, PlanRecord):
                self.planned.update((each.item, each) for each in record.items)
                self.ended = False
            elif isinstance(record, GateRecord):
                self._gates.setdefault((record.model, record.variant), []).append(record)
            elif isinstance(record, OutcomeRecord):
                self.planned.pop(record.item, None)
            elif isinstance(record, EndRecord):
                self.ended, self.interrupted = True, record.interrupted

    @property
    def unreached(self) -> list[GateRecord]:
        """The gates without a record of each planned test that has no outcome.

        One stands for the whole test where it is not known which gates it was to give, or where it gave all of them and
        did not come to its end all the same.
        """
        message = Message("evidence.not-reached")
        found: list[GateRecord] = []
        for each in self.planned.values():
            gates = self._gates.get((each.model, each.variant), [])
            lost = each.missing([gate for gate in gates if not gate.details.get("whole")], message)
            found += lost or [each.gate("not_reached", message)]
        return list({gate.id: gate for gate in found}.values())


def unmeasured_models(gates: Iterable[GateRecord]) -> list[str]:
    """The models that have gates, none of which was measured, in the order in which they come."""
    measured: dict[str, bool] = {}
    for gate in gates:
        measured[gate.model] = measured.get(gate.model, False) or gate.verdict in _MEASURED
    return [model for model, any_of in measured.items() if not any_of]
