"""An ONNX model with the indexes that quantization needs; reading, writing and running models."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper

from pth2om.errors import GraphError, QuantizeError, first_line, reason_of
from pth2om.files import is_file
from pth2om.host import return_memory
from pth2om.language import Message, say
from pth2om.onnxfile import functions, writing
from pth2om.onnxfile.reading import read_whole
from pth2om.onnxfile.runtime import RefusedError, open_runtime, run_runtime
from pth2om.onnxfile.walking import captured, order, subgraphs

Array = npt.NDArray[np.generic]
FloatArray = npt.NDArray[np.float32]

_FORMATS = (4, 10)


def read_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with its external data.

    Raises:
        QuantizeError: missing, not ONNX, or its external data is missing or lies outside the file's folder.
    """
    if not is_file(path):
        raise QuantizeError("quantize.no-model", where=str(path))
    try:
        model = read_whole(path)
    except GraphError as error:
        if error.message.key == "onnxfile.not-onnx":
            raise QuantizeError("quantize.not-onnx", where=str(path)) from None
        raise QuantizeError("quantize.unreadable-model", where=str(path), reason=error.message.render()) from None
    if not model.graph.node or not model.graph.output:
        raise QuantizeError("quantize.not-onnx", where=str(path))
    return model


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model beside its final name and rename it; above `INLINE_LIMIT` the tensors go to ``<name>.external``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writing.write_model(model, path, data_name=f"{path.stem}.external")


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the default operator set (0 when the model imports none)."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values; strings decoded. An empty list means the default, so it is left out."""
    values = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value):
            values[attribute.name] = value
    return values


def kind_of(node: onnx.NodeProto) -> str:
    """The operator; one of a foreign domain has that before its name, so that a custom ``Conv`` is no Conv."""
    return str(node.op_type) if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def domains_of(graph: onnx.GraphProto) -> set[str]:
    """The domains of all operators, those in bodies of If, Loop and Scan included."""
    found = {str(node.domain) for node in graph.node}
    for node in graph.node:
        for body in subgraphs(node):
            found |= domains_of(body)
    return found


def _names_in(graph: onnx.GraphProto) -> set[str]:
    """Every tensor name that a body makes or reads."""
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    names |= {tensor.name for tensor in graph.initializer} | {value.name for value in (*graph.input, *graph.output)}
    for node in graph.node:
        for body in subgraphs(node):
            names |= _names_in(body)
    return names


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its local functions written out: what is inside them can be quantized too, and ATC takes none."""
    if not model.functions:
        return model
    try:
        return functions.inlined(model)
    except Exception:  # noqa: BLE001 - the inliner raises bare RuntimeError; a function that stays is a custom operator
        return model


def _unique(name: str, taken: set[str]) -> str:
    """``name``, with a number appended when it is taken; taken from then on."""
    unique, count = name, 1
    while unique in taken:
        unique, count = f"{name}_{count}", count + 1
    taken.add(unique)
    return unique


class Network:
    """A model being rewritten: nodes as a list, constants as a dict, everything findable by tensor name.

    Args:
        model: copied unless ``own``; Constant nodes of the main graph become initializers and every node gets a
            unique name (``node_<i>`` for a nameless one, as AMCT calls it).
        own: the caller gives the model away, so that large weights are not held twice.
    """

    def __init__(self, model: onnx.ModelProto, *, own: bool = False) -> None:
        self.model = model if own else onnx.ModelProto()
        if not own:
            self.model.CopyFrom(model)
        _normalize(self.model)
        graph = self.model.graph
        self.constants: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self._replaced: dict[str, onnx.TensorProto] = {}
        for node in graph.node:
            constant = _constant_of(node)
            if constant is None:
                self.nodes.append(node)
            else:
                constant.name = node.output[0]
                self.constants[constant.name] = constant
        self._name_nodes()
        self._drop_constant_inputs()
        self.index()

    def _name_nodes(self) -> None:
        seen: set[str] = set()
        for position, node in enumerate(self.nodes):
            node.name = _unique(node.name or f"node_{position}", seen)

    def node_name(self, name: str) -> str:
        """``name`` for a new node, with a number appended when a node has it."""
        return _unique(name, self._node_names)

    def _drop_constant_inputs(self) -> None:
        """Old files list initializers among the inputs too; a constant is no input."""
        kept = [value for value in self.model.graph.input if value.name not in self.constants]
        if len(kept) != len(self.model.graph.input):
            del self.model.graph.input[:]
            self.model.graph.input.extend(kept)

    def index(self) -> None:
        """Rebuild the look-ups after nodes changed."""
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self._node_names = {node.name for node in self.nodes}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        self.captured: set[str] = set()
        inner: set[str] = set()
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                if name:
                    self.consumers.setdefault(name, []).append(node)
            self.captured |= captured(node)
            for body in subgraphs(node):
                inner |= _names_in(body)
        self.outputs = {value.name for value in self.model.graph.output}
        # A body may not give a name of its own to what an outer graph holds, so its names are taken too.
        self._taken = set(self.constants) | set(self.producer) | inner
        self._taken |= {value.name for value in self.model.graph.input}
        self._taken |= {tensor.values.name for tensor in self.model.graph.sparse_initializer}

    def only_consumer(self, name: str) -> onnx.NodeProto | None:
        """The node that alone reads ``name``, or None: several readers, a graph output, or a subgraph reads it."""
        readers = self.consumers.get(name, [])
        if len(readers) != 1 or name in self.outputs or name in self.captured:
            return None
        return readers[0]

    def array(self, name: str) -> Array | None:
        """A constant's value, or None when ``name`` is computed."""
        tensor = self.constants.get(name)
        return None if tensor is None else onnx.numpy_helper.to_array(tensor)

    def add_constant(self, name: str, value: Array) -> str:
        """Add a constant under a free name made from ``name``; returns that name."""
        name = self.fresh(name)
        self.constants[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        self._taken.add(name)
        return name

    def fresh(self, name: str) -> str:
        """``name``, with a number appended when it is taken."""
        return _unique(name, self._taken)

    def finish(self) -> onnx.ModelProto:
        """The rewritten model, a copy: nodes in topological order, constants that nobody reads left out."""
        graph = self.model.graph
        ordered = self.finish_order()
        read = {name for node in ordered for name in node.input} | self.outputs
        for node in ordered:
            read |= captured(node)
        tensors = [tensor for name, tensor in self.constants.items() if name in read]
        result = onnx.ModelProto()
        for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
            setattr(result, name, getattr(self.model, name))
        result.opset_import.extend(self.model.opset_import)
        result.metadata_props.extend(self.model.metadata_props)
        result.functions.extend(self.model.functions)
        result.graph.name = graph.name or "graph"
        result.graph.node.extend(ordered)
        result.graph.initializer.extend(tensors)
        result.graph.sparse_initializer.extend(graph.sparse_initializer)
        result.graph.input.extend(graph.input)
        result.graph.output.extend(graph.output)
        made = {name for node in ordered for name in node.output}
        result.graph.value_info.extend(value for value in graph.value_info if value.name in made)
        return result

    def finish_order(self) -> list[onnx.NodeProto]:
        """The nodes in topological order, the file's own where it is one.

        Raises:
            QuantizeError: there is none.
        """
        ready = set(self.constants) | {value.name for value in self.model.graph.input} | {""}
        ready |= {tensor.values.name for tensor in self.model.graph.sparse_initializer}
        places = order(self.nodes, ready)
        if places is None:
            raise QuantizeError("quantize.cyclic")
        return [self.nodes[place] for place in places]


def as_runtime_takes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, or a copy without what `Network` mends: a format too new for the runtime, names that nodes share."""
    names = [node.name for node in model.graph.node if node.name]
    if model.ir_version <= _FORMATS[1] and len(set(names)) == len(names):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = min(model.ir_version, _FORMATS[1])
    for node in copy.graph.node:
        node.name = ""
    return copy


def _normalize(model: onnx.ModelProto) -> None:
    """One spelling of the default domain, and a version of the format that fits.

    From 4 on a constant need not be an input too; beyond 10 there is nothing that opset 22 needs.
    """
    model.ir_version = min(max(model.ir_version, _FORMATS[0]), _FORMATS[1])
    for node in model.graph.node:
        if node.domain == "ai.onnx":
            node.domain = ""
    version = opset_of(model)
    others = [entry for entry in model.opset_import if entry.domain not in ("", "ai.onnx")]
    own = [onnx.helper.make_opsetid("", version)] if version else []
    del model.opset_import[:]
    model.opset_import.extend([*own, *others])


def _constant_of(node: onnx.NodeProto) -> onnx.TensorProto | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(attribute.t)
            return tensor
        if attribute.name in ("value_float", "value_floats"):
            value = onnx.helper.get_attribute_value(attribute)
            return onnx.numpy_helper.from_array(np.asarray(value, np.float32))
        if attribute.name in ("value_int", "value_ints"):
            value = onnx.helper.get_attribute_value(attribute)
            return onnx.numpy_helper.from_array(np.asarray(value, np.int64))
    return None


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Known element types of all tensors, as `onnx.TensorProto` numbers."""
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    return {value.name: value.type.tensor_type.elem_type for value in values if value.type.HasField("tensor_type")}


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Known shapes of all tensors, None for a symbolic axis (some exporters write -1 or 0 for it)."""
    found: dict[str, tuple[int | None, ...]] = {}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.HasField("shape"):
            found[value.name] = tuple(
                axis.dim_value if axis.dim_value > 0 else None for axis in value.type.tensor_type.shape.dim
            )
    return found


def fitting(model: onnx.ModelProto, feeds: Iterable[Mapping[str, Array]]) -> Iterator[Mapping[str, Array]]:
    """``feeds``, each held against the model's inputs before it is handed on.

    Raises:
        QuantizeError: an input is missing, no array, or of another dtype or shape.
    """
    wanted = {value.name: value.type.tensor_type for value in model.graph.input}
    shapes = shapes_of(model)
    for number, batch in enumerate(feeds):
        for name, kind in wanted.items():
            value = batch.get(name) if isinstance(batch, Mapping) else None
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else None
            axes = shapes.get(name)
            if isinstance(value, np.ndarray) and dtype == value.dtype and _matches(value.shape, axes):
                continue
            if value is None:
                raise _unfit(say("quantize.feed-missing", number=number, name=name))
            given = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            takes = "?" if axes is None else "(" + ", ".join("?" if axis is None else str(axis) for axis in axes) + ")"
            raise _unfit(say("quantize.feed", number=number, name=name, given=given, wanted=f"{dtype} {takes}"))
        yield batch


def _unfit(reason: Message) -> QuantizeError:
    return QuantizeError("quantize.does-not-fit", reason=str(reason))


def _matches(shape: tuple[int, ...], wanted: tuple[int | None, ...] | None) -> bool:
    if wanted is None:
        return True
    return len(shape) == len(wanted) and all(axis in (None, size) for size, axis in zip(shape, wanted, strict=True))


# ---------------------------------------------------------------------------------------------------------- sessions


def open_session(model: onnx.ModelProto, *, outputs: Sequence[str] | None = None, exact: bool = False) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """An ONNX Runtime session on the CPU.

    Args:
        model: what to run.
        outputs: tensors to hand back instead of the model's outputs.
        exact: run node by node as written (no fusion), which bit-for-bit comparison needs.

    Raises:
        QuantizeError: ONNX Runtime does not take the model.
    """
    if outputs is not None:
        with _handing_back(model, outputs):
            return open_session(model, exact=exact)
    try:
        # Through a file: a session opened from bytes keeps them, which are all weights once more.
        with tempfile.TemporaryDirectory(prefix="pth2om-") as folder:
            path = Path(folder) / "model.onnx"
            write_model(model, path)
            session = open_runtime(path, optimize=not exact, lean=True)
    except OSError as error:
        raise QuantizeError("quantize.not-writable", where=tempfile.gettempdir(), reason=reason_of(error)) from None
    except (RefusedError, ValueError) as error:
        raise QuantizeError("quantize.not-runnable", reason=first_line(error)) from None
    # What building it took, some two times the weights.
    return_memory()
    return session


def run_session(
    session: Any,  # noqa: ANN401 - onnxruntime has no types
    feeds: Mapping[str, Array],
    outputs: Sequence[str] | None = None,
) -> dict[str, Array]:
    """One inference, outputs by name.

    Raises:
        QuantizeError: the feeds do not fit the model.
    """
    try:
        return run_runtime(session, {name: np.ascontiguousarray(value) for name, value in feeds.items()}, outputs)
    except RefusedError as error:
        raise QuantizeError("quantize.does-not-fit", reason=str(error)) from None


def constant_values(network: Network, names: Sequence[str]) -> dict[str, Array] | None:
    """The values of tensors that constants alone make; None where something else is read, or the runtime refuses."""
    nodes: dict[int, onnx.NodeProto] = {}
    constants: dict[str, onnx.TensorProto] = {}
    needed = list(names)
    while needed:
        name = needed.pop()
        maker = network.producer.get(name)
        if maker is None and name not in network.constants:
            return None
        if maker is None:
            constants[name] = network.constants[name]
        elif id(maker) not in nodes:
            nodes[id(maker)] = maker
            needed += [entry for entry in maker.input if entry]
    graph = onnx.GraphProto(name="constants")
    ready = {*constants, ""}
    pending = list(nodes.values())
    while pending:
        now = [node for node in pending if set(node.input) <= ready]
        if not now:
            raise QuantizeError("quantize.cyclic")
        graph.node.extend(now)
        ready |= {output for node in now for output in node.output}
        taken = {id(node) for node in now}
        pending = [node for node in pending if id(node) not in taken]
    graph.initializer.extend(constants.values())
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    model = onnx.ModelProto(ir_version=network.model.ir_version, graph=graph)
    model.opset_import.extend(network.model.opset_import)
    try:
        return run_session(open_session(model, exact=True), {}, names)
    except QuantizeError:
        return None


@contextlib.contextmanager
def _handing_back(model: onnx.ModelProto, names: Sequence[str]) -> Iterator[None]:
    """The model with other outputs while the block runs (types are left to the runtime); weights are not copied."""
    kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        yield
    finally:
        del model.graph.output[:]
        model.graph.output.extend(kept)
