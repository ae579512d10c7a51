"""Turns INT64 arithmetic into INT32 where the values are known to fit: the NPU runs INT64 on AI CPU, which is slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pth2om.graph.building import Builder
from pth2om.graph.contract import EQUAL, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.graph.ranges import ARITHMETIC, MOVING, Ranges
from pth2om.graph.surgery import Names, Scope, drop_unused, forget_shapes, scopes, types
from pth2om.language import Message, say
from pth2om.onnxfile.walking import STANDARD, Types, input_of, integer, node_label, readers, set_nodes, subgraphs

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

NAME = "int32"
BOUND = EQUAL
STRUCTURAL = False

_INT32, _INT64 = 6, 7
_TAKES_BOTH = {"Gather": (1,), "GatherElements": (1,), "Slice": (1, 2, 3, 4), "Cast": (0,), "Equal": (0, 1),
               "Greater": (0, 1), "GreaterOrEqual": (0, 1), "Less": (0, 1), "LessOrEqual": (0, 1)}  # fmt: skip
"""Operators whose inputs may be INT32 as well as INT64, by position; all listed inputs must have the same type."""
_ALL_ALIKE = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Slice"})
_DATA_FROM = {"Where": 1, "Gather": 0, "GatherElements": 0, "Slice": 0}
_FIRST_ONLY = frozenset(
    {"CumSum", "Expand", "GatherElements", "Gather", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape",
     "Slice", "Split", "Squeeze", "Tile", "Unsqueeze", "Pad"}
)  # fmt: skip
"""Operators with data in the first input only; the others are shapes, axes and indices and are not changed."""


def apply(document: Document, settings: PassSettings) -> Applied:
    """Compute connected INT64 nodes in INT32 if every value is known to fit, with Casts at the borders.

    Known are constants, shapes, indices computed by operators (ArgMax, TopK, NonZero), and the results of arithmetic on
    these. Graph inputs count as known, and become INT32 themselves, only with ``settings.int32_inputs``. Only if the
    pass is named explicitly, numbers that are merely moved are narrowed too, and INT64 outputs become INT32, because
    their readers must be adapted.
    """
    known = types(document)
    if not any(kind == _INT64 for kind, _ in known.values()):
        return Applied()
    names = Names(document.model)
    changed: list[str] = []
    notes: list[Message] = []
    if settings.int32_inputs:
        notes += _inputs(document, names, changed)
        known = types(document)
    ranges = Ranges(document, known, trust_inputs=settings.int32_inputs)
    left = 0
    for scope in scopes(document):
        region, unfit = _region(scope, known, ranges, moving=NAME in settings.asked)
        left += unfit
        if region:
            changed.extend(node_label(scope.graph.node[place]) for place in region)
            _narrow(document, scope, region, names)
    if NAME in settings.asked:
        notes += _outputs(document, known, ranges, names, changed)
    if changed:
        _drop_idle_casts(document.graph)
        drop_unused(document)
        forget_shapes(document)
    messages = [say("graph.int32-left", count=left)] if left else []
    return Applied(len(changed), changed, left=messages, notes=notes)


def _data_inputs(node: NodeProto) -> list[int]:
    if node.op_type in _FIRST_ONLY:
        return [0]
    start = _DATA_FROM.get(node.op_type, 0)
    return list(range(start, len(node.input)))


def _region(scope: Scope, known: Types, ranges: Ranges, *, moving: bool) -> tuple[list[int], int]:
    """Positions of the nodes to compute in INT32, and the number of arithmetic nodes kept because of their range.

    With ``moving`` also nodes that only move numbers, which the NPU does in INT64 as well, but not every runtime.
    """
    members: list[int] = []
    inside: set[str] = set()
    unfit = 0
    for place, node in enumerate(scope.graph.node):
        kind = node.op_type
        if node.domain not in STANDARD or kind not in ARITHMETIC | MOVING or len(node.output) != 1:
            continue
        data = [node.input[index] for index in _data_inputs(node) if index < len(node.input) and node.input[index]]
        if not data or any(known.get(name, (0, None))[0] != _INT64 for name in data):
            continue
        if ranges.folded(node.output[0]):
            continue  # ATC folds it itself
        fits = all(ranges.fits(name) for name in data) and ranges.fits(node.output[0])
        if kind in ARITHMETIC and not fits:
            unfit += 1
        if fits and (moving or kind in ARITHMETIC or any(name in inside for name in data)):
            members.append(place)
            inside.add(node.output[0])
    worth = moving or any(scope.graph.node[place].op_type in ARITHMETIC for place in members)
    return (members if worth else []), unfit


def _narrow(document: Document, scope: Scope, region: list[int], names: Names) -> None:
    """Rewrite the region's nodes, with Casts at INT64 inputs and where INT64 is still needed outside."""
    graph = scope.graph
    members = set(region)
    small: dict[str, str] = {}
    made: list[NodeProto] = []
    for place, node in enumerate(graph.node):
        if place not in members:
            made.append(node)
            continue
        build = Builder(document, names, node)
        moved = type(node)()
        moved.CopyFrom(node)
        for index in _data_inputs(node):
            name = input_of(node, index)
            if not name:
                continue
            if name not in small:
                small[name] = _small_input(document, scope, build, name, names)
            moved.input[index] = small[name]
        made.extend(build.nodes)
        output = node.output[0]
        small[output] = names.fresh(f"{output}_int32")
        moved.output[0] = small[output]
        made.append(moved)
    _widen(document, scope, region, small, made, names)


def _small_input(document: Document, scope: Scope, build: Builder, name: str, names: Names) -> str:
    values = scope.values(name)
    if values is not None:
        return document.add_initializer(names.fresh(f"{name}_int32"), values.astype(np.int32))
    return build.add("Cast", [name], names.fresh(f"{name}_int32"), to=_INT32)


def _widen(
    document: Document, scope: Scope, region: list[int], small: dict[str, str], made: list[NodeProto], names: Names
) -> None:
    """Add a Cast back for every reader that requires INT64; the others read INT32."""
    graph = scope.graph
    outputs = {value.name for value in graph.output}
    members = {id(graph.node[place]) for place in region}
    read_by = readers(graph)
    by_small = {small[graph.node[place].output[0]]: graph.node[place].output[0] for place in region}
    result: list[NodeProto] = []
    for node in made:
        result.append(node)
        name = by_small.get(node.output[0]) if node.output else None
        if name is None:
            continue
        outside = [reader for reader in read_by.get(name, ()) if id(reader) not in members]
        if name in outputs or outside:
            build = Builder(document, names, node)
            build.add("Cast", [small[name]], name, to=_INT64)
            result.extend(build.nodes)
    narrow = set(small.values())
    for node in result:
        # The Casts to INT32 still read INT64.
        if not (node.op_type == "Cast" and narrow.intersection(node.output)):
            _take_small(node, small)
    set_nodes(graph, result)


def _take_small(node: NodeProto, small: dict[str, str]) -> None:
    """Let a reader outside the region read INT32 if it accepts that: a Cast to another type, indices, comparisons."""
    places = _TAKES_BOTH.get(node.op_type) if node.domain in STANDARD else None
    if places is None or (node.op_type == "Cast" and integer(node, "to", 0) == _INT64):
        return
    used = [place for place in places if input_of(node, place)]
    if node.op_type in _ALL_ALIKE and not all(node.input[place] in small for place in used):
        return
    for place in used:
        if node.input[place] in small:
            node.input[place] = small[node.input[place]]


def _inputs(document: Document, names: Names, changed: list[str]) -> list[Message]:
    """INT64 graph inputs become INT32, followed by a Cast."""
    graph = document.graph
    constant = {tensor.name for tensor in graph.initializer}
    notes = []
    made: list[NodeProto] = []
    renamed: dict[str, str] = {}
    for value in graph.input:
        if value.name in constant or value.type.tensor_type.elem_type != _INT64:
            continue
        value.type.tensor_type.elem_type = _INT32
        build = Builder(document, names, type(graph.node[0])(name=f"{value.name}_cast", op_type="Cast"))
        renamed[value.name] = build.add("Cast", [value.name], names.fresh(f"{value.name}_int64"), to=_INT64)
        made.extend(build.nodes)
        changed.append(value.name)
        notes.append(say("graph.int32-input", name=value.name))
    if made:
        for node in graph.node:
            _rename(node, renamed)
        set_nodes(graph, [*made, *graph.node])
    return notes


def _rename(node: NodeProto, renamed: dict[str, str]) -> None:
    for place, name in enumerate(node.input):
        if name in renamed:
            node.input[place] = renamed[name]
    for graph in subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        seen = {name: new for name, new in renamed.items() if name not in own}
        for inner in graph.node:
            _rename(inner, seen)
        for value in graph.output:
            if value.name in seen:
                value.name = seen[value.name]


def _outputs(document: Document, known: Types, ranges: Ranges, names: Names, changed: list[str]) -> list[Message]:
    """INT64 graph outputs whose values fit become INT32 under their own name."""
    graph = document.graph
    makers = {name: node for node in graph.node for name in node.output}
    notes = []
    for value in graph.output:
        name = value.name
        if known.get(name, (0, None))[0] != _INT64 or name not in makers or not ranges.fits(name):
            continue
        inner = names.fresh(f"{name}_int64")
        maker = makers[name]
        maker.output[list(maker.output).index(name)] = inner
        for node in graph.node:
            _rename(node, {name: inner})
        build = Builder(document, names, maker)
        build.add("Cast", [inner], name, to=_INT32)
        graph.node.extend(build.nodes)
        value.type.tensor_type.elem_type = _INT32
        changed.append(name)
        notes.append(say("graph.int32-output", name=name))
    return notes


def _drop_idle_casts(graph: GraphProto) -> None:
    """Remove Casts to INT64 that nothing reads, and bypass INT32 -> INT64 -> INT32."""
    makers = {node.output[0]: node for node in graph.node if node.op_type == "Cast" and node.output}
    for node in graph.node:
        if node.op_type != "Cast" or integer(node, "to", 0) != _INT32:
            continue
        before = makers.get(input_of(node, 0))
        if before is not None and integer(before, "to", 0) == _INT64 and before.input[0].endswith("_int32"):
            node.op_type = "Identity"
            node.input[0] = before.input[0]
            del node.attribute[:]
    used = {value.name for value in graph.output}
    for name, users in readers(graph).items():
        if users:
            used.add(name)
    kept = [
        node
        for node in graph.node
        if not (node.op_type == "Cast" and node.name.count("_Cast") and not used.intersection(node.output))
    ]
    if len(kept) != len(graph.node):
        set_nodes(graph, kept)
