"""The page of a history: how large it is, and how long it takes to read the nights and to draw it.

    python -m benchmarks.trend [GATES [NIGHTS]]

Seconds of the processor, of one model's file. Once a tenth of the figures change, once all of them every night.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from pth2om.release import history
from pth2om.release.history import Point
from pth2om.report.trend import page


def nights(gates: int, count: int, changing: float) -> list[Point]:
    """A history in which a share of the figures differs each night."""
    noise = random.Random(0)
    names = [f"yolov6n/fp16-bs1/Ascend310B1/closeness/torch~om/output{n}/cosine" for n in range(gates)]
    first = {name: (noise.random(), "emulated", "3f2a9c01d4e5b678") for name in names}
    moving = names[: int(changing * gates)]
    return [
        Point(
            f"run{n}",
            f"2026-{1 + n // 28 % 12:02d}-{1 + n % 28:02d}T02:00:00+00:00",
            "emulator 1",
            first | {name: (noise.random(), *first[name][1:]) for name in moving},
        )
        for n in range(count)
    ]


def main() -> None:
    gates = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 60
    for changing in (0.1, 1.0):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "net.jsonl"
            file.write_text(
                "".join(f"{json.dumps(dataclasses.asdict(one))}\n" for one in nights(gates, count, changing))
            )
            started = time.process_time()
            points, _ = history.read(file)
            read = time.process_time()
            text = page("net", points)
            drawn = time.process_time()
            print(
                f"{gates} figures, {count} nights, {changing:.0%} change: file {file.stat().st_size / 1e6:.1f} MB, "
                f"page {len(text.encode()) / 1e6:.2f} MB; read {read - started:.2f} s, drawn {drawn - read:.2f} s"
            )


if __name__ == "__main__":
    main()
