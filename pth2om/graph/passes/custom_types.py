"""Casts custom operators to the dtypes that their kernels take, and declares the shapes that they give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pth2om.ascend.custom_ops import find, output_shapes
from pth2om.graph.contract import EQUAL, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.graph.surgery import Names, forget_shapes, rewrite, types
from pth2om.onnxfile.types import ELEMENT_NAMES
from pth2om.onnxfile.walking import Types, all_graphs, node_label
from pth2om.spec.custom_ops import CustomOp

if TYPE_CHECKING:
    from onnx import FunctionProto, ModelProto, NodeProto

NAME = "custom-types"
BOUND = EQUAL
STRUCTURAL = True

_NUMBERS = {name: number for number, name in ELEMENT_NAMES.items()}


def apply(document: Document, _settings: PassSettings) -> Applied:
    """Put a Cast before each input and behind each output of another dtype than the kernel's.

    Where the model brings the operator as a function whose first and last nodes are these casts, they move out of it,
    so that ONNX Runtime computes bit by bit the same.
    """
    known = types(document)
    names = Names(document.model)
    changed: list[str] = []
    stripped: set[str] = set()

    def change(node: NodeProto) -> list[NodeProto] | None:
        operator = find(node.domain, node.op_type)
        if operator is None or len(node.input) != len(operator.inputs):
            return None
        made = list(_cast(node, operator, known, names))
        if len(made) == 1:
            return None
        function = _function(document.model, node)
        if function is not None and function.overload not in stripped:
            _strip(function, operator)
            stripped.add(function.overload)
        changed.append(node_label(node))
        return made

    for graph in all_graphs(document.model):
        rewrite(graph, change)
    wrong = list(_redeclare(document, known))
    if changed or wrong:
        forget_shapes(document)
    return Applied(len(changed) + len(wrong), [*changed, *wrong])


def _cast(node: NodeProto, operator: CustomOp, known: Types, names: Names) -> Iterator[NodeProto]:
    """The casts before a node, the node, and the casts behind it."""
    from onnx import helper

    for place, port in enumerate(operator.inputs):
        kind = ELEMENT_NAMES.get(known.get(node.input[place], (0, None))[0], "")
        if kind and kind not in port.dtypes:
            cast = names.fresh(f"{node.input[place]}_{port.dtypes[0]}")
            yield helper.make_node("Cast", [node.input[place]], [cast], name=cast, to=_NUMBERS[port.dtypes[0]])
            node.input[place] = cast
    yield node
    for place, entry in enumerate(operator.outputs[: len(node.output)]):
        name = node.output[place]
        declared = known.get(name, (0, None))[0]
        if declared and ELEMENT_NAMES.get(declared) != entry.dtype:
            node.output[place] = names.fresh(f"{name}_{entry.dtype}")
            yield helper.make_node("Cast", [node.output[place]], [name], name=names.fresh(f"{name}_cast"), to=declared)


def _function(model: ModelProto, node: NodeProto) -> FunctionProto | None:
    return next(
        (
            item
            for item in model.functions
            if (item.domain, item.name, item.overload) == (node.domain, node.op_type, node.overload)
        ),
        None,
    )


def _strip(function: FunctionProto, operator: CustomOp) -> None:
    """Take the casts at a function's ends away: what they did is done outside now."""
    ports = {name: _NUMBERS[port.dtypes[0]] for name, port in zip(function.input, operator.inputs, strict=False)}
    results = set(function.output)
    renamed: dict[str, str] = {}
    kept = []
    for node in function.node:
        to = next((item.i for item in node.attribute if item.name == "to"), 0)
        if node.op_type == "Cast" and node.input[0] in ports and node.output[0] == f"{node.input[0]}__cast":
            if to == ports[node.input[0]]:
                renamed[node.output[0]] = node.input[0]
                continue
        elif node.op_type == "Cast" and node.output[0] in results and node.input[0] == f"{node.output[0]}__computed":
            renamed[node.input[0]] = node.output[0]
            continue
        kept.append(node)
    for node in kept:
        for places in (node.input, node.output):
            for place, name in enumerate(places):
                places[place] = renamed.get(name, name)
    copies = [type(node).FromString(node.SerializeToString()) for node in kept]
    del function.node[:]
    function.node.extend(copies)


def _redeclare(document: Document, known: Types) -> Iterator[str]:
    """Graph outputs that a custom operator makes, and that are declared with another shape."""
    makers = {name: node for node in document.graph.node for name in node.output}
    for value in document.graph.output:
        node = makers.get(value.name)
        while node is not None and node.op_type in ("Cast", "Identity"):
            node = makers.get(node.input[0])
        operator = None if node is None else find(node.domain, node.op_type)
        if node is None or operator is None or len(node.input) != len(operator.inputs):
            continue
        made, _ = output_shapes(operator, [_sizes(document, name, known) for name in node.input])
        shape = made[0] if len(node.output) == 1 else None
        declared = known.get(value.name, (0, None))[1]
        if shape is None or -1 in shape or declared is None or declared == shape:
            continue
        value.type.tensor_type.shape.Clear()
        for size in shape:
            value.type.tensor_type.shape.dim.add().dim_value = size
        yield value.name


def _sizes(document: Document, name: str, known: Types) -> tuple[int, ...] | None:
    """The sizes of a tensor; those of what a new Cast reads."""
    makers = {one: node for node in document.graph.node for one in node.output}
    while name not in known and name in makers and makers[name].op_type == "Cast":
        name = makers[name].input[0]
    return known.get(name, (0, None))[1]
