"""Limits constants that fp16 cannot represent: masks of -1e9, infinities, open limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pth2om.graph.contract import ROUNDING, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.graph.proof import FP16_MAX
from pth2om.onnxfile.walking import STANDARD, all_graphs, readers
from pth2om.session import Array

if TYPE_CHECKING:
    from onnx import TensorProto

NAME = "clamp"
BOUND = ROUNDING
STRUCTURAL = False

MASK = -1e4
"""The new mask value: exp(-1e4) is zero in every type, and adding a logit stays within fp16 (-65504 would not)."""

_MASKING = frozenset({"Add", "Expand", "Mul", "Where"})
_FLOATS = (1, 10, 11)


def apply(document: Document, _settings: PassSettings) -> Applied:
    """Clamp floating-point constants to +-65504; large negative values of a mask become -1e4.

    A mask is a constant that contains large negative values and apart from them only zeros and ones, and that is read
    only by Where, Add, Mul and Expand. Scales and regions of a Resize are not changed.
    """
    changed: list[str] = []
    clamped = 0
    left_alone = {
        name
        for graph in all_graphs(document.model)
        for node in graph.node
        if node.op_type == "Resize" and node.domain in STANDARD
        for name in node.input[1:]
    }
    for graph in all_graphs(document.model):
        tensors = [(tensor.name, tensor) for tensor in graph.initializer]
        for node in graph.node:
            if node.op_type in ("Constant", "ConstantOfShape") and node.domain in STANDARD:
                label = node.output[0] if node.output else node.name
                tensors.extend((label, item.t) for item in node.attribute if item.name == "value")
        read_by = readers(graph)
        for name, tensor in tensors:
            if tensor.data_type not in _FLOATS or name in left_alone:
                continue
            kinds = {node.op_type for node in read_by.get(name, ())}
            count = _clamp(document, tensor, masking=bool(kinds) and kinds <= _MASKING)
            if count:
                changed.append(name)
                clamped += count
        for node in graph.node:
            if node.op_type == "Clip" and node.domain in STANDARD:
                for item in node.attribute:
                    if item.name in ("min", "max") and abs(item.f) > FP16_MAX:
                        item.f = float(np.clip(item.f, -FP16_MAX, FP16_MAX))
                        changed.append(node.name or node.output[0])
                        clamped += 1
    return Applied(len(changed), changed, values={"values": clamped})


def _clamp(document: Document, tensor: TensorProto, *, masking: bool) -> int:
    """Clamp one tensor; returns the number of changed values."""
    array = document.array(tensor)
    with np.errstate(invalid="ignore"):
        beyond = np.asarray(np.abs(array) > FP16_MAX, bool)
    count = int(np.count_nonzero(beyond))
    if not count:
        return 0
    limited = np.where(beyond, np.clip(array, -FP16_MAX, FP16_MAX), array).astype(array.dtype)
    if masking and _is_mask(array, beyond):
        limited = np.where(beyond, np.asarray(MASK, array.dtype), array).astype(array.dtype)
    tensor.CopyFrom(document.tensor(tensor.name, limited))
    return count


def _is_mask(array: Array, beyond: np.ndarray[Any, np.dtype[np.bool_]]) -> bool:
    high = array[beyond]
    if not (high < 0).all():
        return False
    rest = np.unique(array[~beyond])
    return len(rest) <= 2 and bool(np.isin(rest, (0.0, 1.0)).all())
