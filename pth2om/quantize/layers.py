"""Which layers become INT8, and why the others do not.

The restrictions are those of amct_onnx (CANN AMCT guide, "quantization layer restrictions") and of ATC, which returns
some layers to FP16 (CANN fusion engine sources: a quantized layer whose input has at most 16 channels is compiled in
FP16).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx

from pth2om.errors import QuantizeError
from pth2om.evidence import Finding
from pth2om.language import Message, joined, say
from pth2om.quantize.network import Network, attributes, kind_of, shapes_of, types_of
from pth2om.quantize.settings import matches

Kind = Literal["Conv", "ConvTranspose", "Gemm", "MatMul", "AveragePool"]
KINDS: tuple[Kind, ...] = ("Conv", "ConvTranspose", "Gemm", "MatMul", "AveragePool")

ROLLBACK_CHANNELS = 16
"""ATC compiles a quantized layer in FP16 when its input has at most this many channels."""
_POOL_STRIDE = 63


@dataclass
class Layer:
    """One operator that can be INT8.

    Attributes:
        name: the node's name.
        kind: its operator.
        node: the node in the network in which it was found.
        input: the activation it reads.
        output: the tensor of the dequantized result; for a MatMul with bias, the output of its Add.
        weight: name of its weight, None for AveragePool.
        bias: name of its bias constant, or None.
        add: the Add with a MatMul's bias.
        channels_in: channels of the input; None if unknown.
        channels_out: output channels; 0 for AveragePool.
        group: convolution groups.
        rank: axes of the output; None if unknown.
        reason: why it stays in floating point; None if it becomes INT8.
        rolls_back: whether ATC would compile it in FP16 even if quantized.
    """

    name: str
    kind: Kind
    node: onnx.NodeProto
    input: str
    output: str
    weight: str | None = None
    bias: str | None = None
    add: onnx.NodeProto | None = None
    channels_in: int | None = None
    channels_out: int = 0
    group: int = 1
    rank: int | None = None
    reason: Message | None = None
    rolls_back: bool = False

    @property
    def per_channel(self) -> bool:
        """Whether its weight has one scale per output channel; Ascend has a single scale for Gemm and MatMul."""
        return self.kind in ("Conv", "ConvTranspose")

    def rows(self, weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The weight as (output channels, weights of one channel)."""
        return to_rows(weight, self.kind, self.group)

    def unrows(self, rows: np.ndarray[Any, Any], like: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The inverse of `rows`; ``like`` is the weight in its original layout."""
        return from_rows(rows, like.shape, self.kind, self.group)


def to_rows(weight: np.ndarray[Any, Any], kind: str, group: int) -> np.ndarray[Any, Any]:
    """A weight as one row per output channel.

    Layouts: Conv (Cout, Cin/g, k...), ConvTranspose (Cin, Cout/g, k...), Gemm and MatMul (Cin, Cout).
    """
    if kind == "Conv":
        return weight.reshape(weight.shape[0], -1)
    if kind == "ConvTranspose":
        grouped = weight.reshape(group, weight.shape[0] // group, weight.shape[1], -1)
        return np.moveaxis(grouped, 2, 1).reshape(group * weight.shape[1], -1)
    return np.ascontiguousarray(weight.T)


def from_rows(rows: np.ndarray[Any, Any], shape: tuple[int, ...], kind: str, group: int) -> np.ndarray[Any, Any]:
    """The inverse of `to_rows`."""
    if kind == "Conv":
        return rows.reshape(shape)
    if kind == "ConvTranspose":
        grouped = rows.reshape(group, shape[1], shape[0] // group, -1)
        return np.ascontiguousarray(np.moveaxis(grouped, 1, 2)).reshape(shape)
    return np.ascontiguousarray(rows.T)


@dataclass
class Selection:
    """All candidate layers of a network.

    Attributes:
        layers: in graph order, chosen or not.
        findings: why layers stay in floating point, as messages.
    """

    layers: list[Layer]
    findings: list[Finding] = field(default_factory=list)

    @property
    def chosen(self) -> list[Layer]:
        """The layers that become INT8."""
        return [layer for layer in self.layers if layer.reason is None]


def select(
    network: Network,
    *,
    skip: Sequence[str] = (),
    only: Sequence[str] = (),
    small_channels: bool = False,
    skip_types: Sequence[str] = (),
    mentioned: Sequence[str] = (),
    where: str = "",
) -> Selection:
    """Find the layers that become INT8.

    Args:
        network: a prepared float network.
        skip: node names or `fnmatch` patterns that stay in floating point.
        only: patterns; if given, nothing else is quantized.
        small_channels: quantize layers of at most 16 input channels too, for ``--enable_small_channel=1``.
        skip_types: operator types that stay in floating point.
        mentioned: further names and patterns from the user, so that a misspelt one is reported.
        where: the model's name, for errors.

    Raises:
        QuantizeError: no layer is left to quantize, or a pattern matches no node.
    """
    names = [node.name for node in network.nodes]
    for pattern in (*skip, *only, *mentioned):
        if not any(matches(name, pattern) for name in names):
            raise QuantizeError(
                "quantize.no-such-layer", where=where, pattern=pattern, nearest=_nearest(pattern, names)
            )
    shapes, types = shapes_of(network.model), types_of(network.model)
    layers = [_examine(network, node, shapes, types) for node in network.nodes if kind_of(node) in KINDS]
    for layer in layers:
        layer.rolls_back = layer.channels_in is not None and layer.channels_in <= ROLLBACK_CHANNELS
        if layer.reason is None:
            layer.reason = _asked(layer, skip, only, skip_types, small_channels)
    selection = Selection(layers)
    for layer in layers:
        if layer.reason is not None:
            rule = layer.reason.key
            selection.findings.append(Finding(rule, "info", layer.reason, node=layer.name))
        elif layer.rolls_back:
            message = say("quantize.rolls-back", channels=layer.channels_in)
            selection.findings.append(Finding("quantize.rolls-back", "warning", message, node=layer.name))
    if not layers:
        raise QuantizeError("quantize.no-candidates", where=where or None, kinds=", ".join(KINDS))
    if not selection.chosen:
        reasons = joined((joined((layer.name, str(layer.reason)), ": ") for layer in layers[:5]), "; ") or "-"
        raise QuantizeError("quantize.nothing-to-quantize", where=where or None, count=len(layers), reasons=reasons)
    return selection


def _asked(
    layer: Layer, skip: Sequence[str], only: Sequence[str], skip_types: Sequence[str], small_channels: bool
) -> Message | None:
    """The reason in the settings for not quantizing a layer, or None."""
    if layer.kind in skip_types or any(matches(layer.name, pattern) for pattern in skip):
        return say("quantize.skipped")
    if only and not any(matches(layer.name, pattern) for pattern in only):
        return say("quantize.outside-only")
    if layer.rolls_back and not small_channels:
        return say("quantize.left-float", channels=layer.channels_in)
    return None


def _nearest(word: str, words: Sequence[str]) -> str:
    import difflib

    return ", ".join(difflib.get_close_matches(word, words, 3, 0.3)) or ", ".join(words[:3])


def _examine(
    network: Network, node: onnx.NodeProto, shapes: dict[str, tuple[int | None, ...]], types: dict[str, int]
) -> Layer:
    layer = Layer(node.name, node.op_type, node, node.input[0], node.output[0])  # type: ignore[arg-type]  # the kind is one of the table
    shape = shapes.get(layer.output)
    layer.rank = None if shape is None else len(shape)
    if node.op_type == "AveragePool":
        layer.reason = _examine_pool(layer, shapes)
        kind = types.get(layer.input, types.get(layer.output, onnx.TensorProto.FLOAT))
        if kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.UNDEFINED):
            layer.reason = say("quantize.not-float32-input", dtype=onnx.TensorProto.DataType.Name(kind).lower())
        return layer
    layer.reason = _examine_weight(network, layer, shapes)
    if layer.reason is None and layer.input in network.constants:
        layer.reason = say("quantize.constant-input")
    return layer


def _examine_pool(layer: Layer, shapes: dict[str, tuple[int | None, ...]]) -> Message | None:
    values = attributes(layer.node)
    kernel, strides = values.get("kernel_shape", []), values.get("strides", [])
    shape = shapes.get(layer.input)
    if len(kernel) != 2 or (shape is not None and len(shape) != 4):
        return say("quantize.pool-rank")
    if shape is not None:
        layer.channels_in = shape[1]
    layer.rank = 4
    if shape is not None and list(shape[2:]) == list(kernel) and not any(values.get("pads", [])):
        return say("quantize.pool-global")
    if any(stride > _POOL_STRIDE for stride in strides):
        return say("quantize.pool-stride", limit=_POOL_STRIDE)
    if any(value > 1 for value in values.get("dilations", [])):
        return say("quantize.pool-dilation")
    return None


def _examine_weight(network: Network, layer: Layer, shapes: dict[str, tuple[int | None, ...]]) -> Message | None:
    node = layer.node
    weight = network.array(node.input[1])
    if weight is None:
        return say("quantize.variable-weight")
    if weight.dtype != np.float32:
        return say("quantize.not-float32", dtype=str(weight.dtype))
    if not np.all(np.isfinite(weight)):
        return say("quantize.weight-not-finite")
    layer.weight = node.input[1]
    if len(network.consumers.get(layer.weight, [])) != 1 or layer.weight in network.captured:
        return say("quantize.shared-weight")
    values = attributes(node)
    if layer.kind in ("Conv", "ConvTranspose"):
        reason = _examine_convolution(layer, weight.shape, values)
    elif layer.kind == "Gemm":
        reason = _examine_gemm(layer, weight.shape, values)
    else:
        reason = _examine_matmul(network, layer, weight.shape, shapes)
    if reason is not None:
        return reason
    if layer.kind != "MatMul" and len(node.input) > 2 and node.input[2]:
        bias = network.array(node.input[2])
        if bias is None or bias.dtype != np.float32 or not _per_channel_bias(bias.shape, layer.channels_out):
            return say("quantize.variable-bias")
        if not np.all(np.isfinite(bias)):
            return say("quantize.bias-not-finite")
        layer.bias = node.input[2]
    if not np.any(weight):
        return say("quantize.zero-weight")
    return None


def _per_channel_bias(shape: tuple[int, ...], channels: int) -> bool:
    """Whether a bias is one value for all or one per channel on its last axis; a Gemm's may have one per row."""
    count = math.prod(shape)
    return count == 1 or (count == channels and shape[-1] == channels)


def _examine_convolution(layer: Layer, shape: tuple[int, ...], values: dict[str, Any]) -> Message | None:
    layer.group = int(values.get("group", 1))
    layer.rank = len(shape)
    dilations = list(values.get("dilations", [1] * (len(shape) - 2)))
    if layer.kind == "Conv":
        layer.channels_in, layer.channels_out = shape[1] * layer.group, shape[0]
        if len(shape) not in (4, 5):
            return say("quantize.conv-rank", rank=len(shape))
        if len(shape) == 5 and dilations[0] != 1:
            return say("quantize.conv-dilation")
        return None
    layer.channels_in, layer.channels_out = shape[0], shape[1] * layer.group
    if len(shape) != 4:
        return say("quantize.conv-rank", rank=len(shape))
    return say("quantize.conv-dilation") if any(value != 1 for value in dilations) else None


def _examine_gemm(layer: Layer, shape: tuple[int, ...], values: dict[str, Any]) -> Message | None:
    layer.channels_in, layer.channels_out, layer.rank = shape[0], shape[1], 2
    if values.get("transA", 0) or values.get("transB", 0) or values.get("alpha", 1.0) != 1:
        return say("quantize.gemm-form")
    return None if values.get("beta", 1.0) == 1 else say("quantize.gemm-form")


def _examine_matmul(
    network: Network, layer: Layer, shape: tuple[int, ...], shapes: dict[str, tuple[int | None, ...]]
) -> Message | None:
    if len(shape) != 2:
        return say("quantize.matmul-rank", rank=len(shape))
    layer.channels_in, layer.channels_out = shape
    known = shapes.get(layer.input)
    if known is not None and len(known) not in (2, 3):
        return say("quantize.matmul-input-rank", rank=len(known))
    follower = network.only_consumer(layer.output)
    if follower is not None and follower.op_type == "Add" and len(set(follower.input)) == 2:
        other = next(name for name in follower.input if name != layer.output)
        bias = network.array(other)
        plain = bias is not None and bias.dtype == np.float32 and np.all(np.isfinite(bias))
        if plain and bias is not None and _one_row(bias.shape, layer.channels_out, known):
            layer.add, layer.bias, layer.output = follower, other, follower.output[0]
    return None


def _one_row(shape: tuple[int, ...], channels: int, source: tuple[int | None, ...] | None) -> bool:
    """Whether adding a constant of ``shape`` to a matrix product adds one value per channel and no axis."""
    if len(shape) == 0 or shape[-1] != channels or math.prod(shape) != channels:
        return False
    return len(shape) == 1 or (source is not None and len(shape) <= len(source))
