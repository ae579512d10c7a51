"""One tried assumption, and the small models that are tried with."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pth2om.ascend.atc_options import AtcOptions
from pth2om.errors import Pth2omError
from pth2om.toolchain.cann import CannToolchain

Result = Literal["holds", "fails", "untried", "hand"]

_SHOWN = 300
SHAPES: Mapping[str, Mapping[str, str]] = {
    "static": {"input_shape": "x:1,3,8,8"},
    "batch": {"input_shape": "x:-1,3,8,8", "dynamic_batch_size": "1,2,4"},
    "hw": {"input_shape": "x:1,3,-1,-1", "dynamic_image_size": "8,8;8,12"},
    "range": {"input_shape": "x:1~4,3,8,8"},
    "gather": {"input_shape": "x:64,16;at:4", "input_format": "ND"},
    "wide": {"input_shape": "x:1,3,64,64"},
}
"""Options of atc for each model."""

WIDE = 8
"""Convolutions of the model ``wide``, each with a kernel of its own to compile."""


@dataclass(frozen=True)
class Trial:
    """What came of one assumption.

    Attributes:
        id: of the assumption.
        result: see `Result`; ``hand``: no program decides it.
        seen: what was observed, or why it was not tried.
    """

    id: str
    result: Result
    seen: str


def trial(name: str, holds: object, seen: str) -> Trial:
    """Of an observation; None: it decides nothing."""
    return Trial(name, "untried" if holds is None else "holds" if holds else "fails", seen[:_SHOWN])


def line(error: Pth2omError) -> str:
    """An error on one line."""
    return " ".join(error.render("en").split())[:_SHOWN]


def options(toolchain: CannToolchain, name: str) -> AtcOptions:
    """Of atc, for one of `SHAPES`."""
    plain = AtcOptions(output=name, soc_version=toolchain.target.soc, precision_mode="force_fp16", input_format="NCHW")
    return plain.given([f"--{flag}={value}" for flag, value in SHAPES[name].items()])


def fed(name: str = "static", seed: int = 2) -> dict[str, Any]:
    """Inputs for ``static`` or ``wide``."""
    size = 64 if name == "wide" else 8
    return {"x": np.random.default_rng(seed).normal(size=(1, 3, size, size)).astype(np.float32)}


def network(folder: Path, name: str, *, last: str = "Relu") -> Path:
    """A convolution and a node behind it; open axes where gears want them.

    Args:
        folder: for the file.
        name: one of `SHAPES`.
        last: the type of the second node.
    """
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    if name == "gather":
        nodes = [helper.make_node("Gather", ["x", "at"], ["y"], name="gather")]
        inputs = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 16]),
            helper.make_tensor_value_info("at", TensorProto.INT32, [4]),
        ]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 16])]
        return _saved(folder / "gather.onnx", nodes, inputs, outputs, [])
    batch: int | str = "n" if name in ("batch", "range") else 1
    side = 64 if name == "wide" else 8
    sides: Sequence[int | str] = ("h", "w") if name == "hw" else (side, side)
    count = WIDE if name == "wide" else 1
    widths = [3, *(16 + 8 * place for place in range(count))]
    nodes, tensors = [], []
    for place in range(count):
        weights = random.normal(size=(widths[place + 1], widths[place], 3, 3)).astype(np.float32)
        tensors.append(numpy_helper.from_array(weights / np.sqrt(9.0 * widths[place], dtype=np.float32), f"w{place}"))
        given = f"c{place - 1}" if place else "x"
        conv = helper.make_node("Conv", [given, f"w{place}"], [f"c{place}"], name=f"conv{place}", pads=[1, 1, 1, 1])
        nodes.append(conv)
    made = ["y", "i1", "i2", "i3"] if last == "Unique" else ["y"]
    nodes.append(helper.make_node(last, [f"c{count - 1}"], made, name="last"))
    shape = [None] if last == "Unique" else [batch, widths[-1], *sides]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, *sides])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    file = "model.onnx" if last == "Relu" else f"{last.lower()}.onnx"
    return _saved(folder / file, nodes, inputs, outputs, tensors)


def _saved(path: Path, nodes: Sequence[Any], inputs: Any, outputs: Any, tensors: Any) -> Path:  # noqa: ANN401 - protos
    import onnx
    from onnx import helper

    graph = helper.make_graph(nodes, "selftest", inputs, outputs, tensors)
    written = io.BytesIO()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7), written)
    path.write_bytes(written.getvalue())
    return path
