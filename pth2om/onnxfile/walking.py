"""Walking a model: its graphs, nodes, attributes and constants, who reads what, and the order of the nodes."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

Sizes = tuple[int, ...]
"""Sizes of a tensor; -1 where unknown."""

Types = dict[str, tuple[int, "Sizes | None"]]
"""Tensor name to ``TensorProto.DataType`` (0 unknown) and sizes (None: not even the rank is known)."""

STANDARD = ("", "ai.onnx")
"""How a file may write the standard domain."""


@dataclass(frozen=True)
class NamedNode:
    """A node with the name ATC gives it (``Type_<n>`` for the n-th unnamed one), and the graph it stands in."""

    name: str
    node: NodeProto
    graph: int


def all_graphs(model: ModelProto) -> list[GraphProto]:
    """The root graph first, then every graph inside an attribute (If, Loop, Scan, ...), parents before children."""
    found = [model.graph]
    for graph in found:
        for node in graph.node:
            found.extend(subgraphs(node))
    return found


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes."""
    for item in node.attribute:
        if item.type == 5:
            yield item.g
        elif item.type == 10:
            yield from item.graphs


def node_count(model: ModelProto) -> int:
    """Nodes of all graphs; those of local functions are not counted."""
    return sum(len(graph.node) for graph in all_graphs(model))


def opset(model: ModelProto) -> int:
    """The imported version of the standard domain; 0 when it is not imported."""
    return max((item.version for item in model.opset_import if item.domain in STANDARD), default=0)


def attribute(node: NodeProto, name: str) -> AttributeProto | None:
    """The attribute of that name, or None."""
    return next((item for item in node.attribute if item.name == name), None)


def integer(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute, or `default`."""
    item = attribute(node, name)
    return default if item is None else int(item.i)


def integers(node: NodeProto, name: str) -> list[int] | None:
    """A list of integers, or None where the attribute is absent."""
    item = attribute(node, name)
    return None if item is None else [int(value) for value in item.ints]


def real(node: NodeProto, name: str, default: float) -> float:
    """A float attribute, or `default`."""
    item = attribute(node, name)
    return default if item is None else float(item.f)


def text(node: NodeProto, name: str, default: str) -> str:
    """A string attribute, or `default`."""
    item = attribute(node, name)
    return default if item is None else item.s.decode("utf-8", "replace")


def input_of(node: NodeProto, place: int) -> str:
    """The name at an input's place; ``""`` where it is left out."""
    return str(node.input[place]) if place < len(node.input) else ""


def graphs(model: ModelProto) -> list[GraphProto]:
    """The root graph and the branches of its Ifs, breadth first: the graphs that ATC reads."""
    found = [model.graph]
    for graph in found:
        for node in graph.node:
            if node.op_type == "If":
                found.extend(attribute.g for attribute in node.attribute if attribute.HasField("g"))
    return found


def named_nodes(model: ModelProto) -> list[NamedNode]:
    """Every node that ATC reads, with its name, in ATC's order."""
    unnamed, found = 0, []
    for place, graph in enumerate(graphs(model)):
        for node in graph.node:
            name = node.name
            if not name:
                name = f"{node.op_type}_{unnamed}"
                unnamed += 1
            found.append(NamedNode(name, node, place))
    return found


def imports(model: ModelProto) -> dict[str, int]:
    """Domain to opset; the default domain is ``ai.onnx``, of repeated ones the last wins."""
    return {item.domain or "ai.onnx": item.version for item in model.opset_import}


def tensors(model: ModelProto) -> Iterator[tuple[str, TensorProto, bool]]:
    """Initializers and the ``value`` of Constant nodes: name, tensor, whether it stands in the root graph."""
    for place, graph in enumerate(graphs(model)):
        for tensor in graph.initializer:
            yield tensor.name, tensor, place == 0
        for node in graph.node:
            if node.op_type == "Constant":
                value = attribute(node, "value")
                if value is not None and value.HasField("t"):
                    yield node.output[0] if node.output else node.name, value.t, place == 0


def node_label(node: NodeProto) -> str:
    """How a person finds a node: its name, else what it makes."""
    return str(node.name or next((name for name in node.output if name), "") or node.op_type)


def captured(node: NodeProto) -> set[str]:
    """Names that a node's subgraphs read from the graphs around them."""
    return {name for graph in subgraphs(node) for name in captured_by(graph)}


def captured_by(graph: GraphProto) -> set[str]:
    """Names that a subgraph, or one inside it, reads or hands back without making them."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own.update(tensor.values.name for tensor in graph.sparse_initializer)
    read = {value.name for value in graph.output if value.name}
    for node in graph.node:
        read |= reads(node)
        own.update(node.output)
    return read - own


def reads(node: NodeProto) -> set[str]:
    """Every name a node needs: its inputs and what its subgraphs capture."""
    return {name for name in node.input if name} | captured(node)


def readers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    """Tensor name to the nodes of this graph that read it, themselves or in their subgraphs."""
    found: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in reads(node):
            found[name].append(node)
    return found


def is_sorted(graph: GraphProto) -> bool:
    """Whether every node stands behind the ones it needs."""
    late = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        if reads(node) & late - set(node.output):
            return False
        late.difference_update(node.output)
    return True


def order(nodes: Sequence[NodeProto], ready: Container[str] = ()) -> list[int] | None:
    """Places of the nodes so that each stands behind those it needs, in their own order where that is right.

    Args:
        nodes: of one graph.
        ready: names that need no node, whatever makes them.

    Returns:
        The places; None when some nodes need each other in a cycle.
    """
    maker = {name: place for place, node in enumerate(nodes) for name in node.output if name and name not in ready}
    waiting = [{maker[name] for name in reads(node) if name in maker} for node in nodes]
    followers: dict[int, list[int]] = defaultdict(list)
    for place, before in enumerate(waiting):
        for other in before:
            followers[other].append(place)
    # The heap keeps the file's own order where it is already right.
    free = [place for place, before in enumerate(waiting) if not before]
    heapq.heapify(free)
    places = []
    while free:
        place = heapq.heappop(free)
        places.append(place)
        for other in followers[place]:
            waiting[other].discard(place)
            if not waiting[other]:
                heapq.heappush(free, other)
    return places if len(places) == len(nodes) else None


def sort_nodes(graph: GraphProto) -> bool:
    """Sort the nodes, keeping their order where it is right; False (and nothing done) when there is a cycle."""
    places = order(graph.node)
    if places is None:
        return False
    if places != sorted(places):
        set_nodes(graph, [graph.node[place] for place in places])
    return True


def set_nodes(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    """Give a graph these nodes; they may be its own."""
    copies = [_copy(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _copy(node: NodeProto) -> NodeProto:
    copied = type(node)()
    copied.CopyFrom(node)
    return copied
