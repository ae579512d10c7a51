"""Evidence of a release on a device, made by hand: there is no device here, and nothing else may make such evidence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pth2om.evidence import (
    EndRecord,
    EvidenceFile,
    Expected,
    GateRecord,
    Limit,
    OutcomeRecord,
    Planned,
    PlanRecord,
    Record,
    RunRecord,
    SpecText,
    StageRecord,
)
from pth2om.session import Provenance

SOC = "Ascend310B1"
NPU = Provenance("cann", "8.0", "device", SOC)
HOST = Provenance("torch", "2", "host")
SPEC = """task = "classification"

[source]
checkpoint = "net.pth"

[[inputs]]
name = "image"
shape = [3, 8, 8]
"""
POLICY = f"""[release]
name = "net 1.2"
soc = "{SOC}"
models = ["net"]
"""
OM = b"an OM file"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def gate(question: str, check: str, value: float | None, limit: Limit | None = None, **more: Any) -> GateRecord:
    given: dict[str, Any] = {
        "unit": "", "verdict": "passed" if limit is not None else "shown", "ground": "device", "provenance": NPU,
        "digests": {"spec": sha(SPEC.encode()), "onnx": "b" * 64, "om": sha(OM)},
        "details": {"images": 500, "dataset": "dots", "device": {"driver": "24.1", "soc": SOC}}, "host": "m1",
    }  # fmt: skip
    given |= more
    if given["ground"] != "device":
        given["provenance"] = Provenance("emulator", "1", given["ground"], SOC)
    return GateRecord("net", "fp16-bs1", SOC, question, check, value, limit=limit, **given)


def gates() -> list[GateRecord]:
    return [
        gate("closeness", "torch~om/scores/cosine", 0.99999, Limit(">=", 0.999)),
        gate("accuracy", "om/top1/drop", 0.2, Limit("<=", 1.0), interval=(-0.1, 0.5), unit="points"),
        gate("latency", "om/median_ms", 1.25, unit="ms", interval=(1.2, 1.3)),
    ]


def stages() -> list[StageRecord]:
    checkpoint = StageRecord("net", "", "checkpoint", "c" * 64, "k" * 64, False, 1.0, HOST)
    onnx = StageRecord("net", "bs1", "onnx", "b" * 64, "k" * 64, False, 1.0, HOST, inputs={"checkpoint": "c" * 64})
    om = StageRecord(
        "net", "fp16-bs1", "om", sha(OM), "k" * 64, False, 1.0, NPU, ("atc", "--model=a.onnx", "--output=net-fp16-bs1"),
        details={"compiler": {"cann": "8.0"}}, inputs={"onnx": "b" * 64},
    )  # fmt: skip
    return [checkpoint, onnx, om]


@dataclass
class Run:
    """A run that can be signed, until something in it is changed."""

    gates: list[GateRecord] = field(default_factory=gates)
    stages: list[StageRecord] = field(default_factory=stages)
    specs: tuple[SpecText, ...] = (SpecText("net", sha(SPEC.encode()), SPEC),)
    soc: str = SOC
    shard: str = ""
    elsewhere: tuple[tuple[Any, ...], ...] = ()
    lines: Callable[[Sequence[Record]], Sequence[Record]] = list
    end: bool = True

    def change(self, number: int, **changed: Any) -> None:
        self.gates[number] = replace(self.gates[number], **changed)

    def write(self, root: Path) -> Path:
        """The repository of the run under ``root``: models/, release.toml, net.om; returns the run's folder."""
        (root / "models" / "net").mkdir(parents=True, exist_ok=True)
        (root / "models" / "net" / "model.toml").write_bytes(SPEC.encode())
        (root / "release.toml").write_text(POLICY, encoding="utf-8")
        (root / "net.om").write_bytes(OM)
        folder = root / "reports" / "RUN"
        items = tuple(planned(question, self.soc) for question in ("closeness", "accuracy", "latency"))
        plan = PlanRecord(items, soc=self.soc, shard=self.shard, elsewhere=self.elsewhere, specs=self.specs)
        begin = RunRecord(folder.name, "2026-01-01T02:00:00+00:00", ("pytest", "--board", "b"), {"python": "3"})
        outcomes = [OutcomeRecord(item.item, "passed", 1.0) for item in items]
        records = self.lines([begin, plan, *self.stages, *self.gates, *outcomes])
        (folder / "evidence.jsonl").unlink(missing_ok=True)
        file = EvidenceFile(folder / "evidence.jsonl")
        file.append(records)
        if self.end:
            file.append([EndRecord(file.records)])
        return folder


def planned(question: str, soc: str = SOC) -> Planned:
    asked = {"closeness": "torch~om/*", "accuracy": "om/*", "latency": "om/*"}
    return Planned(
        f"t.py::test_{question}[net-fp16-bs1]", "net", "fp16-bs1", soc, question, f"{question}/t",
        (Expected(question, (asked[question],)),),
    )  # fmt: skip
