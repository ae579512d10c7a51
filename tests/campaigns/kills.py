"""Kills acceptance runs at any moment, and asks that nothing is lost, half-written or called a success.

::

    python -m tests.campaigns.kills --kills 200 --seed 1

Every run of the bundled digits model is ended by SIGKILL, with all its workers, after a random time. After each kill
the report of what was written must render and must not claim that nothing contradicts the model. At the end an
undisturbed run on the same store must give what a run on a fresh store gives, gate by gate, and no half-built artifact
may be left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = "convmixer-digits"
TIMED = frozenset({"latency"})
"""Questions whose figures differ from run to run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; the exit status is 1 when a kill did harm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=200, help="how many runs are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the times at which they are killed")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        faults = campaign(Path(folder), asked.kills, asked.seed)
    for fault in faults:
        print(fault)
    print(f"{asked.kills} kills, {len(faults)} faults")
    return 1 if faults else 0


def campaign(folder: Path, kills: int, seed: int) -> list[str]:
    """What went wrong, a line each; ``folder`` is an empty scratch folder."""
    root = scratch(folder / "repository")
    chance = random.Random(seed)
    began = time.monotonic()
    finished = run(root, folder / "fresh", folder / "reference")
    length = time.monotonic() - began
    if finished.returncode:
        return [f"the undisturbed run fails: {finished.stdout[-2000:]}{finished.stderr[-2000:]}"]
    reference = gates(folder / "reference")
    faults: list[str] = []
    for number in range(kills):
        if number % 20 == 0:
            shutil.rmtree(folder / "store", ignore_errors=True)  # what is built can only be killed while it is built
        seconds = chance.uniform(0.2, length)
        workers = chance.choice((0, 0, 2))
        reports = folder / f"killed-{number}"
        if killed(root, folder / "store", reports, seconds, workers):
            # A run that is killed while it leaves, after its last word, has said all; so it must be all.
            whole = gates(reports) == reference
            faults += [
                f"kill {number} after {seconds:.2f} s, {workers} workers: {each}" for each in harm(root, reports, whole)
            ]
        shutil.rmtree(reports, ignore_errors=True)
        print(f"\r{number + 1}/{kills}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    finished = run(root, folder / "store", folder / "after")
    after = gates(folder / "after")
    if finished.returncode or after != reference:
        different = sorted(name for name in reference.keys() | after.keys() if reference.get(name) != after.get(name))
        faults.append(f"the run after the kills differs (exit {finished.returncode}) in {different}")
    left = [path.name for path in (folder / "store" / "building").glob("*")]
    if left:
        faults.append(f"killed builds linger: {left}")
    return faults


def scratch(root: Path) -> Path:
    """A repository that holds the digits model alone."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "models" / MODEL, root / "models" / MODEL, ignore=ignored)
    net = root / "models" / "convmixer" / "net.py"  # which its spec names
    net.parent.mkdir()
    shutil.copyfile(REPOSITORY / "models" / "convmixer" / "net.py", net)
    for name in ("digits", "digits-calibration"):
        shutil.copytree(REPOSITORY / "calib" / name, root / "calib" / name, ignore=ignored)
    shutil.copytree(REPOSITORY / "test_cases", root / "test_cases", ignore=ignored)
    (root / "pytest.ini").write_text("[pytest]\ntestpaths = test_cases\naddopts = --import-mode=importlib\n")
    return root


def command(reports: Path, workers: int = 0) -> list[str]:
    """The acceptance run."""
    words = [sys.executable, "-m", "pytest", "--soc", "Ascend310B1", "-q", "-p", "no:cacheprovider"]
    return [*words, f"--om-reports-dir={reports}", *(["-n", str(workers)] if workers else [])]


def environment(store: Path) -> dict[str, str]:
    """The environment of a run: its own store, one thread, this checkout."""
    own = {"PTH2OM_STORE": str(store), "PTH2OM_LANG": "en", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return {name: value for name, value in os.environ.items() if name != "PTH2OM_DATA"} | own


def run(root: Path, store: Path, reports: Path) -> subprocess.CompletedProcess[str]:
    """A run to its end."""
    return subprocess.run(
        command(reports), cwd=root, env=environment(store), capture_output=True, text=True, timeout=600, check=False
    )


def killed(root: Path, store: Path, reports: Path, seconds: float, workers: int) -> bool:
    """Start a run and kill it, with its workers, after ``seconds``; False when it had ended before."""
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(
        command(reports, workers), cwd=root, env=environment(store), stdout=quiet, stderr=quiet, start_new_session=True
    )
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return True
    return False


def harm(root: Path, reports: Path, whole: bool) -> Iterator[str]:
    """What a killed run left that it must not leave; ``whole`` when it had given every gate before."""
    for page in reports.glob("*/index.html"):
        if not whole and "Nothing contradicts" in page.read_text(encoding="utf-8"):
            yield "a report says that nothing contradicts the model"
    for file in reports.glob("*/evidence.jsonl"):
        output = file.parent / "again.md"
        words = [sys.executable, "-m", "pth2om", "report", str(file), "--format", "markdown", "-o", str(output)]
        done = subprocess.run(
            words, cwd=root, env=environment(root / "no-store"), capture_output=True, text=True, timeout=60, check=False
        )
        if "Traceback" in done.stderr + done.stdout:
            yield f"report gives a traceback: {done.stderr[-500:]}"
        if not whole and output.is_file() and "Nothing contradicts" in output.read_text(encoding="utf-8"):
            yield "the report made afterwards says that nothing contradicts the model"


def gates(reports: Path) -> dict[str, Any]:
    """Verdict and figure of every gate that is not timed, by its name."""
    found: dict[str, Any] = {}
    for file in reports.glob("*/evidence.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row.get("kind") == "gate" and row["question"] not in TIMED:
                name = "/".join(str(row[part]) for part in ("model", "variant", "question", "check"))
                found[f"{name}#{sum(other.startswith(name) for other in found)}"] = (row["verdict"], row["measured"])
    return found


if __name__ == "__main__":
    sys.exit(main())
