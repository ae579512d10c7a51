"""Values that fp16 cannot hold: too large, too small, or whole numbers above 2048."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pth2om.evidence import Finding
from pth2om.onnxfile.spans import FP16_MAX, FP16_WHOLE
from pth2om.onnxfile.walking import attribute
from pth2om.preflight.context import Context, Rule, found

FP16_TINY = 2.0**-24
"""Smallest subnormal of fp16, 6.0e-8: half of it and less rounds to zero."""
FP16_NORMAL = 2.0**-14
"""Smallest normal of fp16, 6.1e-5."""

_SCALE_ERROR = 0.01
"""Relative error of a dequantization scale beyond which it is told; FP16's own is 0.0005."""
_EPSILONS = frozenset({"BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"})
_KEEPING = ("origin", "must_keep_origin_dtype", "force_fp32")


def large_constants(context: Context) -> Iterator[Finding]:
    """Constants beyond what fp16 holds: masks of -1e9 and the like become infinite or are clipped."""
    if _keeps_fp32(context):
        return
    indices = _index_inputs(context)
    spans = {name: span for name, span in context.floats.items() if name not in indices}
    infinite = [name for name, span in spans.items() if span.infinite]
    large = [name for name, span in spans.items() if span.top > FP16_MAX]
    if large:
        most = max(spans[name].top for name in large)
        yield found("constant-large", "warning", _users(context, large), {"tensors": large}, value=f"{most:g}")
    if infinite:
        yield found("constant-infinite", "warning", _users(context, infinite), {"tensors": infinite})


def small_epsilon(context: Context) -> Iterator[Finding]:
    """An epsilon that is zero or subnormal in fp16, as an attribute or as a constant that is added."""
    if _keeps_fp32(context):
        return
    zero, subnormal = [], []
    for item in context.standard:
        kind = item.node.op_type
        if kind in _EPSILONS:
            # The default of ONNX is 1e-5; kernels of these compute it in fp32 on most chips, so only zero counts.
            value = attribute(item.node, "epsilon")
            size = 1e-5 if value is None else abs(value.f)
            if 0 < size < FP16_TINY / 2:
                zero.append(item.name)
        elif kind in ("Add", "Max", "Div", "Clip", "Sub"):
            for name in item.node.input[1:] if kind in ("Div", "Clip") else item.node.input:
                scalar = _scalar(context, name)
                if scalar is None or scalar == 0.0:
                    continue
                if scalar < FP16_TINY / 2:
                    zero.append(item.name)
                elif scalar < FP16_NORMAL:
                    subnormal.append(item.name)
    if zero:
        yield found("epsilon-zero", "warning", zero)
    if subnormal:
        yield found("epsilon-subnormal", "info", subnormal)


def whole_numbers(context: Context) -> Iterator[Finding]:
    """Whole numbers above 2048 in FP32 constants (grids, positions, anchors): fp16 rounds them."""
    if _keeps_fp32(context):
        return
    indices = _index_inputs(context)
    # Weights are no whole numbers; a grid or position table is nothing else.
    rounded = [name for name, span in context.floats.items() if span.rounded and name not in indices]
    casts = []
    for item in context.by_type.get("Cast", ()):
        to = attribute(item.node, "to")
        source = item.node.input[0] if item.node.input else ""
        if to is not None and to.i in (1, 10) and _large_range(context, source):
            casts.append(item.name)
    nodes = [*_users(context, rounded), *casts]
    if nodes:
        yield found("whole-numbers", "warning", nodes, {"tensors": rounded})


def weights_overflow(context: Context) -> Iterator[Finding]:
    """NaN in constants: whatever it meets becomes NaN."""
    bad = [name for name, span in context.floats.items() if span.nan]
    if bad:
        yield found("constant-nan", "error", _users(context, bad), {"tensors": bad})


def int64_range(context: Context) -> Iterator[Finding]:
    """INT64 constants beyond INT32: casts to INT32 wrap."""
    wide = []
    for name, tensor in context.constants.items():
        if tensor.data_type != 7:
            continue
        values = context.values(name)
        # The largest INT64 is how exporters write "to the end" in a Slice; ATC clips it.
        if values and any(not -(2**31) <= value < 2**31 and abs(value) < 2**62 for value in values):
            wide.append(name)
    if wide:
        yield found("int64-wide", "warning", _users(context, wide), {"tensors": wide})


def dequantization_scale(context: Context) -> Iterator[Finding]:
    """An INT8 layer's dequantization scale that a chip which keeps it in FP16 rounds by a per cent or to zero."""
    if context.family is None or context.family.scale != "float16":
        return
    lost, worst = [], 0.0
    for item in context.by_type.get("AscendDequant", ()):
        tensor = context.constants.get(item.node.input[1]) if len(item.node.input) > 1 else None
        if tensor is None or tensor.data_type != 13 or not tensor.raw_data:
            continue
        # The low word of each UINT64 is the scale in FP32 (CANN ops-nn, AscendDequant).
        scale = np.frombuffer(tensor.raw_data, "<u4")[::2].copy().view("<f4").astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            error = np.abs(scale.astype(np.float16).astype(np.float64) / scale - 1)
        largest = float(np.nanmax(error, initial=0.0))
        if largest > _SCALE_ERROR:
            lost.append(item.name)
            worst = max(worst, largest)
    if lost:
        yield found("dequant-scale", "warning", lost, {}, percent=round(100 * min(worst, 1.0), 1))


def _keeps_fp32(context: Context) -> bool:
    options = context.options
    return options is not None and (options.precision_mode or options.precision_mode_v2 or "") in _KEEPING


def _scalar(context: Context, name: str) -> float | None:
    """The size of a one-element floating-point constant."""
    span = context.floats.get(name)
    return None if span is None or span.infinite or span.nan else span.scalar


def _index_inputs(context: Context) -> set[str]:
    """FP32 constants that are scales or regions of a Resize, not data."""
    return {name for item in context.by_type.get("Resize", ()) for name in item.node.input[1:]}


def _large_range(context: Context, name: str) -> bool:
    """Whether whole numbers above 2048 come out of that tensor: a Range or a constant, cast to floating point."""
    maker = context.makers.get(name)
    if maker is None:
        return False
    if maker.node.op_type == "Range" and len(maker.node.input) > 1:
        limit = context.values(maker.node.input[1])
        return bool(limit) and limit is not None and limit[0] > FP16_WHOLE + 1
    return False


def _users(context: Context, names: list[str]) -> list[str]:
    """The nodes that read those tensors; the tensors themselves where nobody does."""
    wanted = set(names)
    users = [item.name for item in context.nodes if wanted.intersection(item.node.input)] if wanted else []
    return users or names


RULES: tuple[Rule, ...] = (
    large_constants,
    small_epsilon,
    whole_numbers,
    weights_overflow,
    int64_range,
    dequantization_scale,
)
