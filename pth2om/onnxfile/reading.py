"""Reading an ONNX file for the front end and the pre-flight: bounded, without its weights' data, never a traceback."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from pth2om.errors import GraphError

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

PROTOBUF_LIMIT = 2**31 - 1
"""Largest ONNX file ATC (and protobuf) reads, in bytes."""


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
