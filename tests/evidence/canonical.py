"""Evidence of two runs that must agree: everything but times, order, the machine, and where files lay."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_PASSING = {"seal", "measured_at", "seconds", "cached", "machine", "peak_memory_mb"}
_RUN = {"run", "end", "plan"}
"""Kinds that name the run itself: its command, its clock, and the order in which workers collected."""


def canonical(rows: Iterable[dict[str, Any]], folders: Iterable[str] = ()) -> list[str]:
    """What two runs of the same must have in common, sorted, one text a record.

    Args:
        rows: of ``evidence.jsonl``.
        folders: of this run: their names are left out of commands.
    """
    kept = []
    for row in rows:
        if row["kind"] in _RUN:
            continue
        # How long things take is measured, not computed: a latency says only that it was asked and what came of it.
        bare = {name: row[name] for name in ("kind", "id", "verdict", "ground")} if _is_time(row) else _bare(row)
        text = json.dumps(bare, sort_keys=True)
        for folder in folders:
            text = text.replace(folder, "FOLDER")
        kept.append(text)
    return sorted(kept)


def read(report: Path) -> list[dict[str, Any]]:
    """The records of the one run in a folder of reports."""
    (path,) = report.glob("*/evidence.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def _is_time(row: dict[str, Any]) -> bool:
    return row["kind"] == "gate" and row["question"] == "latency"


def _bare(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _bare(entry) for name, entry in value.items() if name not in _PASSING}
    if isinstance(value, list):
        return [_bare(entry) for entry in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
