"""Whether a graph can be computed at every compiled shape: one check used by all verbs.

`judge` is what ``check``, ``atc``, ``fix``, the emulator's compile and the acceptance pre-flight share. It looks at
three things, the cheap ones first:

* structure: no node reads what nothing makes, no tensor has two makers, no nodes need each other in a circle;
* shapes and element types: ONNX's strict inference with data propagation, and the sums that it leaves out (elements
  of a Reshape, channels of a convolution), at each shape;
* ONNX Runtime, once at each shape: what runs is sound, whatever inference thought of it. It gets zeros instead of
  large weights, so that their bytes are never read.

Operators that ONNX does not know (a vendor's, a user's own) are passed over, with what needs them: nobody knows what
shapes they make. What lies beside and before them is still judged.
The INT8 operators of a deploy model are taken for what they do to shapes, which is nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from pth2om.errors import first_line
from pth2om.evidence import Finding
from pth2om.onnxfile.runtime import RefusedError, open_runtime, run_runtime
from pth2om.onnxfile.types import light_model, tensor_types
from pth2om.onnxfile.walking import (
    STANDARD,
    Sizes,
    Types,
    all_graphs,
    captured,
    graphs,
    integer,
    named_nodes,
    opset,
    order,
    reads,
    set_nodes,
)
from pth2om.preflight.remembered import remembered
from pth2om.preflight.structure import finding_of, structure

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

    from pth2om.ascend.atc_options import AtcOptions

Shapes = Mapping[str, Sizes]

MOST_WORK = 100e9
"""Operations (a multiply-add is two) that ONNX Runtime may be asked for in one judgement: some seconds. The smallest
shape comes first; shapes beyond it are judged by inference alone."""
MOST_BYTES = 4 << 30
"""Bytes of all tensors at one shape beyond which ONNX Runtime is not asked."""
_SECONDS = 30.0
"""A safety net for a graph whose work nothing could foresee; such a run proves nothing."""

_QUANT = frozenset({"AscendQuant", "AscendDequant", "AscendAntiQuant"})
_FLOAT, _FLOAT16 = 1, 10
_WHOLE = frozenset({2, 3, 6})
_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8}
"""Element types (``TensorProto.DataType``) that can be fed, and their bytes."""
_UNFORESEEN = frozenset({"Loop", "Scan", "SequenceMap"})
"""How much these compute nobody knows before."""
_BY_SHAPE = frozenset(
    {
        *("Add", "And", "AveragePool", "BatchNormalization", "Concat", "Conv", "ConvTranspose", "DepthToSpace", "Div"),
        *("Einsum", "Equal", "Expand", "Flatten", "GRU", "Gemm", "Greater", "GreaterOrEqual", "GroupNormalization"),
        *("InstanceNormalization", "LSTM", "LayerNormalization", "Less", "LessOrEqual", "MatMul", "Max", "MaxPool"),
        *("Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "RNN", "Reshape", "Resize", "SpaceToDepth", "Split"),
        *("Squeeze", "Sub", "Sum", "Tile", "Transpose", "Unsqueeze", "Where", "Xor"),
    }
)
"""Operators that fail for their inputs' shapes, and not for the values of data that only a real input has."""
_SHAPE_INPUTS = {
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Split", "Squeeze", "Unsqueeze"), (1,)),
    "Resize": (1, 2, 3),
}
"""Inputs that hold a shape as their values."""

_INFERENCE = re.compile(r"\(op_type:(?P<kind>[^,()]+)(?:, node name: (?P<name>[^\n]*?))?\): (?P<reason>[^\n]+)")
_RUNNING = re.compile(
    r"running (?P<kind>\w+) node\. Name:'(?P<name>[^\n]*?)' Status Message: (?P<reason>[^\n]+)", re.DOTALL
)


def judge(path: Path, model: ModelProto, profiles: Sequence[Shapes]) -> tuple[Finding, ...]:
    """What makes a graph impossible to compute; empty when nothing is known against it.

    Args:
        path: the model's file: an answer is kept for the process as long as it does not change.
        model: as read, external data left where it is; not changed.
        profiles: input shapes that are compiled, -1 for a size that stays open; see `profiles_of`.

    Returns:
        Errors: ``preflight.cycle``, ``two-producers`` and ``undefined-input`` of the structure; or, of the first shape
        that cannot be, ``preflight.impossible-shape`` or ``types-differ``.
    """
    asked = "soundness", tuple(tuple(sorted(shapes.items())) for shapes in profiles)
    return remembered(path, asked, lambda: _judged(model, profiles))


def profiles_of(
    model: ModelProto, static: Shapes, gears: Sequence[Sequence[int]] = (), by: str = ""
) -> list[dict[str, Sizes]]:
    """The input shapes that a compilation makes: one, or one a gear.

    Args:
        model: the graph.
        static: sizes of ``--input_shape`` by input, -1 where gears fill them in; they replace the declared ones.
        gears: the values of each gear.
        by: ``dynamic_batch_size`` (one value, for every -1), ``dynamic_image_size`` (two, for each input's pair) or
            ``dynamic_dims`` (one for each -1 of all inputs, in the order of `static`).
    """
    initial = {tensor.name for tensor in model.graph.initializer}
    base: dict[str, Sizes] = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        if value.name in static:
            base[value.name] = tuple(static[value.name])
        elif value.name not in initial and kind.HasField("shape"):
            base[value.name] = tuple(dim.dim_value if dim.dim_value > 0 else -1 for dim in kind.shape.dim)
    if not gears:
        return [base]
    found = []
    for gear in gears:
        shapes, rest = dict(base), list(gear)
        for name in (name for name in static if name in base):
            if by == "dynamic_dims":
                values = rest
            else:
                values = list(gear)[:1] * len(base[name]) if by == "dynamic_batch_size" else list(gear)
            shapes[name] = tuple((values.pop(0) if values else -1) if size < 0 else size for size in base[name])
        found.append(shapes)
    return found


def gears_of(options: AtcOptions | None) -> tuple[list[tuple[int, ...]], str]:
    """The gears of the options and the flag that gives them; what is no list of numbers is left to the front end."""
    for name, outer in (("dynamic_batch_size", ","), ("dynamic_image_size", ";"), ("dynamic_dims", ";")):
        text = getattr(options, name, None) if options is not None else None
        groups = [group for group in (text or "").split(outer) if group.strip()]
        values = [[number.strip() for number in group.split(",")] for group in groups]
        numbers = [number for row in values for number in row]
        if numbers and all(number.isascii() and number.isdigit() and len(number) < 10 for number in numbers):
            return [tuple(int(number) for number in row) for row in values], name
    return [], ""


# ------------------------------------------------------------------------------------------------- shapes and types


def _judged(model: ModelProto, profiles: Sequence[Shapes]) -> tuple[Finding, ...]:
    broken = next(structure(model), None)
    if broken is not None:
        return (broken,)
    runner = _Runner(model)
    for shapes in sorted(profiles, key=lambda one: sum(prod(sizes) for sizes in one.values())):
        finding = _at(model, shapes, runner)
        if finding is not None:
            return (finding,)
    return ()


def _at(model: ModelProto, shapes: Shapes, runner: _Runner) -> Finding | None:
    light, checked = _judgeable(model, shapes)
    types = tensor_types(light, shapes)
    complaint = _inferred(light, shapes, checked) or _counted(light, types, shapes)
    ran = runner.run(light, types, shapes)
    if ran is True:
        return None
    return complaint or (ran if isinstance(ran, Finding) else None)


def _judgeable(model: ModelProto, shapes: Shapes) -> tuple[ModelProto, bool]:
    """A light copy that inference and ONNX Runtime read, and whether its element types are to be checked.

    Every node has the name that ATC gives it; declared shapes of inner tensors and outputs are gone.
    """
    light = light_model(model, shapes)
    light.ir_version = min(light.ir_version, 10)
    graph = light.graph
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    for item, node in zip(named_nodes(model), (node for part in graphs(light) for node in part.node), strict=True):
        node.name = item.name
    places = order(graph.node)
    if places is not None and places != sorted(places):
        set_nodes(graph, [graph.node[place] for place in places])
    imported = {entry.domain for entry in light.opset_import}
    for domain in sorted({node.domain for part in all_graphs(light) for node in part.node} - imported):
        if domain not in STANDARD:
            light.opset_import.add(domain=domain, version=1)
    quantized = any(node.op_type in _QUANT for node in graph.node)
    if quantized:
        kinds = {tensor.data_type for tensor in graph.initializer}
        kinds |= {value.type.tensor_type.elem_type for value in graph.input}
        quantized = _FLOAT16 in kinds
        if not quantized:
            _take_for_float(graph)
    _cut_unknown(light)
    return light, not quantized


def _cut_unknown(light: ModelProto) -> None:
    """Operators that ONNX does not know go, with what needs them: inference reports nothing beside them."""
    import onnx

    graph, functions = light.graph, {(one.domain, one.name) for one in light.functions}
    version = opset(light)

    def known(node: NodeProto) -> bool:
        if node.domain in STANDARD:
            return bool(onnx.defs.has(node.op_type, max(version, 1), ""))
        return (node.domain, node.op_type) in functions

    gone: set[str] = set()
    kept = []
    for node in graph.node:
        if known(node) and not reads(node) & gone:
            kept.append(node)
        else:
            gone.update(name for name in node.output if name)
    if gone:
        set_nodes(graph, kept)
        for value in [value for value in graph.output if value.name in gone]:
            graph.output.remove(value)


def _take_for_float(graph: GraphProto) -> None:
    """INT8 layers of a deploy model as the float layers that they stand for: only their shapes matter here."""
    chain: set[str] = set()
    integers: set[str] = set()
    for node in graph.node:
        if node.op_type in _QUANT:
            if node.op_type == "AscendQuant":
                chain.update(node.output)
            del node.input[1:]
            del node.attribute[:]
            node.op_type, node.domain = "Identity", ""
        elif chain.intersection(node.input):
            integers.update(node.input)
            chain.update(node.output)
    kept = [tensor for tensor in graph.initializer if tensor.name in integers and tensor.data_type in _WHOLE]
    for value in graph.input:
        if value.name in integers and value.type.tensor_type.elem_type in _WHOLE:
            value.type.tensor_type.elem_type = _FLOAT
    for tensor in kept:
        value = graph.input.add()
        value.name = tensor.name
        value.type.tensor_type.elem_type = _FLOAT
        value.type.tensor_type.shape.SetInParent()
        for size in tensor.dims:
            value.type.tensor_type.shape.dim.add().dim_value = size
    for tensor in kept:
        graph.initializer.remove(tensor)


def _inferred(light: ModelProto, shapes: Shapes, checked: bool) -> Finding | None:
    """What ONNX's strict inference says against the graph."""
    import onnx
    from onnx.shape_inference import InferenceError

    try:
        onnx.shape_inference.infer_shapes(light, check_type=checked, strict_mode=True, data_prop=True)
    except InferenceError as error:
        match = _INFERENCE.search(str(error))
        if match is None:
            return None
        reason = match["reason"].replace("[ShapeInferenceError] ", "").replace("[TypeInferenceError] ", "").strip()
        name = (match["name"] or "").strip()
        typed = "inconsistent type" in reason or "unsupported type" in reason or "TypeInference" in match["reason"]
        return _impossible("types-differ" if typed else "impossible-shape", name, match["kind"], reason, shapes)
    except (ValueError, RuntimeError, TypeError):
        return None
    return None


def _counted(light: ModelProto, types: Types, shapes: Shapes) -> Finding | None:
    """What inference does not add up: elements of a Reshape, channels of a layer, sizes that shrink to nothing."""
    for node in light.graph.node:
        if node.domain not in STANDARD:
            continue
        ins = [types.get(name, (0, None))[1] if name else None for name in node.input]
        outs = [types.get(name, (0, None))[1] if name else None for name in node.output]
        reason = _wrong_sum(node, ins, outs)
        if reason:
            return _impossible("impossible-shape", node.name, node.op_type, reason, shapes)
    return None


def _wrong_sum(node: NodeProto, ins: Sequence[Sizes | None], outs: Sequence[Sizes | None]) -> str:
    kind, group = node.op_type, integer(node, "group", 1)
    first, second = (*ins, None, None)[:2]
    made = outs[0] if outs else None
    if kind in ("Reshape", "Flatten") and _known(first) and _known(made) and prod(first) != prod(made):
        return f"{_text(first)} has {prod(first)} elements, {_text(made)} has {prod(made)}"
    if kind in ("Conv", "ConvTranspose") and first and second and len(first) > 1 and len(second) > 1:
        channels = second[1] * group if kind == "Conv" else second[0]
        if first[1] > 0 and channels > 0 and first[1] != channels:
            return f"its input has {first[1]} channels, its weight is made for {channels}"
    if kind == "Gemm" and first and second and len(first) == len(second) == 2:
        rows, columns = first[0 if integer(node, "transA", 0) else 1], second[1 if integer(node, "transB", 0) else 0]
        if rows > 0 and columns > 0 and rows != columns:
            return f"{_text(first)} and {_text(second)} do not multiply"
    if kind == "BatchNormalization" and first and second and len(first) > 1 and len(second) == 1:
        channels = second[0]
        if first[1] > 0 and 0 < channels != first[1]:
            return f"its input has {first[1]} channels, its scale {channels}"
    if kind in ("Conv", "MaxPool", "AveragePool") and first and made and 0 not in first and 0 in made:
        return f"{_text(first)} shrinks to {_text(made)}"
    return ""


def _known(sizes: Sizes | None) -> TypeGuard[Sizes]:
    return sizes is not None and min(sizes, default=0) >= 0


# ------------------------------------------------------------------------------------------------------ ONNX Runtime


class _Runner:
    """ONNX Runtime asked once a shape, within `MOST_WORK` for all of them."""

    def __init__(self, model: ModelProto) -> None:
        self._left = MOST_WORK
        nodes = [node for graph in all_graphs(model) for node in graph.node]
        self._foreign = bool(model.functions) or any(
            node.domain not in STANDARD or node.op_type in _UNFORESEEN for node in nodes
        )

    def run(self, light: ModelProto, types: Types, shapes: Shapes) -> Finding | bool:
        """True where it runs; what is wrong where that is certain; else False: nothing is proven."""
        import numpy as np
        from onnx import helper

        if self._foreign:
            return False
        feeds, size = {}, 0
        initial = {tensor.name for tensor in light.graph.initializer}
        for value in light.graph.input:
            kind = value.type.tensor_type
            dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
            if value.name in initial:
                continue
            if not kind.HasField("shape") or min(dims, default=0) < 0 or kind.elem_type not in _ITEM_BYTES:
                return False
            size += prod(dims) * _ITEM_BYTES[kind.elem_type]
            feeds[value.name] = (dims, kind.elem_type)
        size += sum(prod(sizes) * _ITEM_BYTES.get(kind, 4) for kind, sizes in types.values() if _known(sizes))
        if size > MOST_BYTES or not self._affords(light, shapes):
            return False
        arrays = {name: np.zeros(dims, helper.tensor_dtype_to_np_dtype(kind)) for name, (dims, kind) in feeds.items()}
        try:
            session = open_runtime(light.SerializeToString(), optimize=False)
            run_runtime(session, arrays, seconds=_SECONDS)
        except RefusedError as error:
            return self._reason(light, types, shapes, error) or False
        return True

    def _affords(self, light: ModelProto, shapes: Shapes) -> bool:
        from pth2om.roofline import work

        flop = float(work(light, shapes)["flop"])
        if flop > self._left:
            return False
        self._left -= flop
        return True

    def _reason(self, light: ModelProto, types: Types, shapes: Shapes, error: RefusedError) -> Finding | None:
        match = _RUNNING.search(str(error.__cause__ or error))
        if match is None or match["kind"] not in _BY_SHAPE:
            return None
        node = next((node for node in light.graph.node if node.name == match["name"]), None)
        if node is None or not all(_known(types.get(name, (0, None))[1]) for name in node.input if name):
            return None
        carriers = [node.input[place] for place in _SHAPE_INPUTS.get(node.op_type, ()) if place < len(node.input)]
        if _from_data(light.graph, types, carriers):
            return None
        return _impossible("impossible-shape", node.name, node.op_type, first_line(match["reason"]), shapes)


def _from_data(graph: GraphProto, types: Types, names: Iterable[str]) -> bool:
    """Whether values come from a graph input, and not only from constants and known shapes."""
    makers = {name: node for node in graph.node for name in node.output if name}
    initial = {tensor.name for tensor in graph.initializer}
    pending, seen = [name for name in names if name], set[str]()
    while pending:
        name = pending.pop()
        if name in seen or name in initial:
            continue
        seen.add(name)
        maker = makers.get(name)
        if maker is None:
            return True
        if maker.op_type in ("Shape", "Size") and _known(types.get(maker.input[0], (0, None))[1]):
            continue
        pending += [*(entry for entry in maker.input if entry), *captured(maker)]
    return False


# ---------------------------------------------------------------------------------------------------------- findings


def _impossible(rule: str, name: str, kind: str, reason: str, shapes: Shapes) -> Finding:
    given = "; ".join(f"{name} {_text(sizes)}" for name, sizes in shapes.items() if sizes) or "-"
    return finding_of(rule, name or kind, kind=kind, reason=reason.strip(" .")[:300], shapes=given)


def _text(sizes: Sizes | None) -> str:
    return "x".join("?" if size < 0 else str(size) for size in sizes or ()) or "()"
