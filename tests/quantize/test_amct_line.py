"""The ``amct_onnx`` line as typed: the tool's rules and file names, our quantizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pth2om.cli import main
from pth2om.errors import QuantizeError
from pth2om.quantize.amct_line import parsed


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A convolution of 20 channels at any batch size, and three batches of two images."""
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.normal(size=(8, 20, 3, 3)).astype(np.float32), "w")
    node = helper.make_node("Conv", ["images", "w"], ["y"], name="conv")
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 20, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 4, 4])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "m.onnx")
    (tmp_path / "bins").mkdir()
    for number in range(3):
        random.normal(size=(2, 20, 6, 6)).astype(np.float32).tofile(tmp_path / "bins" / f"batch{number}.bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


LINE = (
    "calibration", "--model", "m.onnx", "--input_shape", "images:2,20,6,6", "--data_type", "float32",
    "--data_dir", "bins", "--save_path", "./out/m_int8", "--batch_num", "2",
)  # fmt: skip


def test_the_published_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["amct_onnx", "--", *LINE]) == 0
    written = {path.name for path in (place / "out").iterdir()}
    assert {"m_int8_deploy_model.onnx", "m_int8_fake_quant_model.onnx", "m_int8_quant.json"} <= written
    deploy = onnx.load(place / "out" / "m_int8_deploy_model.onnx")
    nodes = {node.op_type: node for node in deploy.graph.node}
    assert set(nodes) == {"AscendQuant", "Conv", "AscendDequant"}
    # The scale is that of the two batches asked for: min and max within the 30 % that IFMR searches.
    data = np.stack([np.fromfile(place / "bins" / f"batch{number}.bin", np.float32) for number in range(2)])
    scale = 1 / next(entry.f for entry in nodes["AscendQuant"].attribute if entry.name == "scale")
    assert 0.65 < scale * 255 / (data.max() - data.min()) < 1.35
    assert "m_int8_deploy_model.onnx" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((*LINE, "--evaluator", "e.py"), "--input_shape, --data_dir, --data_types"),
        (LINE[:-4], "save_path"),
        ((*LINE[:3], *LINE[9:]), "--input_shape, --data_dir, --data_types"),
        ((*LINE, "--batch_num", "0"), "batch_num"),
        ((*LINE, "--batch_num", "many"), "batch_num"),
        ((*LINE, "--nonsense"), "nonsense"),
        ((*LINE, "--model="), "empty value"),
        ((*LINE, "--save_path", "out/.."), "prefix"),
        (("train",), "train"),
        ((), "what"),
    ],
)
def test_what_the_tool_would_not_take(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(QuantizeError, match=says):
        parsed(words)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--batch_num", "4"), "There are 3 batches"),
        (("--input_shape", "images:2;20"), "form"),
        (("--input_shape", "images:12,20,6,6"), "bytes"),
        (("--data_types", "complex64"), "complex64"),
        (("--data_types", "float32;float32"), "one per input"),
        (("--model", "absent.onnx"), "not there"),
    ],
)
def test_data_that_does_not_fit(
    place: Path, more: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["amct_onnx", "--", *LINE, *more]) == 1
    assert says in capsys.readouterr().err
    assert not (place / "out").exists()


def test_evaluators_and_real_want_the_tool(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(place))
    words = ["calibration", "--model", "m.onnx", "--save_path", "out/m", "--evaluator", "e.py"]
    assert main(["amct_onnx", "--", *words]) == 1
    assert "--real" in capsys.readouterr().err
    assert main(["amct_onnx", "--real", "--", *words]) == 1
    assert "amct_onnx" in capsys.readouterr().err
    assert main(["amct_onnx"]) == 2
