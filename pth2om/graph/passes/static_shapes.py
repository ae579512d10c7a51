"""Fixes open dimensions to the requested sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pth2om.errors import GraphError
from pth2om.graph.contract import EQUAL, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.graph.surgery import forget_shapes, types
from pth2om.language import say

if TYPE_CHECKING:
    from onnx import ValueInfoProto

NAME = "static-shapes"
BOUND = EQUAL
STRUCTURAL = True


def apply(document: Document, settings: PassSettings) -> Applied:
    """Declare ``settings.input_shapes``; other dimensions of the same symbol follow, outputs are inferred again.

    Without shapes nothing is guessed: the finding lists the shapes to give.

    Raises:
        GraphError: a shape is not for an input of the model, has another rank, or contradicts a fixed size of the
            model.
    """
    constant = {tensor.name for tensor in document.graph.initializer}
    inputs = {value.name: value for value in document.graph.input if value.name not in constant}
    symbols: dict[str, int] = {}
    changed: list[str] = []
    for name, shape in settings.input_shapes.items():
        if name not in inputs:
            raise GraphError(
                "graph.shape-no-input", where=str(document.path or ""), name=name, inputs=", ".join(inputs)
            )
        if _fix(document, inputs[name], shape, symbols):
            changed.append(name)
    for name, value in inputs.items():
        if name not in settings.input_shapes and _follow(value, symbols):
            changed.append(name)
    open_ones = [name for name, value in inputs.items() if _is_open(value)]
    left = []
    if open_ones:
        example = ";".join(f"{name}:{_example(inputs[name])}" for name in open_ones)
        left = [say("graph.static-shapes-ask", inputs=", ".join(open_ones), example=example)]
    if changed:
        _outputs(document)
    return Applied(len(changed), changed, left=left)


def _fix(document: Document, value: ValueInfoProto, shape: tuple[int, ...], symbols: dict[str, int]) -> bool:
    tensor = value.type.tensor_type
    where = str(document.path or "")
    given = ",".join(str(size) for size in shape)
    if tensor.HasField("shape") and len(tensor.shape.dim) != len(shape):
        raise GraphError(
            "graph.shape-rank", where=where, name=value.name, given=given, rank=len(tensor.shape.dim), asked=len(shape)
        )
    changed = not tensor.HasField("shape")
    while len(tensor.shape.dim) < len(shape):
        tensor.shape.dim.add()
    tensor.shape.SetInParent()
    for dim, size in zip(tensor.shape.dim, shape, strict=True):
        if dim.dim_value > 0 and dim.dim_value != size:
            declared = ",".join(str(item.dim_value or item.dim_param or "?") for item in tensor.shape.dim)
            raise GraphError("graph.shape-fixed", where=where, name=value.name, given=given, declared=declared)
        if dim.dim_value != size:
            if dim.dim_param:
                symbols[dim.dim_param] = size
            dim.dim_value = size
            changed = True
    return changed


def _follow(value: ValueInfoProto, symbols: dict[str, int]) -> bool:
    changed = False
    for dim in value.type.tensor_type.shape.dim:
        if dim.dim_param in symbols:
            dim.dim_value = symbols[dim.dim_param]
            changed = True
    return changed


def _is_open(value: ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return value.type.HasField("tensor_type") and (
        not tensor.HasField("shape") or any(dim.dim_value <= 0 for dim in tensor.shape.dim)
    )


def _example(value: ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return (
        ",".join(
            str(dim.dim_value) if dim.dim_value > 0 else "1" if not place else "?" for place, dim in enumerate(dims)
        )
        or "?"
    )


def _outputs(document: Document) -> None:
    """Declare the outputs' new shapes and remove the inner shapes, which belonged to the open sizes."""
    forget_shapes(document)
    for value in document.graph.output:
        value.type.tensor_type.ClearField("shape")
    known = types(document)
    for value in document.graph.output:
        sizes = known.get(value.name, (0, None))[1]
        if sizes is None or not value.type.HasField("tensor_type"):
            continue
        value.type.tensor_type.shape.SetInParent()
        for place, size in enumerate(sizes):
            dim = value.type.tensor_type.shape.dim.add()
            if size >= 0:
                dim.dim_value = size
            else:
                dim.dim_param = f"{value.name}_{place}"
