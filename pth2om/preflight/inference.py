"""Types of every tensor, by ONNX shape inference over a copy of the model that leaves large weights out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, ValueInfoProto

Sizes = tuple[int, ...]

_SMALL_BYTES = 32 * 1024
_COVERED = 0.98


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
    known = sum(types.get(name, (0, None))[1] is not None for name in outputs)
    if outputs and (shapes or known < _COVERED * len(outputs)):
        types.update(_inferred(model, shapes))
    for name, sizes in shapes.items():
        types[name] = (types.get(name, (0, None))[0], tuple(sizes))
    return types


def _inferred(model: ModelProto, shapes: Mapping[str, Sizes]) -> dict[str, tuple[int, Sizes | None]]:
    import onnx
    from onnx.shape_inference import InferenceError

    light = _without_weights(model, shapes)
    try:
        done = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except (InferenceError, ValueError, RuntimeError, TypeError):
        return {}
    return _declared(done)


def _without_weights(model: ModelProto, shapes: Mapping[str, Sizes]) -> ModelProto:
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
