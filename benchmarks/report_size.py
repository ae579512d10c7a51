"""The report of 5,000 results: its size, the time to render it, and the time until a browser has painted it.

    python benchmarks/report_size.py [--gates 5000] [--repeats 15]

Target: at most 2 MB without pictures, painted within 1 s. The evidence is generated in the format of a real run
    (tests/report/evidence_factory.py): 200 variants with closeness, accuracy, latency, pre-flight and stages; one in
    twelve fails.
The browser figures require a Chromium on PATH and are left out without one.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import statistics
import sys
import tempfile
import time
from pathlib import Path

from pth2om.report import render

TESTS = Path(__file__).resolve().parent.parent / "tests" / "report"
PAINTED = """new Promise(done => setTimeout(() => done([
    performance.getEntriesByName('first-contentful-paint')[0].startTime,
    performance.timing.loadEventEnd - performance.timing.navigationStart]), 300))"""


def module(name):
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def spreads(gates):
    """The same number of results, distributed as in a real run, or one per model."""
    factory = module("evidence_factory")
    usual = list(factory.large_run(gates))
    yield "as a real run", usual
    alone = [record for record in usual if hasattr(record, "check")]
    yield "one a model", [usual[0], *(dataclasses.replace(gate, model=f"m{n}") for n, gate in enumerate(alone))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gates", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=15)
    asked = parser.parse_args()
    browser_module = module("chromium") if sys.platform != "win32" else None
    has_browser = browser_module is not None and browser_module.found() is not None
    with tempfile.TemporaryDirectory() as folder:
        for name, records in spreads(asked.gates):
            page = Path(folder) / "index.html"
            times = []
            for _ in range(min(5, asked.repeats)):
                started = time.perf_counter()
                render(records, page)
                times.append(time.perf_counter() - started)
            line = f"{asked.gates} results, {name}: {page.stat().st_size / 1e6:.2f} MB (limit 2)"
            line += f", rendered in {statistics.median(times):.2f} s"
            if has_browser:
                with browser_module.Chromium() as browser:
                    seen = []
                    for _ in range(asked.repeats):
                        browser.open(page)
                        seen.append(browser.run(PAINTED))
                painted, loaded = (statistics.median(values) / 1000 for values in zip(*seen, strict=True))
                line += f", painted after {painted:.2f} s (limit 1), loaded after {loaded:.2f} s"
            print(line, flush=True)
    if not has_browser:
        print("no Chromium on PATH: nothing painted")


if __name__ == "__main__":
    main()
