"""An ONNX file opened for editing: a small graph with its weights kept separately, written back together.

Large initializers of the root graph are taken out of the protobuf and kept as bytes under a token, so that a graph is
copied, checked, inferred and rolled back in milliseconds whatever its weights take; ONNX Runtime gets references.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pth2om.errors import GraphError
from pth2om.onnxfile.reading import ExternalData, all_tensors, read, tensor_bytes
from pth2om.onnxfile.writing import Bytes, is_external, write_model
from pth2om.session import Array

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

_DETACHED_BYTES = 16 * 1024
_TOKEN = "pth2om-weight-"  # noqa: S105 - a marker, no secret


class Document:
    """A model whose large weights are held apart.

    Attributes:
        model: the graph; detached initializers have ``data_location`` EXTERNAL and a token as location.
        path: the file it came from; None for a model made in memory.
        weights: token to bytes; shared by all clones and never changed once written.
        weights_outside: whether the file it came from has external data.
    """

    def __init__(
        self, model: ModelProto, path: Path | None, weights: dict[str, Bytes], *, weights_outside: bool = False
    ) -> None:
        self.model = model
        self.path = path
        self.weights = weights
        self.weights_outside = weights_outside

    @classmethod
    def open(cls, path: Path) -> Document:
        """Read a file and its external data.

        Raises:
            GraphError: it cannot be read, is no ONNX, has no graph, or its external data is missing, too short, or
                lies outside the model's folder.
        """
        model = read(path)
        if not model.HasField("graph"):
            raise GraphError("graph.no-graph", where=str(path))
        document = cls(model, path, {})
        document._gather(path.parent)
        return document

    @classmethod
    def of(cls, model: ModelProto) -> Document:
        """A model from memory; it is copied."""
        copied = type(model)()
        copied.CopyFrom(model)
        document = cls(copied, None, {})
        document._gather(None)
        return document

    def clone(self) -> Document:
        """A copy that can be changed; the weights are shared."""
        copied = type(self.model)()
        copied.CopyFrom(self.model)
        return Document(copied, self.path, self.weights, weights_outside=self.weights_outside)

    @property
    def graph(self) -> GraphProto:
        """The root graph."""
        return self.model.graph

    # --- values -------------------------------------------------------------------------------------------------

    def array(self, tensor: TensorProto) -> Array:
        """The values of a tensor of this model; read-only where it is detached.

        Raises:
            ValueError: the tensor is damaged.
        """
        from onnx import helper, numpy_helper

        data = self.weights.get(_token(tensor))
        if data is None:
            return np.asarray(numpy_helper.to_array(tensor))
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        return np.frombuffer(data, kind).reshape(tuple(tensor.dims))

    def tensor(self, name: str, array: Array, data_type: int | None = None) -> TensorProto:
        """A tensor of this model with those values, detached when it is large.

        Args:
            name: of the tensor.
            array: its values.
            data_type: the ONNX type, where it is not the array's own (bfloat16).
        """
        from onnx import numpy_helper

        made = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        if data_type is not None:
            made.data_type = data_type
        self._detach(made)
        return made

    def add_initializer(self, name: str, array: Array, data_type: int | None = None) -> str:
        """Put a constant into the root graph, from where all subgraphs see it too; its name."""
        self.raise_ir(4)
        self.graph.initializer.append(self.tensor(name, array, data_type))
        return name

    def raise_ir(self, version: int) -> None:
        """Raise the IR version to at least that.

        Below 4 every initializer had to be an input as well; from 4 on that means it may be fed another value, so it
        is taken from the inputs.
        """
        if self.model.ir_version < 4 <= version:
            constant = {tensor.name for tensor in self.graph.initializer}
            for place in reversed(range(len(self.graph.input))):
                if self.graph.input[place].name in constant:
                    del self.graph.input[place]
        self.model.ir_version = max(self.model.ir_version, version)

    def held(self, tensor: TensorProto) -> bool:
        """Whether the tensor's data is held apart."""
        return _token(tensor) in self.weights

    def feed_weights(self) -> dict[str, Array]:
        """The detached initializers by name, as arrays that share the memory."""
        return {tensor.name: self.array(tensor) for tensor in self.graph.initializer if self.held(tensor)}

    def light(self) -> ModelProto:
        """A copy whose detached initializers are inputs: what the checker and the inference can read."""
        light = type(self.model)()
        light.CopyFrom(self.model)
        graph = light.graph
        declared = {value.name for value in graph.input}
        kept = [tensor for tensor in graph.initializer if not self.held(tensor)]
        held = [tensor for tensor in graph.initializer if self.held(tensor)]
        for tensor in held:
            if tensor.name in declared:
                continue
            value = graph.input.add()
            value.name = tensor.name
            value.type.tensor_type.elem_type = tensor.data_type
            value.type.tensor_type.shape.SetInParent()
            for size in tensor.dims:
                value.type.tensor_type.shape.dim.add().dim_value = size
        if held:
            copies = [_copy(tensor) for tensor in kept]
            del graph.initializer[:]
            graph.initializer.extend(copies)
        return light

    # --- writing ------------------------------------------------------------------------------------------------

    def bytes_needed(self) -> int:
        """Bytes of the graph and all its weights."""
        used = {_token(tensor) for tensor in self.graph.initializer}
        return int(self.model.ByteSize()) + sum(len(data) for token, data in self.weights.items() if token in used)

    def save(self, path: Path) -> None:
        """Write one file, or with more than 1.9 GB of weights also ``<name>.data`` beside it.

        Both are written under temporary names and renamed, the weights first.

        Raises:
            GraphError: nothing can be written there, or a file the model is read from would be overwritten.
        """
        data_path = path.with_name(path.name + ".data")
        external = is_external(self.model, self._held_data)
        if self.path is not None and (_same(path, self.path) or (external and _same(data_path, self.path))):
            raise GraphError("graph.in-place", where=str(path))
        try:
            write_model(self.model, path, held=self._held_data)
        except OSError as error:
            raise GraphError("graph.unwritable", where=str(path), reason=error.strerror or str(error)) from None

    def _held_data(self, tensor: TensorProto) -> Bytes | None:
        return self.weights.get(_token(tensor))

    # --- reading ------------------------------------------------------------------------------------------------

    def _gather(self, folder: Path | None) -> None:
        """Read external data (of subgraphs and Constant nodes too: those go inline) and detach what is large."""
        outside = ExternalData(folder, str(self.path or ""))
        for tensor in self.graph.initializer:
            data = outside.bytes(tensor)
            if data is None:
                self._detach(tensor)
            else:
                _inline(tensor, data, self)
        for tensor in all_tensors(self.model):
            data = None if self.held(tensor) else outside.bytes(tensor)
            if data is not None:
                _inline(tensor, data, None)
        self.weights_outside = bool(outside.files)

    def _detach(self, tensor: TensorProto) -> None:
        wanted = tensor_bytes(tensor)
        if wanted is None or wanted < _DETACHED_BYTES or tensor.data_location == 1:
            return
        if not tensor.HasField("raw_data"):
            from onnx import numpy_helper

            try:
                dense = numpy_helper.from_array(np.asarray(numpy_helper.to_array(tensor)), tensor.name)
            except (ValueError, TypeError, RuntimeError):
                return  # a damaged tensor: pre-flight and ONNX Runtime name it
            if dense.data_type != tensor.data_type:
                return
            tensor.CopyFrom(dense)
        if len(tensor.raw_data) == wanted:
            self.hold(tensor, tensor.raw_data)

    def hold(self, tensor: TensorProto, data: Bytes) -> None:
        """Keep a tensor's little-endian bytes apart."""
        token = f"{_TOKEN}{len(self.weights)}"
        self.weights[token] = data
        name, kind, dims = tensor.name, tensor.data_type, list(tensor.dims)
        tensor.Clear()
        tensor.name, tensor.data_type = name, kind
        tensor.data_location = type(tensor).EXTERNAL
        tensor.dims.extend(dims)
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", token


def _inline(tensor: TensorProto, data: memoryview, holder: Document | None) -> None:
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    if holder is not None and tensor_bytes(tensor) is not None and len(data) >= _DETACHED_BYTES:
        holder.hold(tensor, data)
    else:
        tensor.raw_data = bytes(data)


def _token(tensor: TensorProto) -> str:
    """The token of a detached tensor, or an empty string."""
    if tensor.data_location != 1 or len(tensor.external_data) != 1:
        return ""
    value = tensor.external_data[0].value
    return value if value.startswith(_TOKEN) else ""


def _copy(tensor: TensorProto) -> TensorProto:
    copied = type(tensor)()
    copied.CopyFrom(tensor)
    return copied


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one.absolute() == other.absolute()
