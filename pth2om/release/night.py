"""One run, read as a night: what was measured, of which artifacts, on which machine, and whether it is whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pth2om import evidence
from pth2om.errors import DataError
from pth2om.evidence import Coverage, GateRecord, Record, RunRecord, StageRecord

REGRESSION = "regression"
"""The question whose gates compare a night with another; they are never compared themselves."""


@dataclass
class Night:
    """The records of one run.

    Attributes:
        run: its first record.
        gates: by id, without those of the question *regression*.
        stages: by (model, variant, stage).
        compared: the gates of the question *regression*.
        coverage: which planned tests came to their end.
    """

    run: RunRecord
    gates: dict[str, GateRecord] = field(default_factory=dict)
    stages: dict[tuple[str, str, str], StageRecord] = field(default_factory=dict)
    compared: list[GateRecord] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)

    def take(self, records: Iterable[Record]) -> None:
        """Note records of this run."""
        for record in records:
            self.coverage.take([record])
            if isinstance(record, GateRecord):
                if record.question == REGRESSION:
                    self.compared.append(record)
                else:
                    self.gates[record.id] = record
            elif isinstance(record, StageRecord):
                self.stages[(record.model, record.variant, record.stage)] = record

    @property
    def whole(self) -> bool:
        """Whether the run came to its end and every planned test has an outcome."""
        return self.coverage.ended and not self.coverage.interrupted and not self.coverage.planned

    def stages_of(self, model: str, variant: str) -> dict[str, StageRecord]:
        """The stages of a variant: its own, its batch size's and the model's."""
        batch = next((f"bs{part[2:]}" for part in variant.split("-") if part.startswith("bs")), "")
        found: dict[str, StageRecord] = {}
        for owner in dict.fromkeys(("", batch, variant)):
            found.update(
                (stage, record) for (of, name, stage), record in self.stages.items() if (of, name) == (model, owner)
            )
        return found


def file_of(source: Path) -> Path:
    """The evidence file of a run's folder, or the file itself.

    Raises:
        DataError: there is none.
    """
    file = source / "evidence.jsonl" if source.is_dir() else source
    if not file.is_file():
        raise DataError("release.no-evidence", where=str(source))
    return file


def read(source: Path) -> Night:
    """The one run of a folder or an evidence file.

    Raises:
        DataError: there is none, there are several, or a line is damaged.
    """
    file = file_of(source)
    try:
        nights = list(_nights(evidence.read(file)))
    except OSError as error:
        raise DataError("release.unreadable", where=str(file), reason=error.strerror or str(error)) from None
    if len(nights) != 1:
        raise DataError("release.not-one-run", where=str(file), count=len(nights))
    return nights[0]


def _nights(records: Iterable[Record]) -> Iterator[Night]:
    night: Night | None = None
    for record in records:
        if isinstance(record, RunRecord):
            if night is not None:
                yield night
            night = Night(record)
        elif night is not None:
            night.take([record])
    if night is not None:
        yield night
