"""Folds constants and removes redundant nodes with onnxslim or onnxsim, in a child process with a time limit."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import replace
from pathlib import Path

from pth2om.ascend import parser_table
from pth2om.errors import GraphError, first_line
from pth2om.graph import simplifier
from pth2om.graph.contract import ROUNDING, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.language import Message, say
from pth2om.onnxfile.walking import is_sorted, node_count, sort_nodes

NAME = "simplify"
BOUND = ROUNDING
STRUCTURAL = False

TOOLS = ("onnxslim", "onnxsim")

_MANY_NODES = 900
"""Above this onnxsim is the faster of the two (benchmarks/graph_simplify.py): onnxslim's time grows with the nodes,
onnxsim takes about two seconds to start."""
_GROWTH = 1.25
_GROWTH_BYTES = 8 * 2**20


def apply(document: Document, settings: PassSettings) -> Applied:
    """Replace the graph by the simplifier's result.

    ``auto`` uses onnxslim up to 900 nodes and onnxsim above (if it is installed), and the other one if the first
    crashes, exceeds the time limit, introduces operators that ATC does not support, or makes the file a quarter larger.
    """
    refusals: list[Message] = []
    moved = not is_sorted(document.graph) and sort_nodes(document.graph)
    for tool in order(document, settings):
        refusal = _try(document, tool, settings)
        if refusal is None:
            return Applied(1, values={"tool": tool}, notes=refusals)
        if refusal is not _SAME:
            refusals.append(refusal)
        else:
            return Applied(int(moved), values={"tool": "pth2om"}, notes=refusals)
    return Applied(int(moved), values={"tool": "pth2om"}, left=refusals)


def order(document: Document, settings: PassSettings) -> list[str]:
    """The tools to try, best first; those not installed are left out unless named explicitly."""
    if settings.simplifier != "auto":
        return [settings.simplifier]
    many = node_count(document.model) > _MANY_NODES
    tools = reversed(TOOLS) if many else TOOLS
    found = [tool for tool in tools if importlib.util.find_spec(tool) is not None]
    return found or [TOOLS[0]]


def another(document: Document, settings: PassSettings, used: str) -> PassSettings | None:
    """Settings for a second try after a result that was not proven; None if there is no other tool."""
    if settings.simplifier != "auto":
        return None
    rest = [tool for tool in order(document, settings) if tool != used]
    return replace(settings, simplifier=rest[0]) if rest else None


_SAME = say("graph.simplify-same")


def _try(document: Document, tool: str, settings: PassSettings) -> Message | None:
    """Simplify in place; returns the reason of a failure, or `_SAME` if there was nothing to do."""
    before, size = node_count(document.model), document.bytes_needed()
    unknown = {item.key for item in parser_table.missing_operators(document.model, settings.cann)}
    with tempfile.TemporaryDirectory(prefix="pth2om-simplify-", ignore_cleanup_errors=True) as folder:
        source, made = Path(folder) / "source.onnx", Path(folder) / "simplified.onnx"
        document.save(source)
        reason = simplifier.simplified(tool, source, made, settings.time_limit)
        if reason is not None:
            return reason
        try:
            simplified = Document.open(made)
        except GraphError as error:
            return say("graph.simplify-crashed", tool=tool, reason=first_line(error))
        if not simplified.graph.output or (document.graph.input and not simplified.graph.input):
            return say("graph.simplify-emptied", tool=tool)
        new = {item.key for item in parser_table.missing_operators(simplified.model, settings.cann)} - unknown
        if new:
            return say("graph.simplify-unknown", tool=tool, operators=", ".join(sorted(new)))
        if simplified.bytes_needed() > _GROWTH * size + _GROWTH_BYTES:
            return say("graph.simplify-grown", tool=tool, before=size, after=simplified.bytes_needed())
        same = node_count(simplified.model) == before and _types(simplified) == _types(document)
        if same:
            return _SAME
        _take(document, simplified)
    return None


def _types(document: Document) -> list[str]:
    return sorted(node.op_type for node in document.graph.node)


def _take(document: Document, simplified: Document) -> None:
    """The simplified graph, with its weights under this document's tokens."""
    for tensor in simplified.graph.initializer:
        if simplified.held(tensor):
            document.hold(tensor, bytes(simplified.array(tensor).tobytes()))
    metadata = [(item.key, item.value) for item in document.model.metadata_props]
    document.model.CopyFrom(simplified.model)
    if not document.model.metadata_props:
        for key, value in metadata:
            item = document.model.metadata_props.add()
            item.key, item.value = key, value
