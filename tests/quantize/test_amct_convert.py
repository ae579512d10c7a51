"""``pth2om amct_onnx --real -- convert``: a QDQ model handed to the vendor's tool, here its double."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles/cann"))

from cann_double.install import install

from pth2om.cli import main
from pth2om.quantize.network import open_session, run_session
from tests.quantize.test_qdq_convert import STEPS, WEIGHT, X, net, node, pair

FLOATS = (WEIGHT * STEPS.reshape(8, 1, 1, 1)).astype(np.float32)


def on_both_sides(*, weight: bool = True) -> onnx.ModelProto:
    """A convolution as quantization-aware training leaves it; without ``weight`` only its input is quantized."""
    sides = [*pair("x", "xq"), *(pair("wf", "wq", scale="ws", zero="wz", axis=0) if weight else ())]
    return net([*sides, node("Conv", ["xq", "wq" if weight else "wf"], "y")], {"wf": FLOATS})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    machine = install(tmp_path / "machine")
    monkeypatch.setenv("PATH", f"{machine.toolkit / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    onnx.save(on_both_sides(), "qat.onnx")
    onnx.save(on_both_sides(weight=False), "half.onnx")
    return tmp_path


def test_the_tool_and_pth2om_make_the_same_integers(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["amct_onnx", "--real", "--", "convert", "--model", "qat.onnx", "--save_path", "real/m"]) == 0
    assert "m_deploy_model.onnx" in capsys.readouterr().out
    written = {path.name for path in (place / "real").iterdir()}
    assert {"m_deploy_model.onnx", "m_fake_quant_model.onnx"} <= written
    assert "m_quant.json" not in written
    assert main(["amct_onnx", "--", "convert", "--model", "qat.onnx", "--save_path", "ours/m"]) == 0
    found = [onnx.load(place / folder / "m_deploy_model.onnx").graph for folder in ("real", "ours")]
    (weights, same) = (
        sorted(numpy_helper.to_array(t).tobytes() for t in graph.initializer if t.data_type == 3) for graph in found
    )
    assert weights == same
    assert {node.op_type for node in found[0].node} == {"AscendQuant", "Conv", "AscendDequant"}
    twin = open_session(onnx.load(place / "real/m_fake_quant_model.onnx"), exact=True)
    wanted = run_session(open_session(onnx.load("qat.onnx"), exact=True), {"x": X})["y"]
    assert np.abs(run_session(twin, {"x": X})["y"] - wanted).max() < 1e-3 * np.abs(wanted).max()


def test_what_the_tool_refuses_leaves_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["amct_onnx", "--real", "--", "convert", "--model", "half.onnx", "--save_path", "real/m"]) != 0
    assert "one side only" in capsys.readouterr().err
    assert not list(place.glob("real/*_deploy_model.onnx"))
