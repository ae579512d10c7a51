"""Whole acceptance runs through the doubles: the same verdicts and, digit for digit, the emulator's figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.toolchain.cann.conftest import SOC

REPOSITORY = Path(__file__).parents[3]
COMMON = {"new_nonfinite", "lost_nonfinite"}


def run(folder: Path, toolchain: str, model: str, precision: str, more: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The gates of a run, by what they check; of those on an OM."""
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", f"{model} and not latency"]
    line += ["--soc", SOC, "--om-cann", "8.0.0", "--om-toolchain", toolchain, "--om-subset", "32"]
    line += ["--om-precision", precision, "--om-batch", "1", "--om-reports-dir", str(folder / toolchain)]
    environment = {**os.environ, **more, "PTH2OM_STORE": str(folder / "store")}
    done = subprocess.run(line, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    (path,) = (folder / toolchain).glob("*/evidence.jsonl")
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    gates = [row for row in rows if row.get("kind") == "gate" and row["ground"] in ("emulated", "double")]
    return {f"{row['question']} {row['variant']} {row['check']}": row for row in gates}


def fused(row: dict[str, Any]) -> object:
    """The emulator's figure of the band that the double computes, where a gate keeps both."""
    bands = (row["details"].get("bands") or {}) if isinstance(row["details"], dict) else {}
    return bands.get("fused", row["measured"]) if isinstance(bands, dict) else row["measured"]


def metrics(row: dict[str, Any]) -> dict[str, object]:
    found = row["details"].get("metrics", {})
    return {name: entry.get("bands", {}).get("fused", entry["worst"]) for name, entry in found.items()}


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("model", "precision"), [("convmixer-digits", "fp16"), ("convmixer-digits", "int8"), ("yolov6-shapes", "fp16")]
)
def test_a_run_through_the_doubles_has_the_emulators_figures(
    machine: Any, tmp_path: Path, model: str, precision: str
) -> None:
    here = {"ASCEND_HOME_PATH": str(machine.toolkit), "PTH2OM_BOARD_PYTHON": sys.executable}
    emulated = run(tmp_path, "emulator", model, precision, {})
    doubled = run(tmp_path, "cann", model, precision, here)
    assert emulated.keys() == doubled.keys()
    assert len(doubled) > 5
    assert {row["ground"] for row in doubled.values()} == {"double"}
    for name, row in doubled.items():
        other = emulated[name]
        assert (row["verdict"], row["limit"]) == (other["verdict"], other["limit"]), name
        if "worst" not in other["details"] or "[unfused]" not in str(other["details"]["worst"]):
            assert row["measured"] == fused(other), name
        assert metrics(row) == metrics(other), name
    assert machine.broken == []
