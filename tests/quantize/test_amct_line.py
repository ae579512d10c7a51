"""The ``amct_onnx`` line as typed: the tool's rules and file names, our quantizer."""

from __future__ import annotations

import json
import sys
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


DTYPES = {
    "float64": TensorProto.DOUBLE, "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16,
    "int8": TensorProto.INT8, "int16": TensorProto.INT16, "int32": TensorProto.INT32, "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16, "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64, "bool": TensorProto.BOOL,
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_two_inputs_run_to_the_end(place: Path, dtype: str) -> None:
    """The second input, of each dtype, is cast and added to the first."""
    random = np.random.default_rng(1)
    weight = numpy_helper.from_array(random.normal(size=(8, 20, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Cast", ["more"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["a:images", "cast"], ["sum"]),
        helper.make_node("Conv", ["sum", "w"], ["y"], name="conv"),
    ]
    inputs = [
        helper.make_tensor_value_info("a:images", TensorProto.FLOAT, [2, 20, 6, 6]),
        helper.make_tensor_value_info("more", DTYPES[dtype], [2, 20, 6, 6]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 8, 4, 4])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), place / "two.onnx")
    (place / "more").mkdir()
    largest = 0.0
    for number in range(3):
        values = random.integers(0, 2, (2, 20, 6, 6)).astype(dtype)
        values.tofile(place / "more" / f"{number}.bin")
        first = np.fromfile(place / "bins" / f"batch{number}.bin", np.float32).reshape(values.shape)
        largest = max(largest, float(np.ptp(first + values.astype(np.float32))))
    words = ["calibration", "--model", "two.onnx", "--input_shape", "a:images:2,20,6,6;more:2,20,6,6"]
    words += ["--data_types", f"float32;{dtype}", "--data_dir", "bins;more", "--save_path", f"out/{dtype}"]
    assert main(["amct_onnx", *words, "--batch_num=3"]) == 0  # the "--" may be forgotten
    deploy = onnx.load(place / "out" / f"{dtype}_deploy_model.onnx")
    (quant,) = [node for node in deploy.graph.node if node.op_type == "AscendQuant"]
    scale = 1 / next(entry.f for entry in quant.attribute if entry.name == "scale")
    assert 0.6 < scale * 255 / largest < 1.35, "the second input was read as what it is"


def test_a_trained_model_is_converted(place: Path) -> None:
    assert main(["amct_onnx", "--", *LINE]) == 0
    words = ["convert", "--model", "out/m_int8_qdq_model.onnx", "--save_path", "out/trained"]
    assert main(["amct_onnx", "--", *words]) == 0
    first, again = (onnx.load(place / "out" / f"{name}_deploy_model.onnx") for name in ("m_int8", "trained"))
    scales = [
        [entry.f for node in model.graph.node for entry in node.attribute if entry.name == "scale"]
        for model in (first, again)
    ]
    assert scales[0] == pytest.approx(scales[1])
    assert (place / "out" / "trained_fake_quant_model.onnx").is_file()
    assert main(["amct_onnx", "--", "convert", "--model", "m.onnx", "--save_path", "out/none"]) == 1
    assert not list((place / "out").glob("none*"))


def test_real_hands_the_line_over(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installed tool gets every word as it was typed; its files are named, its failure is this one's."""
    assert main(["amct_onnx", "--", *LINE]) == 0  # files that the tool below hands out
    tool = place / "programs" / "amct_onnx"
    tool.parent.mkdir()
    tool.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys\n"
        "words = sys.argv[1:]\n"
        "pathlib.Path('seen.json').write_text(json.dumps(words))\n"
        "if 'bad.py' in words: sys.exit('RuntimeError: the evaluator is bad')\n"
        "stem = pathlib.Path(words[words.index('--save_path') + 1])\n"
        "stem.parent.mkdir(exist_ok=True)\n"
        "for end in ('deploy_model.onnx', 'fake_quant_model.onnx'):\n"
        "    made = pathlib.Path('out', 'm_int8_' + end).read_bytes()\n"
        "    stem.with_name(f'{stem.name}_{end}').write_bytes(made)\n"
        "stem.with_name(stem.name + '_quant.json').write_text('{}')\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    words = ["calibration", "--model", "m.onnx", "--save_path", "real/m", "--evaluator", "good.py", "--batch_num=2"]
    assert main(["amct_onnx", "--real", "--", *words]) == 0
    assert json.loads((place / "seen.json").read_text()) == words
    assert "m_deploy_model.onnx" in capsys.readouterr().out
    assert main(["amct_onnx", "--real", "--", *LINE]) == 0
    assert json.loads((place / "seen.json").read_text()) == list(LINE)
    assert main(["amct_onnx", "--real", "--", *words[:5], "--evaluator", "bad.py"]) == 1
    assert "the evaluator is bad" in capsys.readouterr().err
