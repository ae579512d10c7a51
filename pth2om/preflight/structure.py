"""Graphs that have no order to compute in: undefined inputs, tensors with two makers, circles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pth2om.evidence import Finding
from pth2om.language import Message, say
from pth2om.onnxfile.walking import named_nodes, order, reads, subgraphs

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


def structure(model: ModelProto) -> Iterator[Finding]:
    """Undefined inputs, tensors with two makers, and circles, in the root graph and in every subgraph."""
    items = named_nodes(model)  # kept: a node's identity is that of its Python object
    names = {id(item.node): item.name for item in items}

    def name_of(node: NodeProto) -> str:
        return names.get(id(node)) or str(node.name or next(iter(node.output), node.op_type))

    yield from _structure_of(model.graph, frozenset(), name_of)


def _structure_of(graph: GraphProto, outer: frozenset[str], name_of: Callable[[NodeProto], str]) -> Iterator[Finding]:
    given = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    given.update(tensor.values.name for tensor in graph.sparse_initializer)
    makers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.output:
            if name:
                makers.setdefault(name, []).append(node)
    for tensor, nodes in makers.items():
        if len(nodes) > 1 or tensor in given:
            yield finding_of(
                "two-producers", name_of(nodes[-1]), tensor=tensor, nodes=", ".join(map(name_of, nodes[:3]))
            )
            return
    visible = outer | given | makers.keys()
    for node in graph.node:
        missing = sorted({name for name in node.input if name} - visible)
        if missing:
            yield finding_of("undefined-input", name_of(node), tensor=missing[0])
            return
    lost = sorted({value.name for value in graph.output if value.name} - visible)
    if lost and not outer:
        yield finding_of("undefined-output", lost[0], tensor=lost[0])
        return
    if order(graph.node, given) is None:
        ring = [name_of(node) for node in _ring(graph, makers)]
        shown = " → ".join([*ring[:5], *(["..."] if len(ring) > 5 else []), ring[0]])
        yield finding_of("cycle", ring[0], nodes=shown)
        return
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _structure_of(inner, frozenset(visible), name_of)


def _ring(graph: GraphProto, makers: Mapping[str, Sequence[NodeProto]]) -> list[NodeProto]:
    """Nodes that need each other, in the order in which values would flow."""
    before = [[id(makers[name][0]) for name in reads(node) if name in makers] for node in graph.node]
    nodes = {id(node): node for node in graph.node}
    needs = dict(zip(nodes, before, strict=True))
    # Whoever needs nothing that is left, or is needed by nobody left, is in no circle.
    while True:
        needed = {other for others in needs.values() for other in others}
        left = {key: [one for one in others if one in needs] for key, others in needs.items() if key in needed}
        left = {key: others for key, others in left.items() if others}
        if len(left) == len(needs):
            break
        needs = left
    path: list[int] = []
    here = next(iter(needs))
    while here not in path:
        path.append(here)
        here = next(one for one in needs[here] if one in needs)
    return [nodes[key] for key in reversed(path[path.index(here) :])]


def finding_of(rule: str, node: str, **values: str) -> Finding:
    """An error of the pre-flight, on a node."""
    message: Message = say(f"preflight.{rule}", node=node, **values)
    return Finding(f"preflight.{rule}", "error", message, node, {})
