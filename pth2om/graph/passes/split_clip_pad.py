"""Writes Split, Clip and Pad in the forms that ATC's plugins accept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pth2om.graph.contract import EQUAL, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.graph.surgery import Names, Scope, drop_attribute, drop_unused, scopes, set_input, trim_inputs, types
from pth2om.language import say
from pth2om.onnxfile.walking import STANDARD, Types, attribute, input_of, integer, node_label, opset

if TYPE_CHECKING:
    from onnx import NodeProto

NAME = "split-clip-pad"
BOUND = EQUAL
STRUCTURAL = True


def apply(document: Document, _settings: PassSettings) -> Applied:
    """Write Pad-18 without ``axes``, Split-18 with sizes instead of ``num_outputs``, Clip with its limits as inputs.

    A Clip without limits becomes an Identity; one of opset 11 and later that still has the attributes of opset 6 gets
    them as inputs.
    """
    version = opset(document.model)
    found = [
        (scope, node)
        for scope in scopes(document)
        for node in scope.graph.node
        if node.domain in STANDARD and _odd(node, version)
    ]
    if not found:
        return Applied()
    known, names = types(document), Names(document.model)
    changed: list[str] = []
    left: list[str] = []
    for scope, node in found:
        mend = {"Pad": _pad, "Split": _split, "Clip": _clip}[node.op_type]
        (changed if mend(document, scope, node, known, names) else left).append(node_label(node))
    if changed:
        drop_unused(document)
    messages = [say("graph.split-clip-pad-left", nodes=", ".join(left[:3]), count=len(left))] if left else []
    return Applied(len(changed), changed, left=messages)


def _odd(node: NodeProto, version: int) -> bool:
    if node.op_type == "Pad":
        return version >= 18 and bool(input_of(node, 3))
    if node.op_type == "Split":
        return attribute(node, "num_outputs") is not None
    if node.op_type != "Clip":
        return False
    limits = attribute(node, "min") is not None or attribute(node, "max") is not None
    if version < 11:
        return not limits
    return limits or not (input_of(node, 1) or input_of(node, 2))


def _pad(document: Document, scope: Scope, node: NodeProto, known: Types, names: Names) -> bool:
    sizes = known.get(input_of(node, 0), (0, None))[1]
    pads, axes = scope.integers(input_of(node, 1)), scope.integers(input_of(node, 3))
    if sizes is None or pads is None or axes is None or len(pads) != 2 * len(axes):
        return False
    rank = len(sizes)
    full = np.zeros(2 * rank, np.int64)
    for place, axis in enumerate(axes):
        if not -rank <= axis < rank:
            return False
        full[axis % rank] = pads[place]
        full[axis % rank + rank] = pads[place + len(axes)]
    node.input[1] = document.add_initializer(names.fresh(f"{node.output[0]}_pads"), full)
    del node.input[3:]
    trim_inputs(node)
    return True


def _split(document: Document, _scope: Scope, node: NodeProto, known: Types, names: Names) -> bool:
    """Equal parts, the last one smaller if the size is not divisible, as in ONNX 18."""
    parts = integer(node, "num_outputs", 0)
    if input_of(node, 1) or parts != len(node.output) or parts < 1:
        return False
    sizes = known.get(input_of(node, 0), (0, None))[1]
    axis = integer(node, "axis", 0)
    if sizes is None or not -len(sizes) <= axis < len(sizes) or sizes[axis] < 0:
        return False
    each = -(-sizes[axis] // parts)
    split = [each] * (parts - 1)
    split.append(sizes[axis] - sum(split))
    if split[-1] < 0:
        return False
    set_input(node, 1, document.add_initializer(names.fresh(f"{node.output[0]}_split"), np.array(split, np.int64)))
    drop_attribute(node, "num_outputs")
    return True


def _clip(document: Document, _scope: Scope, node: NodeProto, known: Types, names: Names) -> bool:
    limits = {name: attribute(node, name) for name in ("min", "max")}
    if not any(limits.values()):
        node.op_type = "Identity"
        del node.input[1:]
        return True
    from onnx import helper

    kind = known.get(input_of(node, 0), (0, None))[0] or 1
    if kind == 16:
        return False
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for place, (name, item) in enumerate(limits.items(), 1):
        if item is not None and not input_of(node, place):
            limit = np.array(item.f).astype(dtype)
            set_input(node, place, document.add_initializer(names.fresh(f"{node.output[0]}_{name}"), limit))
        drop_attribute(node, name)
    return True
