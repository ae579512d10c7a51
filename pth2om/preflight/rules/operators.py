"""Operators that ATC accepts but computes differently from ONNX, or accepts only in some forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pth2om.evidence import Finding, Severity
from pth2om.onnxfile.walking import NamedNode, attribute, integer, integers, text
from pth2om.preflight.context import Context, Rule, found


def _rule(op_type: str, rule: str, severity: Severity, when: Callable[[Context, NamedNode], bool]) -> Rule:
    """A rule about one operator: all of its nodes for which `when` holds make one finding."""

    def check(context: Context) -> Iterator[Finding]:
        nodes = [item.name for item in context.by_type.get(op_type, ()) if when(context, item)]
        if nodes:
            yield found(rule, severity, nodes, op=op_type)

    check.__name__ = rule.replace("-", "_")
    return check


def _input(item: NamedNode, place: int) -> str:
    return str(item.node.input[place]) if place < len(item.node.input) else ""


def _not_constant(context: Context, item: NamedNode, place: int) -> bool:
    name = _input(item, place)
    return bool(name) and name not in context.constants


def _resize_coordinates(context: Context, item: NamedNode) -> bool:
    mode = text(item.node, "coordinate_transformation_mode", "half_pixel")
    if context.opset < 11 or text(item.node, "mode", "nearest") != "nearest":
        return context.opset >= 11 and mode in ("tf_half_pixel_for_nn", "half_pixel_symmetric")
    return mode not in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")


def _resize_nearest_mode(context: Context, item: NamedNode) -> bool:
    """PyTorch's nearest is asymmetric + floor, which is what the NPU computes; every other rounding is ignored."""
    if context.opset < 11 or text(item.node, "mode", "nearest") != "nearest":
        return False
    return text(item.node, "nearest_mode", "round_prefer_floor") != "floor" and (
        text(item.node, "coordinate_transformation_mode", "half_pixel") == "asymmetric"
    )


def _resize_half_pixel(context: Context, item: NamedNode) -> bool:
    """half_pixel is not among the options the IR header names."""
    return (
        context.opset >= 11
        and text(item.node, "mode", "nearest") != "nearest"
        and text(item.node, "coordinate_transformation_mode", "half_pixel") == "half_pixel"
    )


def _resize_dropped(_context: Context, item: NamedNode) -> bool:
    return (
        integer(item.node, "antialias", 0) == 1
        or integers(item.node, "axes") is not None
        or text(item.node, "keep_aspect_ratio_policy", "stretch") != "stretch"
        or integer(item.node, "exclude_outside", 0) == 1
    )


def _resize_dynamic(context: Context, item: NamedNode) -> bool:
    place = 1 if context.opset == 10 else (3 if _input(item, 3) else 2)
    name = _input(item, place)
    if not name or name in context.constants:
        return False
    sizes = context.sizes(item.node.output[0])
    return sizes is None or any(size < 0 for size in sizes)


def _resize_rank(context: Context, item: NamedNode) -> bool:
    rank = context.rank(_input(item, 0))
    return rank is not None and rank != 4


def _grid_strings(_context: Context, item: NamedNode) -> bool:
    return attribute(item.node, "mode") is None or attribute(item.node, "padding_mode") is None


def _rank_above(limit: int) -> Callable[[Context, NamedNode], bool]:
    def when(context: Context, item: NamedNode) -> bool:
        rank = context.rank(_input(item, 0))
        return rank is not None and rank > limit

    return when


def _pad_mode(context: Context, item: NamedNode) -> bool:
    return context.opset >= 11 and text(item.node, "mode", "constant") in ("wrap", "symmetric")


def _split_uneven(context: Context, item: NamedNode) -> bool:
    if context.opset < 18 or attribute(item.node, "num_outputs") is None:
        return False
    sizes = context.sizes(_input(item, 0))
    axis = integer(item.node, "axis", 0)
    if sizes is None or not -len(sizes) <= axis < len(sizes):
        return True
    parts = len(item.node.output)
    return sizes[axis] < 0 or parts == 0 or sizes[axis] % parts != 0


def _old_softmax_axis(context: Context, item: NamedNode) -> bool:
    """LogSoftmax and Hardmax default to axis -1 here at every opset; ONNX before 13 says 1."""
    return context.opset < 13 and attribute(item.node, "axis") is None and context.rank(_input(item, 0)) != 2


def _axis_attribute(name: str) -> Callable[[Context, NamedNode], bool]:
    return lambda _context, item: attribute(item.node, name) is not None


_RECURRENT_ACTIVATIONS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh")}


def _recurrent_ignored(_context: Context, item: NamedNode) -> bool:
    """An attribute the plugins pass over that asks for other than its default; defaults written out do no harm."""
    if any(integer(item.node, name, 0) for name in ("layout", "input_forget")):
        return True
    clip = attribute(item.node, "clip")
    if clip is not None and clip.f:
        return True
    asked = attribute(item.node, "activations")
    if asked is None or not asked.strings:
        return False
    names = [name.decode("utf-8", "replace").lower() for name in asked.strings]
    default = _RECURRENT_ACTIVATIONS[item.node.op_type]
    return names != [default[place % len(default)] for place in range(len(names))]


def _reset_before(_context: Context, item: NamedNode) -> bool:
    """The plugin passes linear_before_reset over, and DynamicGRUV2's reset_after is true unless it is told otherwise.

    That is the form torch.nn.GRU exports (linear_before_reset=1); ONNX's own default is the other one.
    Source: ops-nn's ONNX plugin of GRU, and DynamicGRUV2 of CANN's rnn.h.
    """
    return integer(item.node, "linear_before_reset", 0) == 0


def _auto_pad(_context: Context, item: NamedNode) -> bool:
    return text(item.node, "auto_pad", "NOTSET") == "SAME_LOWER"


def _dilated(_context: Context, item: NamedNode) -> bool:
    return any(value != 1 for value in integers(item.node, "dilations") or ())


def _large_pool(_context: Context, item: NamedNode) -> bool:
    kernel = integers(item.node, "kernel_shape") or []
    area = 1
    for size in kernel:
        area *= size
    return area > 255 or any(stride > 63 for stride in integers(item.node, "strides") or ())


def _conv_limits(_context: Context, item: NamedNode) -> bool:
    """Ranges of the Conv2D operator header: kernel 1-511, stride 1-63, pad 0-255, dilation 1-255."""
    for name, low, high in (("kernel_shape", 1, 511), ("strides", 1, 63), ("pads", 0, 255), ("dilations", 1, 255)):
        if any(not low <= value <= high for value in integers(item.node, name) or ()):
            return True
    return False


def _conv_1d(context: Context, item: NamedNode) -> bool:
    kernel = integers(item.node, "kernel_shape")
    return len(kernel) == 1 if kernel is not None else context.rank(_input(item, 0)) == 3


def _scatter_reduction(*modes: str) -> Callable[[Context, NamedNode], bool]:
    return lambda _context, item: text(item.node, "reduction", "none") in modes


def _two_input_gemm(_context: Context, item: NamedNode) -> bool:
    alpha = attribute(item.node, "alpha")
    return not _input(item, 2) and alpha is not None and abs(alpha.f - 1.0) > 1e-9


def _shape_range(_context: Context, item: NamedNode) -> bool:
    return integer(item.node, "start", 0) != 0 or attribute(item.node, "end") is not None


def _k_not_constant(context: Context, item: NamedNode) -> bool:
    return context.opset >= 10 and _not_constant(context, item, 1)


def _always(_context: Context, _item: NamedNode) -> bool:
    return True


def _max_roi(_context: Context, item: NamedNode) -> bool:
    return text(item.node, "mode", "avg") == "max"


RULES: tuple[Rule, ...] = (
    _rule("Resize", "resize-coordinates", "warning", _resize_coordinates),
    _rule("Resize", "resize-half-pixel", "info", _resize_half_pixel),
    _rule("Resize", "resize-nearest-mode", "warning", _resize_nearest_mode),
    _rule("Resize", "resize-dropped", "warning", _resize_dropped),
    _rule("Resize", "resize-dynamic", "warning", _resize_dynamic),
    _rule("Resize", "resize-rank", "warning", _resize_rank),
    _rule("GridSample", "gridsample-strings", "error", _grid_strings),
    _rule("GridSample", "gridsample-rank", "error", _rank_above(4)),
    _rule("Pad", "pad-mode", "error", _pad_mode),
    _rule("Split", "split-uneven", "error", _split_uneven),
    _rule("NonMaxSuppression", "nms", "warning", _always),
    _rule("NonMaxSuppression", "nms-count", "error", lambda context, item: _not_constant(context, item, 2)),
    _rule("TopK", "topk-int32", "info", _always),
    _rule("TopK", "topk-k", "warning", _k_not_constant),
    _rule("NonZero", "data-dependent", "warning", _always),
    _rule("Compress", "data-dependent", "warning", _always),
    _rule("Unique", "data-dependent", "warning", _always),
    _rule("Unique", "unique-axis", "error", _axis_attribute("axis")),
    _rule("Einsum", "einsum", "warning", _always),
    _rule("LogSoftmax", "softmax-axis", "error", _old_softmax_axis),
    _rule("Hardmax", "softmax-axis", "error", _old_softmax_axis),
    _rule("LSTM", "recurrent-ignored", "error", _recurrent_ignored),
    _rule("GRU", "recurrent-ignored", "error", _recurrent_ignored),
    _rule("GRU", "gru-reset", "warning", _reset_before),
    _rule("AveragePool", "same-lower", "warning", _auto_pad),
    _rule("MaxPool", "same-lower", "warning", _auto_pad),
    _rule("MaxPool", "pool-dilations", "error", _dilated),
    _rule("MaxPool", "pool-large", "warning", _large_pool),
    _rule("AveragePool", "pool-large", "warning", _large_pool),
    _rule("Conv", "conv-limits", "error", _conv_limits),
    _rule("Conv", "conv-1d", "info", _conv_1d),
    _rule("GlobalMaxPool", "globalmaxpool-rank", "error", _rank_above(4)),
    _rule("RoiAlign", "roialign-max", "error", _max_roi),
    _rule("ScatterND", "scatter-mul", "error", _scatter_reduction("mul")),
    _rule("ScatterND", "scatter-reduction", "warning", _scatter_reduction("add", "max", "min")),
    _rule("Gemm", "gemm-alpha", "error", _two_input_gemm),
    _rule("Shape", "shape-range", "error", _shape_range),
    _rule("Mod", "mod-fmod", "warning", lambda _context, item: integer(item.node, "fmod", 0) == 1),
    _rule("LayerNormalization", "layernorm", "info", _always),
)
