"""The record that ``pth2om convert`` leaves beside its files, read back: its gates and stages are evidence like any."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pth2om.errors import DataError
from pth2om.evidence import Finding, GateRecord, StageRecord, from_json
from pth2om.language import Message

SUFFIX = ".convert.json"
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class Converted:
    """What a conversion came to, out of its record.

    Attributes:
        path: the record.
        source: the file that was converted.
        soc: compiled for; None: not compiled.
        ground: of what was compiled; empty where nothing was.
        status: exit status of the verb.
        atc: the atc command, program first.
        said: what was found and assumed.
        stages: what was made.
        gates: what was asked, and each verdict.
        files: names of what was written, beside the record.
    """

    path: Path
    source: str
    soc: str | None
    ground: str
    status: int
    atc: tuple[str, ...]
    said: tuple[Message, ...]
    stages: tuple[StageRecord, ...]
    gates: tuple[GateRecord, ...]
    files: tuple[str, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the stages noticed, each once."""
        found = {
            (one.rule, one.node, str(one.message.to_json())): one for stage in self.stages for one in stage.findings
        }
        return tuple(found.values())


def read(path: Path) -> Converted:
    """Read the record of a conversion.

    Raises:
        DataError: it cannot be read, is no such record, or is damaged.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError("report.no-conversion", where=str(path))
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("report.no-evidence", where=str(path)) from None
    except OSError as error:
        raise DataError("report.unreadable", where=str(path), reason=error.strerror or str(error)) from None
    except (ValueError, RecursionError):
        raise DataError("report.no-conversion", where=str(path)) from None
    try:
        return _converted(path, data)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DataError("report.no-conversion", where=str(path)) from None


def _converted(path: Path, data: Mapping[str, Any]) -> Converted:
    if data["kind"] != "conversion":
        raise ValueError(data["kind"])
    stages = [from_json(row) for row in data["stages"]]
    gates = [from_json(row) for row in data["gates"]]
    soc = data["target"]["soc"]
    return Converted(
        path=path,
        source=str(data["source"]["file"]),
        soc=None if soc is None else str(soc),
        ground=str(data["ground"] or ""),
        status=int(data["status"]),
        atc=tuple(map(str, data["atc"])),
        said=tuple(Message.from_json(row) for row in data["said"]),
        stages=tuple(row for row in stages if isinstance(row, StageRecord)),
        gates=tuple(row for row in gates if isinstance(row, GateRecord)),
        files=tuple(Path(str(name)).name for name in data["files"]),
    )
