"""A disk that is full: nothing half-written, the reason in the message, and never the model's failure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.full_disk import KINDS

pytest.importorskip("resource", reason="only POSIX systems limit the size of files")

TOO_LARGE = "File too large"
SAID = {
    "store": ("StoreError", "There is no space left for the artifact of stage step"),
    "evidence": ("OSError", TOO_LARGE),
    "model": ("OSError", TOO_LARGE),
    "torchscript": ("OSError", TOO_LARGE),
    "export": ("OSError", TOO_LARGE),
    "weights": ("QuantizeError", f"cannot be written here: {TOO_LARGE}."),
    "session": ("QuantizeError", f"cannot be written here: {TOO_LARGE}."),
    "delivery": ("ConvertError", f"Nothing can be written here: {TOO_LARGE}"),
    "command": ("RuntimeError", f"pth2om draw: the system refused to read or write: {TOO_LARGE}."),
}
LEFT = {"evidence": {"evidence.jsonl"}, "delivery": {"out"}, "torchscript": {"m.pt"}}
"""What is there afterwards; a program is made in the folder of an artifact, which the store removes."""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    folder = tmp_path_factory.mktemp("full")
    line = [sys.executable, "-m", "tests.full_disk", str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    rows = [json.loads(row) for row in done.stdout.splitlines() if row.startswith("[")]
    return {name: rest for name, *rest in rows}


@pytest.mark.parametrize("kind", [kind.__name__ for kind in KINDS])
def test_nothing_half_written_and_the_reason_said(outcomes: dict[str, list], kind: str) -> None:
    error, said, left = outcomes[kind]
    wanted, words = SAID[kind]
    assert error == wanted, said
    assert words in said
    assert "None" not in said
    assert {name for name in left if not name.startswith("store")} == LEFT.get(kind, set())
