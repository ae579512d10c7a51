"""The plan of a run against what it came to.

Absence is never success, on three levels. A test that the run did not come to leaves all its gates not reached. A test
that ended without a gate it had to give leaves that gate not reached: the run itself writes this down when the test
ends. A model of which nothing was measured is named, so that nobody takes the good figures of another one for its own.

Runs that were merged answer for one another: a test that one of them planned may have come to its end in another one,
and what a shard left to the other shards has to have an outcome in one of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pth2om.evidence.records import (
    EndRecord,
    GateRecord,
    MergedRecord,
    OutcomeRecord,
    Planned,
    PlanRecord,
    Question,
    Record,
    RunRecord,
    Verdict,
)
from pth2om.language import Message

_MEASURED: tuple[Verdict, ...] = ("passed", "failed", "inconclusive", "shown")
_Name = tuple[int, str | None, str]
_Row = tuple[str, str, str, str, Question, str]


@dataclass
class Coverage:
    """Which planned tests of a run, or of runs that were merged, came to their end.

    Attributes:
        shards: ``2/4`` of each run that is one of several.
        elsewhere: what such a run left to the others, by run, SoC and node id; merged runs count as one.
        merged: whether the runs answer for one another's plans.
    """

    shards: list[str] = field(default_factory=list)
    elsewhere: dict[_Name, _Row] = field(default_factory=dict)
    merged: bool = False
    _items: dict[_Name, Planned] = field(default_factory=dict)
    _outcomes: set[_Name] = field(default_factory=set)
    _gates: dict[tuple[str, str], list[GateRecord]] = field(default_factory=dict)
    _run: tuple[int, str | None] = (0, None)
    _open: bool = False
    _unended: bool = False
    _interrupted: bool = False

    def take(self, records: Iterable[Record]) -> None:
        """Note plan, gates, outcomes and end among the records of a run, and of those that follow it."""
        for record in records:
            self.note(record)

    def note(self, record: Record) -> None:
        """As `take`, of one record."""
        if isinstance(record, GateRecord):
            self._gates.setdefault((record.model, record.variant), []).append(record)
        elif isinstance(record, OutcomeRecord):
            self._outcomes.add((*self._run, record.item))
        elif isinstance(record, PlanRecord):
            named = next((each.soc for each in record.items if each.soc is not None), None)
            self._run = self._run[0], record.soc or named
            self._items.update(((*self._run, each.item), each) for each in record.items)
            self.elsewhere.update(((*self._run, row[0]), row) for row in record.elsewhere)
            self.shards += [record.shard] if record.shard else []
            self._open = True
        elif isinstance(record, RunRecord):
            self._unended |= self._open
            self._open = False
            self._run = self._run[0] + (not self.merged), None
        elif isinstance(record, EndRecord):
            self._open = False
            self._interrupted |= record.interrupted
        elif isinstance(record, MergedRecord):
            self.merged = True

    @property
    def planned(self) -> list[Planned]:
        """The tests without an outcome; of merged runs also those that every shard left to the others."""
        found = [each for name, each in self._items.items() if name not in self._outcomes]
        if self.merged:
            others = self.elsewhere.keys() - self._items.keys() - self._outcomes
            found += [Planned.of_row(row) for name, row in self.elsewhere.items() if name in others]
        return found

    @property
    def models_elsewhere(self) -> set[str]:
        """The models of other shards."""
        return {model for _, model, *_ in self.elsewhere.values()}

    @property
    def ended(self) -> bool:
        """Whether each run wrote its last line, or others came to the end of all that it planned."""
        return not (self._unended or self._open) or (self.merged and not self.planned)

    @property
    def interrupted(self) -> bool:
        """Whether a run was stopped from outside, and nobody came to the end of what it planned."""
        return self._interrupted and not (self.merged and not self.planned)

    @property
    def is_shard(self) -> bool:
        """Whether other runs hold the rest of what was collected."""
        return bool(self.elsewhere) and not self.merged

    @property
    def unreached(self) -> list[GateRecord]:
        """The gates without a record of each planned test that has no outcome.

        One stands for the whole test where it is not known which gates it was to give, or where it gave all of them and
        did not come to its end all the same.
        """
        message = Message("evidence.not-reached")
        found: list[GateRecord] = []
        for each in self.planned:
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
