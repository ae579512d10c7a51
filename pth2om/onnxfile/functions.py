"""Model-local functions: inlined, or put where ONNX Runtime finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pth2om.onnxfile.walking import STANDARD, all_graphs, opset

if TYPE_CHECKING:
    from onnx import ModelProto

APART = "pth2om.merged"
"""The domain of functions that lay in the standard one."""


def inlined(model: ModelProto) -> ModelProto:
    """The model with every call of a local function replaced by its body; without functions.

    A function brings imports of its own. That of the standard domain becomes the model's, where the model has none.
    """
    import onnx.inliner

    versions = [entry.version for item in model.functions for entry in item.opset_import if entry.domain in STANDARD]
    result: ModelProto = onnx.inliner.inline_local_functions(model)
    del result.functions[:]
    if versions and not opset(result):
        entry = result.opset_import.add()
        entry.domain, entry.version = "", max(versions)
    return result


def apart(model: ModelProto) -> bool:
    """Put the functions of the standard domain, and their calls, into a domain of their own.

    A custom operator that is merged into the standard domain, as ATC of CANN 7 needs it, keeps its function there.
    ONNX Runtime looks for an operator of its own instead.

    Returns:
        Whether there were any.
    """
    merged = {item.name for item in model.functions if item.domain in STANDARD}
    if not merged:
        return False
    for item in model.functions:
        if item.domain in STANDARD:
            item.domain = APART
    nodes = [node for graph in all_graphs(model) for node in graph.node]
    for node in (*nodes, *(node for item in model.functions for node in item.node)):
        if node.domain in STANDARD and node.op_type in merged:
            node.domain = APART
    entry = model.opset_import.add()
    entry.domain, entry.version = APART, 1
    return True
