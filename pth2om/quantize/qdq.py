"""The QDQ twin: the deploy model's numbers as QuantizeLinear and DequantizeLinear, for other runtimes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from pth2om.errors import QuantizeError, first_line
from pth2om.quantize.network import Array, Network, opset_of
from pth2om.quantize.weights import Quantized

_AXIS_OPSET = 13
"""QuantizeLinear and DequantizeLinear have an axis, hence scales per channel, from opset 13 on."""

_TYPED_OPSET = 20
"""From opset 21 on QuantizeLinear has an output_dtype, and ONNX Runtime's fusion of a 3-D MatMul and Add handles it
wrongly for INT8 (found in 1.31): the twin is lowered to 20 if its operators allow it."""


def build_qdq(network: Network, layers: Sequence[Quantized]) -> onnx.ModelProto:
    """The QDQ twin: INT8 activations and weights, INT32 biases, the same numbers as the deploy model's.

    Raises:
        QuantizeError: the model's opset is below 13 and cannot be raised.
    """
    model = network.finish()
    opset = opset_of(model)
    if not _AXIS_OPSET <= opset <= _TYPED_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, _AXIS_OPSET if opset < _AXIS_OPSET else _TYPED_OPSET)
        except Exception as error:  # noqa: BLE001 - the converter raises bare RuntimeError and protobuf errors alike
            if opset < _AXIS_OPSET:
                raise QuantizeError("quantize.opset", opset=opset, reason=first_line(error)) from None
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
    axis = 0 if layer.kind == "Conv" else 1
    shape = quantized.weight.shape
    if quantized.scale.size in (1, shape[axis]):
        node.input[1] = _dequantized(network, f"{layer.name}.weight", quantized.weight, quantized.scale, axis)
    else:
        # A grouped ConvTranspose has more channels than entries on its channel axis: it needs one scale for each pair
        # of input channel and entry, so its weight is reshaped until these pairs form one axis.
        each = np.repeat(quantized.scale.reshape(layer.group, -1), shape[0] // layer.group, axis=0).reshape(-1)
        flat = quantized.weight.reshape(-1, *shape[2:])
        name = _dequantized(network, f"{layer.name}.weight", flat, each, 0)
        size = network.add_constant(f"{layer.name}.weight_shape", np.asarray(shape, np.int64))
        output = network.fresh(f"{layer.name}.weight_reshaped")
        label = network.node_name(f"{layer.name}.weight_Reshape")
        network.nodes.append(helper.make_node("Reshape", [name, size], [output], name=label))
        node.input[1] = output
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
