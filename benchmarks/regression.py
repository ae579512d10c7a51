"""False alarms and what is caught, by the judgement of regressions and by its rivals.

    python -m benchmarks.regression [NIGHTS]

What varies between nights is stated in ``tests/release/simulation.py``.
"""

from __future__ import annotations

import sys
import time

from tests.release.simulation import simulate


def main() -> None:
    nights = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    started = time.perf_counter()
    print(f"{nights} nights of 200 gates without a change; steps of 5 % and losses of 1 point at n = 5,000, two nights")
    print(f"{'':18} {'false alarms / 1,000 nights':>28} {'latency steps':>14} {'accuracy losses':>16}")
    for one in simulate(nights):
        print(f"{one.judge:18} {one.alarms:>28.2f} {one.steps:>13.1%} {one.losses:>15.1%}")
    print("\npth2om, by the runs of its baseline (pth2om/release/needs.py prints these figures):")
    for runs in (3, 5, 10):
        (one,) = simulate(nights, runs=runs, only="pth2om")
        print(f"{runs:>15} runs {one.alarms:>27.2f} {one.steps:>13.1%} {one.losses:>15.1%}")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
