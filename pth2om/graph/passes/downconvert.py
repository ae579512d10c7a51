"""Converts to a lower opset: ATC requires exactly the model's opset and registers standard operators up to 18."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pth2om.errors import first_line
from pth2om.graph.contract import ROUNDING, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.graph.passes import constant_value, decompose, ir_version, split_clip_pad
from pth2om.graph.surgery import (
    Names,
    Scope,
    drop_attribute,
    drop_unused,
    scopes,
    set_attribute,
    set_opset,
    trim_inputs,
    types,
)
from pth2om.language import say
from pth2om.onnxfile.walking import STANDARD, Types, all_graphs, attribute, input_of, integer, node_label, opset, text

if TYPE_CHECKING:
    from onnx import AttributeProto, NodeProto

NAME = "downconvert"
BOUND = ROUNDING
STRUCTURAL = False

_LOWEST = 11
"""Opset for files below 11: some registrations are missing there, and opset 11 is covered best."""

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


def apply(document: Document, settings: PassSettings) -> Applied:
    """Convert to ``settings.opset`` (17), or to 11 from a lower opset.

    Operators that the lower opset lacks are decomposed. If a node cannot be expressed in the lower opset, nothing is
    changed and the nodes are reported.
    """
    had = opset(document.model)
    wanted = settings.opset if had > settings.opset else _LOWEST if 0 < had < _LOWEST else had
    if wanted == had:
        return Applied()
    values = {"had": had, "now": wanted}
    blocked: list[str] = []
    if wanted < had:
        backup = document.clone()
        blocked = _lower(document, settings, wanted)
        if not blocked:
            return Applied(had - wanted, values=values)
        document.model.CopyFrom(backup.model)
    reason = _by_onnx(document, wanted)
    if not reason:
        return Applied(abs(had - wanted), values=values)
    if blocked:
        nodes = ", ".join(blocked[:3]) + (", ..." if len(blocked) > 3 else "")
        return Applied(left=[say("graph.downconvert-left", nodes=nodes, count=len(blocked), opset=wanted)])
    return Applied(left=[say("graph.downconvert-refused", opset=wanted, reason=reason)])


def _by_onnx(document: Document, wanted: int) -> str:
    """Run ONNX's own version converter; returns its reason for a refusal, or an empty string."""
    import onnx.version_converter

    if any(item.domain not in STANDARD for item in document.model.opset_import):
        return "the model imports other domains"
    document.raise_ir(4)
    try:
        converted = onnx.version_converter.convert_version(document.model, wanted)
    except (RuntimeError, ValueError, TypeError, onnx.shape_inference.InferenceError) as error:
        return first_line(error)
    document.model.CopyFrom(converted)
    return ""


def _lower(document: Document, settings: PassSettings, wanted: int) -> list[str]:
    """Convert to a lower opset; returns the labels of the nodes that prevent it."""
    constant_value.apply(document, settings)
    split_clip_pad.apply(document, settings)
    decompose.apply(document, settings)
    lacking = {
        node.op_type
        for graph in all_graphs(document.model)
        for node in graph.node
        if node.domain in STANDARD and _schema(node.op_type, wanted) is None and decompose.decomposable(node.op_type)
    }
    decompose.replace(document, lacking)
    blocked: list[str] = []
    version = opset(document.model)
    known, names = types(document), Names(document.model)
    for scope in scopes(document):
        for node in scope.graph.node:
            if node.domain not in STANDARD:
                continue
            steps, adapt = _ADAPTERS.get(node.op_type, ((), None))
            place = _Place(document, scope, node, known, names, wanted)
            crossed = any(wanted < step <= version for step in steps)
            adapted = adapt is None or not crossed or adapt(place)
            if not adapted or not _fits(node, _schema(node.op_type, wanted), _schema(node.op_type, version)):
                blocked.append(f"{node_label(node)} ({node.op_type})")
    if not blocked:
        drop_unused(document)
        set_opset(document.model, wanted)
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
    """Whether the older operator has the same meaning: attributes it lacks are dropped if they have their default."""
    if old is None:
        return False
    if old is new or getattr(old, "since_version", 0) == getattr(new, "since_version", -1):
        return True
    for item in list(node.attribute):
        if item.name in old.attributes:  # type: ignore[attr-defined]  # onnx's C++
            continue
        if not _is_default(item, new):
            return False
        drop_attribute(node, item.name)
    trim_inputs(node)
    least, most = int(old.min_input), int(old.max_input)  # type: ignore[attr-defined]  # onnx's C++
    return least <= len(node.input) <= most and len(node.output) <= int(old.max_output)  # type: ignore[attr-defined]  # onnx's C++


def _is_default(item: AttributeProto, schema: object | None) -> bool:
    from onnx import helper

    declared = schema.attributes.get(item.name) if schema is not None else None  # type: ignore[attr-defined]  # onnx's C++
    if declared is None or not declared.default_value.name:
        # AveragePool's dilations have no default in the schema; ones mean no dilation.
        return item.name == "dilations" and all(value == 1 for value in item.ints)
    return bool(helper.get_attribute_value(declared.default_value) == helper.get_attribute_value(item))


# --- adapters: False if the node cannot be expressed in the lower opset ---------------------------------------------


@dataclass(frozen=True)
class _Place:
    """A node to be adapted, and the known types and shapes around it."""

    document: Document
    scope: Scope
    node: NodeProto
    known: Types
    names: Names
    wanted: int

    def rank(self) -> int | None:
        sizes = self.sizes()
        return None if sizes is None else len(sizes)

    def sizes(self) -> tuple[int, ...] | None:
        return self.known.get(input_of(self.node, 0), (0, None))[1]


def _axes(place: _Place) -> bool:
    """Move the axes (of a Split: the sizes) from an input to an attribute."""
    node, name = place.node, "split" if place.node.op_type == "Split" else "axes"
    if attribute(node, name) is not None:
        return True
    values = place.scope.integers(input_of(node, 1)) if input_of(node, 1) else []
    if values is None or (not values and integer(node, "noop_with_empty_axes", 0)):
        return False
    drop_attribute(node, "noop_with_empty_axes")
    del node.input[1:]
    if values:
        set_attribute(node, name, values)
    return True


def _softmax(place: _Place) -> bool:
    """Below 13 all axes from the given one on are taken as one: the same result only for the last axis."""
    rank, axis = place.rank(), integer(place.node, "axis", -1)
    if axis != -1 and (rank is None or axis != rank - 1):
        return False
    set_attribute(place.node, "axis", -1)
    return True


def _grid_sample(place: _Place) -> bool:
    renamed = {"linear": "bilinear", "cubic": "bicubic"}
    mode = text(place.node, "mode", "linear")
    set_attribute(place.node, "mode", renamed.get(mode, mode))
    return place.rank() in (None, 4)


def _resize(place: _Place) -> bool:
    """Extend scales or sizes of some axes to all axes; opset 11 requires roi and scales even if they have no effect."""
    node, names = place.node, place.names
    if text(node, "coordinate_transformation_mode", "half_pixel") == "half_pixel_symmetric":
        return False
    if attribute(node, "axes") is not None and not _all_axes(place):
        return False
    if place.wanted < 13 and len(node.input) > 2:
        for index in (1, 2):
            if not input_of(node, index):
                empty = place.document.add_initializer(names.fresh(f"{node.output[0]}_none"), np.zeros(0, np.float32))
                node.input[index] = empty
    return True


def _all_axes(place: _Place) -> bool:
    node, sizes, item = place.node, place.sizes(), attribute(place.node, "axes")
    stretched = text(node, "keep_aspect_ratio_policy", "stretch") == "stretch"
    if item is None or sizes is None or not stretched or input_of(node, 1):
        return False
    axes = [int(axis) % len(sizes) for axis in item.ints]
    for index, every in ((2, np.ones(len(sizes), np.float32)), (3, np.array(sizes, np.int64))):
        if not input_of(node, index):
            continue
        given = place.scope.values(input_of(node, index))
        if given is None or len(given) != len(axes) or (index == 3 and min(sizes) < 0):
            return False
        every[axes] = given
        node.input[index] = place.document.add_initializer(place.names.fresh(f"{node.output[0]}_resize"), every)
    drop_attribute(node, "axes")
    return True


def _scatter(place: _Place) -> bool:
    return text(place.node, "reduction", "none") in (("none", "add", "mul") if place.wanted >= 16 else ("none",))


def _pad(place: _Place) -> bool:
    return text(place.node, "mode", "constant") != "wrap" and not input_of(place.node, 3)


def _roi_align(place: _Place) -> bool:
    """Before opset 16 there was no shift by half a pixel."""
    if text(place.node, "coordinate_transformation_mode", "half_pixel") != "output_half_pixel":
        return False
    drop_attribute(place.node, "coordinate_transformation_mode")
    return True


_ADAPTERS: dict[str, tuple[tuple[int, ...], Callable[[_Place], bool]]] = {
    **dict.fromkeys(_REDUCING, ((18,), _axes)),
    **dict.fromkeys(("ReduceSum", "Split", "Squeeze", "Unsqueeze"), ((13,), _axes)),
    **dict.fromkeys(("Hardmax", "LogSoftmax", "Softmax"), ((13,), _softmax)),
    **dict.fromkeys(("ScatterElements", "ScatterND"), ((16, 18), _scatter)),
    "GridSample": ((20,), _grid_sample),
    "Pad": ((18, 19), _pad),
    "Resize": ((13, 18, 19), _resize),
    "RoiAlign": ((16,), _roi_align),
}
"""Operator -> the opsets that changed it, each with the adapter to the version before."""
