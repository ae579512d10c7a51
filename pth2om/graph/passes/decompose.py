"""Replaces operators without a parser in ATC by basic ones that have one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pth2om.ascend import parser_table
from pth2om.graph.building import Builder
from pth2om.graph.contract import ROUNDING, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.graph.einsum import decompose_einsum
from pth2om.graph.surgery import Names, Scope, drop_unused, scopes, types
from pth2om.language import Message, say
from pth2om.onnxfile.walking import (
    STANDARD,
    Types,
    all_graphs,
    attribute,
    input_of,
    integer,
    integers,
    node_label,
    opset,
    real,
    set_nodes,
    text,
)

if TYPE_CHECKING:
    from onnx import NodeProto

NAME = "decompose"
BOUND = ROUNDING
STRUCTURAL = False

_ON_REQUEST = frozenset({"Einsum", "LayerNormalization"})
"""Registered, but better avoided: replaced if the pass is named explicitly or a finding names the operator."""

_NEWEST = 18
"""The last opset at which standard operators are registered."""


@dataclass(frozen=True)
class _Place:
    """A node to be replaced, and the known types and shapes around it."""

    document: Document
    scope: Scope
    node: NodeProto
    known: Types
    names: Names

    def builder(self) -> Builder | None:
        """A builder for constants of the node's type; None if it is not certain that this is floating point."""
        kind = self.kind()
        return Builder(self.document, self.names, self.node, kind) if kind in (1, 10, 11, 16) else None

    def kind(self) -> int:
        return self.known.get(input_of(self.node, 0), (0, None))[0]

    def sizes(self, name: str) -> tuple[int, ...] | None:
        return self.known.get(name, (0, None))[1]


def apply(document: Document, settings: PassSettings) -> Applied:
    """Decompose operators not registered at the model's opset (if that is above 18: at the opset to convert to)."""
    version = opset(document.model)
    judged = settings.opset if version > _NEWEST else version
    wanted = set(settings.decompose)
    if NAME in settings.asked:
        wanted |= _ON_REQUEST
    present = {node.op_type for graph in all_graphs(document.model) for node in graph.node if node.domain in STANDARD}
    for op_type in present & set(_FORMS):
        if op_type not in _ON_REQUEST and not parser_table.registered("ai.onnx", judged, op_type, settings.cann):
            wanted.add(op_type)
    if "LayerNormalization" in present and not parser_table.registered(
        "ai.onnx", judged, "LayerNormalization", settings.cann
    ):
        wanted.add("LayerNormalization")
    changed, left = replace(document, wanted & present)
    changed += _inline_schema_functions(document, judged, settings)
    messages: list[Message] = []
    if left:
        messages = [say("graph.decompose-left", nodes=", ".join(left[:3]), count=len(left))]
    return Applied(len(changed), changed, left=messages)


def replace(document: Document, wanted: Iterable[str]) -> tuple[list[str], list[str]]:
    """Replace all nodes of the given types.

    Returns:
        Labels of the replaced nodes, as ``name (Type)``, and of the nodes whose form is not covered.
    """
    forms = {op_type: _FORMS[op_type] for op_type in wanted if op_type in _FORMS}
    changed: list[str] = []
    left: list[str] = []
    if not forms:
        return changed, left
    known, names = types(document), Names(document.model)
    for scope in scopes(document):
        made: list[NodeProto] = []
        some = False
        for node in scope.graph.node:
            form = forms.get(node.op_type) if node.domain in STANDARD else None
            built = form(_Place(document, scope, node, known, names)) if form is not None else None
            if form is not None:
                (left if built is None else changed).append(f"{node_label(node)} ({node.op_type})")
            some = some or built is not None
            made.extend([node] if built is None else built)
        if some:
            set_nodes(scope.graph, made)
    if changed:
        drop_unused(document)
    return changed, left


def decomposable(op_type: str) -> bool:
    """Whether the operator can be replaced."""
    return op_type in _FORMS


def _inline_schema_functions(document: Document, judged: int, settings: PassSettings) -> list[str]:
    """Operators that ONNX defines by others (Attention, CenterCropPad, ...), if the installed onnx can inline them."""
    import inspect

    import onnx.inliner

    if "inline_schema_functions" not in inspect.signature(onnx.inliner.inline_selected_functions).parameters:
        return []
    version = opset(document.model)
    found: dict[str, list[str]] = {}
    for graph in all_graphs(document.model):
        for node in graph.node:
            if node.domain not in STANDARD or node.op_type in _FORMS or not onnx.defs.has(node.op_type):
                continue
            if parser_table.status("ai.onnx", judged, node.op_type, settings.cann) != "missing" or parser_table.opsets(
                "ai.onnx", node.op_type
            ):
                continue
            schema = onnx.defs.get_schema(node.op_type, version) if _exists(node.op_type, version) else None
            if schema is not None and (_has_body(schema)):
                found.setdefault(node.op_type, []).append(f"{node_label(node)} ({node.op_type})")
    if not found:
        return []
    inlined = onnx.inliner.inline_selected_functions(
        document.model, [("", op_type) for op_type in found], inline_schema_functions=True
    )
    document.model.CopyFrom(inlined)
    return [label for labels in found.values() for label in labels]


def _has_body(schema: Any) -> bool:  # noqa: ANN401 - onnx's stubs leave these attributes out
    return bool(schema.has_function or schema.has_context_dependent_function)


def _exists(op_type: str, version: int) -> bool:
    import onnx

    try:
        onnx.defs.get_schema(op_type, version)
    except onnx.defs.SchemaError:
        return False
    return True


# --- forms ------------------------------------------------------------------------------------------------------------


def _gelu(place: _Place) -> list[NodeProto] | None:
    """Exact: x/2 (1 + erf(x/sqrt 2)); tanh: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (ONNX Gelu-20)."""
    build = place.builder()
    if build is None:
        return None
    x = place.node.input[0]
    if text(place.node, "approximate", "none") == "tanh":
        cube = build.add("Mul", [build.add("Mul", [x, x]), x])
        inner = build.add("Add", [x, build.add("Mul", [cube, build.number(0.044715)])])
        bent = build.add("Tanh", [build.add("Mul", [inner, build.number(math.sqrt(2 / math.pi))])])
    else:
        bent = build.add("Erf", [build.add("Mul", [x, build.number(math.sqrt(0.5))])])
    half = build.add("Mul", [x, build.number(0.5)])
    build.add("Mul", [half, build.add("Add", [bent, build.number(1.0)])], place.node.output[0])
    return build.nodes


def _hard_swish(place: _Place) -> list[NodeProto] | None:
    build = place.builder()
    if build is None:
        return None
    x = place.node.input[0]
    build.add("Mul", [x, build.add("HardSigmoid", [x], alpha=1 / 6, beta=0.5)], place.node.output[0])
    return build.nodes


def _mish(place: _Place) -> list[NodeProto] | None:
    build = place.builder()
    if build is None:
        return None
    x = place.node.input[0]
    build.add("Mul", [x, build.add("Tanh", [build.add("Softplus", [x])])], place.node.output[0])
    return build.nodes


def _swish(place: _Place) -> list[NodeProto] | None:
    build = place.builder()
    if build is None:
        return None
    x, alpha = place.node.input[0], real(place.node, "alpha", 1.0)
    scaled = x if alpha == 1.0 else build.add("Mul", [x, build.number(alpha)])
    build.add("Mul", [x, build.add("Sigmoid", [scaled])], place.node.output[0])
    return build.nodes


def _stash(place: _Place, build: Builder) -> tuple[str, Callable[[str, str | None], str]]:
    """The input in the type in which a normalization computes, and the way back to its own type.

    ``stash_type`` 1 means float32 for every input type.
    """
    x, kind = place.node.input[0], place.kind()
    if kind not in (10, 16) or integer(place.node, "stash_type", 1) != 1:
        return x, lambda name, output: build.add("Identity", [name], output) if output else name
    build.data_type = 1
    return build.add("Cast", [x], to=1), lambda name, output: build.add("Cast", [name], output, to=kind)


def _last_axes(place: _Place) -> list[int] | None:
    axis = integer(place.node, "axis", -1)
    if axis < 0:
        return list(range(axis, 0))
    sizes = place.sizes(place.node.input[0])
    return None if sizes is None or axis >= len(sizes) else list(range(axis - len(sizes), 0))


def _layer_norm(place: _Place) -> list[NodeProto] | None:
    """(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale + bias, over the last axes (LayerNormalization-17)."""
    build, axes = place.builder(), _last_axes(place)
    if build is None or axes is None:
        return None
    node = place.node
    x, back = _stash(place, build)
    mean = build.reduce("ReduceMean", x, axes, output=node.output[1] if len(node.output) > 1 else None)
    centred = build.add("Sub", [x, mean])
    variance = build.reduce("ReduceMean", build.add("Mul", [centred, centred]), axes)
    deviation = build.add("Sqrt", [build.add("Add", [variance, build.number(real(node, "epsilon", 1e-5))])])
    if len(node.output) > 2 and node.output[2]:
        build.add("Reciprocal", [deviation], node.output[2])
    normal = back(build.add("Div", [centred, deviation]), None)
    bias = input_of(node, 2)
    scaled = build.add("Mul", [normal, node.input[1]], None if bias else node.output[0])
    if bias:
        build.add("Add", [scaled, bias], node.output[0])
    return build.nodes


def _rms_norm(place: _Place) -> list[NodeProto] | None:
    """X / sqrt(mean(x^2) + epsilon) * scale over the last axes (ONNX RMSNormalization-23)."""
    build, axes = place.builder(), _last_axes(place)
    if build is None or axes is None:
        return None
    x, back = _stash(place, build)
    square = build.reduce("ReduceMean", build.add("Mul", [x, x]), axes)
    root = build.add("Sqrt", [build.add("Add", [square, build.number(real(place.node, "epsilon", 1e-5))])])
    normal = back(build.add("Div", [x, root]), None)
    build.add("Mul", [normal, place.node.input[1]], place.node.output[0])
    return build.nodes


def _group_norm(place: _Place) -> list[NodeProto] | None:
    """Reshape to (N, groups, rest), InstanceNormalization, back, then scale and bias.

    These have one value per group at opset 18 and one per channel from 21 on (ONNX GroupNormalization-18, -21).
    """
    build, node = place.builder(), place.node
    sizes = place.sizes(node.input[0])
    groups = integer(node, "num_groups", 0)
    if build is None or sizes is None or len(sizes) < 3 or groups < 1:
        return None
    x, back = _stash(place, build)
    dtype = {1: np.float32, 10: np.float16, 11: np.float64}.get(build.data_type)
    if dtype is None:
        return None
    make, label = place.document.add_initializer, node_label(node)
    ones = make(place.names.fresh(f"{label}_ones"), np.ones(groups, dtype))
    zeros = make(place.names.fresh(f"{label}_zeros"), np.zeros(groups, dtype))
    grouped = build.add("Reshape", [x, build.whole([0, groups, -1])])
    normal = build.add("InstanceNormalization", [grouped, ones, zeros], epsilon=real(node, "epsilon", 1e-5))
    normal = back(normal, None)
    per_group = build.opset < 21
    axes = [1] if per_group else list(range(1, len(sizes) - 1))
    if not per_group:
        normal = build.reshape_like(normal, node.input[0], sizes)
    scaled = build.add("Mul", [normal, build.unsqueeze(node.input[1], axes)])
    shift = build.unsqueeze(node.input[2], axes)
    if per_group:
        build.reshape_like(build.add("Add", [scaled, shift]), node.input[0], sizes, node.output[0])
    else:
        build.add("Add", [scaled, shift], node.output[0])
    return build.nodes


def _reduce_norm(place: _Place) -> list[NodeProto] | None:
    """ReduceL1: sum |x|; ReduceL2: sqrt(sum x^2)."""
    build, node = place.builder(), place.node
    if build is None:
        return None
    x, absolute = node.input[0], node.op_type == "ReduceL1"
    terms = build.add("Abs", [x]) if absolute else build.add("Mul", [x, x])
    keepdims = integer(node, "keepdims", 1)
    axes_input, axes = input_of(node, 1), integers(node, "axes")
    output = node.output[0] if absolute else None
    if attribute(node, "noop_with_empty_axes") is not None and integer(node, "noop_with_empty_axes", 0):
        total = build.add("ReduceSum", [terms, *([axes_input] if axes_input else [])], output, keepdims=keepdims,
                          noop_with_empty_axes=1)  # fmt: skip
    elif axes_input:
        total = build.add("ReduceSum", [terms, axes_input], output, keepdims=keepdims)
    elif axes is not None:
        total = build.reduce("ReduceSum", terms, axes, keepdims=keepdims, output=output)
    else:
        total = build.add("ReduceSum", [terms], output, keepdims=keepdims)
    if not absolute:
        build.add("Sqrt", [total], node.output[0])
    return build.nodes


def _einsum(place: _Place) -> list[NodeProto] | None:
    build = place.builder()
    if build is None:
        return None
    return decompose_einsum(build, place.node, [place.sizes(name) for name in place.node.input])


_FORMS: dict[str, Callable[[_Place], list[NodeProto] | None]] = {
    "Einsum": _einsum,
    "Gelu": _gelu,
    "GroupNormalization": _group_norm,
    "HardSwish": _hard_swish,
    "LayerNormalization": _layer_norm,
    "Mish": _mish,
    "RMSNormalization": _rms_norm,
    "ReduceL1": _reduce_norm,
    "ReduceL2": _reduce_norm,
    "Swish": _swish,
}
