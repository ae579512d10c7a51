"""Removes unused imports: ATC of CANN 7 and older accepts exactly one import (E16005)."""

from __future__ import annotations

from pth2om.graph.contract import EQUAL, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.onnxfile.walking import STANDARD, all_graphs

NAME = "opset-imports"
BOUND = EQUAL
STRUCTURAL = True


def apply(document: Document, _settings: PassSettings) -> Applied:
    """Drop the imports of domains without nodes, and repeated ones (the last counts for ATC).

    Local functions bring imports of their own, and ATC ignores them; a call of one inside another keeps its domain.
    """
    model = document.model
    used = {_short(node.domain) for graph in all_graphs(model) for node in graph.node}
    for function in model.functions:
        used.add(_short(function.domain))
    kept: dict[str, int] = {}
    dropped = []
    for item in model.opset_import:
        domain = _short(item.domain)
        # A graph without nodes keeps its import of the standard domain.
        if domain in used or (domain == "" and not used):
            if domain in kept and kept[domain] != item.version:
                return Applied()  # two versions of one domain: it is not known which one is right
            kept[domain] = item.version
        else:
            dropped.append(f"{item.domain or 'ai.onnx'} {item.version}")
    if len(kept) == len(model.opset_import) or not kept:
        return Applied()
    count = len(model.opset_import) - len(kept)
    del model.opset_import[:]
    for domain, version in kept.items():
        entry = model.opset_import.add()
        entry.domain, entry.version = domain, version
    return Applied(count, dropped)


def _short(domain: str) -> str:
    return "" if domain in STANDARD else domain
