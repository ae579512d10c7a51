"""The cost of the plugin: a warm second run, 4,000 trivial tests, collecting 200 models of 6 variants.

Each figure is the median of alternating pairs (A B A B ...) of complete pytest processes on this machine, as the ratio
or difference of a pair. The limits are the project's own.

    python benchmarks/plugin.py [--pairs 15]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SPEC = """\
task = "classification"
variants = ["fp16-bs1", "fp16-bs4", "mixed-bs1", "mixed-bs4", "origin-bs1", "origin-bs4"]
[source]
checkpoint = "absent.pth"
[[inputs]]
name = "image"
shape = [3, 32, 32]
[preprocess]
size = [32, 32]
[[datasets]]
name = "none"
metric = "top1"
"""


def seconds(command: list[str], folder: Path, store: Path) -> float:
    environment = {**os.environ, "PTH2OM_STORE": str(store), "PTH2OM_LANG": "en"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a second run uses compiled modules, as in normal use
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    took = time.perf_counter() - started
    if done.returncode not in (0, 5):
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    return took


def compare(name: str, ours: tuple, peer: tuple, pairs: int, *, limit: str) -> None:
    a, b = [], []
    for _ in range(pairs):
        a.append(seconds(*ours))
        b.append(seconds(*peer))
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    print(
        f"{name:34} ours {statistics.median(a):6.2f} s  peer {statistics.median(b):6.2f} s  "
        f"ratio {statistics.median(ratios):5.2f} [{min(ratios):.2f}-{max(ratios):.2f}]  "
        f"difference {statistics.median(differences):+6.2f} s  limit {limit}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=15)
    pairs = parser.parse_args().pairs
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        store = root / "store"

        empty = root / "empty"
        empty.mkdir()
        (empty / "test_nothing.py").write_text("def test_nothing():\n    pass\n")

        warm = root / "warm"
        for part in ("models", "calib", "test_cases"):
            shutil.copytree(REPOSITORY / part, warm / part, ignore=shutil.ignore_patterns("__pycache__"))
        (warm / "pytest.ini").write_text("[pytest]\ntestpaths = test_cases\naddopts = --import-mode=importlib\n")
        run = [*pytest, "-k", "convmixer-digits", "--soc", "Ascend310B1"]
        print(f"first run of convmixer-digits: {seconds(run, warm, store):.1f} s")
        pair = (run, warm, store), (pytest, empty, store)
        compare("warm second run, empty pytest", *pair, pairs, limit="<= 0.9 s, +0.5 s")
        # Without the plugins that only the development of pth2om needs: what whoever installed it waits for.
        bare = ["-p", "no:hypothesispytest", "-p", "no:anyio"]
        pair = ([*run, *bare], warm, store), ([*pytest, *bare], empty, store)
        compare("the same, plugins of pth2om alone", *pair, pairs, limit="<= 0.9 s, +0.5 s")

        trivial = root / "trivial"
        trivial.mkdir()
        (trivial / "test_trivial.py").write_text(
            "import pytest\n\n\n@pytest.mark.parametrize('n', range(4000))\ndef test_n(n):\n    assert n >= 0\n"
        )
        compare(
            "4,000 trivial tests, plugin off",
            (pytest, trivial, store),
            ([*pytest, "-p", "no:pth2om"], trivial, store),
            pairs,
            limit="<= 1.15",
        )

        many = root / "many"
        shutil.copytree(REPOSITORY / "test_cases", many / "test_cases", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(warm / "pytest.ini", many)
        for number in range(200):
            folder = many / "models" / f"model{number:03}"
            folder.mkdir(parents=True)
            (folder / "model.toml").write_text(SPEC)
        collect = [*pytest, "--collect-only", "--soc", "Ascend310B1"]
        listed = subprocess.run(collect, cwd=many, capture_output=True, text=True, check=True)
        count = sum("::" in line for line in listed.stdout.splitlines())
        plain = root / "plain"
        plain.mkdir()
        # The same number of trivial tests, functions and files.
        for name in range(7):
            (plain / f"test_{name}.py").write_text(
                f"import pytest\n\n\n@pytest.mark.parametrize('n', range({count // 7}))\ndef test_n(n):\n    pass\n"
            )
        print(f"200 models x 6 variants: {count} tests")
        compare(
            "collecting them, trivial tests",
            (collect, many, store),
            ([*pytest, "--collect-only"], plain, store),
            pairs,
            limit="<= 1.30",
        )


if __name__ == "__main__":
    main()
