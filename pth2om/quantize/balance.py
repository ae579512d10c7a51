"""Balances channels with very different ranges before calibration, without changing the float model's results.

INT8 activations have one scale per tensor, so a channel 2**k times smaller than the largest keeps only 8 - k bits.
For a depth-wise convolution this can be avoided: its input is multiplied by one factor per channel, and its weight,
which has its own scale per channel, is divided by the same factor (the idea of cross-layer equalization, Nagel et al.
2019, and of AMCT's tensor balance). If the layer before is a convolution, the factor is folded into it; otherwise one
Mul stays in the graph. Factors are powers of two, so the float model computes the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.quantize.calibrate import Feeds, groups_by_memory
from pth2om.quantize.layers import Layer
from pth2om.quantize.network import (
    Array,
    FloatArray,
    Network,
    attributes,
    kind_of,
    open_session,
    run_session,
)
from pth2om.quantize.prepare import scale_rows

THRESHOLD_BITS = 2.0
"""A tensor is balanced if its channels lose at least this many bits on average."""
_STRENGTH = 0.7
"""Exponent of the range ratio; below 1, so that a channel active on few images only is not amplified too much."""
_LARGEST_FACTOR = 2.0**6
_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu"})
"""Activations with ``f(c x) = c f(x)`` for positive c."""


@dataclass(frozen=True)
class Balance:
    """The balancing of one layer's input.

    Attributes:
        layer: its name.
        factor: (channels,) powers of two that the input is multiplied by and the weight divided by.
        folded_into: the convolution that absorbed the factor; "" if a Mul stays in the graph.
        bits: bits the channels had lost on average.
    """

    layer: str
    factor: npt.NDArray[np.float64]
    folded_into: str
    bits: float


def channel_magnitudes(
    model: onnx.ModelProto, tensors: Sequence[str], feeds: Iterable[Feeds], memory: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Largest magnitude per channel (axis 1) of each tensor over some batches."""
    found: dict[str, npt.NDArray[np.float64]] = {}
    inputs = {value.name for value in model.graph.input}
    sessions: list[tuple[Any, list[str]]] = []
    for batch in feeds:
        if not sessions:
            groups = groups_by_memory(model, [name for name in tensors if name not in inputs], batch, memory)
            sessions = [(open_session(model, outputs=group), group) for group in groups]
        values: dict[str, Array] = {name: batch[name] for name in tensors if name in inputs}
        for session, group in sessions:
            values.update(run_session(session, batch, group))
        for name, value in values.items():
            other = tuple(axis for axis in range(value.ndim) if axis != 1)
            largest = np.maximum(value.max(axis=other), -value.min(axis=other)).astype(np.float64)
            found[name] = largest if name not in found else np.maximum(found[name], largest)
    return found


def depthwise(layers: Iterable[Layer]) -> list[Layer]:
    """The layers whose weight can absorb a factor per input channel at no cost."""
    return [layer for layer in layers if layer.kind == "Conv" and 1 < layer.group == layer.channels_in]


def balance(
    network: Network,
    layers: Sequence[Layer],
    magnitudes: Mapping[str, npt.NDArray[np.float64]],
    *,
    insert: bool,
) -> tuple[dict[str, Balance], list[Finding]]:
    """Balance the inputs of depth-wise convolutions whose channels lose `THRESHOLD_BITS` or more.

    Args:
        network: changed in place.
        layers: those that will be INT8.
        magnitudes: from `channel_magnitudes`.
        insert: insert a Mul where the factor cannot be folded; without it such layers are not balanced.

    Returns:
        The balancings by layer name, and findings that report them.
    """
    done: dict[str, Balance] = {}
    findings = []
    for layer in depthwise(layers):
        largest = magnitudes.get(layer.input)
        if largest is None or not np.all(np.isfinite(largest)) or largest.max() <= 0:
            continue
        ratio = largest.max() / np.maximum(largest, largest.max() / 1024)
        bits = float(np.log2(ratio).mean())
        if bits < THRESHOLD_BITS:
            continue
        factor = np.exp2(np.rint(np.log2(np.minimum(ratio, _LARGEST_FACTOR) ** _STRENGTH)))
        before = _foldable(network, layer)
        if before is None and not insert:
            continue
        _divide_inputs(network, layer, factor)
        if before is not None:
            _multiply_outputs(network, before, factor)
        else:
            _insert(network, layer, factor)
        network.index()
        done[layer.name] = Balance(layer.name, factor, before.name if before is not None else "", bits)
        key = "quantize.balanced-folded" if before is not None else "quantize.balanced"
        message = say(key, bits=round(bits, 1), into=before.name if before is not None else "")
        findings.append(Finding(key, "info", message, node=layer.name))
    return done, findings


def _foldable(network: Network, layer: Layer) -> onnx.NodeProto | None:
    """The convolution before ``layer``, if nothing else reads its output and at most a Relu lies between."""
    name = layer.input
    for _ in range(2):
        if network.only_consumer(name) is None:
            return None
        node = network.producer.get(name)
        if node is None:
            return None
        if kind_of(node) in ("Conv", "ConvTranspose"):
            weight = network.array(node.input[1])
            plain = weight is not None and weight.dtype == np.float32
            alone = len(network.consumers.get(node.input[1], [])) == 1
            known = len(node.input) < 3 or not node.input[2] or network.array(node.input[2]) is not None
            return node if plain and alone and known else None
        if kind_of(node) not in _HOMOGENEOUS:
            return None
        name = node.input[0]
    return None


def _divide_inputs(network: Network, layer: Layer, factor: npt.NDArray[np.float64]) -> None:
    """Divide a depth-wise convolution's weight by the factor of the channel it reads."""
    weight = np.asarray(network.array(layer.node.input[1]), np.float32)
    each = np.repeat(1 / factor, weight.shape[0] // factor.size)
    layer.node.input[1] = network.add_constant(layer.node.input[1], scale_rows(weight, each, "Conv", layer.group))


def _multiply_outputs(network: Network, node: onnx.NodeProto, factor: npt.NDArray[np.float64]) -> None:
    weight = np.asarray(network.array(node.input[1]), np.float32)
    group = int(attributes(node).get("group", 1))
    node.input[1] = network.add_constant(node.input[1], scale_rows(weight, factor, node.op_type, group))
    if len(node.input) > 2 and node.input[2]:
        bias = np.asarray(network.array(node.input[2]), np.float64)
        node.input[2] = network.add_constant(node.input[2], (bias * factor).astype(np.float32))


def _insert(network: Network, layer: Layer, factor: npt.NDArray[np.float64]) -> None:
    rank = layer.rank or 4
    shape = (1, -1) + (1,) * (rank - 2)
    name = network.add_constant(f"{layer.name}.balance.factor", factor.astype(np.float32).reshape(shape))
    output = network.fresh(f"{layer.name}.balance.output0")
    label = network.node_name(f"{layer.name}.balance")
    network.nodes.append(helper.make_node("Mul", [layer.input, name], [output], name=label))
    shapes = [value for value in network.model.graph.value_info if value.name == layer.input]
    for value in shapes:
        copy = network.model.graph.value_info.add()
        copy.CopyFrom(value)
        copy.name = output
    layer.node.input[0] = output


def equalize(network: Network, layers: Sequence[Layer], rounds: int = 3) -> tuple[dict[str, Balance], list[Finding]]:
    """Cross-layer equalization of weight ranges: convolution, optional Relu, convolution (Nagel et al. 2019).

    Channel i of the tensor between them is scaled by ``sqrt(r2[i] / r1[i])``, where r1 and r2 are the largest
    magnitudes of the weights that write and read it. The factor is rounded to a power of two, so the float model's
    results do not change.

    Args:
        network: changed in place.
        layers: candidates; other pairs are not changed.
        rounds: how often all pairs are visited.
    """
    done: dict[str, npt.NDArray[np.float64]] = {}
    into: dict[str, str] = {}
    for _ in range(rounds):
        for layer in layers:
            if layer.kind != "Conv" or layer.weight is None or layer.group not in (1, layer.channels_in):
                continue
            before = _foldable(network, layer)
            if before is None:
                continue
            factor = _pair_factor(network, before, layer)
            if np.all(factor == 1):
                continue
            _multiply_outputs(network, before, factor)
            _divide_any(network, layer, factor)
            network.index()
            done[layer.name] = done.get(layer.name, np.ones(factor.shape)) * factor
            into[layer.name] = before.name
    findings = [Finding("quantize.equalized", "info", say("quantize.equalized", count=len(done)))] if done else []
    return {name: Balance(name, factor, into[name], 0.0) for name, factor in done.items()}, findings


def weight_spread(network: Network, layers: Sequence[Layer]) -> dict[str, float]:
    """How unequal the channels are that `equalize` would scale: layer -> its largest factor or inverse of one."""
    spread = {}
    for layer in layers:
        if layer.kind != "Conv" or layer.weight is None or layer.group not in (1, layer.channels_in):
            continue
        before = _foldable(network, layer)
        if before is not None:
            factor = _pair_factor(network, before, layer)
            spread[layer.name] = float(np.maximum(factor, 1 / factor).max())
    return spread


def _pair_factor(network: Network, before: onnx.NodeProto, layer: Layer) -> npt.NDArray[np.float64]:
    from pth2om.quantize.layers import to_rows

    first: FloatArray = np.asarray(network.array(before.input[1]), np.float32)
    group = int(attributes(before).get("group", 1))
    written = np.abs(to_rows(first, before.op_type, group)).max(axis=1).astype(np.float64)
    second = np.abs(np.asarray(network.array(layer.node.input[1]), np.float32))
    if layer.group == 1:
        read = second.max(axis=(0, *range(2, second.ndim)))
    else:
        read = second.reshape(layer.group, -1).max(axis=1)
    usable = (written > 0) & (read > 0)
    ratio = np.where(usable, read / np.where(usable, written, 1), 1.0)
    return np.asarray(np.exp2(np.rint(np.log2(np.sqrt(np.clip(ratio, 2.0**-12, 2.0**12))))))


def _divide_any(network: Network, layer: Layer, factor: npt.NDArray[np.float64]) -> None:
    if layer.group > 1:
        _divide_inputs(network, layer, factor)
        return
    weight = np.asarray(network.array(layer.node.input[1]), np.float32)
    shape = (1, -1) + (1,) * (weight.ndim - 2)
    layer.node.input[1] = network.add_constant(layer.node.input[1], (weight / factor.reshape(shape)).astype(np.float32))
