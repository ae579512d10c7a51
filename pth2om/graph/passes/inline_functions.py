"""Inlines local functions: ATC ignores a model's functions and looks for a plugin of that name."""

from __future__ import annotations

from pth2om.graph.contract import EQUAL, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.onnxfile.functions import inlined
from pth2om.onnxfile.walking import all_graphs, node_label

NAME = "inline-functions"
BOUND = EQUAL
STRUCTURAL = True


def apply(document: Document, _settings: PassSettings) -> Applied:
    """Replace every call by the function's body."""
    model = document.model
    if not model.functions:
        return Applied()
    local = {(function.domain, function.name) for function in model.functions}
    calls = [
        node_label(node) for graph in all_graphs(model) for node in graph.node if (node.domain, node.op_type) in local
    ]
    model.CopyFrom(inlined(model))
    return Applied(max(len(calls), 1), calls)
