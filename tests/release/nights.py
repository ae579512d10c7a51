"""Evidence of nights, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pth2om.evidence import (
    EndRecord,
    EvidenceFile,
    GateRecord,
    OutcomeRecord,
    Planned,
    PlanRecord,
    Record,
    RunRecord,
    StageRecord,
)
from pth2om.session import Provenance

FAKE = Provenance("fake", "1", "double", "Ascend310B1")
HOST = Provenance("torch", "2", "host")
DIGESTS = {"checkpoint": "c" * 64, "onnx": "o" * 64, "quantized": "q" * 64, "om": "a" * 64}


def gate(question: str = "accuracy", check: str = "om/top1/drop", value: float | None = 0.0, **more: Any) -> GateRecord:
    given: dict[str, Any] = {
        "unit": "points", "limit": None, "verdict": "shown", "ground": "double", "provenance": FAKE, "host": "m1",
        "details": {"dataset": "d", "images": 5000}, "interval": (-0.2, 0.2),
        "digests": {"dataset": "d" * 64, "preprocessing": "p" * 64, "net": "n" * 64},
    }  # fmt: skip
    if question != "accuracy":
        given |= {"interval": None, "details": {}, "digests": {}}
    given |= more
    return GateRecord("net", "int8-bs1", "Ascend310B1", question, check, value, **given)


def stages(changed: Mapping[str, str] = {}, details: Mapping[str, Mapping[str, Any]] = {}) -> list[StageRecord]:
    owners = {"checkpoint": "", "onnx": "bs1", "quantized": "int8-bs1", "om": "int8-bs1"}
    known = {"onnx": {"opset": 17}, "quantized": {"calibration_digest": "k", "settings": {}}}
    return [
        StageRecord(
            "net", owner, stage, changed.get(stage, DIGESTS[stage]), "key", False, 1.0,
            FAKE if stage == "om" else HOST, details={**known.get(stage, {}), **details.get(stage, {})},
        )
        for stage, owner in owners.items()
    ]  # fmt: skip


def write(folder: Path, records: Sequence[Record], *, end: bool = True) -> Path:
    """A run's folder."""
    item = Planned("t::a", "net", "int8-bs1", "Ascend310B1", "accuracy", "accuracy/a")
    file = EvidenceFile(folder / "evidence.jsonl")
    file.append([RunRecord(folder.name, "2026-01-01T02:00:00+00:00", ("pytest",), {}), PlanRecord((item,)), *records])
    if end:
        file.append([OutcomeRecord("t::a", "passed", 1.0)])
        file.append([EndRecord(file.records)])
    return folder
