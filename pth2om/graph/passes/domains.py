"""Moves standard operators into the one standard domain, under its short name."""

from __future__ import annotations

from pth2om.ascend import parser_table
from pth2om.graph.contract import EQUAL, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.language import Message, say
from pth2om.onnxfile.walking import all_graphs, node_label, opset

NAME = "domains"
BOUND = EQUAL
STRUCTURAL = True

_OPSET_OF_IR = {3: 8, 4: 10, 5: 10, 6: 11, 7: 14, 8: 17, 9: 20, 10: 22, 11: 23}
"""The newest opset of the last ONNX release with that IR version ("ONNX versioning table"); 3 began at opset 1."""


def apply(document: Document, settings: PassSettings) -> Applied:
    """Write ``ai.onnx`` as ``""``; import the standard domain if its nodes occur and the model does not import it.

    If the pass is named explicitly, it also moves a node of a foreign domain into the standard one if ATC registers an
    operator of this name there (and none in the foreign domain). Whether it has the same meaning can only be checked
    with ONNX Runtime.
    """
    import onnx

    model = document.model
    changed: list[str] = []
    local = {(function.domain, function.name) for function in model.functions}
    moved: dict[str, int] = {}
    for graph in all_graphs(model):
        for node in graph.node:
            if node.domain == "ai.onnx":
                node.domain = ""
                changed.append(node_label(node))
            elif node.domain and NAME in settings.asked and (node.domain, node.op_type) not in local:
                known = parser_table.opsets("ai.onnx", node.op_type) and not parser_table.opsets(
                    node.domain, node.op_type
                )
                if known and onnx.defs.has(node.op_type):
                    moved[node.domain] = moved.get(node.domain, 0) + 1
                    node.domain = ""
                    changed.append(node_label(node))
    notes: list[Message] = [say("graph.domains-moved", domain=name, count=count) for name, count in moved.items()]
    for item in model.opset_import:
        if changed and item.domain == "ai.onnx" and not any(other.domain == "" for other in model.opset_import):
            item.domain = ""
    standard = any(node.domain == "" for graph in all_graphs(model) for node in graph.node)
    if standard and not opset(model):
        version = _OPSET_OF_IR.get(model.ir_version, 17)
        entry = model.opset_import.add()
        entry.domain, entry.version = "", version
        changed.append(f"ai.onnx {version}")
        notes.append(say("graph.domains-assumed", opset=version, ir=model.ir_version))
    return Applied(len(changed), changed, notes=notes)
