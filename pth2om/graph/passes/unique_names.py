"""Gives every node a unique name: ATC has one name space for nodes and graph inputs (E13009)."""

from __future__ import annotations

from pth2om.graph.contract import EQUAL, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.onnxfile.walking import all_graphs

NAME = "unique-names"
BOUND = EQUAL
STRUCTURAL = True


def apply(document: Document, _settings: PassSettings) -> Applied:
    """Rename nodes that share a name with another node or a graph input, and name nameless ones ``Type_<n>``.

    Tensors keep their names, because users' scripts refer to inputs and outputs by name.
    """
    graphs = all_graphs(document.model)
    taken = {value.name for graph in graphs for value in graph.input}
    every = {node.name for graph in graphs for node in graph.node} | taken
    changed = []
    unnamed = 0
    for graph in graphs:
        for node in graph.node:
            had = node.name
            if had and had not in taken:
                taken.add(had)
                continue
            if had:
                name, number = f"{had}_1", 2
                while name in every:
                    name, number = f"{had}_{number}", number + 1
            else:
                # The name that ATC itself would give, if it is free.
                name = f"{node.op_type}_{unnamed}"
                unnamed += 1
                while name in every:
                    name = f"{node.op_type}_{unnamed}"
                    unnamed += 1
            node.name = name
            taken.add(name)
            every.add(name)
            changed.append(name)
    return Applied(len(changed), changed)
