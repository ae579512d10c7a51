"""What atc says of a configuration, in its own codes and texts, and what else is wrong with it.

Order and texts: CANN graph engine, ``insert_aipp_op_util.cc`` and ``aipp_op.cc``; limits of sizes: "ATC guide, AIPP"
and the operator's tiling sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pth2om.aipp import colour
from pth2om.aipp.config import FIELDS, SUPPORTED_FORMATS, AippConfig, AippOp
from pth2om.aipp.csc import AippSettings, settings
from pth2om.ascend import families
from pth2om.ascend.families import Aipp
from pth2om.evidence import Finding, Severity
from pth2om.language import Message, Value, say

Shape = Sequence[int]
_NOT_NEGATIVE = (
    "src_image_size_w", "src_image_size_h", "load_start_pos_w", "load_start_pos_h", "crop_size_w", "resize_output_w",
    "resize_output_h", "left_padding_size", "right_padding_size", "top_padding_size", "bottom_padding_size",
)  # fmt: skip  # crop_size_h is left out: atc does not test it either
_GEOMETRY = ("crop", "padding")


@dataclass(frozen=True)
class Refusal:
    """One message of atc about a configuration.

    Attributes:
        code: e.g. ``E10052``.
        text: the message as CANN 9 prints it.
        arguments: what stands in for the places of its template, to render it as another CANN does.
        line: of the configuration; 0 when it is about no line.
        advice: what pth2om adds.
    """

    code: str
    text: str
    arguments: tuple[str, ...]
    line: int = 0
    advice: Message | None = field(default=None, compare=False)


_TEMPLATES = {
    "E10001": "Value %s for parameter %s is invalid. Reason: %s",
    "E10034": "Nodes (for example, %s) connected to AIPP must not be of type FP16.",
    "E10052": "AIPP configuration is invalid. Reason: %s.",
    "E19999": "%s",
    "E13014": "Value %s of parameter %s for Op %s is invalid. Reason: %s.",
    "E70014": (
        "In op[aipp], aipp output H and W should be equal to data's H and W, but actually aipp output H is [%s], "
        "W is [%s], data's H is [%s], W is [%s]."
    ),
}


def refusals(
    config: AippConfig,
    *,
    inputs: Sequence[tuple[str, Shape]],
    input_format: str = "NCHW",
    dynamic_image_size: str = "",
    dynamic_dims: str = "",
    input_fp16_nodes: Sequence[str] = (),
    soc: str | None = None,
) -> list[Refusal]:
    """What atc refuses, in the order in which it would come to it; it stops at the first.

    Args:
        config: the configuration, as parsed.
        inputs: name and shape of the model's inputs, in order; -1 where an axis is dynamic.
        input_format: of ``--input_format``; empty is NCHW.
        dynamic_image_size: value of ``--dynamic_image_size``.
        dynamic_dims: value of ``--dynamic_dims``.
        input_fp16_nodes: names of ``--input_fp16_nodes``.
        soc: for the limits of its AIPP; None leaves them out.
    """
    found: list[Refusal] = []
    if dynamic_dims:
        reason = "The dynamic dims function does not support AIPP."
        found.append(_refusal("E10001", config.where, "--insert_op_conf", reason))
    found += _positions(config)
    if dynamic_image_size:
        found += _with_image_sizes(config)
    layout = input_format or "NCHW"
    for op in config.ops:
        own = [*_parameters(op), *_target(op, inputs, layout, input_fp16_nodes)]
        found += own or _geometry(op, inputs, layout)
    if soc is not None:
        found += _limits(config, inputs, layout, soc)
    return found


def findings(config: AippConfig, *, model_hw: tuple[int, int] | None = None, soc: str | None = None) -> list[Finding]:
    """What is suspicious in a configuration without a model: settings without effect, numbers that cannot be meant.

    Args:
        config: the configuration.
        model_hw: height and width of the model's input, where they are known.
        soc: for the limits of its AIPP.
    """
    found: list[Finding] = []
    for op in config.ops:
        found += _without_effect(op)
        found += _numbers(op)
        if op.dynamic:
            continue
        wanted = _settings(op, model_hw or (op.integer("src_image_size_h"), op.integer("src_image_size_w")))
        for key, line, values in _operator_limits(op, wanted, soc):
            found.append(_finding(key, "error", op, line, **values))
        if wanted is not None:
            found += colour.findings(op, wanted)
    return found


def _settings(op: AippOp, model_hw: tuple[int, int]) -> AippSettings | None:
    """The settings of a static operator; None for a format that no AIPP takes."""
    return settings(op, model_hw) if op.text("input_format") in SUPPORTED_FORMATS else None


# --- atc's own checks -----------------------------------------------------------------------------------------------


def _positions(config: AippConfig) -> Iterator[Refusal]:
    """Two operators for one input, or names and numbers mixed."""
    named = [op for op in config.ops if op.text("related_input_name")]
    for op in config.ops:
        if (op.text("related_input_name") and op.has("related_input_rank")) or (
            named and not op.text("related_input_name")
        ):
            reason = (
                "Cannot both set related_input_rank and related_input_name! "
                "Please ensure param is the same with the first aipp config"
            )
            yield _refusal("E10052", reason, line=op.line)
    seen: set[object] = set()
    for op in config.ops:
        place: object = op.text("related_input_name") or op.rank
        if place in seen:
            kind = "related_input_name" if op.text("related_input_name") else "related_input_rank"
            reason = (
                f"Cannot insert aipp to the same position! Please ensure {kind} param is different in each aipp config"
            )
            yield _refusal("E10052", reason, line=op.line)
        seen.add(place)


def _with_image_sizes(config: AippConfig) -> Iterator[Refusal]:
    for op in config.ops:
        for name in _GEOMETRY:
            if op.flag(name):
                reason = "When --dynamic_image_size is set, crop and padding cannot be set to 'true'"
                yield _refusal("E10052", reason, line=op.lines.get(name, op.line))
                break
        sizes = [name for name in ("src_image_size_w", "src_image_size_h") if op.integer(name)]
        if sizes and op.text("aipp_mode") == "static":
            reason = "When --dynamic_image_size is set, src_image_size_w and src_image_size_h must be set to '0'"
            yield _refusal("E10052", reason, line=op.lines.get(sizes[0], op.line))


def _parameters(op: AippOp) -> Iterator[Refusal]:
    """``AippOp::ValidateParams``."""
    mode = op.text("aipp_mode")
    if mode not in ("static", "dynamic"):
        reason = "When insert AIPP op, aipp_mode must be configured as static or dynamic"
        yield _refusal("E10052", reason, line=op.line)
    for name, values in op.values.items():
        if FIELDS[name].endswith("*") and len(values) > 1:
            reason = f"The parameter {name} cannot be configured repeatedly"
            yield _refusal("E10052", reason, line=op.lines.get(name, op.line))
    if mode == "dynamic":
        if op.integer("max_src_image_size") <= 0:
            reason = "For dynamic AIPP params, max_src_image_size must be set which number should be greater than 0"
            yield _refusal("E10052", reason, line=op.line)
        return
    if mode == "static" and op.text("input_format") in ("", "UNDEFINED"):
        yield _refusal("E10052", "Input format of AIPP conf must be set in static aipp", line=op.line)
    for name in _NOT_NEGATIVE:
        if op.integer(name) < 0:
            yield _refusal("E10052", f"{name} must not be configured smaller than 0", line=op.lines.get(name, op.line))


def _target(op: AippOp, inputs: Sequence[tuple[str, Shape]], layout: str, halves: Sequence[str]) -> Iterator[Refusal]:
    """The input an operator goes to."""
    name = op.text("related_input_name")
    if name:
        reason = (
            f"related_input_name {name}convert rank failed, "
            "Please ensure related_input_name in aipp config is the top name of data node"
        )
        advice = say("aipp.advice-name")
        yield _refusal("E10052", reason, line=op.lines.get("related_input_name", op.line), advice=advice)
        return
    if op.rank >= len(inputs):
        reason = f"Cannot find the data node by aipp parameter related_input_rank {op.rank}"
        advice = say("aipp.advice-rank", count=len(inputs))
        yield _refusal("E10052", reason, line=op.lines.get("related_input_rank", op.line), advice=advice)
        return
    target, shape = inputs[op.rank]
    if target in halves:
        yield _refusal("E10034", target)
    if op.dynamic:
        if layout not in ("NCHW", "NHWC"):
            reason = "Dynamic AIPP supports only NCHW and NHWC"
            yield _refusal("E13014", layout, "--input_format", target, reason)
        elif len(shape) not in (3, 4):
            reason = "The dimension count must be 3 or 4 for dynamic AIPP"
            yield _refusal("E10001", str(len(shape)), f"shape of {target}", reason)


def _model_hw(shape: Shape, layout: str) -> tuple[int, int] | None:
    """Height and width of a 4-D input; None when it has none or they are dynamic."""
    if len(shape) != 4:
        return None
    height, width = (shape[1], shape[2]) if layout == "NHWC" else (shape[2], shape[3])
    return (height, width) if height > 0 and width > 0 else None


def _geometry(op: AippOp, inputs: Sequence[tuple[str, Shape]], layout: str) -> Iterator[Refusal]:
    """Sizes that the operator's shape inference compares with the model's."""
    model_hw = _model_hw(inputs[op.rank][1], layout)
    if model_hw is None or op.dynamic or op.text("input_format") not in SUPPORTED_FORMATS:
        return
    wanted = settings(op, model_hw)
    if wanted.output_hw != model_hw:
        sizes = [str(size) for size in (*wanted.output_hw, *model_hw)]
        advice = say(
            "aipp.wrong-output",
            height=wanted.output_hw[0],
            width=wanted.output_hw[1],
            model_height=model_hw[0],
            model_width=model_hw[1],
        )
        yield _refusal("E70014", *sizes, line=op.line, advice=advice)


def _limits(config: AippConfig, inputs: Sequence[tuple[str, Shape]], layout: str, soc: str) -> Iterator[Refusal]:
    """Limits that the operator enforces when it is compiled: an inner error there, whose text is ours, not atc's."""
    for op in config.ops:
        if op.rank >= len(inputs) or op.dynamic or op.text("input_format") in ("", "UNDEFINED"):
            continue
        model_hw = _model_hw(inputs[op.rank][1], layout)
        if model_hw is None:
            continue
        for key, line, values in _operator_limits(op, _settings(op, model_hw), soc):
            advice = say(f"aipp.{key}", **values)
            yield _refusal("E19999", advice.render("en"), line=line, advice=advice)


# --- limits and oddities --------------------------------------------------------------------------------------------

_Limit = tuple[str, int, dict[str, Value]]


def _operator_limits(op: AippOp, wanted: AippSettings | None, soc: str | None) -> Iterator[_Limit]:
    """Key, line and values of each limit that an operator breaks; ``wanted`` is None for a format of no AIPP."""
    family = families.find(soc)
    unit = Aipp() if family is None or family.aipp is None else family.aipp
    if family is not None and family.aipp is None:
        yield "limit-no-aipp", op.line, {"soc": soc or ""}
    for name, least, most in (
        ("src_image_size_w", 2, 4096),
        ("src_image_size_h", 1, 4096),
        ("load_start_pos_w", 0, 4095),
        ("load_start_pos_h", 0, 4095),
        ("crop_size_w", 0, 4096),
        ("crop_size_h", 0, 4096),
        *((f"{side}_padding_size", 0, 32) for side in ("left", "right", "top", "bottom")),
        *((f"mean_chn_{channel}", 0, 255) for channel in range(4)),
        *((f"matrix_r{row}c{column}", -32677, 32676) for row in range(3) for column in range(3)),
        *((f"{side}_bias_{channel}", 0, 255) for side in ("input", "output") for channel in range(3)),
    ):
        value = op.integer(name)
        if op.has(name) and value != 0 and not least <= value <= most:
            yield (
                "limit-range",
                op.lines.get(name, op.line),
                {"name": name, "value": value, "least": least, "most": most},
            )
    if op.flag("resize"):
        yield "limit-resize", op.lines["resize"], {}
    if wanted is None:
        if op.text("input_format") not in ("", "UNDEFINED"):
            yield "unsupported-format", op.lines["input_format"], {"format": op.text("input_format")}
        return
    yuv = wanted.input_format == "YUV420SP_U8"
    for name in (
        "src_image_size_w",
        "src_image_size_h",
        *(() if unit.odd_crop else ("load_start_pos_w", "load_start_pos_h")),
    ):
        if yuv and op.integer(name) % 2 and (not name.startswith("load") or op.flag("crop")):
            yield "limit-odd", op.lines.get(name, op.line), {"name": name, "value": op.integer(name)}
    for axis, name in enumerate(("h", "w")):
        if wanted.source[axis] and wanted.start[axis] + wanted.crop[axis] > wanted.source[axis]:
            values: dict[str, Value] = {"axis": name, "start": wanted.start[axis], "size": wanted.crop[axis]}
            yield "crop-outside", op.lines.get(f"crop_size_{name}", op.line), values | {"source": wanted.source[axis]}
    if any(wanted.padding) and wanted.output_hw[1] > unit.widest_padded:
        yield "limit-width", op.line, {"width": wanted.output_hw[1], "most": unit.widest_padded}
    if wanted.input_format == "YUV400_U8" and wanted.csc is not None:
        yield "grey-conversion", op.lines.get("csc_switch", op.line), {}
    if unit.strict:
        if wanted.source[0] == 1:
            yield "limit-one-row", op.line, {"soc": soc or ""}
        if wanted.swap_ax and wanted.input_format != "XRGB8888_U8":
            yield "limit-ax", op.lines.get("ax_swap_switch", op.line), {"format": wanted.input_format}


def _without_effect(op: AippOp) -> Iterator[Finding]:
    """Settings that are written and do nothing."""
    groups = (
        ("crop", ("load_start_pos_w", "load_start_pos_h", "crop_size_w", "crop_size_h")),
        ("padding", tuple(f"{side}_padding_size" for side in ("left", "right", "top", "bottom"))),
        ("csc_switch", tuple(name for name in FIELDS if name.startswith(("matrix_", "input_bias", "output_bias")))),
    )
    for switch, names in groups:
        written = [name for name in names if any(op.values.get(name, ()))]
        if written and not op.flag(switch) and not op.dynamic:
            yield _finding("no-effect", "info", op, op.lines.get(written[0], op.line), name=written[0], switch=switch)
    if op.dynamic:
        allowed = {"aipp_mode", "related_input_rank", "related_input_name", "max_src_image_size", "support_rotation"}
        ignored = [name for name in op.values if name not in allowed]
        if ignored:
            line = op.lines.get(ignored[0], op.line)
            yield _finding("no-effect-dynamic", "warning", op, line, names=", ".join(ignored))
    yield from _crop_without_source(op)
    form = op.text("input_format")
    if op.flag("ax_swap_switch") and form != "XRGB8888_U8":
        yield _finding("limit-ax", "warning", op, op.lines["ax_swap_switch"], format=form)


def _crop_without_source(op: AippOp) -> Iterator[Finding]:
    """A crop of a picture whose size nobody gives: it is then taken to be as large as the model's input."""
    missing = [name for name in ("src_image_size_w", "src_image_size_h") if not op.integer(name)]
    if op.flag("crop") and missing and not op.dynamic:
        yield _finding("crop-without-source", "warning", op, op.lines.get("crop", op.line), names=", ".join(missing))


def _numbers(op: AippOp) -> Iterator[Finding]:
    """Normalization that cannot be meant: values that are not on the scale of 0..255 pixels."""
    means = [op.number(f"mean_chn_{channel}") + op.number(f"min_chn_{channel}") for channel in range(3)]
    factors = [op.number(f"var_reci_chn_{channel}", 1.0) for channel in range(3)]
    line = op.lines.get("var_reci_chn_0", op.line)
    if any(means) and all(0 < value <= 1 for value in means) and all(0.1 <= value < 1 for value in factors):
        yield _finding("unit-range", "warning", op, line, mean=means[0], factor=factors[0])
    elif op.has("var_reci_chn_0") and 0 < max(map(abs, factors)) < 1 / 2550:
        yield _finding("tiny-factor", "warning", op, line, factor=factors[0], span=factors[0] * 255)
    for name in (f"var_reci_chn_{channel}" for channel in range(4)):
        value = op.number(name, 1.0)
        if op.has(name) and value != 0 and (abs(value) > 65504 or abs(value) < 2**-14):
            yield _finding("factor-fp16", "warning", op, op.lines.get(name, op.line), name=name, value=value)


def _finding(key: str, severity: Severity, op: AippOp, line: int, **values: Value) -> Finding:
    return Finding(
        f"aipp.{key}", severity, say(f"aipp.{key}", **values), f"aipp_op[{op.rank}]", {"line": line, **values}
    )


def _refusal(code: str, *arguments: str, line: int = 0, advice: Message | None = None) -> Refusal:
    text = _TEMPLATES[code]
    for argument in arguments:
        head, _, tail = text.partition("%s")
        text = head + argument.replace("%", "\0") + tail
    return Refusal(code, text.replace("\0", "%"), arguments, line, advice)
