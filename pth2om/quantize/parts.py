"""The INT8 layers of a deploy model, taken apart by their pattern, whoever wrote it.

``AscendQuant -> layer (-> Add) -> AscendDequant``; an AveragePool may have a Pad before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from pth2om.errors import QuantizeError
from pth2om.quantize.deploy import unpack
from pth2om.quantize.layers import ROLLBACK_CHANNELS, to_rows
from pth2om.quantize.network import Array, Network, attributes, shapes_of
from pth2om.quantize.weights import EXACT_FLOAT


@dataclass
class Part:
    """One INT8 layer of a deploy model.

    Attributes:
        name: of the layer's node.
        layer, add, dequant: its nodes; `add` where a MatMul has a bias.
        scale, offset, sqrt_mode: of its AscendQuant.
        weight: int8, or None (AveragePool); a Gemm's in the layout of transB=0.
        bias: int32, or None.
        deq_scale: float32.
        relu: whether the AscendDequant applies a ReLU.
        channels_in: of its input, None when unknown.
        rank: axes of its output.
        pad: a Pad between the AscendQuant and an AveragePool, where AMCT puts the AscendQuant before it.
    """

    name: str
    layer: onnx.NodeProto
    add: onnx.NodeProto | None
    dequant: onnx.NodeProto
    source: str
    scale: np.float32
    offset: int
    sqrt_mode: bool
    weight: npt.NDArray[np.int8] | None
    bias: npt.NDArray[np.int32] | None
    deq_scale: npt.NDArray[np.float32]
    relu: bool
    channels_in: int | None
    rank: int
    pad: onnx.NodeProto | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The layer's attributes, of a Gemm those beside a weight that is transposed already."""
        return {name: value for name, value in attributes(self.layer).items() if name != "transB"}

    @property
    def group(self) -> int:
        """Convolution groups."""
        return int(attributes(self.layer).get("group", 1))

    @property
    def rows(self) -> npt.NDArray[np.int8]:
        """The weight as one row per output channel."""
        assert self.weight is not None
        return to_rows(self.weight, self.layer.op_type, self.group)

    @property
    def largest_sum(self) -> int:
        """The greatest magnitude any partial sum can reach."""
        reach = max(127 - self.offset, 128 + self.offset)
        if self.weight is None:
            return reach
        sums = np.abs(self.rows.astype(np.int64)).sum(axis=1) * reach
        return int((sums + (0 if self.bias is None else np.abs(self.bias.astype(np.int64)))).max())

    @property
    def exact_in_float(self) -> bool:
        """Whether FP32 holds every sum of this layer exactly."""
        return self.largest_sum < EXACT_FLOAT

    @property
    def rolls_back(self) -> bool:
        """Whether ATC compiles this layer in FP16."""
        return self.channels_in is not None and self.channels_in <= ROLLBACK_CHANNELS

    def broadcast(self, values: Array) -> Array:
        """One value per output channel, shaped to meet the layer's output."""
        if values.size == 1:
            return values.reshape((1,) * self.rank)
        if self.layer.op_type in ("Gemm", "MatMul"):
            return values.reshape((1,) * (self.rank - 1) + (-1,))
        return values.reshape((1, -1) + (1,) * (self.rank - 2))


def parts_of(network: Network, where: str = "") -> list[Part]:
    """The INT8 layers of a deploy model, in graph order.

    Raises:
        QuantizeError: it holds no AscendQuant, one is not followed by the pattern that ATC needs, or a layer's
            constants do not fit it.
    """
    shapes = shapes_of(network.model)
    parts = []
    for quant in network.nodes:
        if quant.op_type != "AscendQuant":
            continue
        values = attributes(quant)
        offset = int(values.get("offset", 0.0))
        readers = [node for node in network.consumers.get(quant.output[0], []) if node.op_type != "AscendAntiQuant"]
        parts += [_part(network, quant, layer, values, offset, shapes, where) for layer in readers]
    if not parts:
        raise QuantizeError("quantize.not-a-deploy-model", where=where or None)
    return parts


def _part(
    network: Network,
    quant: onnx.NodeProto,
    layer: onnx.NodeProto,
    values: dict[str, Any],
    offset: int,
    shapes: dict[str, tuple[int | None, ...]],
    where: str,
) -> Part:
    add = pad = None
    if layer.op_type == "Pad":
        below = network.only_consumer(layer.output[0])
        if below is not None and below.op_type == "AveragePool":
            pad, layer = layer, below
    follower = network.only_consumer(layer.output[0])
    if layer.op_type == "MatMul" and follower is not None and follower.op_type == "Add":
        add = follower
        follower = network.only_consumer(add.output[0])
    if follower is None or follower.op_type != "AscendDequant":
        raise QuantizeError("quantize.no-dequant", where=where or None, layer=layer.name, kind=layer.op_type)
    parameter = network.array(follower.input[1])
    if parameter is None:
        raise QuantizeError("quantize.no-dequant", where=where or None, layer=layer.name, kind=layer.op_type)
    weight = network.array(layer.input[1]) if layer.op_type != "AveragePool" else None
    if layer.op_type != "AveragePool" and (weight is None or weight.dtype != np.int8):
        raise QuantizeError("quantize.weight-not-int8", where=where or None, layer=layer.name)
    if layer.op_type == "Gemm" and weight is not None:
        weight = _plain_gemm(layer, weight, where)
    name = None
    if add is not None:
        name = next(entry for entry in add.input if entry != layer.output[0])
    elif layer.op_type != "AveragePool" and len(layer.input) > 2 and layer.input[2]:
        name = layer.input[2]
    bias = None if name is None else network.array(name)
    if name is not None and bias is None:
        raise QuantizeError("quantize.bias-not-constant", where=where or None, layer=layer.name)
    channels = 1 if weight is None else to_rows(weight, layer.op_type, int(attributes(layer).get("group", 1))).shape[0]
    for what, size in (("deq_scale", parameter.size), ("bias", 1 if bias is None else bias.size)):
        if size not in (1, channels):
            place = {"layer": layer.name, "what": what, "size": size, "channels": channels}
            raise QuantizeError("quantize.form-size", where=where or None, **place)
    known = shapes.get(follower.output[0])
    rank = _rank(layer, weight, known, shapes.get(quant.input[0]))
    more = attributes(follower)
    return Part(
        name=layer.name,
        layer=layer,
        add=add,
        dequant=follower,
        source=quant.input[0],
        scale=np.float32(values.get("scale", 1.0)),
        offset=offset,
        sqrt_mode=bool(values.get("sqrt_mode", 0)),
        weight=None if weight is None else np.asarray(weight, np.int8),
        bias=None if bias is None else np.asarray(bias, np.int32).reshape(-1),
        deq_scale=np.asarray(unpack(parameter), np.float32) ** (2 if more.get("sqrt_mode", 0) else 1),
        relu=bool(more.get("relu_flag", 0)),
        channels_in=_channels_in(layer, weight, shapes.get(quant.input[0])),
        rank=rank,
        pad=pad,
    )


def _plain_gemm(layer: onnx.NodeProto, weight: Array, where: str) -> Array:
    """The weight of a Gemm in the layout of transB=0."""
    values = attributes(layer)
    if values.get("transA", 0) or values.get("alpha", 1.0) != 1 or values.get("beta", 1.0) != 1:
        raise QuantizeError("quantize.gemm-scaled", where=where or None, layer=layer.name)
    return np.ascontiguousarray(weight.T) if values.get("transB", 0) else weight


def _rank(
    layer: onnx.NodeProto,
    weight: Array | None,
    output: tuple[int | None, ...] | None,
    source: tuple[int | None, ...] | None,
) -> int:
    if layer.op_type in ("Conv", "ConvTranspose") and weight is not None:
        return weight.ndim
    if layer.op_type == "AveragePool":
        return len(attributes(layer)["kernel_shape"]) + 2
    if layer.op_type == "Gemm":
        return 2
    known = output or source
    return 1 if known is None else len(known)


def _channels_in(layer: onnx.NodeProto, weight: Array | None, source: tuple[int | None, ...] | None) -> int | None:
    if weight is not None:
        group = int(attributes(layer).get("group", 1))
        return int(weight.shape[1] * group if layer.op_type == "Conv" else weight.shape[0])
    return source[1] if source is not None and len(source) > 1 else None
