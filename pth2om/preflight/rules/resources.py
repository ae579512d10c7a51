"""Memory and time: does the model fit the chip, and can it reach the latency gate?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from pth2om.evidence import Finding
from pth2om.onnxfile.walking import integer
from pth2om.preflight.context import Context, Rule, found

if TYPE_CHECKING:
    from onnx import NodeProto


_BYTES = {
    "float64": 8,
    "int64": 8,
    "uint64": 8,
    "float32": 4,
    "int32": 4,
    "uint32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int16": 2,
    "uint16": 2,
}


@dataclass(frozen=True)
class Demand:
    """Lower bounds of one inference's needs; an unknown size counts as one.

    Attributes:
        weights: bytes of the constants.
        activations: largest sum of the tensors that live at one node, in bytes.
        operations: multiply-adds counted twice, of convolutions and matrix products.
        counted: nodes that went into `operations`.
    """

    weights: int
    activations: int
    operations: int
    counted: int


def demand(context: Context) -> Demand:
    """Weights, peak activations and operations, FP32 taken as fp16 unless the options keep it.

    Operations: 2 x output elements x kernel volume x input channels / groups for a convolution, 2 x m x n x k for a
    matrix product. Peak: tensors live from their maker to their last reader, in file order.
    """
    wide = _keeps_fp32(context)
    weights = sum(
        prod(max(int(size), 0) for size in tensor.dims) * _width(context.dtype(name), wide)
        for name, tensor in context.constants.items()
    )
    operations, counted = 0, 0
    for kind in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
        for item in context.by_type.get(kind, ()):
            count = _operations(context, kind, item.node)
            operations += count
            counted += count > 0
    return Demand(weights, _peak(context, wide), operations, counted)


def memory(context: Context) -> Iterator[Finding]:
    """Weights and peak activations against the chip's memory."""
    soc = context.soc
    if soc is None or soc.memory_bytes is None:
        return
    asked = demand(context)
    total = asked.weights + asked.activations
    values: dict[str, str | int | float | bool | None] = {
        "weights": round(asked.weights / 2**20, 1),
        "activations": round(asked.activations / 2**20, 1),
        "memory": round(soc.memory_bytes / 2**20),
        "soc": soc.name,
    }
    if total > soc.memory_bytes:
        yield found("memory-over", "error", None, None, **values)
    elif total > 0.5 * soc.memory_bytes:
        yield found("memory-tight", "warning", None, None, **values)


def roofline(context: Context) -> Iterator[Finding]:
    """Compare the shortest time at the chip's peak with the gate: an estimated lower bound, never a measurement."""
    from pth2om.roofline import estimate

    soc = context.soc
    if soc is None:
        return
    asked = demand(context)
    if not asked.operations:
        return
    done = {
        "flop": asked.operations,
        "parameters": sum(prod(max(int(size), 0) for size in tensor.dims) for tensor in context.constants.values()),
        "input_elements": sum(prod(max(size, 0) for size in sizes) for _, sizes in context.inputs.values()),
        "output_elements": 0,
        "uncounted_count": 0,
    }
    estimated = estimate(done, soc.name)
    if estimated is None or not estimated["milliseconds"]:
        return
    bound = float(estimated["milliseconds"])
    values: dict[str, str | int | float | bool | None] = {
        "bound": f"{bound:.3g}",
        "gflop": f"{asked.operations / 1e9:.3g}",
        "tflops": f"{estimated['peak_tflops']:g}",
        "soc": soc.name,
    }
    details = {
        "bound_ms": bound,
        "operations": asked.operations,
        "weights": asked.weights,
        "limit_ms": context.latency_ms,
    }
    if context.latency_ms is not None and bound > context.latency_ms:
        yield found("latency-impossible", "error", None, details, limit=context.latency_ms, **values)
    else:
        yield found("roofline", "info", None, details, **values)


def _operations(context: Context, kind: str, node: NodeProto) -> int:
    if len(node.input) < 2 or not node.output:
        return 0
    first, second = _least(context, node.input[0]), _least(context, node.input[1])
    out = _least(context, node.output[0])
    if first is None or second is None or out is None or not first:
        return 0
    if kind == "Conv":
        return 2 * prod(out) * prod(second[1:])
    if kind == "ConvTranspose":
        return 2 * prod(first) * prod(second[1:])
    inner = first[0] if kind == "Gemm" and integer(node, "transA", 0) else first[-1]
    return 2 * prod(out) * inner


def _least(context: Context, name: str) -> tuple[int, ...] | None:
    sizes = context.sizes(name)
    return None if sizes is None else tuple(1 if size < 0 else size for size in sizes)


def _peak(context: Context, wide: bool) -> int:
    nodes = [item.node for item in context.nodes if item.graph == 0]
    last: dict[str, int] = {}
    for place, node in enumerate(nodes):
        for name in node.input:
            last[name] = place
    for value in context.model.graph.output:
        last[value.name] = len(nodes)
    sizes: dict[str, int] = {}

    def size(name: str) -> int:
        if name not in sizes:
            shape = None if name in context.constants else _least(context, name)
            sizes[name] = 0 if shape is None else prod(shape) * _width(context.dtype(name), wide)
        return sizes[name]

    ending: dict[int, list[str]] = {}
    live = peak = 0
    for name in context.inputs:
        live += size(name)
        ending.setdefault(last.get(name, 0), []).append(name)
    for place, node in enumerate(nodes):
        for name in node.output:
            if name:
                live += size(name)
                ending.setdefault(last.get(name, place), []).append(name)
        peak = max(peak, live)
        for name in ending.pop(place, ()):
            live -= size(name)
    return peak


def _keeps_fp32(context: Context) -> bool:
    options = context.options
    mode = (options.precision_mode or options.precision_mode_v2 or "") if options else ""
    return mode in ("origin", "must_keep_origin_dtype", "force_fp32")


def _width(dtype: str, wide: bool) -> int:
    return 2 if dtype == "float32" and not wide else _BYTES.get(dtype, 1)


RULES: tuple[Rule, ...] = (memory, roofline)
