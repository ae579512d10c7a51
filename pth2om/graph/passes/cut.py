"""Cuts the graph at given outputs and removes everything that only the rest needs."""

from __future__ import annotations

import difflib

from pth2om.errors import GraphError
from pth2om.graph.contract import EQUAL, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.graph.surgery import drop_unused, types
from pth2om.language import say
from pth2om.onnxfile.walking import reads, set_nodes

NAME = "cut"
BOUND = EQUAL
STRUCTURAL = True


def apply(document: Document, settings: PassSettings) -> Applied:
    """End the graph at ``settings.outputs``: names of tensors, or of nodes for all their outputs.

    Inputs that are no longer needed are removed too.

    Raises:
        GraphError: no node produces a tensor of that name.
    """
    if not settings.outputs:
        return Applied(left=[say("graph.cut-ask")] if NAME in settings.asked else [])
    from onnx import helper

    graph = document.graph
    wanted = _tensors(document, settings.outputs)
    had = [value.name for value in graph.output]
    if wanted == had:
        return Applied()
    known = types(document)
    declared = {value.name: value for value in (*graph.output, *graph.value_info, *graph.input)}
    values = []
    for name in wanted:
        kind, sizes = known.get(name, (0, None))
        if name in declared and declared[name].type.WhichOneof("value"):
            values.append(type(declared[name]).FromString(declared[name].SerializeToString()))
        elif kind:
            shape = None if sizes is None else [size if size >= 0 else None for size in sizes]
            values.append(helper.make_tensor_value_info(name, kind, shape))
        else:
            return Applied(left=[say("graph.cut-untyped", name=name)])
    needed = set(wanted)
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed |= reads(node)
    before = len(graph.node)
    del graph.output[:]
    graph.output.extend(values)
    set_nodes(graph, kept[::-1])
    drop_unused(document)
    _drop_inputs(document, needed)
    alive = {name for node in graph.node for name in node.output}
    infos = [value for value in graph.value_info if value.name in alive]
    copies = [type(value).FromString(value.SerializeToString()) for value in infos]
    del graph.value_info[:]
    graph.value_info.extend(copies)
    return Applied(max(before - len(graph.node), 1), wanted)


def _tensors(document: Document, words: tuple[str, ...]) -> list[str]:
    graph = document.graph
    made = {name: None for node in graph.node for name in node.output if name}
    by_node = {node.name: node for node in graph.node if node.name}
    found: list[str] = []
    for word in words:
        if word in made:
            found.append(word)
        elif word in by_node:
            found.extend(name for name in by_node[word].output if name)
        else:
            close = difflib.get_close_matches(word, [*made, *by_node], 3, cutoff=0.5)
            raise GraphError(
                "graph.no-such-tensor", where=str(document.path or ""), name=word, close=", ".join(close) or "-"
            )
    return list(dict.fromkeys(found))


def _drop_inputs(document: Document, needed: set[str]) -> None:
    graph = document.graph
    for place in reversed(range(len(graph.input))):
        if graph.input[place].name not in needed and len(graph.input) > 1:
            del graph.input[place]
