"""How long it takes to put the shards of a night together.

    python -m benchmarks.merge [SHARDS [GATES]]

Merging is timed alone, and with the report that ``pth2om report merge`` writes; all in seconds of the processor, which
other programs on the machine do not lengthen.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from pth2om import evidence
from pth2om.evidence import EndRecord, EvidenceFile, Limit, OutcomeRecord, Planned, PlanRecord
from pth2om.report.merging import merge_runs
from tests.report.evidence_factory import EMULATOR, SOC, gate, run_record, sha

_GATES_A_TEST = 5


def shards(root: Path, many: int, gates: int) -> list[Path]:
    """Runs of models of 100 gates each, five gates a test, each with the names of all other shards' tests."""

    def planned(number: int) -> list[Planned]:
        models = [f"m{number}-{gate // 100}" for gate in range(0, gates, _GATES_A_TEST)]
        return [
            Planned(f"test_cases/t.py::t{at}[{m}]", m, "fp16-bs1", SOC, "closeness", f"closeness/t{at}", measures=True)
            for at, m in enumerate(models)
        ]

    plans = [planned(number) for number in range(many)]
    for number, plan in enumerate(plans):
        file = EvidenceFile(root / f"shard{number}" / "evidence.jsonl")
        others = tuple(each.row for at, other in enumerate(plans) if at != number for each in other)
        file.append([run_record(f"shard{number}"), PlanRecord(tuple(plan), SOC, f"{number + 1}/{many}", others)])
        file.append(
            gate(
                f"m{number}-{at // 100}", "fp16-bs1", "closeness", f"torch~om/s{at}/cosine", 0.9999, Limit(">=", 0.99),
                "passed", EMULATOR, details={"worst": 3},
                digests={role: sha(f"{role}{number}{at}") for role in ("checkpoint", "onnx", "om", "samples")},
            )
            for at in range(gates)
        )  # fmt: skip
        file.append([*(OutcomeRecord(each.item, "passed", 0.1) for each in plan)])
        file.append([EndRecord(file.records)])
    return [root / f"shard{number}" for number in range(many)]


def main() -> None:
    many = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    gates = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    with tempfile.TemporaryDirectory() as folder:
        runs = shards(Path(folder), many, gates)
        files = [run / "evidence.jsonl" for run in runs]
        size = sum(file.stat().st_size for file in files)
        print(f"{many} shards of {gates} gates, {size / 1e6:.0f} MB")
        for _ in range(3):
            started = time.process_time()
            merged = evidence.merge(files)
            assert not merged.joined.coverage.planned
            assert len(merged.joined.gates) == many * gates
            print(f"merge: {time.process_time() - started:.2f} s")
        started = time.process_time()
        merge_runs(runs, Path(folder) / "night")
        print(f"merge and report: {time.process_time() - started:.2f} s")


if __name__ == "__main__":
    main()
