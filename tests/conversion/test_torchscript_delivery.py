"""``pth2om torchscript``: a file or a model, with names and opset as asked, INT64 as INT32, and a drawing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from pth2om.cli import main
from pth2om.conversion.torchscript_delivery import deliver, inputs_of
from pth2om.errors import Pth2omError, SpecError


class Picking(torch.nn.Module):
    """INT64 arithmetic on what argmax gives, beside a 3-D convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(1, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.conv(x)
        return scores, scores.argmax(1) * 2 + 1


@pytest.fixture
def program(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    file = tmp_path / "picking.pt"
    torch.jit.save(torch.jit.trace(Picking().eval(), torch.rand(1, 1, 4, 4, 4)), str(file))
    return file


@pytest.mark.parametrize("opset", [9, 17])
def test_a_file_is_exported_under_the_names_asked_for(program: Path, tmp_path: Path, opset: int) -> None:
    out = tmp_path / "out"
    found = deliver(
        program, out, shapes="INPUT__0:1,1,4,4,4", outputs=["OUTPUT__0", "OUTPUT__1"], opset=opset, int32=True
    )
    assert found.method == "given"
    assert found.opset == opset
    assert found.onnx_error < 1e-6
    assert {path.suffix for path in found.written} == {".pt", ".onnx", ".svg"}
    model = onnx.load(out / "picking-bs1.onnx")
    assert [entry.name for entry in model.graph.input] == ["INPUT__0"]
    assert [entry.name for entry in model.graph.output] == ["OUTPUT__0", "OUTPUT__1"]
    assert (out / "picking-bs1.svg").read_text(encoding="utf-8").startswith("<svg")
    # INT32 throughout, and the same numbers.
    narrow = onnx.load(out / "picking-bs1.int32.onnx")
    assert narrow.graph.output[1].type.tensor_type.elem_type == onnx.TensorProto.INT32
    feeds = {"INPUT__0": np.random.default_rng(1).random((1, 1, 4, 4, 4), dtype=np.float32)}
    wide, small = (
        onnxruntime.InferenceSession(out / name, providers=["CPUExecutionProvider"]).run(None, feeds)
        for name in ("picking-bs1.onnx", "picking-bs1.int32.onnx")
    )
    assert np.array_equal(wide[0], small[0])
    assert np.array_equal(wide[1], small[1])
    assert (wide[1].dtype, small[1].dtype) == (np.int64, np.int32)
    (left,) = [each for each in found.findings if each.rule == "torchscript.int64-left"]
    assert left.message.values["count"] == 1  # ArgMax gives INT64 by definition
    assert "ArgMax" in str(left.message.values["nodes"])


def test_the_verb(program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["torchscript", str(program)]) == 1
    assert "--input-shape" in capsys.readouterr().err
    assert main(["torchscript", str(program), "--input-shape", "x:1,1,4,4,4", "-o", str(tmp_path / "o")]) == 0
    assert "ONNX (opset 17) against TorchScript" in capsys.readouterr().out


def test_a_model_with_a_table(tmp_path: Path) -> None:
    folder = tmp_path / "branching"
    folder.mkdir()
    (folder / "net.py").write_text(
        "import torch\nTEMPLATE_NAME = 'branching'\n\n\nclass Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.conv = torch.nn.Conv2d(1, 2, 3)\n\n"
        "    def forward(self, x):\n        y = self.conv(x)\n"
        "        if x.mean() > 0.5:\n            y = y * 2.0\n        return y\n\n\n"
        "def build(num_classes, pretrained=False):\n    return Net()\n",
        encoding="utf-8",
    )
    (folder / "model.toml").write_text(
        'task = "tensor"\n[source]\ncheckpoint = "none.pth"\nseeded = true\n'
        '[[inputs]]\nname = "INPUT__0"\nshape = [1, 8, 8]\n[export]\noutputs = ["OUTPUT__0"]\n',
        encoding="utf-8",
    )
    with pytest.raises(SpecError) as caught:
        deliver(folder, tmp_path / "out")
    assert caught.value.message.key == "torchscript.no-table"
    with (folder / "model.toml").open("a", encoding="utf-8") as file:
        file.write("[torchscript]\n")
    found = deliver(folder, tmp_path / "out")
    assert found.method == "script"
    assert found.mean_error < 1e-6
    assert any(finding.rule == "torchscript.data-dependent" for finding in found.findings)


@pytest.mark.parametrize("text", ["", "x", "x:1", "x:0,3", "x:1,3;x:1,4", "x:1,3;y:2,3", "x:1,-3", "x y:1,3,3,3z"])
def test_shapes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SpecError):
        inputs_of(text)


def test_the_real_3d_net(data_root: Path, tmp_path: Path) -> None:
    found = deliver(
        data_root / "torchscript" / "deepbet_3d.pt",
        tmp_path,
        shapes="INPUT__0:1,1,32,32,32",
        outputs=["OUTPUT__0"],
        opset=11,
    )
    assert found.onnx_error < 1e-3
    assert not [finding for finding in found.findings if finding.severity == "error"]


def test_a_file_that_is_not_there_is_named_without_an_option_of_another_command(tmp_path):
    with pytest.raises(Pth2omError) as caught:
        deliver(tmp_path / "net.pt", None, shapes="x:1,3,8,8")
    text = caught.value.render("en")
    assert "no such file" in text
    assert "--om-" not in text
