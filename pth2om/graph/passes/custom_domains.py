"""Puts custom operators into the domain in which the target's parser finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pth2om.ascend.custom_ops import find
from pth2om.ascend.versions import generation
from pth2om.graph.contract import EQUAL, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.language import Message, say
from pth2om.onnxfile.walking import STANDARD, all_graphs, node_label, opset

if TYPE_CHECKING:
    from onnx import ModelProto

NAME = "custom-domains"
BOUND = EQUAL
STRUCTURAL = True


def apply(document: Document, settings: PassSettings) -> Applied:
    """One domain for CANN 7 and older, each operator's own domain for later releases.

    CANN 7 takes a single opset import as soon as a node names no domain (E16005), so the operator is merged into the
    standard domain, if its plug-in registers it there at the model's opset. The model's function of it goes with it:
    ATC ignores it, and `pth2om.onnxfile.runtime` runs it. Later releases find the operator in its own domain, whatever
    the model's opset.
    """
    model = document.model
    merges = generation(settings.cann) == 7
    version = opset(model)
    changed: list[str] = []
    left: list[Message] = []
    gone: set[tuple[str, str]] = set()
    back: set[str] = set()
    standard = any(node.domain in STANDARD for graph in all_graphs(model) for node in graph.node)
    for graph in all_graphs(model):
        for node in graph.node:
            operator = find(node.domain, node.op_type)
            if operator is None:
                continue
            first, last = operator.standard_opsets or (1, 0)
            if merges and node.domain == operator.domain and standard:
                if not first <= version <= last:
                    left.append(
                        say(
                            "graph.custom-domains-opset", operator=operator.label, opset=version, first=first, last=last
                        )
                    )
                    continue
                gone.add((node.domain, node.op_type))
                node.domain = ""
                node.overload = ""
                changed.append(node_label(node))
            elif not merges and node.domain in STANDARD and not first <= version <= last:
                node.domain = operator.domain
                back.add(node.op_type)
                _import(model, operator.domain, operator.version)
                changed.append(node_label(node))
    for function in model.functions:
        operator = find(function.domain, function.name) if function.name in back else None
        if operator is not None and function.domain in STANDARD:
            function.domain = operator.domain
    if gone:
        _merge(model, gone)
    notes = [say("graph.custom-domains-merged")] if gone else []
    return Applied(len(changed), changed, left=left, notes=notes)


def separate(model: ModelProto) -> None:
    """Put merged custom operators of a model back into their own domains."""
    for graph in all_graphs(model):
        for node in graph.node:
            operator = find(node.domain, node.op_type) if node.domain in STANDARD else None
            if operator is not None:
                node.domain = operator.domain
                _import(model, operator.domain, operator.version)
    for function in model.functions:
        operator = find(function.domain, function.name) if function.domain in STANDARD else None
        if operator is not None:
            function.domain = operator.domain


def _import(model: ModelProto, domain: str, version: int) -> None:
    if not any(item.domain == domain for item in model.opset_import):
        entry = model.opset_import.add()
        entry.domain, entry.version = domain, version


def _merge(model: ModelProto, gone: set[tuple[str, str]]) -> None:
    """Functions of merged operators follow them; imports of domains go where nothing else needs them."""
    for item in model.functions:
        if (item.domain, item.name) in gone:
            item.domain = ""
    used = {node.domain for graph in all_graphs(model) for node in graph.node} | {one.domain for one in model.functions}
    for place in reversed(range(len(model.opset_import))):
        domain = model.opset_import[place].domain
        if domain not in used and domain not in STANDARD:
            del model.opset_import[place]
