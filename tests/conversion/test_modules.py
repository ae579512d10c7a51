"""Names of torch modules beside the exported file."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from pth2om.conversion.modules import module_names
from pth2om.export import export
from pth2om.spec import Export, Input
from tests.conversion.conftest import Make


@pytest.mark.parametrize(
    ("exporter", "opset"), [("torchscript", 13), pytest.param("dynamo", 18, marks=pytest.mark.nightly)]
)
def test_each_tensor_has_the_module_that_made_it(tmp_path: Path, exporter: str, opset: int) -> None:
    import torch

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Sequential(torch.nn.Sigmoid()))
            self.act = torch.nn.Tanh()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.layers(x)) * 2

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = torch.nn.ModuleList([Block(), Block()])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    net, path = Net().eval(), tmp_path / "exported.onnx"
    export(net, (Input(name="x", shape=(4,)),), Export(exporter=exporter, opsets=(opset,)), 1, path)
    found = module_names(path, net)
    made = {}
    for node in onnx.load(path).graph.node:
        made.setdefault(node.op_type, []).append(found.get(node.output[0]))
    assert made["Gemm"] == ["blocks.0.layers.0", "blocks.1.layers.0"]
    assert made["Sigmoid"] == ["blocks.0.layers.1.0", "blocks.1.layers.1.0"]
    assert made["Tanh"] == ["blocks.0.act", "blocks.1.act"]
    assert made["Mul"] == ["blocks.0", "blocks.1"]


def test_they_lie_beside_the_onnx_file(make: Make) -> None:
    built = make("linear").onnx(1)
    assert set(built.artifact.json("modules.json").values()) == {""}
