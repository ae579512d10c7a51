"""What the double of ``npu-smi`` does."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from cann_double import rules
from cann_double.machine import lost, machine

FORMS = Path(__file__).parents[1] / "npu_smi"
FAILURES = {"driver-not-loaded": 1, "no-library": 127}
"""Forms of a program that fails, and its status."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as ``npu-smi``; returns its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    rules.pass_by("npu-smi")
    found = machine()
    if words[:1] != ["info"]:
        print("Usage: npu-smi <command> [options]")
        return 1
    name = "no-device" if lost() else str(found["npu_smi"])
    text = (FORMS / f"{name}.txt").read_text()
    if name in FAILURES:
        sys.stderr.write(text)
        return FAILURES[name]
    if "-m" in words:
        print(
            (FORMS / f"{found['npu_smi_map']}.txt").read_text() if found.get("npu_smi_map") else _mapped(text), end=""
        )
    elif "-t" in words:
        form = found.get("npu_smi_board", "") if "-c" in words else "board-card"
        if not form:
            return 1
        print((FORMS / f"{form}.txt").read_text(), end="")
    else:
        print(text, end="")
    return 0


def _mapped(text: str) -> str:
    """The rows of ``info -m`` for a table; boards have the MCU beside the chip."""
    names = re.findall(r"^\|\s+(\d+)\s+((?:Ascend)?\d\w+)\s+\|\s+[A-Z]", text, re.M)
    rows = ["\tNPU ID                         Chip ID                        Chip Logic ID                  Chip Name"]
    for logic, (npu, name) in enumerate(names):
        rows.append(f"\t{npu:<31}{0:<31}{logic:<31}Ascend {name}")
    rows.append(f"\t{names[0][0] if names else 0:<31}{1:<31}{'-':<31}Mcu")
    return "\n".join(rows) + "\n"
