"""The one reader of ONNX files: bounded, weights outside the file only where they are asked for, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pth2om.errors import GraphError
from pth2om.files import is_file
from pth2om.onnxfile.walking import all_graphs

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

PROTOBUF_LIMIT = 2**31 - 1
"""Largest ONNX file ATC (and protobuf) reads, in bytes."""


_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}
"""``TensorProto.DataType`` to bytes an element; not for text and types that pack several elements into a byte."""

Place = Literal["inside", "bare", "outside", "missing"]
"""Where external data lies: in the model's folder, nowhere that is written, outside the folder, or not there."""


class NotOnnxError(Exception):
    """The bytes are no ONNX model; the reason as text."""


def parse(data: bytes) -> ModelProto:
    """A model from its bytes; external data stays where it is.

    Raises:
        NotOnnxError: they are no protobuf of a model, or hold text that is not UTF-8 (which ATC's proto3 refuses too).
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf has no types

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
            raise GraphError("onnxfile.too-large", where=str(path), size=size, limit=PROTOBUF_LIMIT)
        return parse(path.read_bytes())
    except OSError as error:
        raise GraphError("onnxfile.unreadable", where=str(path), reason=error.strerror or str(error)) from None
    except NotOnnxError as error:
        raise GraphError("onnxfile.not-onnx", where=str(path), reason=str(error)) from None


def read_whole(path: Path) -> ModelProto:
    """A model with its external data in it.

    Raises:
        GraphError: as `read`; or external data is missing, too short, or lies outside the model's folder.
    """
    model = read(path)
    outside = ExternalData(path.parent, str(path))
    for tensor in all_tensors(model):
        data = outside.bytes(tensor)
        if data is not None:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = bytes(data)
    return model


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Initializers and tensors in attributes, of every graph: whatever may have external data."""
    for graph in all_graphs(model):
        yield from graph.initializer
        for node in graph.node:
            for item in node.attribute:
                if item.type == 4:
                    yield item.t


class ExternalData:
    """The files beside a model that hold its weights, mapped and not read.

    Args:
        folder: of the model; None for a model that came from no file.
        where: the model's name, for errors.

    Attributes:
        files: those that were opened, by location.
    """

    def __init__(self, folder: Path | None, where: str) -> None:
        self.folder = folder
        self.where = where
        self.files: dict[str, Any] = {}

    def bytes(self, tensor: TensorProto) -> memoryview | None:
        """The data of an external tensor; None for one inside the model.

        Raises:
            GraphError: it is missing, too short, or lies outside the model's folder.
        """
        location = external_location(tensor)
        if location is None:
            return None
        place = "outside" if self.folder is None else external_place(self.folder, location)
        if place != "inside" or self.folder is None:
            key = "onnxfile.external-missing" if place == "missing" else "onnxfile.external-outside"
            raise GraphError(key, where=self.where, name=tensor.name, location=location)
        if location not in self.files:
            file = self.folder / location
            size = file.stat().st_size
            self.files[location] = np.memmap(file, np.uint8, "r") if size else np.zeros(0, np.uint8)
        data = self.files[location]
        entries = {entry.key: entry.value for entry in tensor.external_data}
        short = GraphError("onnxfile.external-short", where=self.where, name=tensor.name, location=location)
        wanted = tensor_bytes(tensor)
        try:
            offset = int(entries.get("offset") or 0)
            length = int(entries.get("length") or (len(data) - offset if wanted is None else wanted))
        except ValueError:
            raise short from None
        inside = 0 <= offset <= offset + length <= len(data)
        if length < 0 or not inside or (wanted is not None and length != wanted):
            raise short
        return memoryview(data[offset : offset + length])


def external_place(folder: Path, location: str) -> Place:
    """Where external data lies, seen from its model's folder; links are followed, and may not leave it either."""
    if not location:
        return "bare"
    if leaves_folder(location):
        return "outside"
    try:
        if not is_file(folder / location):
            return "missing"
        return "inside" if (folder / location).resolve().is_relative_to(folder.resolve()) else "outside"
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, or links in a circle
        return "missing"


def tensor_bytes(tensor: TensorProto) -> int | None:
    """Bytes of the tensor's data; None for packed, text and impossible ones."""
    if tensor.data_type not in _ITEM_BYTES:
        return None
    size = _ITEM_BYTES[tensor.data_type]
    for dim in tensor.dims:
        if dim < 0:
            return None
        size *= int(dim)
    return int(size)


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
