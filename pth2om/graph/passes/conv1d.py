"""Turns sequences of 1-D convolutions into 2-D ones: ATC itself would wrap each one into Unsqueeze and Squeeze."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pth2om.graph.building import Builder
from pth2om.graph.contract import ROUNDING, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.graph.surgery import Names, Scope, drop_unused, scopes, set_attribute, types
from pth2om.onnxfile.walking import (
    STANDARD,
    Types,
    all_graphs,
    input_of,
    integers,
    node_label,
    readers,
    set_nodes,
    text,
)

if TYPE_CHECKING:
    from onnx import NodeProto

NAME = "conv1d"
BOUND = ROUNDING
STRUCTURAL = False

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_POOLS = frozenset({"AveragePool", "MaxPool"})
_KEEPING = frozenset(
    [
        "Abs",
        "BatchNormalization",
        "Cast",
        "Clip",
        "Elu",
        "Erf",
        "Exp",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "InstanceNormalization",
        "LeakyRelu",
        "Log",
        "Neg",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Sqrt",
        "Tanh",
    ]
)
"""Operators that compute the same on ``(N, C, 1, L)`` as on ``(N, C, L)``; counts for their first input."""
_PAIRED = frozenset({"Add", "Div", "Mul", "Sub"})
_PADS = {"pads": 0, "strides": 1, "dilations": 1, "kernel_shape": 1, "output_padding": 0}
"""Attributes with one entry per axis, and the entry for the new axis."""


@dataclass
class _Stretch:
    """Nodes of one graph to be turned into 2-D nodes, and their output tensors."""

    nodes: list[int] = field(default_factory=list)
    made: set[str] = field(default_factory=set)


def apply(document: Document, _settings: PassSettings) -> Applied:
    """Put a size of one before the length, ``(N, C, L)`` to ``(N, C, 1, L)``, around 1-D convolutions.

    Pooling, normalization and element-wise operators after a convolution are changed too, so that a sequence has one
    Unsqueeze and one Squeeze.
    """
    if not any(node.op_type in _CONVOLUTIONS for graph in all_graphs(document.model) for node in graph.node):
        return Applied()
    known, names = types(document), Names(document.model)
    changed: list[str] = []
    for scope in scopes(document):
        stretch = _stretch(scope, known)
        if stretch.nodes:
            changed.extend(node_label(scope.graph.node[place]) for place in stretch.nodes)
            _lift(document, scope, stretch, names)
    if changed:
        drop_unused(document)
    return Applied(len(changed), changed)


def _rank(known: Types, name: str) -> int:
    sizes = known.get(name, (0, None))[1]
    return -1 if sizes is None else len(sizes)


def _stretch(scope: Scope, known: Types) -> _Stretch:
    stretch = _Stretch()
    convolutions = 0
    for place, node in enumerate(scope.graph.node):
        if (
            node.domain not in STANDARD
            or not node.output
            or (_rank(known, input_of(node, 0)) != 3 and node.op_type not in _PAIRED)
        ):
            continue
        kind = node.op_type
        follows = any(name in stretch.made for name in node.input)
        if kind in _CONVOLUTIONS:
            lifted = _weight_is_constant(scope, node)
            convolutions += lifted
        elif kind in _POOLS:
            lifted = follows and len(node.output) == 1 and len(integers(node, "kernel_shape") or ()) == 1
        elif kind in _KEEPING:
            lifted = follows and node.input[0] in stretch.made and len(node.output) == 1
        else:
            lifted = kind in _PAIRED and follows and _pairs(scope, node, known)
        if lifted:
            stretch.nodes.append(place)
            stretch.made.add(node.output[0])
    return stretch if convolutions else _Stretch()


def _weight_is_constant(scope: Scope, node: NodeProto) -> bool:
    weight = scope.constant(input_of(node, 1))
    return weight is not None and len(weight.dims) == 3 and text(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")


def _pairs(scope: Scope, node: NodeProto, known: Types) -> bool:
    """Both sides of rank 3, or one of them a constant of one element."""
    for name in node.input:
        constant = scope.constant(name)
        if constant is not None and all(size == 1 for size in constant.dims):
            continue
        if _rank(known, name) != 3:
            return False
    return True


def _lift(document: Document, scope: Scope, stretch: _Stretch, names: Names) -> None:
    graph = scope.graph
    lifted = set(stretch.nodes)
    wide: dict[str, str] = {}
    weights: dict[str, str] = {}
    made: list[NodeProto] = []
    for place, node in enumerate(graph.node):
        if place not in lifted:
            made.append(node)
            continue
        build = Builder(document, names, node)
        moved = type(node)()
        moved.CopyFrom(node)
        for index in range(len(node.input) if node.op_type in _PAIRED else 1):
            name = node.input[index]
            constant = scope.constant(name)
            if constant is not None and all(size == 1 for size in constant.dims):
                continue
            if name not in wide:
                wide[name] = build.unsqueeze(name, [2], names.fresh(f"{name}_2d"))
            moved.input[index] = wide[name]
        made.extend(build.nodes)
        if node.op_type in _CONVOLUTIONS:
            moved.input[1] = _wide_weight(document, scope, node.input[1], weights, names)
        for name, value in _PADS.items():
            listed = integers(node, name)
            if listed is not None:
                half = len(listed) // 2
                set_attribute(
                    moved, name, [value, *listed[:half], value, *listed[half:]] if name == "pads" else [value, *listed]
                )
        output = node.output[0]
        wide[output] = names.fresh(f"{output}_2d")
        moved.output[0] = wide[output]
        made.append(moved)
    _narrow(document, scope, stretch, wide, made, names)


def _wide_weight(document: Document, scope: Scope, name: str, weights: dict[str, str], names: Names) -> str:
    if name not in weights:
        tensor = scope.constant(name)
        assert tensor is not None
        array = document.array(tensor)
        weights[name] = document.add_initializer(
            names.fresh(f"{name}_2d"), array.reshape(array.shape[0], array.shape[1], 1, array.shape[2])
        )
    return weights[name]


def _narrow(
    document: Document, scope: Scope, stretch: _Stretch, wide: dict[str, str], made: list[NodeProto], names: Names
) -> None:
    """Squeeze the tensors that are read outside the sequence."""
    graph = scope.graph
    inside = {graph.node[place].output[0] for place in stretch.nodes}
    read_by = readers(graph)
    outputs = {value.name for value in graph.output}
    insiders = [graph.node[place] for place in stretch.nodes]
    result: list[NodeProto] = []
    by_wide = {wide[name]: name for name in inside}
    for node in made:
        result.append(node)
        name = by_wide.get(node.output[0]) if node.output else None
        if name is None:
            continue
        outside = [reader for reader in read_by.get(name, ()) if not any(reader is one for one in insiders)]
        if name in outputs or outside:
            build = Builder(document, names, node)
            build.squeeze(wide[name], [2], name)
            result.extend(build.nodes)
    set_nodes(graph, result)
