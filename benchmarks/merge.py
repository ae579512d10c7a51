"""How long it takes to put the shards of a night together.

    python -m benchmarks.merge [SHARDS [GATES]]

Merging is timed alone, and as the command that one types, report and start of Python included; all in seconds of the
processor, which other programs on the machine lengthen less than those of the clock. With the most memory it held.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pth2om import evidence
from pth2om.evidence import EndRecord, EvidenceFile, Limit, OutcomeRecord, Planned, PlanRecord
from tests.report.evidence_factory import EMULATOR, SOC, gate, run_record, sha

_GATES_A_TEST = 5
_TYPED = """
import re, time
from pth2om.cli import main
assert main() == 0
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
print(f"{time.process_time():.2f} s, {peak:.0f} MiB")
"""


def shards(root: Path, many: int, gates: int) -> list[Path]:
    """Runs of models of 100 gates each, five gates a test, each with the names of all other shards' tests."""

    def planned(number: int) -> list[Planned]:
        models = [f"m{number}-{gate // 100}" for gate in range(0, gates, _GATES_A_TEST)]
        return [
            Planned(f"test_cases/t.py::t{at}[{m}]", m, "fp16-bs1", SOC, "closeness", f"closeness/t{at}", measures=True)
            for at, m in enumerate(models)
        ]

    noise = random.Random(0)
    plans = [planned(number) for number in range(many)]
    for number, plan in enumerate(plans):
        file = EvidenceFile(root / f"shard{number}" / "evidence.jsonl")
        others = tuple(each.row for at, other in enumerate(plans) if at != number for each in other)
        file.append([run_record(f"shard{number}"), PlanRecord(tuple(plan), SOC, f"{number + 1}/{many}", others)])
        file.append(
            gate(
                f"m{number}-{at // 100}", "fp16-bs1", "closeness", f"torch~om/s{at}/cosine",
                noise.uniform(0.991, 1.0), Limit(">=", 0.99), "passed", EMULATOR, details={"worst": 3},
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
        words = ["report", "merge", *map(str, runs), "-o", str(Path(folder) / "night")]
        for _ in range(3):
            # The child tells its own peak: what wait4 gives begins with the size of the parent.
            done = subprocess.run([sys.executable, "-c", _TYPED, *words], check=True, capture_output=True, text=True)
            print(f"as typed: {done.stdout.splitlines()[-1]}")
        for _ in range(3):
            started = time.process_time()
            merged = evidence.merge(files)
            assert not merged.joined.coverage.planned
            assert len(merged.joined.gates) == many * gates
            print(f"merge: {time.process_time() - started:.2f} s")


if __name__ == "__main__":
    main()
