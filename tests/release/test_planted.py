"""Regressions of each kind, planted in a bundled model: each is found, and the first that changed is named.

The runs are whole nights, ``make nightly`` as typed; the latency is a double's, since there is no NPU here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pth2om.evidence import GateRecord, read
from pth2om.release.comparing import update
from tests.campaigns.kills import REPOSITORY, environment, scratch

pytestmark = pytest.mark.nightly
MODEL = "convmixer-digits"
SOC = "Ascend310B1"
BASELINE = f"reports/baselines/{SOC}.json"


def edit(root: Path, *pairs: tuple[str, str]) -> None:
    spec = root / "models" / MODEL / "model.toml"
    text = spec.read_text(encoding="utf-8")
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new, 1)
    spec.write_text(text, encoding="utf-8")


def weights(root: Path) -> None:
    """Other weights, worse by some points."""
    import torch

    (file,) = (root / "models" / MODEL).rglob("convmixer_digits.pth")
    state = torch.load(file, weights_only=True)
    stream = torch.Generator().manual_seed(1)
    for name, value in state.items():
        if value.is_floating_point() and name.endswith("weight"):
            state[name] = value + 0.35 * value.std() * torch.randn(value.shape, generator=stream)
    torch.save(state, file)
    spec = root / "models" / MODEL / "model.toml"
    lines = spec.read_text(encoding="utf-8").splitlines(keepends=True)
    spec.write_text("".join(line for line in lines if not line.startswith("sha256")), encoding="utf-8")


def preprocessing(root: Path) -> None:
    """Half of the range, as if somebody had divided once more."""
    edit(root, ('resize = "stretch"\n', 'resize = "stretch"\nscale = 510.0\n'))


def opset(root: Path) -> None:
    """Another opset: the same figures, of another file."""
    edit(root, ('outputs = ["logits"]\n', 'outputs = ["logits"]\nopsets = [13]\n'))


def calibration(root: Path) -> None:
    """Two images instead of 64."""
    edit(root, ("images = 64", "images = 2"))


def repository(root: Path) -> Path:
    """A repository with the digits alone, and the Makefile."""
    scratch(root)
    shutil.copyfile(REPOSITORY / "Makefile", root / "Makefile")
    return root


def nightly(root: Path, store: Path, words: str = "", **more: str) -> tuple[int, str, Path]:
    """``make nightly`` in a repository; its exit status, what it printed, and the run's folder.

    The virtual environment is the one that runs this test, so that nothing is installed.
    """
    command = ["make", "nightly", f"MODEL={MODEL}", f"SOC={SOC}", f"PYTEST_ARGS=-p no:cacheprovider {words}"]
    result = subprocess.run(
        [*command, f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.installed"],
        cwd=root, env=environment(store) | more, capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    # Make exits with 2 when a command exits with another status than 0, and prints which.
    failed = re.search(r"Error (\d+)", result.stderr)
    status = int(failed[1]) if result.returncode and failed else result.returncode
    runs = [file.parent for file in (root / "reports").glob("*/evidence.jsonl")]
    assert runs, result.stdout + result.stderr
    folder = max(runs, key=lambda one: one.stat().st_mtime_ns)
    return status, result.stdout + result.stderr, folder


def compared(folder: Path) -> dict[str, GateRecord]:
    """The gates of the question *regression*, by variant and check."""
    return {
        f"{one.variant or '-'} {one.check}": one
        for one in read(folder / "evidence.jsonl")
        if isinstance(one, GateRecord) and one.question == "regression"
    }


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the digits, a store, and the baseline that its first good night made."""
    folder = tmp_path_factory.mktemp("planted")
    root = repository(folder / "repository")
    edit(root, ('variants = ["fp16-bs1", "fp16-bs4", "int8-bs1"]', 'variants = ["fp16-bs1", "int8-bs1"]'))
    status, printed, _ = nightly(root, folder / "store")
    assert status == 0, printed
    assert (root / BASELINE).is_file(), printed
    # A night of which nothing changed is as the first one was.
    status, printed, run = nightly(root, folder / "store")
    assert status == 0, printed
    assert {one.verdict for one in compared(run).values()} == {"passed"}
    assert len((root / "reports" / "history" / f"{MODEL}.jsonl").read_text().splitlines()) == 2
    return folder


PLANTED: dict[str, tuple[Callable[[Path], None], bool]] = {
    # what is planted, and whether accuracy is lost by it
    "checkpoint": (weights, True),
    "preprocessing": (preprocessing, True),
    "onnx": (opset, False),
    "calibration": (calibration, False),
}


@pytest.mark.parametrize("part", PLANTED)
def test_a_planted_regression_is_found_and_named(night: Path, tmp_path: Path, part: str) -> None:
    plant, loses = PLANTED[part]
    root = tmp_path / "repository"
    shutil.copytree(night / "repository", root)
    plant(root)
    before = (root / BASELINE).read_bytes()
    status, printed, run = nightly(root, night / "store")
    assert (root / BASELINE).read_bytes() == before  # the night that it judges never makes it
    found = compared(run)
    named = {name: one.message.key for name, one in found.items() if name.endswith("regression/first-changed")}
    assert named.get("int8-bs1 regression/first-changed") == f"release.changed-{part}", printed
    if part == "calibration":
        assert "fp16-bs1 regression/first-changed" not in named  # it has no part in a calibration
    if part == "onnx":
        told = found["fp16-bs1 regression/first-changed"].message.render("en")
        assert "opset" in told
        assert "→ 13" in told
    alarms = {name: one for name, one in found.items() if one.verdict == "failed"}
    assert bool([name for name in alarms if " accuracy/" in name]) == loses, printed
    if loses:
        assert status == 1
        assert all("First that changed" in one.message.render("en") for one in alarms.values())
    page = (run / "index.html").read_text(encoding="utf-8")
    assert "First that changed" in page
    if part != "onnx":
        assert [name for name, one in found.items() if one.verdict in ("failed", "inconclusive")]


DOUBLE = """
import os
import time

import numpy as np

from pth2om.toolchain import choosing
from pth2om.toolchain.fake import FakeToolchain


def answer(call):
    time.sleep(float(os.environ["DOUBLE_SECONDS"]))
    (feed,) = call.feeds.values()
    return {"logits": np.zeros((len(feed), 10), np.float32)}


choosing.register("fake", FakeToolchain.maker(answer))
"""


def test_a_slower_double_is_found(tmp_path: Path) -> None:
    """Five nights of eight variants tell the noise; then every inference takes half as long again."""
    root = repository(tmp_path / "repository")
    (root / "conftest.py").write_text(DOUBLE)
    many = ", ".join(f'"fp16-bs{batch}"' for batch in range(1, 9))
    edit(root, ('variants = ["fp16-bs1", "fp16-bs4", "int8-bs1"]', f"variants = [{many}]"))
    words = "-k test_om_latency --om-toolchain fake --fail-on failed"
    store = tmp_path / "store"
    runs = []
    for _ in range(5):
        status, printed, run = nightly(root, store, words, DOUBLE_SECONDS="0.010")
        assert status == 0, printed
        runs.append(run)
        (root / BASELINE).unlink(missing_ok=True)
    made = update(runs, root / BASELINE)
    timed = [one for one in made.entries.values() if one.kind == "latency"]
    assert len(timed) == 8
    assert {one.ground for one in timed} == {"double"}
    status, printed, run = nightly(root, store, words, DOUBLE_SECONDS="0.010")
    assert status == 0, printed
    assert "failed" not in {one.verdict for one in compared(run).values()}
    status, printed, run = nightly(root, store, words, DOUBLE_SECONDS="0.015")
    assert status == 1
    alarms = [one for one in compared(run).values() if one.verdict == "failed"]
    assert {one.check for one in alarms} == {"latency/om/median_ms"}
    assert len(alarms) == 8
    assert {one.ground for one in alarms} == {"double"}
