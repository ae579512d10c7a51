"""The element type of every tensor of a graph, from ONNX shape inference and, where that fails, from schemas."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto

from pth2om.errors import first_line
from pth2om.onnxfile.reading import tensor_bytes

FLOAT, HALF, DOUBLE = int(TensorProto.FLOAT), int(TensorProto.FLOAT16), int(TensorProto.DOUBLE)
UNKNOWN = 0
_SMALL = 4096  # bytes; what computes a shape is smaller
_CONSTANTS_ALONE = 4  # the ir_version from which an initializer need not be an input

_ELEMENT_TYPES = {
    "tensor(float)": FLOAT,
    "tensor(float16)": HALF,
    "tensor(double)": DOUBLE,
    "tensor(bfloat16)": int(TensorProto.BFLOAT16),
    "tensor(int8)": int(TensorProto.INT8),
    "tensor(int16)": int(TensorProto.INT16),
    "tensor(int32)": int(TensorProto.INT32),
    "tensor(int64)": int(TensorProto.INT64),
    "tensor(uint8)": int(TensorProto.UINT8),
    "tensor(uint16)": int(TensorProto.UINT16),
    "tensor(uint32)": int(TensorProto.UINT32),
    "tensor(uint64)": int(TensorProto.UINT64),
    "tensor(bool)": int(TensorProto.BOOL),
    "tensor(string)": int(TensorProto.STRING),
}


def inferred(model: onnx.ModelProto) -> tuple[dict[str, int], str | None]:
    """Element types by tensor name as ONNX shape inference finds them, sub-graphs included.

    Graph outputs of ``model`` that have no shape get the inferred one.

    Args:
        model: without the bytes of its external data; only small constants matter here.

    Returns:
        The types, and why inference failed when it did; the model's own value_info is used then.
    """
    reason = None
    try:
        known = onnx.shape_inference.infer_shapes(_without_weights(model))
    except Exception as error:  # noqa: BLE001 - the C++ code raises several classes for odd graphs
        known, reason = model, first_line(error)
    for mine, found in zip(model.graph.output, known.graph.output, strict=True):
        if found.type.tensor_type.HasField("shape") and not mine.type.tensor_type.HasField("shape"):
            mine.type.CopyFrom(found.type)
    types: dict[str, int] = {}
    _collect(known.graph, types)
    return types, reason


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """What inference reads of a model: large constants are inputs of their type, so that nobody copies their bytes."""
    if model.ir_version < _CONSTANTS_ALONE:
        return model
    graph = onnx.GraphProto(name=model.graph.name)
    for name in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(graph, name).extend(getattr(model.graph, name))
    known = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name in known or (tensor_bytes(tensor) or 0) <= _SMALL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    opsets, functions = model.opset_import, model.functions
    return onnx.ModelProto(ir_version=model.ir_version, graph=graph, opset_import=opsets, functions=functions)


def _collect(graph: onnx.GraphProto, types: dict[str, int]) -> None:
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else UNKNOWN
        if kind != UNKNOWN:
            types[value.name] = kind
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _collect(attribute.g, types)


def half_sequence(graph: onnx.GraphProto) -> str | None:
    """The name of a graph input or output that is a sequence of float16 tensors, if there is one."""
    for value in (*graph.input, *graph.output):
        for kind in (value.type.sequence_type, value.type.optional_type):
            if kind.elem_type.tensor_type.elem_type == HALF:
                return str(value.name)
    return None


def outputs_of(node: onnx.NodeProto, inputs: list[int], opset: int, known: Mapping[str, int]) -> list[int]:
    """Element types of a node's outputs.

    Args:
        node: a standard operator.
        inputs: element types of its inputs, `UNKNOWN` where not known.
        opset: of the default domain.
        known: what inference found.

    Returns:
        One type per output, `UNKNOWN` where even the schema leaves it open (sequences, optionals).
    """
    types = [known.get(name, UNKNOWN) if name else UNKNOWN for name in node.output]
    if all(kind != UNKNOWN for kind, name in zip(types, node.output, strict=True) if name):
        return types
    attribute = next((entry for entry in node.attribute if entry.name in ("to", "dtype")), None)
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return types
    bound: dict[str, int] = {}
    for index, kind in enumerate(inputs):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)] if schema.inputs else None
        if formal is not None and kind != UNKNOWN:
            bound.setdefault(formal.type_str, kind)
    for index, name in enumerate(node.output):
        if types[index] != UNKNOWN or not name or not schema.outputs:
            continue
        formal = schema.outputs[min(index, len(schema.outputs) - 1)]
        if formal.type_str in _ELEMENT_TYPES:
            types[index] = _ELEMENT_TYPES[formal.type_str]
        elif formal.type_str in bound:
            types[index] = bound[formal.type_str]
        elif attribute is not None:
            types[index] = int(attribute.i)
    return types
