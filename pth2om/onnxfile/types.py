"""Types of every tensor, by ONNX shape inference over a copy of the model that leaves large weights out."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from pth2om.onnxfile.walking import Sizes

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

ELEMENT_NAMES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1",
}
"""Names of ``TensorProto.DataType``."""

_SMALL_BYTES = 32 * 1024
_COVERED = 0.98
_ROUNDS = 8
_MOST_ELEMENTS = 4096
_FOLDED = frozenset(
    {
        "Add",
        "Cast",
        "Ceil",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Div",
        "Equal",
        "Floor",
        "Gather",
        "Identity",
        "Mod",
        "Mul",
        "Range",
        "ReduceProd",
        "Reshape",
        "Slice",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)
"""What exporters compute shapes with."""


@functools.cache
def element_name(number: int) -> str:
    """``float32`` for 1; the number itself for an unknown type."""
    return ELEMENT_NAMES.get(number, str(number))


def tensor_types(model: ModelProto, shapes: Mapping[str, Sizes]) -> dict[str, tuple[int, Sizes | None]]:
    """Tensor name to element type (0 unknown) and sizes (None unknown, -1 for one that is).

    Values the file itself declares are taken as they are; inference runs only where it says too little or where other
    input shapes are given.

    Args:
        model: the model; it is not changed.
        shapes: input shapes that replace the declared ones.
    """
    types = _declared(model)
    outputs = [name for node in model.graph.node for name in node.output if name]
    known = sum((sizes := types.get(name, (0, None))[1]) is not None and -1 not in sizes for name in outputs)
    if outputs and (shapes or known < _COVERED * len(outputs)):
        types.update(_inferred(model, shapes))
    for name, sizes in shapes.items():
        types[name] = (types.get(name, (0, None))[0], tuple(sizes))
    return types


def _inferred(model: ModelProto, shapes: Mapping[str, Sizes]) -> dict[str, tuple[int, Sizes | None]]:
    """Inference and constant folding in turns, as ATC does, until no further shape becomes known."""
    import onnx
    from onnx.shape_inference import InferenceError

    light = light_model(model, shapes)
    types: dict[str, tuple[int, Sizes | None]] = {}
    for _ in range(_ROUNDS):
        try:
            light = onnx.shape_inference.infer_shapes(light, data_prop=True)
        except (InferenceError, ValueError, RuntimeError, TypeError):
            return types
        types.update(_declared(light))
        if not _fold(light, types):
            break
    return types


def _fold(light: ModelProto, types: Mapping[str, tuple[int, Sizes | None]]) -> bool:
    """Put values in the place of nodes that compute shapes from what is known; whether there were any.

    Done only while an output's size is unknown. The nodes are computed by ONNX's own reference implementation.
    """
    import onnx
    from onnx import numpy_helper

    outputs = [name for node in light.graph.node for name in node.output if name]
    if all((sizes := types.get(name, (0, None))[1]) is not None and -1 not in sizes for name in outputs):
        return False
    known = {tensor.name: tensor for tensor in light.graph.initializer}
    part = onnx.GraphProto(name="folded")
    made: set[str] = set()
    for node in light.graph.node:
        sizes = types.get(node.input[0], (0, None))[1] if node.input else None
        if node.op_type == "Shape" and not node.attribute and sizes is not None and min(sizes, default=0) >= 0:
            value = numpy_helper.from_array(np.array(sizes, np.int64), node.output[0])
            part.initializer.append(value)
            made.add(node.output[0])
        elif (
            node.op_type in _FOLDED
            and all(name in known or name in made for name in node.input if name)
            and all(_is_small(types.get(name, (0, None))[1]) for name in node.output if name)
        ):
            part.node.append(node)
            made.update(name for name in node.output if name)
    if not made:
        return False
    values = _computed(light, part, known)
    if not values:
        return False
    done = {tensor.name for tensor in values}
    kept = [node for node in light.graph.node if not node.output or node.output[0] not in done]
    del light.graph.node[:]
    light.graph.node.extend(kept)
    light.graph.initializer.extend(values)
    # What was inferred for open sizes would stand in the way of the next round.
    unknown = [value for value in light.graph.value_info if _is_open(value)]
    for value in unknown:
        light.graph.value_info.remove(value)
    return True


def _computed(light: ModelProto, part: GraphProto, known: Mapping[str, TensorProto]) -> list[TensorProto]:
    """The values of the nodes of `part` and its initializers; empty when they cannot be computed."""
    import onnx
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    shapes = list(part.initializer)
    wanted = [name for node in part.node for name in node.output if name]
    needed = {name for node in part.node for name in node.input}
    part.initializer.extend(tensor for name, tensor in known.items() if name in needed)
    part.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    small = onnx.ModelProto(ir_version=light.ir_version, graph=part, opset_import=light.opset_import)
    try:
        results = ReferenceEvaluator(small).run(wanted, {}) if wanted else []
    except Exception:  # noqa: BLE001 - a value that does not fit its operator: whatever it raises, nothing is folded
        results, wanted = [], []
    folded = [
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in zip(wanted, results, strict=True)
        if isinstance(value, np.ndarray | np.generic) and np.size(value) <= _MOST_ELEMENTS
    ]
    return [*shapes, *folded]


def _is_small(sizes: Sizes | None) -> bool:
    """Whether a result is known to be small before it is computed: a file may ask for any size."""
    return sizes is not None and min(sizes, default=0) >= 0 and prod(sizes) <= _MOST_ELEMENTS


def _is_open(value: ValueInfoProto) -> bool:
    sizes = _type(value)[1] if value.type.HasField("tensor_type") else None
    return sizes is None or -1 in sizes


def light_model(model: ModelProto, shapes: Mapping[str, Sizes]) -> ModelProto:
    """The model with large initializers turned into inputs, so that their data is not copied about."""
    import onnx

    light = onnx.ModelProto()
    light.ir_version = max(model.ir_version, 4)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = "g"
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    for value in model.graph.input:
        copied = graph.input.add()
        copied.CopyFrom(value)
        sizes = shapes.get(value.name)
        if sizes is not None:
            # The file's own value_info was made for the declared shape; it is left out below.
            copied.type.tensor_type.ClearField("shape")
            for size in sizes:
                dim = copied.type.tensor_type.shape.dim.add()
                if size >= 0:
                    dim.dim_value = size
    if not shapes:
        graph.value_info.extend(model.graph.value_info)
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _SMALL_BYTES and tensor.data_location != 1:
            graph.initializer.add().CopyFrom(tensor)
            continue
        value = graph.input.add()
        value.name = tensor.name
        value.type.tensor_type.elem_type = tensor.data_type
        value.type.tensor_type.shape.SetInParent()
        for size in tensor.dims:
            value.type.tensor_type.shape.dim.add().dim_value = size
    return light


def _declared(model: ModelProto) -> dict[str, tuple[int, Sizes | None]]:
    types: dict[str, tuple[int, Sizes | None]] = {}
    queue: list[GraphProto] = [model.graph]
    for graph in queue:
        for value in (*graph.value_info, *graph.output, *graph.input):
            if value.type.HasField("tensor_type"):
                types[value.name] = _type(value)
        for tensor in graph.initializer:
            types[tensor.name] = (tensor.data_type, tuple(int(size) for size in tensor.dims))
        for node in graph.node:
            if node.op_type == "Constant":
                for item in node.attribute:
                    if item.name == "value" and node.output:
                        types[node.output[0]] = (item.t.data_type, tuple(int(size) for size in item.t.dims))
            elif node.op_type == "If":
                queue.extend(item.g for item in node.attribute if item.HasField("g"))
    return types


def _type(value: ValueInfoProto) -> tuple[int, Sizes | None]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return int(tensor.elem_type), None
    return int(tensor.elem_type), tuple(
        int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value >= 0 else -1 for dim in tensor.shape.dim
    )
