"""Writes out defaults that ATC's plugins do not apply: Transpose without perm, GridSample's strings, ..."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pth2om.graph.contract import EQUAL, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.graph.surgery import scopes, set_attribute, types
from pth2om.language import Message, say
from pth2om.onnxfile.walking import STANDARD, Types, attribute, input_of, node_label, opset

if TYPE_CHECKING:
    from onnx import NodeProto

NAME = "transpose-perm"
BOUND = EQUAL
STRUCTURAL = True

_SPATIAL = frozenset({"Conv", "ConvTranspose"})


def apply(document: Document, _settings: PassSettings) -> Applied:
    """Write out attributes that ONNX leaves to a default.

    These are ``perm`` of Transpose, ``kernel_shape`` of convolutions, ``mode`` and ``padding_mode`` of GridSample, and
    ``axis`` of LogSoftmax and Hardmax below opset 13.
    """
    version = opset(document.model)
    wanted = [
        node
        for scope in scopes(document)
        for node in scope.graph.node
        if node.domain in STANDARD and _lacks(node, version)
    ]
    if not wanted:
        return Applied()
    known = types(document)
    changed: list[str] = []
    left: list[str] = []
    for node in wanted:
        (changed if _write(node, known, version) else left).append(node_label(node))
    messages: list[Message] = []
    if left:
        messages = [say("graph.transpose-perm-left", nodes=", ".join(left[:3]), count=len(left))]
    return Applied(len(changed), changed, left=messages)


def _lacks(node: NodeProto, version: int) -> bool:
    if node.op_type == "Transpose":
        return attribute(node, "perm") is None
    if node.op_type in _SPATIAL:
        return attribute(node, "kernel_shape") is None
    if node.op_type == "GridSample":
        return attribute(node, "mode") is None or attribute(node, "padding_mode") is None
    return node.op_type in ("LogSoftmax", "Hardmax") and version < 13 and attribute(node, "axis") is None


def _write(node: NodeProto, known: Types, version: int) -> bool:
    if node.op_type == "Transpose":
        sizes = known.get(input_of(node, 0), (0, None))[1]
        if sizes is None:
            return False
        set_attribute(node, "perm", list(reversed(range(len(sizes)))))
    elif node.op_type in _SPATIAL:
        sizes = known.get(input_of(node, 1), (0, None))[1]
        if sizes is None or len(sizes) < 3 or any(size < 0 for size in sizes[2:]):
            return False
        set_attribute(node, "kernel_shape", list(sizes[2:]))
    elif node.op_type == "GridSample":
        if attribute(node, "mode") is None:
            set_attribute(node, "mode", "linear" if version >= 20 else "bilinear")
        if attribute(node, "padding_mode") is None:
            set_attribute(node, "padding_mode", "zeros")
    else:
        set_attribute(node, "axis", 1)
    return True
