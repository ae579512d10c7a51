"""Reading an ONNX file for the front end and the pre-flight: bounded, without its weights' data, never a traceback."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from pth2om.errors import GraphError

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

PROTOBUF_LIMIT = 2**31 - 1
"""Largest ONNX file ATC (and protobuf) reads, in bytes."""

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


@dataclass(frozen=True)
class NamedNode:
    """A node with the name ATC gives it (``Type_<n>`` for the n-th unnamed one), and the graph it stands in."""

    name: str
    node: NodeProto
    graph: int


class NotOnnxError(Exception):
    """The bytes are no ONNX model; the reason as text."""


def parse(data: bytes) -> ModelProto:
    """A model from its bytes; external data stays where it is.

    Raises:
        NotOnnxError: they are no protobuf of a model, or hold text that is not UTF-8 (which ATC's proto3 refuses too).
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model: ModelProto = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError, RuntimeError, RecursionError) as error:
        raise NotOnnxError(str(error)) from None
    if not _is_text(model):
        raise NotOnnxError("a name is not UTF-8")
    return model


def read(path: Path) -> ModelProto:
    """A model from its file, external data left where it is.

    Raises:
        GraphError: unreadable, too large, or no ONNX.
    """
    try:
        size = path.stat().st_size
        if size > PROTOBUF_LIMIT:
            raise GraphError("preflight.too-large", where=str(path), size=size, limit=PROTOBUF_LIMIT)
        return parse(path.read_bytes())
    except OSError as error:
        raise GraphError("preflight.unreadable", where=str(path), reason=error.strerror or str(error)) from None
    except NotOnnxError as error:
        raise GraphError("preflight.not-onnx", where=str(path), reason=str(error)) from None


def graphs(model: ModelProto) -> list[GraphProto]:
    """The root graph and the branches of its Ifs, breadth first: the graphs that ATC reads."""
    found = [model.graph]
    for graph in found:
        for node in graph.node:
            if node.op_type == "If":
                found.extend(attribute.g for attribute in node.attribute if attribute.HasField("g"))
    return found


def named_nodes(model: ModelProto) -> list[NamedNode]:
    """Every node that ATC reads, with its name, in ATC's order."""
    unnamed, found = 0, []
    for place, graph in enumerate(graphs(model)):
        for node in graph.node:
            name = node.name
            if not name:
                name = f"{node.op_type}_{unnamed}"
                unnamed += 1
            found.append(NamedNode(name, node, place))
    return found


def imports(model: ModelProto) -> dict[str, int]:
    """Domain to opset; the default domain is ``ai.onnx``, of repeated ones the last wins."""
    return {item.domain or "ai.onnx": item.version for item in model.opset_import}


def attribute(node: NodeProto, name: str) -> AttributeProto | None:
    """The attribute of that name, or None."""
    return next((item for item in node.attribute if item.name == name), None)


def integer(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute, or `default`."""
    item = attribute(node, name)
    return default if item is None else int(item.i)


def text(node: NodeProto, name: str, default: str) -> str:
    """A string attribute, or `default`."""
    item = attribute(node, name)
    return default if item is None else item.s.decode("utf-8", "replace")


def integers(node: NodeProto, name: str) -> list[int] | None:
    """A list of integers, or None where the attribute is absent."""
    item = attribute(node, name)
    return None if item is None else [int(value) for value in item.ints]


def external_location(tensor: TensorProto) -> str | None:
    """Where the data of an external tensor lies, relative to the model; None for a tensor inside the file."""
    if tensor.data_location != 1:
        return None
    return next((item.value for item in tensor.external_data if item.key == "location"), "")


def leaves_folder(location: str) -> bool:
    """Whether an external location is absolute or climbs out of the model's folder, on any system."""
    for path in (PurePosixPath(location), PureWindowsPath(location)):
        if path.is_absolute() or path.anchor or ".." in path.parts:
            return True
    return False


def tensors(model: ModelProto) -> Iterator[tuple[str, TensorProto, bool]]:
    """Initializers and the ``value`` of Constant nodes: name, tensor, whether it stands in the root graph."""
    for place, graph in enumerate(graphs(model)):
        for tensor in graph.initializer:
            yield tensor.name, tensor, place == 0
        for node in graph.node:
            if node.op_type == "Constant":
                value = attribute(node, "value")
                if value is not None and value.HasField("t"):
                    yield node.output[0] if node.output else node.name, value.t, place == 0


@functools.cache
def element_name(number: int) -> str:
    """``float32`` for 1; the number itself for an unknown type."""
    return ELEMENT_NAMES.get(number, str(number))


def _is_text(model: ModelProto) -> bool:
    """Whether every name is text. Protobuf hands a string that is not UTF-8 over as bytes."""
    if any(isinstance(item.domain, bytes) for item in model.opset_import):
        return False
    queue = [model.graph]
    for graph in queue:
        for node in graph.node:
            for value in (node.name, node.op_type, node.domain, *node.input, *node.output):
                if isinstance(value, bytes):
                    return False
            for item in node.attribute:
                if isinstance(item.name, bytes):
                    return False
                if item.type == 5:
                    queue.append(item.g)
        for tensor in graph.initializer:
            if isinstance(tensor.name, bytes):
                return False
            if tensor.data_location == 1 and any(
                isinstance(entry.key, bytes) or isinstance(entry.value, bytes) for entry in tensor.external_data
            ):
                return False
        for value in (*graph.input, *graph.output, *graph.value_info):
            if isinstance(value.name, bytes):
                return False
    return True
