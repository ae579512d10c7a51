"""The window: how long until it listens, until a page is painted, and what the server holds in memory.

    python -m benchmarks.gui

Visits every page, reads a checkpoint, converts the bundled model and opens its result; then prints the server's peak of
resident memory, and whether torch, onnx or onnxruntime is mapped into it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.report.chromium import Chromium

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "/",
    "/convert",
    "/quantize?way=onnx",
    "/accept",
    "/explain",
    "/aipp",
    "/reports",
    "/board",
    "/jobs",
    "/waivers",
)
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"


def main() -> None:
    state = tempfile.mkdtemp()
    began = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "pth2om", "gui", "--port", "0", "--state", state],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PTH2OM_LANG": "en"},
    )  # fmt: skip
    try:
        text = ""
        while not (found := re.search(r"(http://\S+?)/\?token=\S+", text)):
            text += server.stdout.readline()
        print(f"address printed after {time.perf_counter() - began:.2f} s")
        base, address = found[1], found[0]
        with Chromium() as browser:
            browser.open(address)
            for page in PAGES:
                times = []
                for _ in range(3):
                    browser.open(base + page)
                    browser.until(f"({PAINTED}) > 0")
                    times.append(browser.run(PAINTED))
                print(f"first paint {page:24} {min(times):7.0f} ms (worst of three {max(times):.0f})")
            browser.open(base)
            browser.follow("document.querySelector('a.cardlink').click()")
            browser.until("document.getElementById('atc').textContent.includes('--soc_version')", 120)
            browser.run(f"document.getElementById('f-output').value = {str(state + '/uploads/out')!r}")
            browser.follow("document.querySelector('button.go').click()")
            browser.until("document.readyState === 'complete' && !document.querySelector('[data-events]')", 240)
            browser.run("for (const one of document.querySelectorAll('details')) one.open = true")
            time.sleep(5)
        status = Path(f"/proc/{server.pid}/status").read_text()
        peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1])
        print(f"peak resident memory {peak / 1024:.0f} MB")
        maps = Path(f"/proc/{server.pid}/maps").read_text()
        heavy = [name for name in ("libtorch", "onnxruntime", "onnx_cpp2py") if name in maps]
        print(f"heavy libraries in the server: {', '.join(heavy) or 'none'}")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=20)


if __name__ == "__main__":
    main()
