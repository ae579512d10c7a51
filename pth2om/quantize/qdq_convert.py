"""Converts QuantizeLinear/DequantizeLinear models (torch QAT, ONNX Runtime) into deploy models, without data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from pth2om.errors import QuantizeError
from pth2om.evidence import Finding
from pth2om.language import joined, say
from pth2om.onnxfile.walking import subgraphs
from pth2om.quantize.deploy import build_deploy
from pth2om.quantize.layers import KINDS, Layer, select
from pth2om.quantize.network import (
    Array,
    Network,
    attributes,
    constant_values,
    inlined,
    kind_of,
    open_session,
)
from pth2om.quantize.prepare import QDQ_OPERATORS, compute_constants, prepare, refuse_integers
from pth2om.quantize.ranges import Range
from pth2om.quantize.weights import Quantized, integers, scales, set_bias

Number = TypeVar("Number", bound=np.generic)

_LAYOUT = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
"""Operators that only move values: the quantization per tensor or per element is still valid after them."""
_THROUGH = _LAYOUT | {"MaxPool", "Slice", "DepthToSpace", "SpaceToDepth"}
"""Operators on the integers that runtimes leave between a QuantizeLinear and its DequantizeLinear."""


@dataclass(frozen=True)
class _Constant:
    """A constant read through its DequantizeLinear.

    Attributes:
        value: the value it represents, in the type of its scale.
        exact: the same in double precision: FP32 cannot represent every INT32 bias.
        whole: its integers minus their zero point; None if they are not within -128..127.
        scale: of each value, in the shape of `value`.
        per_tensor: whether there is only one scale.
        centred: whether the zero point is 0 (or 128, unsigned).
    """

    value: Array
    exact: npt.NDArray[np.float64]
    whole: Array | None
    scale: npt.NDArray[np.float32]
    per_tensor: bool
    centred: bool

    def moved(self, change: Callable[[Array], Array]) -> _Constant:
        """The same constant after an operator that only moves values."""
        whole = None if self.whole is None else change(self.whole)
        scale = np.asarray(change(self.scale), np.float32)
        exact = np.asarray(change(self.exact), np.float64)
        return replace(self, value=change(self.value), exact=exact, whole=whole, scale=scale)


@dataclass
class _Pairs:
    """The information from the QuantizeLinear and DequantizeLinear nodes of a model.

    Attributes:
        ranges: layer name -> the range of its input; None if Ascend has no equivalent.
        weights: layer name -> its weight.
        narrowed: layer name -> the levels to which its input is clipped, if fewer than INT8 has.
        exact: constant -> its value in double precision.
        dropped: pairs that feed no layer.
    """

    ranges: dict[str, Range | None]
    weights: dict[str, _Constant]
    narrowed: dict[str, tuple[int, int]]
    exact: dict[str, npt.NDArray[np.float64]]
    dropped: int = 0


def convert_qdq(model: onnx.ModelProto, where: str = "") -> tuple[onnx.ModelProto, list[Finding]]:
    """A QDQ model (QAT from torch, or of ONNX Runtime) as a deploy model, without data.

    A layer becomes INT8 if its input passes through QuantizeLinear -> DequantizeLinear and its weight through
    DequantizeLinear. Pairs elsewhere (on sums, concatenations, outputs) have no equivalent that ATC would run faster;
    they are removed and reported. Also reported is every layer that had a pair but stays in floating point, and every
    weight whose integers had to be computed again.

    Args:
        model: the QDQ model.
        where: its name, for messages.

    Returns:
        The deploy model and findings.

    Raises:
        QuantizeError: no layer has the QDQ pattern, or its factors cannot be expressed (a weight with a zero point, an
            input or output of the graph that is itself an integer tensor).
    """
    refuse_integers(model, where)
    refusal = _refusal(model)
    try:
        return _convert(inlined(model), where)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        # Operators of other runtimes (a detector's NMS plugin) do not prevent converting the rest. If the model turns
        # out to be invalid, the runtime's message is more helpful than the place where we noticed it.
        if refusal is None:
            raise
        raise refusal from None


def _refusal(model: onnx.ModelProto) -> QuantizeError | None:
    try:
        open_session(model, exact=True)
    except QuantizeError as error:
        return error
    return None


def _convert(model: onnx.ModelProto, where: str) -> tuple[onnx.ModelProto, list[Finding]]:
    network = Network(model)
    if not any(node.op_type == "DequantizeLinear" for node in network.nodes):
        raise QuantizeError("quantize.not-qdq", where=where or None, reasons="")
    compute_constants(network, QDQ_OPERATORS, chained=False)
    pairs, findings = _take_out(network, where)
    prepared, more = prepare(network.finish(), where, known=True)
    selection = select(prepared, small_channels=True, where=where)
    findings += more
    layers = []
    for layer in selection.layers:
        if layer.name not in pairs.ranges:
            continue
        activation, constant = pairs.ranges[layer.name], pairs.weights.get(layer.name)
        reason = layer.reason
        if reason is None and activation is None:
            reason = say("quantize.qdq-input-factors")
        if reason is None and constant is None and layer.weight is not None:
            reason = say("quantize.qdq-weight-missing")
        if reason is not None or activation is None:
            assert reason is not None
            findings.append(Finding(reason.key, "warning", reason, node=layer.name))
            continue
        try:
            layers.append(_converted(prepared, layer, activation, constant, pairs.exact, findings))
        except QuantizeError as error:
            findings.append(Finding(error.message.key, "warning", error.message, node=layer.name))
            continue
        if layer.name in pairs.narrowed:
            low, high = pairs.narrowed[layer.name]
            message = say("quantize.qdq-narrow", low=low, high=high)
            findings.append(Finding("quantize.qdq-narrow", "info", message, node=layer.name))
        if layer.rolls_back:
            message = say("quantize.rolls-back", channels=layer.channels_in)
            findings.append(Finding("quantize.rolls-back", "warning", message, node=layer.name))
    if not layers:
        reasons = joined((joined((one.node, str(one.message)), ": ") for one in findings if one.node), "; ") or "-"
        raise QuantizeError("quantize.not-qdq", where=where or None, reasons=reasons)
    return build_deploy(prepared, layers), findings


def _take_out(network: Network, where: str) -> tuple[_Pairs, list[Finding]]:
    """Remove every Q and DQ; returns their information about each layer's input and weight."""
    pairs = _Pairs({}, {}, {}, {})
    integers_of_inputs = {value.name for value in network.model.graph.input}
    alias: dict[str, str] = {}
    for node in [node for node in network.nodes if node.op_type == "DequantizeLinear"]:
        constant = _constant(network, node, where)
        if constant is not None:
            name = network.add_constant(f"{node.output[0]}.float", constant.value)
            alias[node.output[0]] = name
            pairs.exact[name] = constant.exact
            _follow(network, node.output[0], constant, pairs, where)
            continue
        alias[node.output[0]] = node.input[0]
        quant, clip = _source(network, node)
        if quant is None:
            key = "quantize.qdq-interface" if node.input[0] in integers_of_inputs else "quantize.qdq-open"
            raise QuantizeError(key, where=where or None, node=node.name)
        chosen = _range(network, quant)
        for reader in network.consumers.get(node.output[0], []):
            if kind_of(reader) in KINDS and reader.input[0] == node.output[0]:
                pairs.ranges[reader.name] = chosen
                limits = None if clip is None or chosen is None else _limits(network, quant, clip)
                if limits is not None and (limits[0] > -128 or limits[1] < 127):
                    pairs.narrowed[reader.name] = limits
            else:
                pairs.dropped += 1
        pairs.dropped += node.output[0] in network.outputs or node.output[0] in network.captured
    findings = []
    if pairs.dropped:
        message = say("quantize.qdq-dropped", count=pairs.dropped)
        findings.append(Finding("quantize.qdq-dropped", "warning", message))
    for node in network.nodes:
        if node.op_type == "QuantizeLinear":
            if node.output[0] in network.outputs:
                raise QuantizeError("quantize.qdq-interface", where=where or None, node=node.name)
            alias.setdefault(node.output[0], node.input[0])
            for clip in network.consumers.get(node.output[0], []):
                if kind_of(clip) == "Clip":
                    alias.setdefault(clip.output[0], node.output[0])
    _apply(network, alias)
    return pairs, findings


def _source(network: Network, node: onnx.NodeProto) -> tuple[onnx.NodeProto | None, onnx.NodeProto | None]:
    """The QuantizeLinear read by a DequantizeLinear, and the Clip between them (torch's narrow ranges)."""
    clip = None
    maker = network.producer.get(node.input[0])
    while maker is not None and kind_of(maker) in _THROUGH:
        maker = network.producer.get(maker.input[0])
    if maker is not None and kind_of(maker) == "Clip":
        clip, maker = maker, network.producer.get(maker.input[0])
    return (maker if maker is not None and maker.op_type == "QuantizeLinear" else None), clip


def _limits(network: Network, quant: onnx.NodeProto, clip: onnx.NodeProto) -> tuple[int, int]:
    """The lowest and highest INT8 level that a Clip of a QuantizeLinear's integers leaves."""
    zero = _zero_point(network, quant)
    shift = 128 if zero is None or zero.dtype == np.uint8 else 0
    ends = [network.array(name) for name in clip.input[1:3]]
    levels = [None if end is None else int(np.asarray(end, np.int64).reshape(-1)[0]) - shift for end in ends]
    low, high = (*levels, None, None)[:2]
    return -128 if low is None else low, 127 if high is None else high


def _follow(network: Network, name: str, constant: _Constant, pairs: _Pairs, where: str) -> None:
    """Record the layers whose weight is a dequantized constant, also after operators that only move it."""
    for reader in network.consumers.get(name, []):
        kind = kind_of(reader)
        if kind in KINDS and len(reader.input) > 1 and reader.input[1] == name:
            if not constant.centred:
                raise QuantizeError("quantize.qdq-weight-offset", where=where or None, node=reader.name)
            turned = kind == "Gemm" and attributes(reader).get("transB", 0)
            pairs.weights[reader.name] = constant.moved(np.transpose) if turned else constant
        elif kind in _LAYOUT and reader.input[0] == name:
            others = {other: network.array(other) for other in reader.input[1:] if other}
            if all(value is not None for value in others.values()):
                _follow(network, reader.output[0], constant.moved(_mover(network, reader, others)), pairs, where)


def _mover(network: Network, node: onnx.NodeProto, others: Mapping[str, Array | None]) -> Callable[[Array], Array]:
    """A layout operator as a function of arrays."""
    from onnx.reference import ReferenceEvaluator

    graph = onnx.GraphProto(name="layout")
    graph.node.append(node)
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(name for name in node.input if name))
    graph.output.append(onnx.ValueInfoProto(name=node.output[0]))
    model = onnx.ModelProto(ir_version=network.model.ir_version, graph=graph)
    model.opset_import.extend(network.model.opset_import)
    evaluator = ReferenceEvaluator(model)

    def move(value: Array) -> Array:
        values: Any = evaluator.run(None, {**others, str(node.input[0]): value})
        return np.asarray(values[0])

    return move


def _apply(network: Network, alias: dict[str, str]) -> None:
    """Bypass the removed nodes; a graph output written by a DQ keeps its name through an Identity."""

    def source(name: str) -> str:
        while name in alias:
            name = alias[name]
        return name

    kept = [
        node
        for node in network.nodes
        if node.op_type not in QDQ_OPERATORS and not (kind_of(node) == "Clip" and node.output[0] in alias)
    ]
    for node in kept:
        for position, name in enumerate(node.input):
            node.input[position] = source(name)
        for body in subgraphs(node):
            _rename(body, {name: source(name) for name in alias})
    kept += [
        helper.make_node("Identity", [source(name)], [name], name=network.node_name(f"{name}.identity"))
        for name in sorted(network.outputs)
        if name in alias
    ]
    network.nodes = kept
    # The integer tensors between a Q and its DQ are float tensors now.
    values = network.model.graph.value_info
    hints = [value for value in values if value.type.tensor_type.elem_type not in (TensorProto.INT8, TensorProto.UINT8)]
    del values[:]
    values.extend(hints)
    network.index()


def _rename(body: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Let a body of If, Loop or Scan read other tensors of the graph around it."""
    for node in body.node:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)
        for inner in subgraphs(node):
            _rename(inner, names)


def _zero_point(network: Network, node: onnx.NodeProto) -> Array | None:
    """The zero point of a QuantizeLinear; None if it is omitted (0 of UINT8) or not constant."""
    return network.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None


def _range(network: Network, quant: onnx.NodeProto) -> Range | None:
    """The range of an activation, or None: not one constant scale with an INT8 or UINT8 zero point."""
    scale = network.array(quant.input[1])
    zero = _zero_point(network, quant)
    if zero is None:
        given = len(quant.input) > 2 and quant.input[2]
        if given or attributes(quant).get("output_dtype", TensorProto.UINT8) != TensorProto.UINT8:
            return None
        zero = np.zeros((), np.uint8)
    if scale is None or scale.size != 1 or zero.size != 1 or zero.dtype not in (np.int8, np.uint8):
        return None
    factor = np.float32(scale.reshape(-1)[0])
    if not np.isfinite(factor) or factor <= 0:
        return None
    return Range(factor, int(zero.reshape(-1)[0]) - (128 if zero.dtype == np.uint8 else 0))


def _constant(network: Network, node: onnx.NodeProto, where: str) -> _Constant | None:
    """The constant behind a DequantizeLinear (of integers, or of a quantized float constant), or None."""
    scale = network.array(node.input[1])
    zero = network.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if scale is None or attributes(node).get("block_size", 0):
        return None
    axis = int(attributes(node).get("axis", 1))
    data = network.array(node.input[0])
    if data is None:
        quant, _ = _source(network, node)
        if quant is None or quant.input[0] not in network.constants:
            return None
        values = constant_values(network, [node.input[0]])
        if values is None:
            return None
        data = values[node.input[0]]
    if data.dtype.kind not in "iu":
        raise QuantizeError("quantize.qdq-factors", where=where or None, node=node.name)
    points = np.zeros(1, np.int64) if zero is None else zero.reshape(-1).astype(np.int64)
    middle = _along(points, data.ndim, axis)
    factors = _along(np.asarray(scale, np.float32).reshape(-1), data.ndim, axis)
    wide = data.astype(np.int64) - middle
    centred = not np.any(middle) if data.dtype != np.uint8 else bool(np.all(middle == 128))
    inside = wide.size == 0 or (wide.min() >= -128 and wide.max() <= 127)
    return _Constant(
        value=np.asarray((wide.astype(np.float32) * factors).astype(scale.dtype)),
        exact=wide.astype(np.float64) * factors.astype(np.float64),
        whole=wide.astype(np.int8) if inside else None,
        scale=np.asarray(np.broadcast_to(factors, data.shape), np.float32),
        per_tensor=scale.size == 1,
        centred=centred,
    )


def _along(factors: npt.NDArray[Number], rank: int, axis: int) -> npt.NDArray[Number]:
    if factors.size == 1 or rank == 0:
        return factors.reshape((1,) * rank)
    shape = [1] * rank
    shape[axis] = -1
    return factors.reshape(shape)


def _converted(
    network: Network,
    layer: Layer,
    activation: Range,
    constant: _Constant | None,
    exact: Mapping[str, npt.NDArray[np.float64]],
    findings: list[Finding],
) -> Quantized:
    if layer.weight is None or constant is None:
        return Quantized(layer, activation, np.ones(1, np.float32), network)
    weight = np.asarray(network.array(layer.weight), np.float32)
    known = _same_integers(layer, weight, constant)
    if known is None:
        # Ascend has only one scale for a matrix product, or one per channel of a convolution.
        scale = scales(layer.rows(weight), "arq", layer.per_channel)
        whole = integers(layer.rows(weight), scale)
        findings.append(Finding("quantize.qdq-requantized", "info", say("quantize.qdq-requantized"), node=layer.name))
    else:
        whole, scale = known
    quantized = Quantized(layer, activation, scale, network)
    quantized.weight = np.asarray(layer.unrows(whole, weight), np.int8)
    if layer.bias is not None:
        # A constant into which something was folded has another name.
        value = exact.get(layer.bias, network.array(layer.bias))
        bias = np.asarray(value, np.float64).reshape(-1)
        set_bias(quantized, np.broadcast_to(bias, (layer.channels_out,)))
    return quantized


def _same_integers(
    layer: Layer, weight: npt.NDArray[np.float32], constant: _Constant
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]] | None:
    """The original integers of a weight by row, and their present scales; None if Ascend's scales cannot express them.

    Operations folded into the layer (BatchNorm, a constant Mul, a Gemm's alpha) multiplied each row by one factor. The
    integers stay, the scale is multiplied by the factor's magnitude, and its sign is applied to the integers.
    """
    if constant.whole is None or constant.whole.shape != weight.shape:
        return None
    rows, whole = layer.rows(weight).astype(np.float64), layer.rows(constant.whole).astype(np.int16)
    steps = layer.rows(constant.scale).astype(np.float64)
    if np.any(steps != steps[:, :1]):
        return None
    before = whole * steps
    power = (before * before).sum(axis=1)
    factor = np.where(power > 0, (rows * before).sum(axis=1) / np.where(power > 0, power, 1), 1.0)
    if np.any(np.abs(rows - factor[:, None] * before) > 1e-5 * np.abs(rows).max()):
        return None
    # A factor that differs from 1 only by FP32 rounding is ignored.
    factor = np.where(np.abs(factor - 1) < 1e-6, 1.0, factor)
    whole = np.where(factor[:, None] < 0, -whole, whole)
    scale = (steps[:, 0] * np.abs(factor)).astype(np.float32)
    if np.any(whole > 127) or np.any(scale <= 0):
        return None
    if np.all(scale == scale[0]) and (constant.per_tensor or not layer.per_channel):
        scale = scale[:1]
    if not layer.per_channel and scale.size != 1:
        return None
    return whole.astype(np.int8), scale
