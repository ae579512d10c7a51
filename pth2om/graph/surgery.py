"""Changing ONNX graphs: scopes, fresh names, attributes, rewriting node by node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from pth2om.onnxfile.walking import (
    STANDARD,
    Types,
    all_graphs,
    attribute,
    reads,
    set_nodes,
    subgraphs,
)

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

    from pth2om.graph.document import Document
    from pth2om.session import Array


def set_opset(model: ModelProto, version: int) -> None:
    """Import that version of the standard domain, under its short name."""
    kept = [(item.domain, item.version) for item in model.opset_import if item.domain not in STANDARD]
    del model.opset_import[:]
    for domain, number in (("", version), *kept):
        entry = model.opset_import.add()
        entry.domain, entry.version = domain, number


def drop_attribute(node: NodeProto, name: str) -> None:
    """Remove an attribute, if it is there."""
    for place in reversed(range(len(node.attribute))):
        if node.attribute[place].name == name:
            del node.attribute[place]


def set_attribute(node: NodeProto, name: str, value: int | float | str | Sequence[int]) -> None:
    """Write an attribute, replacing one of that name."""
    from onnx import helper

    drop_attribute(node, name)
    node.attribute.append(helper.make_attribute(name, value))


def trim_inputs(node: NodeProto) -> None:
    """Drop empty names from the end of the inputs."""
    while node.input and not node.input[-1]:
        del node.input[-1]


def set_input(node: NodeProto, place: int, name: str) -> None:
    """Write an input, filling the places before it with empty names."""
    while len(node.input) <= place:
        node.input.append("")
    node.input[place] = name


class Names:
    """Fresh names for one model: never one that a tensor, node or input of any of its graphs has."""

    def __init__(self, model: ModelProto) -> None:
        self._taken: set[str] = set()
        for graph in all_graphs(model):
            self._taken.update(value.name for value in (*graph.input, *graph.output, *graph.value_info))
            self._taken.update(tensor.name for tensor in graph.initializer)
            for node in graph.node:
                self._taken.add(node.name)
                self._taken.update(node.input)
                self._taken.update(node.output)

    def fresh(self, base: str) -> str:
        """`base` itself where it is free, else with a number behind it."""
        name, number = base, 1
        while name in self._taken or not name:
            name, number = f"{base}_{number}", number + 1
        self._taken.add(name)
        return name


class Scope:
    """What a graph sees: its own constants and makers, then those of the graphs around it."""

    def __init__(self, document: Document, graph: GraphProto, parent: Scope | None = None) -> None:
        self.document = document
        self.graph = graph
        self.parent = parent
        self.inputs = {value.name for value in graph.input}
        self.constants: dict[str, TensorProto] = {}
        for tensor in graph.initializer:
            # An initializer that is an input as well may be fed another value.
            if tensor.name not in self.inputs or document.model.ir_version < 4:
                self.constants[tensor.name] = tensor
        self.makers: dict[str, NodeProto] = {}
        for node in graph.node:
            for name in node.output:
                self.makers[name] = node
            if node.op_type == "Constant" and node.domain in STANDARD and node.output:
                value = attribute(node, "value")
                if value is not None:
                    self.constants[node.output[0]] = value.t

    def constant(self, name: str) -> TensorProto | None:
        """The constant tensor of that name, as seen from this graph."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.constants:
                return scope.constants[name]
            if name in scope.makers or name in scope.inputs:
                return None
            scope = scope.parent
        return None

    def values(self, name: str) -> Array | None:
        """The values of a constant; None for anything else, or where they are damaged."""
        tensor = self.constant(name) if name else None
        if tensor is None:
            return None
        try:
            return self.document.array(tensor)
        except (ValueError, TypeError, RuntimeError):
            return None

    def integers(self, name: str) -> list[int] | None:
        """The values of an integer constant as a flat list."""
        array = self.values(name)
        if array is None or array.dtype.kind not in "iu":
            return None
        return [int(value) for value in array.ravel()]


def scopes(document: Document) -> list[Scope]:
    """A scope for every graph, parents before children."""
    found = [Scope(document, document.graph)]
    for scope in found:
        found.extend(Scope(document, inner, scope) for node in scope.graph.node for inner in subgraphs(node))
    return found


def rewrite(graph: GraphProto, change: Callable[[NodeProto], Iterable[NodeProto] | None]) -> int:
    """Replace nodes by what `change` returns for them (None: leave it); how many were replaced."""
    made: list[NodeProto] = []
    count = 0
    for node in graph.node:
        replacement = change(node)
        if replacement is None:
            made.append(node)
        else:
            made.extend(replacement)
            count += 1
    if count:
        set_nodes(graph, made)
    return count


def drop_unused(document: Document) -> int:
    """Remove initializers of the root graph that nothing reads any more; how many."""
    graph = document.graph
    used = {value.name for value in graph.output}
    for node in graph.node:
        used |= reads(node)
    # In IR versions below 4 initializers are inputs as well: dropping one would turn it into an input to be fed.
    declared = {value.name for value in graph.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used or tensor.name in declared]
    dropped = len(graph.initializer) - len(kept)
    if dropped:
        copies = [type(tensor).FromString(tensor.SerializeToString()) for tensor in kept]
        del graph.initializer[:]
        graph.initializer.extend(copies)
    return dropped


def types(document: Document) -> Types:
    """The type and sizes of every tensor, by ONNX shape inference; empty sizes where it does not know.

    A name that stands in two branches with different types has none here.
    """
    import onnx

    light = document.light()
    try:
        done = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError, TypeError):
        done = light
    found: Types = {}
    for graph in all_graphs(done):
        own: Types = {}
        for value in (*graph.value_info, *graph.output, *graph.input):
            if value.type.HasField("tensor_type"):
                tensor = value.type.tensor_type
                sizes = tuple(
                    int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value >= 0 else -1
                    for dim in tensor.shape.dim
                )
                own[value.name] = (int(tensor.elem_type), sizes if tensor.HasField("shape") else None)
        for initial in graph.initializer:
            own[initial.name] = (initial.data_type, tuple(int(size) for size in initial.dims))
        for node in graph.node:
            item = attribute(node, "value") if node.op_type == "Constant" else None
            if item is not None and node.output:
                own[node.output[0]] = (item.t.data_type, tuple(int(size) for size in item.t.dims))
        for name, kind in own.items():
            found[name] = kind if found.get(name, kind) == kind else (0, None)
    return found


def forget_shapes(document: Document) -> None:
    """Drop the declared shapes of inner tensors; whoever needs them infers them anew."""
    for graph in all_graphs(document.model):
        del graph.value_info[:]
