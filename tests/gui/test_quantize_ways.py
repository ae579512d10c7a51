"""Each way to INT8 from its form to its end: the job's process runs, and its page shows what came out."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pth2om.quantize.network import open_session, run_session
from tests.gui.window import Window, link, text

sys.path.insert(0, str(Path(__file__).parents[1] / "doubles" / "cann"))
from cann_double.install import install

SIZE = 12
NET = """\
import torch

TEMPLATE_NAME = "small"


def build(num_classes, pretrained=False):
    conv = torch.nn.Conv2d
    return torch.nn.Sequential(
        conv(3, 32, 3, 2, 1), torch.nn.ReLU(), conv(32, 32, 3, 2, 1), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(288, num_classes),
    )
"""
TOOL = """\
import sys
from pathlib import Path

import numpy as np

from pth2om.quantize import quantize

source, target, data = map(Path, sys.argv[1:])
feeds = [{"x": np.fromfile(file, np.float32).reshape(1, 32, 12, 12)} for file in sorted(data.glob("*.bin"))]
result = quantize(source, feeds, destination=target.parent)
result.files["deploy"].replace(target)
print("own tool was here")
"""


def save(path, nodes, weights, channels=32):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def classifier(random, channels):
    """A convolution and the mean of each of its 16 channels."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "c"], ["a"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["a"], ["b"], name="pool"),
        helper.make_node("Flatten", ["b"], ["y"], name="flat"),
    ]
    weights = {"w": random.normal(0, 0.2, (16, channels, 3, 3)), "c": random.normal(0, 0.5, 16)}
    return nodes, {name: value.astype(np.float32) for name, value in weights.items()}


def trained(random):
    """A QAT model as torch writes it: a pair at the input, the weight as integers."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"),
        helper.make_node("DequantizeLinear", ["wi", "ws", "wz"], ["w"], name="wd", axis=0),
        helper.make_node("Conv", ["d", "w"], ["y"], name="conv", pads=[1, 1, 1, 1]),
    ]
    weights = {"s": np.float32(0.03), "z": np.int8(-5), "wi": random.integers(-127, 128, (8, 32, 3, 3)).astype(np.int8)}
    return nodes, weights | {"ws": np.full(8, 0.002, np.float32), "wz": np.zeros(8, np.int8)}


@pytest.fixture(scope="module")
def files(project):
    """Models, a checkpoint, images with labels, bins, and a tool."""
    random = np.random.default_rng(0)
    save(project / "images.onnx", *classifier(random, 3), channels=3)
    save(project / "bins.onnx", *classifier(random, 32))
    save(project / "qat.onnx", *trained(random))
    names: dict[str, object] = {}
    exec(NET, names)
    torch.manual_seed(0)
    torch.save(names["build"](3).state_dict(), project / "small.pth")
    (project / "small.py").write_text(NET)
    (project / "tool.py").write_text(TOOL)
    for folder in ("photos", "bins"):
        (project / folder).mkdir()
    session, lines = open_session(onnx.load(project / "images.onnx")), []
    for number in range(10):
        pixel = np.full((SIZE, SIZE, 3), random.integers(0, 255, 3), np.uint8)
        Image.fromarray(pixel).save(project / "photos" / f"{number}.png")
        fed = (pixel.astype(np.float32) / 255).transpose(2, 0, 1)[None]
        right = int(np.argmax(run_session(session, {"x": fed})["y"]))
        lines.append(f"{number} {right if number else (right + 1) % 16}")  # the net is wrong about one of ten
        random.normal(size=(1, 32, SIZE, SIZE)).astype(np.float32).tofile(project / "bins" / f"{number}.bin")
    (project / "labels.txt").write_text("\n".join(lines))
    size = {"des_channels": 3, "des_height": SIZE, "des_width": SIZE, "batch_size": 1, "fixed_scale": 1}
    colour = {"is_BGR2RGB": 1, "means": [0, 0, 0], "stds": [255, 255, 255]}
    (project / "recipe.json").write_text(json.dumps({"det_pre_params": size | colour}))
    return project


@pytest.fixture(scope="module")
def ended(files, tmp_path_factory):
    """Asks for a way and waits for its end; the page's text, the log of the job, and the page."""
    machine = install(tmp_path_factory.mktemp("machine") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{machine.toolkit / 'bin'}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PTH2OM_LANG", "en")
        patch.setenv("PTH2OM_STORE", str(tmp_path_factory.mktemp("store")))
        with Window(files, tmp_path_factory.mktemp("state")) as window:
            window.sign_in()

            def run(**given):
                place = window.ask("/quantize", **given)
                state, log = window.wait(place, 120), window.get(f"{place}/log").text
                assert state == "done", log
                html = window.get(place).text
                return text(html), log, html

            yield run


@pytest.fixture(scope="module")
def quantized(ended):
    return ended(
        way="onnx", model="images.onnx", calib="photos", preprocess="recipe.json", small_channels="on",
        max_drop="50%", labels="labels.txt", output="own",
    )  # fmt: skip


def deployed(path):
    return {node.op_type for node in onnx.load(path).graph.node}


def test_from_an_onnx_file_with_the_scores_before_and_after(quantized, files):
    page, *_ = quantized
    assert "AscendQuant" in deployed(files / "own" / "images_deploy_model.onnx")
    assert "Score: float 90 %" in page
    assert "INT8 against float" in page
    assert "on 10 images" in page


@pytest.mark.nightly
def test_a_quantized_onnx_that_one_has(quantized, ended, files):
    shutil.copy(files / "own" / "images_deploy_model.onnx", files / "mine.onnx")
    page, *_ = ended(way="have", file="images.onnx", quantized="mine.onnx", soc="Ascend310B4", output="have")
    assert list((files / "have").glob("*_int8.emulated"))
    assert "emulated" in page


@pytest.mark.nightly
def test_from_a_checkpoint(ended, files):
    page, *_ = ended(
        way="checkpoint", file="small.pth", template="small.py", num_classes="3", batch="1", size=str(SIZE),
        soc="Ascend310B4", calib="photos", color="RGB", mean="0,0,0", std="1,1,1", output="checkpoint",
    )  # fmt: skip
    assert list((files / "checkpoint").glob("*_int8.emulated"))
    assert list((files / "checkpoint").glob("*_int8_as_fp32.pth"))
    for word in ("emulated", "INT8", "Output SQNR"):
        assert word in page


def test_with_amct_onnx(ended, files):
    page, *_ = ended(way="amct", model="bins.onnx", calib="bins", images="4", output="amct")
    assert "AscendQuant" in deployed(files / "amct" / "bins_deploy_model.onnx")
    assert "bins_deploy_model.onnx" in page
    assert "success" in (files / "amct_log" / "amct_onnx.log").read_text()


@pytest.mark.nightly
def test_with_a_command_of_ones_own(ended, files):
    template = f"{sys.executable} tool.py {{onnx_in}} {{onnx_out}} {{calib_dir}}"
    page, *_ = ended(way="command", model="bins.onnx", calib="bins", command=template, output="command")
    assert "AscendQuant" in deployed(files / "command" / "bins_deploy_model.onnx")
    assert "bins_deploy_model.onnx" in page


def test_from_a_qat_model(ended, files):
    page, _, html = ended(way="qat", model="qat.onnx", output="qat")
    made = onnx.load(files / "qat" / "qat_deploy_model.onnx")
    assert "AscendDequant" in {node.op_type for node in made.graph.node}
    kept = [numpy_helper.to_array(one) for one in made.graph.initializer]
    assert any(one.dtype == np.int8 and one.shape == (8, 32, 3, 3) for one in kept)  # the trained integers themselves
    assert "qat_deploy_model.onnx" in page
    # atc parses no QDQ model, so the OM is made beside the twin of standard operators.
    values = parse_qs(urlsplit(link(html, "/quantize?way=have")).query)
    assert Path(values["file"][0]).name == "qat_fake_quant_model.onnx"
    assert Path(values["quantized"][0]).name == "qat_deploy_model.onnx"


@pytest.mark.nightly
def test_from_a_spec_with_the_scores_of_its_own_dataset(ended, files, prototype):
    """The metric is that of the spec, before and after, on the images of its dataset."""
    for name in ("models", "calib"):
        shutil.copytree(prototype / name, files / name)
    page, *_ = ended(way="onnx", model="models/tiny", random_calibration="on", small_channels="on", max_drop="50%",
                    output="spec")  # fmt: skip
    drop = json.loads((files / "spec" / "tiny_quantize.json").read_text())["details"]["search"]["drop"]
    assert (drop["before"], drop["images"]) == (100.0, 400)
    assert "Score: float 100 %" in page
    assert "on 400 images" in page
