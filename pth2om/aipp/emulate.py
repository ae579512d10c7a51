"""AIPP as ONNX nodes in front of a model: the emulated OM takes camera bytes, as the real one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pth2om.aipp.arithmetic import byte_order, chroma_indices, require_geometry, rounds_to_nearest
from pth2om.aipp.config import AippConfig
from pth2om.aipp.csc import AippSettings, settings
from pth2om.errors import AippError, GraphError
from pth2om.onnxfile.reading import read_whole
from pth2om.onnxfile.writing import write_model

LEAST_OPSET = 11  # Clip and Pad take their limits as inputs from here on
_RAISE = 2**20  # 256ths added before the integer division, which cuts towards zero, to keep it on positive numbers
_FLOATS = {TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "FLOAT16", TensorProto.UINT8: "UINT8"}


def emulate_graph(
    model: Path,
    config: AippConfig,
    destination: Path,
    *,
    soc: str | None = None,
    shapes: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> None:
    """Write a copy of ``model`` whose AIPP inputs take bytes.

    Each such input keeps its name and becomes uint8 ``(N, rows, columns, bytes per pixel)``: RGB888 ``(N, H, W, 3)``,
    XRGB8888 ``(N, H, W, 4)``, YUV400 ``(N, H, W, 1)``, YUV420SP ``(N, H * 3/2, W, 1)``. The nodes compute what
    `arithmetic.apply` computes, to the bit.

    Args:
        model: ONNX file, opset 11 or later; its image inputs are NCHW with known channels, height and width.
        config: static operators.
        destination: the file to write.
        soc: decides the rounding of the colour conversion.
        shapes: input -> its sizes, which replace what the model declares: those of ``--input_shape``, or of a gear.

    Raises:
        AippError: the model cannot be read, has no such input, or its input does not fit the configuration.
    """
    proto = _load(model)
    opset = max((item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")), default=0)
    if opset < LEAST_OPSET:
        raise AippError("aipp.old-opset", where=str(model), opset=opset, least=LEAST_OPSET)
    initial = {item.name for item in proto.graph.initializer}
    inputs = [item for item in proto.graph.input if item.name not in initial]
    for item in inputs:
        for axis, size in zip(item.type.tensor_type.shape.dim, shapes.get(item.name, ()), strict=False):
            axis.dim_value = size
    front: list[onnx.NodeProto] = []
    for op in config.ops:
        if op.rank >= len(inputs):
            raise AippError("aipp.advice-rank", where=config.where or None, count=len(inputs))
        item = inputs[op.rank]
        shape, kind = _input_type(item, model)
        wanted = settings(op, shape[1])
        require_geometry(wanted, shape[1])
        if wanted.channels(shape[0]) != shape[0]:
            raise AippError("aipp.wrong-channels", where=item.name, found=wanted.channels(shape[0]), model=shape[0])
        inner = f"{item.name}/aipp"
        writer = _Writer(proto.graph, f"{item.name}/aipp_")
        result = _nodes(writer, item.name, wanted, shape[0], kind, nearest=rounds_to_nearest(soc))
        writer.add("Identity", [result], output=inner)
        front += writer.nodes
        _rename(proto.graph, item.name, inner)
        _retype(item, wanted)
    nodes = [*front, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    _save(proto, destination)


class _Writer:
    """Collects nodes and constants under one prefix."""

    def __init__(self, graph: onnx.GraphProto, prefix: str) -> None:
        self._graph, self._prefix, self._count = graph, prefix, 0
        self.nodes: list[onnx.NodeProto] = []

    def constant(self, values: Any, dtype: type[np.generic]) -> str:  # noqa: ANN401 - anything NumPy takes
        name = self._name()
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def add(self, kind: str, inputs: Sequence[str], *, output: str | None = None, **attributes: Any) -> str:  # noqa: ANN401 - attributes of ONNX
        name = self._name()
        self.nodes.append(helper.make_node(kind, list(inputs), [output or name], name=name, **attributes))
        return output or name

    def take(self, data: str, indices: Sequence[int], axis: int) -> str:
        """Gather along ``axis``; as it is where all are wanted in order and their number is the axis's."""
        return self.add("Gather", [data, self.constant(list(indices), np.int64)], axis=axis)

    def cast(self, data: str, kind: int) -> str:
        return self.add("Cast", [data], to=kind)

    def _name(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count}"


def _nodes(writer: _Writer, name: str, wanted: AippSettings, channels: int, kind: int, *, nearest: bool) -> str:
    pixels = _pixels(writer, name, wanted, channels)
    value = _converted(writer, pixels, wanted, nearest=nearest) if wanted.csc is not None else pixels
    value = writer.add("Transpose", [writer.cast(value, TensorProto.FLOAT)], perm=[0, 3, 1, 2])
    if kind != TensorProto.UINT8:
        value = _normalized(writer, value, wanted, channels)
    value = _padded(writer, value, wanted, kind)
    return writer.cast(value, kind)


def _pixels(writer: _Writer, name: str, wanted: AippSettings, channels: int) -> str:
    """Swapped and cropped, chroma repeated; uint8 (N, H, W, C)."""
    top, left = wanted.start
    rows, columns = range(top, top + wanted.crop[0]), range(left, left + wanted.crop[1])
    cropped = writer.take(writer.take(name, rows, 1), columns, 2)
    if wanted.input_format == "YUV400_U8":
        return cropped
    if wanted.input_format != "YUV420SP_U8":
        return writer.take(cropped, byte_order(wanted, 4 if channels == 4 else 3), 3)
    height, width = wanted.source
    plane = writer.take(name, range(height, height * 3 // 2), 1)
    shape = writer.constant([0, height // 2, width // 2, 2], np.int64)
    chroma = writer.take(writer.add("Reshape", [plane, shape]), byte_order(wanted, 3), 3)
    chroma_rows, chroma_columns = chroma_indices(wanted)
    chroma = writer.take(writer.take(chroma, list(chroma_rows), 1), list(chroma_columns), 2)
    return writer.add("Concat", [cropped, chroma], axis=3)


def _converted(writer: _Writer, pixels: str, wanted: AippSettings, *, nearest: bool) -> str:
    """Colour conversion in int32: the sums of hostile matrices would not be exact in float32."""
    matrix = np.array(wanted.csc, dtype=np.int64)
    rows = matrix[:1] if wanted.grey else matrix
    most = int(np.abs(matrix).sum(axis=1).max()) * 255
    if most >= 2**30 or most >= _RAISE * 256:
        raise AippError("aipp.matrix-too-large", most=most)
    centred = writer.add("Sub", [writer.cast(pixels, TensorProto.INT32), writer.constant(wanted.input_bias, np.int32)])
    total = writer.add("MatMul", [centred, writer.constant(rows.T, np.int32)])
    raised = writer.add("Add", [total, writer.constant(_RAISE * 256 + (128 if nearest else 0), np.int32)])
    shifted = writer.add("Div", [raised, writer.constant(256, np.int32)])
    lowered = np.array(wanted.output_bias[: len(rows)], dtype=np.int32) - _RAISE
    value = writer.add("Add", [shifted, writer.constant(lowered, np.int32)])
    limits = [writer.constant(limit, np.float32) for limit in (0, 255)]
    return writer.add("Clip", [writer.cast(value, TensorProto.FLOAT), *limits])


def _normalized(writer: _Writer, value: str, wanted: AippSettings, channels: int) -> str:
    """Every operation in float32 and then rounded to FP16; no product or difference needs more than float32 has."""
    with np.errstate(over="ignore"):
        mean = np.array(wanted.mean[:channels], dtype=np.float32)
        least = np.array(wanted.min[:channels], dtype=np.float32).astype(np.float16).astype(np.float32)
        factor = np.array(wanted.reciprocal[:channels], dtype=np.float32).astype(np.float16).astype(np.float32)
    for kind, operand in (("Sub", mean), ("Sub", least), ("Mul", factor)):
        value = writer.add(kind, [value, writer.constant(operand.reshape(1, -1, 1, 1), np.float32)])
        value = writer.cast(writer.cast(value, TensorProto.FLOAT16), TensorProto.FLOAT)
    return value


def _padded(writer: _Writer, value: str, wanted: AippSettings, kind: int) -> str:
    top, bottom, left, right = wanted.padding
    if not any(wanted.padding):
        return value
    if kind == TensorProto.UINT8:
        border = np.float32(min(max(round(wanted.padding_value), 0), 255))
    else:
        border = np.float32(np.float32(wanted.padding_value).astype(np.float16))
    sizes = writer.constant([0, 0, top, left, 0, 0, bottom, right], np.int64)
    return writer.add("Pad", [value, sizes, writer.constant(border, np.float32)], mode="constant")


def _input_type(item: onnx.ValueInfoProto, model: Path) -> tuple[tuple[int, tuple[int, int]], int]:
    """(channels, (height, width)) and element type of an image input."""
    tensor = item.type.tensor_type
    sizes = [axis.dim_value for axis in tensor.shape.dim]
    if len(sizes) != 4 or min(sizes[1:]) < 1:
        raise AippError("aipp.not-an-image", where=f"{model}: {item.name}", shape=str(sizes))
    if tensor.elem_type not in _FLOATS:
        raise AippError(
            "aipp.wrong-input-type", where=f"{model}: {item.name}", kind=TensorProto.DataType.Name(tensor.elem_type)
        )
    return (sizes[1], (sizes[2], sizes[3])), tensor.elem_type


def _retype(item: onnx.ValueInfoProto, wanted: AippSettings) -> None:
    tensor = item.type.tensor_type
    tensor.elem_type = TensorProto.UINT8
    for axis, size in zip(tensor.shape.dim[1:], wanted.input_shape(), strict=True):
        axis.dim_value = size


def _rename(graph: onnx.GraphProto, name: str, new: str) -> None:
    """Every use of ``name`` in the graph and in the subgraphs that see it."""
    for node in graph.node:
        for place, item in enumerate(node.input):
            if item == name:
                node.input[place] = new
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                own = {item.name for item in (*inner.input, *inner.initializer)}
                if inner.node and name not in own:
                    _rename(inner, name, new)
    for output in graph.output:
        if output.name == name:  # an input that is an output as well: a node gives it the name
            graph.node.append(helper.make_node("Identity", [new], [f"{name}/out"], name=f"{name}/out"))
            output.name = f"{name}/out"


def _load(path: Path) -> onnx.ModelProto:
    try:
        return read_whole(path)
    except GraphError as error:
        raise AippError("aipp.unreadable-onnx", where=str(path), reason=error.message.render()) from None


def _save(proto: onnx.ModelProto, destination: Path) -> None:
    try:
        write_model(proto, destination)
    except OSError as error:
        raise AippError("aipp.unwritable", where=str(destination), reason=str(error)) from None
