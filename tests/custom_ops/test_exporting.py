"""A custom operator is one node in the file, and a function of standard operators that gives what PyTorch gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from pth2om.ascend.custom_ops import Operators
from pth2om.custom_ops.bodies import load_bodies, use
from pth2om.custom_ops.exporting import attach
from pth2om.errors import ExportError
from pth2om.export import Purpose, export
from pth2om.onnxfile.runtime import open_runtime, run_runtime
from pth2om.spec import Export, Input
from pth2om.spec.custom_ops import CustomOp

GATE = CustomOp.model_validate(
    {
        "domain": "acme",
        "op_type": "ScaledGate",
        "symbol": "acme_test::scaled_gate",
        "body": "gate.py:gate",
        "inputs": [
            {"name": "x", "dtypes": ["float32"], "shape": "rows columns"},
            {"name": "order", "dtypes": ["int32"], "shape": "columns"},
        ],
        "attributes": {"slope": 0.5, "steps": (1, 2)},
        "outputs": [{"name": "y", "dtype": "float32", "shape": "rows columns*2"}],
    }
)

BODY = """
import torch

def gate(x, order, slope, steps):
    assert x.dtype == torch.float32 and order.dtype == torch.int32
    one = torch.sigmoid(x * slope) * x
    return torch.cat([one * steps[0], one.index_select(1, order.long()) * steps[1]], 1)
"""


class Net(torch.nn.Module):
    def forward(self, x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        one = torch.ops.acme_test.scaled_gate(x * 2, order, 0.25, [1, 3])
        other = torch.ops.acme_test.scaled_gate(x + 1, order)  # other attributes: another function
        return torch.relu(one) + other


@pytest.fixture
def bodies(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "gate.py").write_text(BODY, encoding="utf-8")
    return load_bodies([GATE], tmp_path)


@pytest.mark.parametrize(("dtype", "order"), [("float32", "int32"), ("float16", "int64")])
def test_nodes_and_functions_compute_what_pytorch_computes(tmp_path: Path, bodies, dtype: str, order: str) -> None:
    net = Net().eval()
    use(net, [GATE], bodies)
    inputs = (
        Input(name="x", shape=(6,), dtype=dtype),
        Input(name="order", shape=(6,), dtype=order, range=(0, 5), batched=False),
    )
    with Operators((GATE,)).known():
        made = export(net, inputs, Export(), 3, tmp_path / "m.onnx", Purpose(operators=[GATE], bodies=bodies))
    assert [finding.rule for finding in made.findings] == []
    assert max(made.probes) <= (1e-6 if dtype == "float32" else 1e-3)
    model = onnx.load(tmp_path / "m.onnx")
    nodes = [node for node in model.graph.node if node.domain == "acme"]
    assert [node.op_type for node in nodes] == ["ScaledGate"] * 2
    assert {node.overload for node in nodes} == {item.overload for item in model.functions}
    assert len(model.functions) == 2
    assert model.ir_version >= 10
    known = {value.name: value.type.tensor_type for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    assert [dim.dim_value for dim in known[nodes[0].output[0]].shape.dim] == [3, 12]
    # What the kernel does not take is cast before it, in the file too.
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    assert (makers.get(nodes[0].input[0]) == "Cast") is (dtype == "float16")
    assert (makers.get(nodes[0].input[1]) == "Cast") is (order == "int64")


def given(kind: int, shape: tuple[int, ...], declared: tuple[int, ...]) -> onnx.ModelProto:
    """A file as another exporter writes it: the node without a function, its output declared wrong."""
    graph = helper.make_graph(
        [helper.make_node("ScaledGate", ["x", "order"], ["y"], name="gate", domain="acme", slope=0.5, steps=[1, 2])],
        "g",
        [
            helper.make_tensor_value_info("x", kind, shape),
            helper.make_tensor_value_info("order", TensorProto.INT32, [shape[1]]),
        ],
        [helper.make_tensor_value_info("y", kind, declared)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("acme", 1)], ir_version=7)


def test_a_given_file_gets_its_function_and_its_right_shape(bodies) -> None:
    model = given(TensorProto.FLOAT, (3, 6), (3, 6))
    findings = attach(model, [GATE], bodies)
    assert [finding.rule for finding in findings] == ["export.declared-shape"]
    assert "[3, 12]" in findings[0].message.render("en")
    assert findings[0].message.render("zh")
    x, order = np.linspace(-2, 2, 18, dtype=np.float32).reshape(3, 6), np.array([5, 4, 3, 2, 1, 0], np.int32)
    got = run_runtime(open_runtime(model.SerializeToString(), threads=1), {"x": x, "order": order})["y"]
    one = x / (1 + np.exp(-x * 0.5))
    assert got == pytest.approx(np.concatenate([one, one[:, ::-1] * 2], 1), abs=1e-6)
    right = given(TensorProto.FLOAT, (3, 6), (3, 12))
    assert attach(right, [GATE], bodies) == []


def test_other_dtypes_are_cast_at_the_ends_of_the_function(bodies) -> None:
    model = given(TensorProto.FLOAT16, (3, 6), (3, 12))
    assert attach(model, [GATE], bodies) == []
    x = np.linspace(-2, 2, 18).reshape(3, 6).astype(np.float16)
    order = np.arange(6, dtype=np.int32)
    got = run_runtime(open_runtime(model.SerializeToString(), threads=1), {"x": x, "order": order})["y"]
    assert got.dtype == np.float16
    one = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64) * 0.5))
    assert got == pytest.approx(np.concatenate([one, one * 2], 1), abs=2e-3)


def test_wrong_bodies_are_refused_in_a_sentence(tmp_path: Path, bodies) -> None:
    with pytest.raises(ExportError, match="not in this file"):
        load_bodies([GATE.model_copy(update={"body": "gate.py:gates"})], tmp_path)
    with pytest.raises(ExportError, match="not here"):
        load_bodies([GATE.model_copy(update={"body": "other.py:gate"})], tmp_path)
    with pytest.raises(ExportError, match="boom"):
        attach(given(1, (3, 6), (3, 12)), [GATE], {GATE.label: _boom})
    two = {GATE.label: lambda x, order, slope, steps: (x, x)}
    with pytest.raises(ExportError, match="returns 2 tensors"):
        attach(given(1, (3, 6), (3, 12)), [GATE], two)
    with pytest.raises(ExportError, match="not known"):
        attach(given(1, (-1, 6), (3, 12)), [GATE], bodies)
    found = attach(given(1, (3, 6), (3, 12)), [GATE], {})
    assert [finding.rule for finding in found] == ["export.no-body"]


def _boom(*_: object, **__: object) -> torch.Tensor:
    raise ZeroDivisionError("boom")
