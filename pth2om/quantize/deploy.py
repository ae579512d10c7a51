"""The deploy model: AscendQuant and AscendDequant around every INT8 layer, as ATC's ONNX parser expects them.

Operators and attributes follow the CANN ops-nn ONNX plugins: default domain; ``scale`` and ``offset`` of AscendQuant
are FLOAT attributes (an INT-typed offset would be read as 0); ``deq_scale`` is UINT64 with the FP32 bits in the low
word; weights are INT8 and biases INT32 in initializers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from pth2om.quantize.network import Array, Network, domains_of
from pth2om.quantize.weights import Quantized

_FP16_NORMAL = (2.0**-14, 65504.0)
PRODUCER = "pth2om"


def build_deploy(network: Network, layers: Sequence[Quantized]) -> onnx.ModelProto:
    """The deploy model.

    The dequantized result keeps the name of the layer's float output, so graph outputs, readers and the bodies of If,
    Loop and Scan need no change; the INT32 tensor before it is ``<layer>.output0``.

    Args:
        network: the prepared float network; not changed.
        layers: the layers that become INT8.
    """
    copy = Network(network.finish(), own=True)
    by_name = {node.name: node for node in copy.nodes}
    quants: dict[tuple[str, bytes, int], str] = {}
    for quantized in layers:
        node = by_name[quantized.layer.name]
        _quantize_input(copy, node, quantized, quants)
        last = node
        if quantized.layer.weight is not None:
            last = _quantize_constants(copy, node, quantized, by_name)
        _dequantize_output(copy, last, quantized)
    model = copy.finish()
    used = domains_of(model.graph) | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.producer_name = PRODUCER
    return model


def _quantize_input(
    network: Network, node: onnx.NodeProto, quantized: Quantized, quants: dict[tuple[str, bytes, int], str]
) -> None:
    """Insert an AscendQuant before input 0; layers that read the same tensor with the same range share it."""
    name = quantized.layer.name
    source = node.input[0]
    key = (source, np.float32(quantized.activation.scale).tobytes(), quantized.activation.offset)
    if key not in quants:
        output = network.fresh(f"{name}.quant.output0")
        network.nodes.append(quant_node(network.node_name(f"{name}.quant"), source, output, quantized))
        quants[key] = output
    node.input[0] = quants[key]


def quant_node(name: str, source: str, output: str, quantized: Quantized) -> onnx.NodeProto:
    """AscendQuant of an activation; a scale outside FP16's normal range is applied as its square root, twice."""
    scale = np.float32(1) / np.float32(quantized.activation.scale)
    rooted = not _FP16_NORMAL[0] <= float(scale) <= _FP16_NORMAL[1]
    if rooted:
        scale = np.sqrt(scale)
    extra: dict[str, Any] = {"sqrt_mode": 1} if rooted else {}
    return helper.make_node(
        "AscendQuant",
        [source],
        [output],
        name=name,
        scale=float(scale),
        offset=float(quantized.activation.offset),
        dst_type="INT8",
        **extra,
    )


def _quantize_constants(
    network: Network, node: onnx.NodeProto, quantized: Quantized, by_name: dict[str, onnx.NodeProto]
) -> onnx.NodeProto:
    """Write INT8 weight and INT32 bias; returns the node whose output must be dequantized."""
    layer = quantized.layer
    assert quantized.weight is not None
    node.input[1] = network.add_constant(f"{node.input[1]}.int8", quantized.weight)
    if layer.add is not None:
        assert quantized.bias is not None
        add = by_name[layer.add.name]
        position = 1 if add.input[0] == node.output[0] else 0
        add.input[position] = network.add_constant(f"{add.input[position]}.int32", quantized.bias)
        inner = network.fresh(f"{layer.name}.matmul.output0")
        add.input[1 - position] = inner
        node.output[0] = inner
        return add
    if quantized.bias is None:
        return node
    if layer.kind == "MatMul":
        # Bias correction gave a MatMul a bias: it is added to the integers before they are dequantized.
        inner = network.fresh(f"{layer.name}.matmul.output0")
        name = network.add_constant(f"{layer.name}.bias.int32", quantized.bias)
        label = network.node_name(f"{layer.name}.bias_add")
        add = helper.make_node("Add", [inner, name], [node.output[0]], name=label)
        node.output[0] = inner
        network.nodes.append(add)
        return add
    base = node.input[2] if len(node.input) > 2 and node.input[2] else f"{layer.name}.bias"
    name = network.add_constant(f"{base}.int32", quantized.bias)
    if len(node.input) > 2:
        node.input[2] = name
    else:
        node.input.append(name)
    return node


def _dequantize_output(network: Network, node: onnx.NodeProto, quantized: Quantized) -> None:
    name = quantized.layer.name
    result = node.output[0]
    raw = network.fresh(f"{name}.output0")
    node.output[0] = raw
    parameter = network.add_constant(f"{name}.dequant.param", pack(quantized.deq_scale))
    label = network.node_name(f"{name}.dequant")
    network.nodes.append(helper.make_node("AscendDequant", [raw, parameter], [result], name=label, dtype=0))


def pack(deq_scale: Array) -> Array:
    """FP32 scales as AscendDequant's UINT64: bits 31..0 the float, shift N and offset_w zero."""
    return np.ascontiguousarray(deq_scale, np.float32).view(np.uint32).astype(np.uint64)


def unpack(parameter: Array) -> Array:
    """The FP32 scales of AscendDequant's UINT64."""
    return (parameter.astype(np.uint64) & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)
