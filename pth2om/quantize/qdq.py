"""QuantizeLinear/DequantizeLinear: a QDQ twin for other runtimes, and QDQ (QAT) models to deploy form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from pth2om.errors import QuantizeError
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.quantize.deploy import build_deploy
from pth2om.quantize.layers import Layer, select
from pth2om.quantize.network import Array, Network, attributes, opset_of
from pth2om.quantize.prepare import prepare
from pth2om.quantize.ranges import Range
from pth2om.quantize.weights import Quantized, integers, set_bias

_AXIS_OPSET = 13
"""QuantizeLinear and DequantizeLinear have an axis, hence scales per channel, from opset 13 on."""


def build_qdq(network: Network, layers: Sequence[Quantized]) -> onnx.ModelProto:
    """The QDQ twin: INT8 activations and weights, INT32 biases, the same numbers as the deploy model's.

    Raises:
        QuantizeError: the model's opset is below 13 and cannot be raised.
    """
    model = network.finish()
    if opset_of(model) < _AXIS_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, _AXIS_OPSET)
        except Exception as error:  # noqa: BLE001 - the converter raises bare RuntimeError and protobuf errors alike
            raise QuantizeError("quantize.opset", opset=opset_of(model), reason=str(error).split("\n")[0]) from None
    copy = Network(model, own=True)
    by_name = {node.name: node for node in copy.nodes}
    pairs: dict[tuple[str, bytes, int], str] = {}
    for quantized in layers:
        node = by_name[quantized.layer.name]
        key = (node.input[0], np.float32(quantized.activation.scale).tobytes(), quantized.activation.offset)
        if key not in pairs:
            pairs[key] = _activation_pair(copy, node.input[0], quantized)
        node.input[0] = pairs[key]
        if quantized.weight is not None:
            _constants(copy, node, quantized, by_name)
    return copy.finish()


def _activation_pair(network: Network, source: str, quantized: Quantized) -> str:
    name = quantized.layer.name
    scale = network.add_constant(f"{name}.input_scale", np.asarray(quantized.activation.scale, np.float32))
    zero = network.add_constant(f"{name}.input_zero_point", np.asarray(quantized.activation.offset, np.int8))
    middle, output = network.fresh(f"{name}.quantized"), network.fresh(f"{name}.dequantized")
    network.nodes += [
        helper.make_node("QuantizeLinear", [source, scale, zero], [middle], name=f"{name}.QuantizeLinear"),
        helper.make_node("DequantizeLinear", [middle, scale, zero], [output], name=f"{name}.DequantizeLinear"),
    ]
    return output


def _constants(
    network: Network, node: onnx.NodeProto, quantized: Quantized, by_name: dict[str, onnx.NodeProto]
) -> None:
    layer = quantized.layer
    assert quantized.weight is not None
    # A grouped ConvTranspose has fewer entries on its channel axis than channels; its scale is then one value a group.
    axis = 0 if layer.kind == "Conv" else 1
    if quantized.scale.size not in (1, quantized.weight.shape[axis]):
        node.input[1] = network.add_constant(f"{node.input[1]}.fake", quantized.dequantized)
    else:
        node.input[1] = _dequantized(network, f"{layer.name}.weight", quantized.weight, quantized.scale, axis)
    if quantized.bias is None:
        return
    scale = np.broadcast_to(quantized.deq_scale, quantized.bias.shape).copy()
    bias = _dequantized(network, f"{layer.name}.bias", quantized.bias, scale, 0)
    if layer.add is not None:
        add = by_name[layer.add.name]
        add.input[1 if add.input[0] == layer.node.output[0] else 0] = bias
    elif layer.kind == "MatMul":
        inner = network.fresh(f"{layer.name}.matmul.output0")
        network.nodes.append(helper.make_node("Add", [inner, bias], [node.output[0]], name=f"{layer.name}.bias_add"))
        node.output[0] = inner
    elif len(node.input) > 2:
        node.input[2] = bias
    else:
        node.input.append(bias)


def _dequantized(network: Network, name: str, value: Array, scale: npt.NDArray[np.float32], axis: int) -> str:
    per_tensor = scale.size == 1
    data = network.add_constant(f"{name}_quantized", value)
    factor = network.add_constant(f"{name}_scale", scale.reshape(()) if per_tensor else scale)
    shape = () if per_tensor else scale.shape
    zero = network.add_constant(f"{name}_zero_point", np.zeros(shape, value.dtype))
    output = network.fresh(f"{name}_dequantized")
    extra: dict[str, Any] = {} if per_tensor else {"axis": axis}
    network.nodes.append(
        helper.make_node("DequantizeLinear", [data, factor, zero], [output], name=f"{name}_DequantizeLinear", **extra)
    )
    return output


# ------------------------------------------------------------------------------------------------------- QDQ -> deploy


@dataclass(frozen=True)
class _Constant:
    """A constant read through its DequantizeLinear: FP32 value, and its integers where they were given."""

    value: npt.NDArray[np.float32]
    whole: Array | None
    scale: npt.NDArray[np.float32]
    axis: int


def convert_qdq(model: onnx.ModelProto, where: str = "") -> tuple[onnx.ModelProto, list[Finding]]:
    """A QDQ model (QAT from torch, or of ONNX Runtime) as a deploy model, without data.

    A layer becomes INT8 when its input comes through QuantizeLinear -> DequantizeLinear and its weight through
    DequantizeLinear. Pairs elsewhere (on sums, concatenations, outputs) have no counterpart that ATC would run faster;
    they are taken out, and told.

    Args:
        model: the QDQ model.
        where: its name, for messages.

    Returns:
        The deploy model and findings.

    Raises:
        QuantizeError: no layer has the QDQ pattern, or its factors cannot be expressed (a weight with a zero point).
    """
    network = Network(model)
    if not any(node.op_type == "DequantizeLinear" for node in network.nodes):
        raise QuantizeError("quantize.not-qdq", where=where or None)
    ranges, weights, findings = _take_out(network, where)
    floated = network.finish()
    prepared, more = prepare(floated, where)
    selection = select(prepared, small_channels=True, where=where)
    findings += more
    layers = []
    for layer in selection.layers:
        activation = ranges.get((layer.name, 0))
        if layer.reason is not None or activation is None:
            continue
        constant = weights.get(layer.name)
        if constant is None and layer.weight is not None:
            continue
        layers.append(_converted(prepared, layer, activation, constant))
        if layer.rolls_back:
            message = say("quantize.rolls-back", channels=layer.channels_in)
            findings.append(Finding("quantize.rolls-back", "warning", message, node=layer.name))
    if not layers:
        raise QuantizeError("quantize.not-qdq", where=where or None)
    return build_deploy(prepared, layers), findings


def _take_out(network: Network, where: str) -> tuple[dict[tuple[str, int], Range], dict[str, _Constant], list[Finding]]:
    """Remove every Q and DQ; what they said of each layer's input and weight."""
    ranges: dict[tuple[str, int], Range] = {}
    weights: dict[str, _Constant] = {}
    dropped = 0
    alias: dict[str, str] = {}
    for node in [node for node in network.nodes if node.op_type == "DequantizeLinear"]:
        constant = _constant(network, node, where)
        readers = network.consumers.get(node.output[0], [])
        if constant is not None:
            alias[node.output[0]] = network.add_constant(f"{node.output[0]}.float", constant.value)
            for reader in readers:
                if len(reader.input) > 1 and reader.input[1] == node.output[0]:
                    weights[reader.name] = constant
            continue
        quant = network.producer.get(node.input[0])
        if quant is None or quant.op_type != "QuantizeLinear":
            raise QuantizeError("quantize.qdq-open", where=where or None, node=node.name)
        chosen = _range(network, quant, where)
        alias[node.output[0]] = quant.input[0]
        for reader in readers:
            if reader.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul", "AveragePool"):
                ranges[reader.name, 0] = chosen
            else:
                dropped += 1
    findings = []
    if dropped:
        findings.append(Finding("quantize.qdq-dropped", "warning", say("quantize.qdq-dropped", count=dropped)))
    for node in network.nodes:
        if node.op_type == "QuantizeLinear":
            alias.setdefault(node.output[0], node.input[0])
    _apply(network, alias)
    return ranges, weights, findings


def _apply(network: Network, alias: dict[str, str]) -> None:
    """Read past the removed nodes; a graph output that a DQ made keeps its name through an Identity."""

    def source(name: str) -> str:
        while name in alias:
            name = alias[name]
        return name

    kept = [node for node in network.nodes if node.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    for node in kept:
        for position, name in enumerate(node.input):
            node.input[position] = source(name)
    kept += [
        helper.make_node("Identity", [source(name)], [name], name=network.fresh(f"{name}.identity"))
        for name in sorted(network.outputs)
        if name in alias
    ]
    network.nodes = kept
    network.index()


def _range(network: Network, quant: onnx.NodeProto, where: str) -> Range:
    scale = network.array(quant.input[1])
    zero = network.array(quant.input[2]) if len(quant.input) > 2 and quant.input[2] else np.zeros((), np.uint8)
    if scale is None or zero is None or scale.size != 1 or zero.dtype not in (np.int8, np.uint8):
        raise QuantizeError("quantize.qdq-factors", where=where or None, node=quant.name)
    offset = int(zero.reshape(-1)[0]) - (128 if zero.dtype == np.uint8 else 0)
    return Range(np.float32(scale.reshape(-1)[0]), offset)


def _constant(network: Network, node: onnx.NodeProto, where: str) -> _Constant | None:
    """The constant behind a DequantizeLinear (of integers, or of a quantized float constant), or None."""
    scale = network.array(node.input[1])
    zero = network.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    data = network.array(node.input[0])
    axis = int(attributes(node).get("axis", 1))
    if scale is None:
        return None
    factors = np.asarray(scale, np.float32).reshape(-1)
    quant = network.producer.get(node.input[0])
    if data is None:
        source = network.array(quant.input[0]) if quant is not None and quant.op_type == "QuantizeLinear" else None
        if source is None:
            return None
        shape = _along(factors, source.ndim, axis)
        data = np.clip(np.rint(np.asarray(source, np.float32) / shape), -128, 127).astype(np.int8)
    if data.dtype == np.uint8:
        # Unsigned with zero point 128 are the same numbers, symmetric.
        data = (data.astype(np.int16) - 128).astype(np.int8)
        zero = np.zeros(1) - 128 if zero is None else zero.astype(np.int16) - 128
    if zero is not None and np.any(zero):
        raise QuantizeError("quantize.qdq-weight-offset", where=where or None, node=node.name)
    value = data.astype(np.float32) * _along(factors, data.ndim, axis)
    return _Constant(np.asarray(value, np.float32), data, factors, axis)


def _along(factors: npt.NDArray[np.float32], rank: int, axis: int) -> npt.NDArray[np.float32]:
    if factors.size == 1 or rank == 0:
        return factors.reshape((1,) * rank)
    shape = [1] * rank
    shape[axis] = -1
    return factors.reshape(shape)


def _converted(network: Network, layer: Layer, activation: Range, constant: _Constant | None) -> Quantized:
    if layer.weight is None or constant is None:
        return Quantized(layer, activation, np.ones(1, np.float32), network)
    weight = np.asarray(network.array(layer.weight), np.float32)
    rows = layer.rows(weight)
    if constant.scale.size == 1 or (layer.per_channel and constant.scale.size == rows.shape[0]):
        scale = constant.scale
    elif not layer.per_channel:
        # Ascend dequantizes a matrix product with one scale: the integers are made anew under the coarsest.
        scale = np.asarray([np.abs(rows).max() / 127], np.float32)
    else:
        scale = np.tile(constant.scale, rows.shape[0] // constant.scale.size)
    quantized = Quantized(layer, activation, scale, network)
    quantized.weight = np.asarray(layer.unrows(integers(rows, scale), weight), np.int8)
    if layer.bias is not None:
        bias = np.asarray(network.array(layer.bias), np.float64).reshape(-1)
        set_bias(quantized, np.broadcast_to(bias, (layer.channels_out,)))
    return quantized
