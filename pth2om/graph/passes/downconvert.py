"""A lower opset: ATC looks a model's opset up exactly and registers standard operators up to 18 only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pth2om.graph.contract import ROUNDING, Applied, Settings
from pth2om.graph.document import Document
from pth2om.graph.passes import decompose, ir_version, split_clip_pad
from pth2om.graph.surgery import (
    STANDARD,
    Names,
    Scope,
    Types,
    all_graphs,
    attribute,
    drop_attribute,
    drop_unused,
    input_of,
    integer,
    node_label,
    opset,
    scopes,
    set_attribute,
    set_opset,
    text,
    trim_inputs,
    types,
)
from pth2om.language import say

if TYPE_CHECKING:
    from onnx import AttributeProto, NodeProto

NAME = "downconvert"
BOUND = ROUNDING
STRUCTURAL = False

_LOWEST = 11
"""Opset for files below 11: registrations there have holes, and opset 11 is the best covered one."""
_OWN = 17
"""The own adapters go down to here; below it ONNX's version converter takes over."""

_REDUCING = frozenset(
    {
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSumSquare",
    }
)


def apply(document: Document, settings: Settings) -> Applied:
    """Convert to ``settings.opset`` (17); a file below opset 11 to 11.

    Operators that the lower opset lacks are decomposed. When one node cannot be said in the lower opset nothing is
    changed, and the nodes are named.
    """
    had = opset(document.model)
    wanted = settings.opset if had > settings.opset else _LOWEST if 0 < had < _LOWEST else had
    if wanted == had:
        return Applied()
    if had > _OWN:
        blocked = _to_own(document, settings)
        if blocked:
            nodes = ", ".join(blocked[:3]) + (", ..." if len(blocked) > 3 else "")
            return Applied(left=[say("graph.downconvert-left", nodes=nodes, count=len(blocked), opset=wanted)])
    if wanted != opset(document.model):
        import onnx.version_converter

        document.raise_ir(4)
        document.model.CopyFrom(onnx.version_converter.convert_version(document.model, wanted))
    return Applied(had - wanted if had > wanted else wanted - had, values={"had": had, "now": wanted})


def _to_own(document: Document, settings: Settings) -> list[str]:
    """Convert from above to opset 17; labels of the nodes that stand in the way."""
    import onnx

    split_clip_pad.apply(document, settings)
    decompose.apply(document, settings)
    lacking = {
        node.op_type
        for graph in all_graphs(document.model)
        for node in graph.node
        if node.domain in STANDARD and _schema(node.op_type, _OWN) is None and decompose.decomposable(node.op_type)
    }
    if lacking:
        decompose.replace(document, lacking)
    blocked: list[str] = []
    version = opset(document.model)
    known, names = types(document), Names(document.model)
    for scope in scopes(document):
        for node in scope.graph.node:
            if node.domain not in STANDARD:
                continue
            adapt = _ADAPTERS.get(node.op_type) or (_reduce if node.op_type in _REDUCING else None)
            if adapt is not None and not adapt(document, scope, node, known, names):
                blocked.append(f"{node_label(node)} ({node.op_type})")
                continue
            now = _schema(node.op_type, version)
            if not _fits(node, _schema(node.op_type, _OWN), now):
                blocked.append(f"{node_label(node)} ({node.op_type})")
    assert isinstance(onnx.__version__, str)
    if not blocked:
        drop_unused(document)
        set_opset(document.model, _OWN)
        if document.model.ir_version > ir_version.KNOWN:
            ir_version.apply(document, settings)
    return blocked


def _schema(op_type: str, version: int) -> object | None:
    import onnx

    try:
        schema = onnx.defs.get_schema(op_type, version)
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated else schema


def _fits(node: NodeProto, old: object | None, new: object | None) -> bool:
    """Whether the older operator says the same: attributes it lacks are dropped where they have their default."""
    if old is None:
        return False
    if old is new or getattr(old, "since_version", 0) == getattr(new, "since_version", -1):
        return True
    for item in list(node.attribute):
        if item.name in old.attributes:  # type: ignore[attr-defined]
            continue
        if not _is_default(item, new):
            return False
        drop_attribute(node, item.name)
    trim_inputs(node)
    least, most = int(old.min_input), int(old.max_input)  # type: ignore[attr-defined]
    return least <= len(node.input) <= most and len(node.output) <= int(old.max_output)  # type: ignore[attr-defined]


def _is_default(item: AttributeProto, schema: object | None) -> bool:
    from onnx import helper

    declared = schema.attributes.get(item.name) if schema is not None else None  # type: ignore[attr-defined]
    if declared is None or not declared.default_value.name:
        # AveragePool's dilations have no default value in the schema; ones mean none.
        return item.name == "dilations" and all(value == 1 for value in item.ints)
    return bool(helper.get_attribute_value(declared.default_value) == helper.get_attribute_value(item))


# --- adapters: False where the node cannot be said in opset 17 ------------------------------------------------------


def _reduce(_document: Document, scope: Scope, node: NodeProto, _known: Types, _names: Names) -> bool:
    """The axes from an input to an attribute."""
    if attribute(node, "axes") is not None:
        return True
    axes = scope.integers(input_of(node, 1)) if input_of(node, 1) else []
    if axes is None or (not axes and integer(node, "noop_with_empty_axes", 0)):
        return False
    drop_attribute(node, "noop_with_empty_axes")
    del node.input[1:]
    if axes:
        set_attribute(node, "axes", axes)
    return True


def _grid_sample(_document: Document, _scope: Scope, node: NodeProto, known: Types, _names: Names) -> bool:
    renamed = {"linear": "bilinear", "cubic": "bicubic"}
    mode = text(node, "mode", "linear")
    set_attribute(node, "mode", renamed.get(mode, mode))
    sizes = known.get(input_of(node, 0), (0, None))[1]
    return sizes is None or len(sizes) == 4


def _resize(document: Document, scope: Scope, node: NodeProto, known: Types, names: Names) -> bool:
    """Scales or sizes of some axes become those of all."""
    if text(node, "coordinate_transformation_mode", "half_pixel") == "half_pixel_symmetric":
        return False
    item = attribute(node, "axes")
    if item is None:
        return True
    sizes = known.get(input_of(node, 0), (0, None))[1]
    policy = text(node, "keep_aspect_ratio_policy", "stretch")
    if sizes is None or policy != "stretch" or input_of(node, 1):
        return False
    axes = [int(axis) % len(sizes) for axis in item.ints]
    for place, default in ((2, np.ones(len(sizes), np.float32)), (3, np.array(sizes, np.int64))):
        if not input_of(node, place):
            continue
        given = scope.values(input_of(node, place))
        if given is None or len(given) != len(axes) or (place == 3 and min(sizes) < 0):
            return False
        default[axes] = given
        node.input[place] = document.add_initializer(names.fresh(f"{node.output[0]}_resize"), default)
    drop_attribute(node, "axes")
    return True


def _scatter(_document: Document, _scope: Scope, node: NodeProto, _known: Types, _names: Names) -> bool:
    return text(node, "reduction", "none") in ("none", "add", "mul")


def _pad(_document: Document, _scope: Scope, node: NodeProto, _known: Types, _names: Names) -> bool:
    return text(node, "mode", "constant") != "wrap" and not input_of(node, 3)


_ADAPTERS: dict[str, Callable[[Document, Scope, NodeProto, Types, Names], bool]] = {
    "GridSample": _grid_sample,
    "Pad": _pad,
    "Resize": _resize,
    "ScatterElements": _scatter,
    "ScatterND": _scatter,
}
