"""``pth2om doctor --selftest`` through the doubles, which behave as the table of assumptions says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles/cann"))

from cann_double.install import Installed, install

from pth2om.toolchain.cann import selftest
from pth2om.toolchain.cann.assumptions import assumptions
from tests.doubles.test_acl_double import options_for

TRIED = "R1 R2 R3 R4 R5 R6 R7 R8 R9 R11 R13 R14 R16 N3 T1"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(tmp_path_factory.mktemp("machine") / "m", soc="Ascend310P3", kernels=["ascend310p"], cann="9.2.0")


@pytest.fixture(scope="module")
def oms(machine: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("oms")
    line = options_for("static", folder).command_line(str(machine.toolkit / "bin/atc"))
    subprocess.run(line, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


def tried(machine: Installed, oms: Path, *rules: dict[str, object]) -> dict[str, dict[str, object]]:
    line = [sys.executable, "-m", "pth2om.toolchain.cann.agent", "selftest", str(oms)]
    environment = {**machine.environment, "PTH2OM_DOUBLE_RULES": json.dumps(rules)}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_doubles_hold_what_is_assumed(machine: Installed, oms: Path) -> None:
    rows = tried(machine, oms)
    assert {name for name, row in rows.items() if row["holds"]} == set(TRIED.split())
    assert all(row["seen"] for row in rows.values())
    assert {entry.id for entry in assumptions()} >= rows.keys()


def test_a_step_that_crashes_fails_its_assumptions_and_no_others(machine: Installed, oms: Path) -> None:
    rows = tried(machine, oms, {"where": "execute", "do": "segfault", "at": 1})
    assert rows["R6"] == {"holds": False, "seen": rows["R6"]["seen"]}
    assert str(rows["R6"]["seen"]).startswith("SIGSEGV")
    assert rows["R4"]["holds"] is False
    assert rows["R16"]["holds"] is True


def test_the_table_and_the_status() -> None:
    trials = [selftest.Trial("R1", "holds", "0 | 1"), selftest.Trial("R2", "untried", "")]
    facts = {"machine": {"soc": "Ascend310B4", "cann": "8.0.0", "driver": "24.1"}, "smi": {}, "dcmi": {}}
    text = selftest.table(trials, facts, "en")
    assert "Ascend310B4, CANN 8.0.0, driver 24.1" in text
    assert "| R1 | holds | 0 / 1 |" in text
    assert "| R2 | not tried |  |" in text
    assert selftest.status(trials) == 0
    assert selftest.status([selftest.Trial("R1", "fails", "")]) == 1
    assert selftest.status([selftest.Trial("R1", "untried", "")]) == 1
    assert selftest.status([selftest.Trial(name, "holds", "") for name in ("L1", "L2", "M5")]) == 1
    assert selftest.status([]) == 1


def test_a_machine_without_a_trace_of_an_npu_contradicts_nothing() -> None:
    bare = {"nodes": [], "device": False, "driver": "", "soc": "", "cann": ""}
    facts = {"machine": bare, "set_env": "", "runner": {}, "openable": [], "disk": {}}
    asked = {"dcmi": {"error": "none", "chips": []}, "smi": {"error": "none", "chips": []}}
    found = {trial.id: trial.result for trial in selftest._machine({**facts, **asked})}
    assert {found[name] for name in ("M1", "M3")} == {"untried"}
    assert "fails" not in {found.get("M1"), found.get("M2"), found.get("M3")}
    assert selftest.table([], {**facts, **asked}, "en").startswith("SoC none, CANN none, driver none")


@pytest.mark.nightly
def test_the_whole_self_test(tmp_path: Path) -> None:
    machine = install(tmp_path / "m", npu_smi="310b4-200i-dk-a2")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ASCEND_")},
        "ASCEND_HOME_PATH": str(machine.toolkit),
        "PTH2OM_BOARD_PYTHON": sys.executable,
        "PTH2OM_BOARD_CACHE": str(tmp_path / "cache"),
        "PTH2OM_LEASE_DIR": str(tmp_path),
    }
    line = [sys.executable, "-m", "pth2om", "doctor", "--selftest"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600)
    results = dict(
        row.split(" | ")[:2] for row in done.stdout.replace("| ", "", 0).splitlines() if row.startswith("| ")
    )
    results = {name.strip("| "): result for name, result in results.items()}
    assert done.returncode == 1  # a double is no device
    assert [name for name, result in results.items() if "not hold" in result] == ["M1"]
    held = {name for name, result in results.items() if result == "holds"}
    assert held >= {*TRIED.split(), "C1", "C3", "C5", "C9", "C10", "G2", "G3", "G4", "R10", "N1", "N4", "X1", "L2"}
    assert all("a second time" in line for line in machine.broken)  # tried on purpose
