"""``pth2om convert --real``: through the doubles of atc and acl, and what is printed where there is no CANN."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pth2om.cli import main
from pth2om.toolchain.cann import close_all
from tests.toolchain.cann.conftest import SOC


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), "m.pt")
    return "m.pt"


def test_a_real_toolchain_compiles_and_runs(machine, model, capsys) -> None:
    assert main(["convert", model, "--soc", SOC, "--real", "--size", "8", "-o", "out"]) == 0
    said = capsys.readouterr().out
    assert Path("out/m.om").is_file()
    assert not Path("out/m.emulated").exists()
    record = json.loads(Path("out/m.convert.json").read_text())
    assert record["ground"] == "double"
    assert {gate["verdict"] for gate in record["gates"] if "~om" in gate["check"]} == {"passed"}
    assert "nothing was proven on a device" in said


def test_the_machine_names_its_soc(machine, model, capsys) -> None:
    """Who names a board, or asks for real tools, need not know the chip; a board that cannot be asked is an error."""
    assert main(["convert", model, "--real", "--size", "8", "-o", "out", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["soc"], done["ground"]) == (SOC, "double")
    assert Path(done["files"]["om"]).is_file()
    assert main(["convert", model, "--size", "8", "-o", "other", "--board", "ssh://127.0.0.1:1"]) == 2
    assert "Nothing listens there" in capsys.readouterr().err
    assert main(["convert", model, "--size", "8", "-o", "other", "--board", ""]) == 2
    assert "no address of a board" in capsys.readouterr().err
    assert not Path("other").exists()


def test_without_cann_it_is_refused_with_the_next_command(model, capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PTH2OM_BOARD_CACHE", str(tmp_path / "cache"))
    close_all()
    try:
        assert main(["convert", model, "--soc", SOC, "--real", "--size", "8"]) == 2
    finally:
        close_all()
    said = capsys.readouterr().err
    assert "--om-" not in said
    assert said.strip().splitlines()[-1] == f"Next: pth2om convert m.pt --soc {SOC} --size 8"
    assert not list(tmp_path.glob("*-converted/*"))
    assert main(["convert", model, "--soc", SOC, "--board", "ssh://a@b", "--toolchain", "emulator"]) == 2
    assert "--real" in capsys.readouterr().err
