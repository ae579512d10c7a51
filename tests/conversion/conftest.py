"""Two small models: an ONNX file, and a net with its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from pth2om import spec as specs
from pth2om.conversion.pipeline import Pipeline
from pth2om.conversion.settings import RunSettings
from pth2om.store import Store

ONNX_SPEC = """\
task = "tensor"
variants = ["fp16-bs1"]

[source]
onnx = "net.onnx"

[[inputs]]
name = "x"
shape = [4]
"""

TORCH_SPEC = ONNX_SPEC.replace('onnx = "net.onnx"', 'checkpoint = "net.pth"')

Make = Callable[..., Pipeline]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """``models/plain`` starts from an ONNX file, ``models/linear`` from a checkpoint and a net."""
    import torch

    plain, linear = tmp_path / "models" / "plain", tmp_path / "models" / "linear"
    plain.mkdir(parents=True)
    linear.mkdir()
    weight = onnx.numpy_helper.from_array(np.arange(8, dtype=np.float32).reshape(4, 2), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "plain",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2])],
        [weight],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, plain / "net.onnx")
    (plain / "model.toml").write_text(ONNX_SPEC)
    (linear / "model.toml").write_text(TORCH_SPEC)
    (linear / "net.py").write_text(
        "import torch\nTEMPLATE_NAME = 'linear'\n\n"
        "def build(num_classes, pretrained=False):\n    return torch.nn.Linear(4, 2)\n"
    )
    torch.manual_seed(0)
    torch.save(torch.nn.Linear(4, 2).state_dict(), linear / "net.pth")
    return tmp_path / "models"


@pytest.fixture
def make(models: Path, tmp_path: Path) -> Make:
    """``make("plain", soc=...)``: a pipeline as a new process would open it."""

    def pipeline(name: str, **changed: Any) -> Pipeline:
        settings = replace(RunSettings(models, tmp_path / "calib", soc="Ascend310B1"), **changed)
        return Pipeline(specs.load(models / name), settings, Store(tmp_path / "store"))

    return pipeline
