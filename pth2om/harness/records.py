"""The evidence of a run: hung on the tests' reports, written into the run's folder as they come in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pth2om.errors import Pth2omError

if TYPE_CHECKING:
    from pth2om.evidence import GateRecord, Record

RECORDS = "pth2om_records"
"""Attribute of a test's report that carries its evidence."""
EVIDENCE = pytest.StashKey[list["Record"]]()
"""What a test has measured and no report carries yet."""


def keep(item: pytest.Item, records: Sequence[Record]) -> None:
    """Keep evidence until the test's next report."""
    item.stash.setdefault(EVIDENCE, []).extend(records)


class RunRecords:
    """Writes the evidence of a run.

    Args:
        config: of the run.
        soc: the SoC that the run names, or None.

    Attributes:
        verdicts: gates written so far, by verdict and ground.
        int8: the gates that say what INT8 costs.
        unwritten: the first error that kept something from the report, or None.
    """

    def __init__(self, config: pytest.Config, soc: str | None) -> None:
        self._config = config
        self._soc = soc
        self._folder: Path | None = None
        self._seen: set[tuple[str, str, str]] = set()
        self.verdicts: Counter[tuple[str, str]] = Counter()
        self.int8: list[GateRecord] = []
        self.unwritten: OSError | Pth2omError | None = None

    @property
    def folder(self) -> Path:
        """``reports/<time>-<soc>``; made when something is written into it."""
        if self._folder is None:
            root = self._config.rootpath / self._config.getoption("--reports-dir")
            name = f"{datetime.now():%Y%m%d-%H%M%S}-{self._soc or 'host'}"
            folder, number = root / name, 1
            while folder.exists():
                number += 1
                folder = root / f"{name}-{number}"
            self._folder = folder
        return self._folder

    @property
    def has_folder(self) -> bool:
        """Whether the run's folder has been named."""
        return self._folder is not None

    @property
    def path(self) -> Path:
        """The evidence file."""
        return self.folder / "evidence.jsonl"

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append records to the run's evidence; a stage that several tests used is written once.

        A report that cannot be written does not end the run: what is measured stays in the store.
        """
        try:
            self._append(rows)
        except OSError as error:
            self.unwritten = self.unwritten or error

    def _append(self, rows: Sequence[dict[str, Any]]) -> None:
        from pth2om import evidence, host
        from pth2om.questions import pictures

        file = evidence.EvidenceFile(self.path)
        if not file.path.exists():
            command = ("pytest", *(str(argument) for argument in self._config.invocation_params.args))
            started = datetime.now().astimezone().isoformat(timespec="seconds")
            file.append([evidence.RunRecord(self.folder.name, started, command, host.environment())])
        records = []
        for row in rows:
            record = evidence.from_json(pictures.carry(row, self.folder))
            if isinstance(record, evidence.StageRecord):
                name = (record.model, record.variant, record.stage)
                if name in self._seen:
                    continue
                self._seen.add(name)
            elif isinstance(record, evidence.GateRecord):
                self.verdicts[record.verdict, record.ground] += 1
                if record.question == "accuracy" and record.variant.startswith("int8-"):
                    self.int8.append(record)
            records.append(record)
        file.append(records)
