"""Whether the chip has a kernel for what the parser makes of a node, and for its data types."""

from __future__ import annotations

from collections.abc import Iterator

from pth2om.ascend import custom_ops, parser_table
from pth2om.evidence import Finding
from pth2om.onnxfile.walking import NamedNode, integers
from pth2om.preflight.context import Context, Rule, found

_BY_RANK = {
    "Conv": {1: "Conv2D", 2: "Conv2D", 3: "Conv3D"},
    "ConvTranspose": {1: "Conv2DTranspose", 2: "Conv2DTranspose", 3: "Conv3DTranspose"},
    "AveragePool": {1: "AvgPoolV2", 2: "AvgPoolV2", 3: "AvgPool3D"},
    "MaxPool": {1: "MaxPoolV3", 2: "MaxPoolV3", 3: "MaxPool3D"},
}
"""The GE operator that the plugin picks by the length of ``kernel_shape``."""

_ARITHMETIC = frozenset(
    {
        "Abs",
        "Add",
        "Clip",
        "CumSum",
        "Div",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "Pow",
        "ReduceMax",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "Sub",
        "Where",
    }
)
"""Element-wise and reducing operators that run on AI CPU for INT64."""

_SHAPE_MAKERS = frozenset({"Shape", "Size"})
_PASSING = frozenset(
    {
        "ConstantOfShape",
        "Range",
        "Gather",
        "Slice",
        "Concat",
        "Unsqueeze",
        "Squeeze",
        "Cast",
        "Reshape",
        "Identity",
        *_ARITHMETIC,
    }
)


def ge_types(node: NamedNode, opset: int) -> tuple[str, ...]:
    """The GE operators that the plugin makes of a node; empty when they are not known."""
    row = parser_table.table()["operators"].get(f"{node.node.domain or 'ai.onnx'}::{node.node.op_type}")
    if row is None:
        custom = custom_ops.find(node.node.domain, node.node.op_type)
        return () if custom is None else (custom.op_type,)
    by_rank = _BY_RANK.get(node.node.op_type)
    if by_rank:
        rank = len(integers(node.node, "kernel_shape") or ())
        return (by_rank[rank],) if rank in by_rank else ()
    for part, types in row.get("by_opset", ()):
        if opset in parser_table.unpack(part):
            return tuple(types)
    return tuple(row.get("ge", ()))


def _fixed_slice(context: Context, item: NamedNode) -> bool:
    """With constant indices the compiler takes StridedSliceD, not the AI CPU kernel of StridedSliceV2.

    Source: atc logs of CANN 8.1 name ``StridedSliceD`` for the Slice nodes of ONNX files (Tlntin/qwen-ascend-llm#11).
    """
    return all(not name or name in context.constants for name in item.node.input[1:])


def kernels(context: Context) -> Iterator[Finding]:
    """GE operators that no public source lists for the chip, and those that only AI CPU has."""
    if context.soc is None:
        return
    unknown: dict[str, list[str]] = {}
    for op_type, items in _by_made(context).items():
        verdicts = [context.kernels.look_up(name) for name in op_type]
        if op_type == ("StridedSliceV2",) and verdicts[0].verdict == "cpu":
            fixed = [item for item in items if _fixed_slice(context, item)]
            if fixed and context.kernels.look_up("StridedSliceD").verdict == "unknown":
                unknown.setdefault("StridedSliceD", []).extend(item.name for item in fixed)
            items = [item for item in items if not _fixed_slice(context, item)]
            if not items:
                continue
        nodes = [item.name for item in items]
        listed = ", ".join(op_type)
        if len(op_type) == 1 and verdicts[0].verdict == "none":
            yield found(
                "no-kernel", "error", nodes, {"ge": listed}, op=items[0].node.op_type, ge=listed, soc=context.soc.name
            )
        elif len(op_type) == 1 and verdicts[0].verdict == "cpu":
            yield found(
                "cpu-kernel",
                "warning",
                nodes,
                {"ge": listed},
                op=items[0].node.op_type,
                ge=listed,
                soc=context.soc.name,
            )
        else:
            for name, verdict in zip(op_type, verdicts, strict=True):
                if verdict.verdict == "unknown":
                    unknown.setdefault(name, []).extend(nodes)
    if unknown:
        listed = ", ".join(sorted(unknown))
        nodes = [name for names in unknown.values() for name in names]
        yield found("kernel-unknown", "info", nodes, {"ge": sorted(unknown)}, ge=listed, soc=context.soc.name)


def dtypes(context: Context) -> Iterator[Finding]:
    """Inputs whose dtype no AI Core kernel of the operator lists."""
    if context.soc is None:
        return
    refused: dict[tuple[str, str, bool], list[str]] = {}
    for made, items in _by_made(context).items():
        if len(made) != 1:
            continue
        kernel = context.kernels.look_up(made[0])
        if kernel.verdict != "core" or kernel.dtypes is None:
            continue
        for item in items:
            for name in item.node.input:
                kind = context.dtype(name) if name and name not in context.constants else ""
                kind = "float16" if kind == "float32" and "float16" in kernel.dtypes else kind
                if kind in ("", "string") or kind in kernel.dtypes or kind in ("float64", "int64", "bool"):
                    continue
                on_cpu = kind in (context.kernels.cpu_dtypes(made[0]) or ())
                refused.setdefault((made[0], kind, on_cpu), []).append(item.name)
                break
    for (ge, kind, on_cpu), nodes in refused.items():
        rule = "dtype-on-cpu" if on_cpu else "dtype-no-kernel"
        yield found(rule, "warning", nodes, {"dtype": kind}, ge=ge, type=kind, soc=context.soc.name)


def double(context: Context) -> Iterator[Finding]:
    """FLOAT64 that is computed with: AI CPU kernels only."""
    nodes = [
        item.name
        for item in context.nodes
        if item.node.op_type not in ("Cast", "Constant", "Identity")
        and any(context.dtype(name) == "float64" for name in item.node.input if name)
    ]
    if nodes:
        yield found("double", "warning", nodes)


def int64(context: Context) -> Iterator[Finding]:
    """INT64 arithmetic that is left after constant folding: AI CPU, slowly; indices may come back INT32."""
    folded = _folded(context)
    nodes = [
        item.name
        for item in context.standard
        if item.node.op_type in _ARITHMETIC
        and item.node.output
        and item.node.output[0] not in folded
        and any(context.dtype(name) == "int64" for name in item.node.input if name)
    ]
    if nodes:
        yield found("int64-arithmetic", "warning", nodes)
    outputs = [value.name for value in context.model.graph.output if value.type.tensor_type.elem_type == 7]
    if outputs:
        yield found("int64-output", "warning", outputs, outputs=", ".join(outputs))


def boolean(context: Context) -> Iterator[Finding]:
    """BOOL as data: fine in comparisons, logic and Where, but not as a graph output of a default conversion."""
    outputs = [value.name for value in context.model.graph.output if value.type.tensor_type.elem_type == 9]
    if outputs:
        yield found("bool-output", "warning", outputs, outputs=", ".join(outputs))


def bfloat16(context: Context) -> Iterator[Finding]:
    """BF16 on chips whose cube has none."""
    if context.soc is None or context.family is None or context.family.cube_bf16 is not False:
        return
    nodes = [
        item.name
        for item in context.nodes
        if any(context.dtype(name) == "bfloat16" for name in item.node.input if name)
    ]
    if nodes:
        yield found("bfloat16", "error", nodes, soc=context.soc.name)


def full_precision(context: Context) -> Iterator[Finding]:
    """FP32 asked of a chip whose cube has none."""
    if context.soc is None or context.family is None or context.options is None:
        return
    if context.family.cube_fp32 is not False:
        return
    mode = context.options.precision_mode or context.options.precision_mode_v2
    if mode in ("force_fp32", "cube_fp16in_fp32out", "origin", "must_keep_origin_dtype"):
        nodes = [
            item.name for kind in ("Conv", "MatMul", "Gemm", "ConvTranspose") for item in context.by_type.get(kind, ())
        ]
        if nodes:
            yield found("cube-fp32", "warning", nodes, mode=mode, soc=context.soc.name)


def _by_made(context: Context) -> dict[tuple[str, ...], list[NamedNode]]:
    made: dict[tuple[str, ...], list[NamedNode]] = {}
    for item in context.nodes:
        if item.node.op_type == "Constant":
            continue
        domain = item.node.domain or "ai.onnx"
        opset = context.imports.get(domain)
        if opset is None or parser_table.status(domain, opset, item.node.op_type, context.cann) == "missing":
            continue
        types = ge_types(item, opset)
        if types:
            made.setdefault(types, []).append(item)
    return made


def _folded(context: Context) -> set[str]:
    """Tensors that ATC folds away: made from constants and from shapes that are known."""
    known = set(context.constants)
    for item in context.standard:
        node = item.node
        if node.op_type in _SHAPE_MAKERS and node.input:
            sizes = context.sizes(node.input[0])
            if sizes is not None and all(size >= 0 for size in sizes):
                known.update(node.output)
        elif node.op_type in _PASSING and all(name in known for name in node.input if name):
            known.update(node.output)
    return known


RULES: tuple[Rule, ...] = (kernels, dtypes, double, int64, boolean, bfloat16, full_precision)
