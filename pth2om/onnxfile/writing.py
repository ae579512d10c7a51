"""The one writer of ONNX files: whole or not at all; what protobuf cannot hold goes to a file beside the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pth2om.files import replacing, write_bytes

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

INLINE_LIMIT = 1_900_000_000
"""Above this many bytes weights go to a file of their own: protobuf ends at 2^31 - 1, names and shapes need room."""

_SMALL = 1024
"""Tensors of fewer bytes stay in the model."""
_ALIGNMENT = 4096

Bytes = bytes | memoryview
Held = Callable[["TensorProto"], "Bytes | None"]
"""The data of an initializer that is kept apart from its model; None for one that has its own."""


def write_model(model: ModelProto, path: Path, *, held: Held | None = None, data_name: str = "") -> None:
    """Write one file, or with more than `INLINE_LIMIT` bytes also a file of weights beside it.

    Both are written under temporary names and renamed, the weights first.

    Args:
        model: it is not changed.
        path: the file; its folder exists.
        held: gives the data of initializers that is kept apart.
        data_name: of the file of weights; default ``<name>.data``.

    Raises:
        OSError: nothing can be written there.
    """
    if not is_external(model, held):
        write_bytes(path, (model if held is None else _inlined(model, held)).SerializeToString())
        return
    copied = type(model)()
    copied.CopyFrom(model)
    place = path.with_name(data_name or path.name + ".data")
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(replacing(path))
        # Entered last, so that the weights are there before the model that names them.
        with stack.enter_context(replacing(place)).open("wb") as file:
            for tensor in copied.graph.initializer:
                data = held(tensor) if held is not None else None
                if data is None and tensor.HasField("raw_data") and len(tensor.raw_data) >= _SMALL:
                    data = tensor.raw_data
                if data is not None:
                    _put(tensor, data, file, place.name)
        scratch.write_bytes(copied.SerializeToString())


def is_external(model: ModelProto, held: Held | None = None) -> bool:
    """Whether `write_model` would write the weights to a file of their own."""
    size = int(model.ByteSize())
    if held is not None:
        size += sum(len(data) for tensor in model.graph.initializer if (data := held(tensor)) is not None)
    return size > INLINE_LIMIT


def _inlined(model: ModelProto, held: Held) -> ModelProto:
    copied = type(model)()
    copied.CopyFrom(model)
    for tensor in copied.graph.initializer:
        data = held(tensor)
        if data is not None:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = bytes(data)
    return copied


def _put(tensor: TensorProto, data: Bytes, file: BinaryIO, location: str) -> None:
    file.write(bytes(-file.tell() % _ALIGNMENT))
    offset = file.tell()
    file.write(data)
    tensor.ClearField("raw_data")
    refer(tensor, location, offset, len(data))


def refer(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Let a tensor name ``length`` bytes from ``offset`` of a file beside its model as its data."""
    tensor.data_location = type(tensor).EXTERNAL
    del tensor.external_data[:]
    # These three keys only: ATC's parser takes any other key's value for the length.
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
