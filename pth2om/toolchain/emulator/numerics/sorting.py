"""Producers before readers."""

from __future__ import annotations

import onnx

from pth2om.toolchain.emulator.numerics.fusion import captured


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Producers before readers, as far as there is such an order; sub-graphs too."""
    made = {name for node in graph.node for name in node.output if name}
    reads = []
    for node in graph.node:
        names = set(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                sort_nodes(attribute.g)
                names |= captured(attribute.g)
        reads.append(names & made)
    order: list[int] = []
    done: set[str] = set()
    waiting = list(range(len(reads)))
    while waiting:
        still = []
        for index in waiting:
            if reads[index] <= done:
                order.append(index)
                done.update(graph.node[index].output)
            else:
                still.append(index)
        if len(still) == len(waiting):
            return  # a cycle: ONNX Runtime will name it
        waiting = still
    if order != sorted(order):
        nodes = [onnx.NodeProto.FromString(graph.node[index].SerializeToString()) for index in order]
        del graph.node[:]
        graph.node.extend(nodes)
