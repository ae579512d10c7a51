"""From a layer's weight and its input's range to the integers of the deploy model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pth2om.errors import QuantizeError
from pth2om.quantize.layers import Layer
from pth2om.quantize.network import FloatArray, Network
from pth2om.quantize.ranges import Range

WeightAlgorithm = Literal["arq", "mse"]
INT32_MAX = (1 << 31) - 1
SMALLEST_WEIGHT_SCALE = 2.0**-100
"""This times the smallest scale of an activation is still a normal FP32 number; a channel below it is all zero."""
EXACT_FLOAT = 1 << 24
"""FP32 represents every integer up to 2**24, so sums below it are exact in any order."""


@dataclass
class Quantized:
    """The INT8 data of one layer.

    Attributes:
        layer: which.
        activation: the range of its input.
        scale: (1,) or (channels_out,) float32 ``scale_w``; 1 for AveragePool.
        weight: int8 in the layout of the float weight; None for AveragePool.
        bias: (channels_out,) int32, or None without bias.
        network: contains the float constants.
        float_bias: the float bias before rounding, bias correction included.
    """

    layer: Layer
    activation: Range
    scale: FloatArray
    network: Network = field(repr=False)
    weight: npt.NDArray[np.int8] | None = None
    bias: npt.NDArray[np.int32] | None = None
    float_bias: npt.NDArray[np.float64] | None = None

    @property
    def float_weight(self) -> FloatArray | None:
        """Its float weight (with BatchNorm folded, balanced); read from the network, not stored twice."""
        return None if self.layer.weight is None else np.asarray(self.network.array(self.layer.weight), np.float32)

    @property
    def deq_scale(self) -> FloatArray:
        """``scale_d * scale_w``, multiplied in FP32 as AMCT does."""
        return np.asarray(np.float32(self.activation.scale) * self.scale.astype(np.float32), np.float32)

    @property
    def dequantized(self) -> FloatArray:
        """The weight that the integers represent, in FP32."""
        assert self.weight is not None
        rows = self.layer.rows(self.weight).astype(np.float32) * self.scale.reshape(-1, 1)
        return np.asarray(self.layer.unrows(rows, self.weight), np.float32)

    @property
    def largest_sum(self) -> int:
        """The largest magnitude that a partial sum of the layer can reach, over all inputs and channels."""
        reach = max(127 - self.activation.offset, 128 + self.activation.offset)
        if self.weight is None:
            return reach
        sums = np.abs(self.layer.rows(self.weight).astype(np.int64)).sum(axis=1) * reach
        if self.bias is not None:
            sums = sums + np.abs(self.bias.astype(np.int64))
        return int(sums.max())

    @property
    def exact_in_float(self) -> bool:
        """Whether FP32 arithmetic gives exactly the integer sums, for every input and in any order."""
        return self.largest_sum < EXACT_FLOAT


def scales(rows: FloatArray, algorithm: WeightAlgorithm, per_channel: bool) -> FloatArray:
    """Weight scales.

    Args:
        rows: (channels_out, weights per channel).
        algorithm: ``arq`` uses ``max/127``, or ``|min|/128`` if the negative side is larger (AMCT's ARQ); ``mse``
            searches the scale with the smallest squared error, at most that of ``arq``.
        per_channel: one scale per row, or one for all.

    Returns:
        (channels_out,) or (1,) float32; a channel of zeros gets scale 1.
    """
    groups = rows if per_channel else rows.reshape(1, -1)
    high, low = groups.max(axis=1).astype(np.float64), groups.min(axis=1).astype(np.float64)
    full = np.where(high >= -low, high / 127, -low / 128).astype(np.float32)
    full = np.where(full < SMALLEST_WEIGHT_SCALE, np.float32(1), full)
    if algorithm == "arq":
        return np.asarray(full, np.float32)
    best, least = full.copy(), np.full(full.shape, np.inf)
    gap = np.empty_like(groups)
    for ratio in np.concatenate([[1.0], np.arange(0.995, 0.5, -0.01 if per_channel else -0.005)]):
        candidate = (full * np.float32(ratio)).astype(np.float32)
        # As in `integers`, but in place and without converting to INT8.
        np.divide(groups, candidate[:, None], out=gap)
        np.rint(gap, out=gap)
        np.clip(gap, -128, 127, out=gap)
        gap *= candidate[:, None]
        gap -= groups
        loss = np.square(gap, out=gap).sum(axis=1, dtype=np.float64)
        better = loss < least
        best, least = np.where(better, candidate, best), np.where(better, loss, least)
    return np.asarray(best, np.float32)


def integers(rows: FloatArray, scale: FloatArray) -> npt.NDArray[np.int8]:
    """``clip(rint(w / scale), -128, 127)``, ties to even."""
    return np.asarray(np.clip(np.rint(rows / scale.reshape(-1, 1)), -128, 127), np.int8)


def quantize_layer(
    network: Network,
    layer: Layer,
    activation: Range,
    algorithm: WeightAlgorithm,
    *,
    per_channel: bool | None = None,
) -> Quantized:
    """Quantize one layer's constants.

    Args:
        network: contains the constants.
        layer: which.
        activation: the range of its input.
        algorithm: for the weight scales.
        per_channel: one weight scale per output channel; default: if the layer's kind allows it.

    Raises:
        QuantizeError: the integers do not fit INT32; the layer must stay in floating point.
    """
    if layer.weight is None:
        return Quantized(layer, activation, np.ones(1, np.float32), network)
    weight = np.asarray(network.array(layer.weight), np.float32)
    rows = layer.rows(weight)
    scale = scales(rows, algorithm, layer.per_channel if per_channel is None else per_channel)
    quantized = Quantized(layer, activation, scale, network)
    quantized.weight = layer.unrows(integers(rows, scale), weight).astype(np.int8)
    if not quantized.weight.any():
        largest = float(np.abs(rows).max())
        raise QuantizeError("quantize.tiny-weight", where=layer.name, largest=f"{largest:.3g}")
    value = None if layer.bias is None else network.array(layer.bias)
    if value is not None:
        set_bias(quantized, np.broadcast_to(np.asarray(value, np.float64).reshape(-1), (layer.channels_out,)))
    _check_fits(quantized)
    return quantized


def correct_bias(quantized: Quantized, shift: npt.NDArray[np.float64]) -> None:
    """Add (channels_out,) ``shift`` to a layer's bias; a layer without bias gets one.

    Raises:
        QuantizeError: the integers do not fit INT32.
    """
    set_bias(quantized, shift if quantized.float_bias is None else quantized.float_bias + shift)
    _check_fits(quantized)


def set_bias(quantized: Quantized, bias: npt.NDArray[np.float64]) -> None:
    """Set a layer's bias to the nearest multiple of ``deq_scale`` per channel.

    Raises:
        QuantizeError: it does not fit INT32.
    """
    whole = np.rint(bias / quantized.deq_scale.astype(np.float64))
    if np.any(np.abs(whole) > INT32_MAX):
        raise QuantizeError("quantize.bias-overflow", where=quantized.layer.name)
    quantized.float_bias = bias
    quantized.bias = whole.astype(np.int32)


def _check_fits(quantized: Quantized) -> None:
    if quantized.largest_sum > INT32_MAX:
        raise QuantizeError("quantize.sum-overflow", where=quantized.layer.name, sum=quantized.largest_sum)


def bias_shift(
    network: Network,
    layer: Layer,
    quantized: Quantized,
    mean: npt.NDArray[np.float64],
    mean_quantized: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """The bias correction: the mean output that is lost by quantization.

    ``shift[c] = sum_i W[c, i] E[x_i] - sum_i Wq[c, i] E[xq_i]``, summed over kernel taps. Borders, where padding covers
    some taps, are treated like the inside.

    Args:
        network: contains the float weight.
        layer: which.
        quantized: its integers.
        mean: (channels_in,) mean of the float input.
        mean_quantized: (channels_in,) mean of the quantized input; default the same.

    Returns:
        (channels_out,) shift.
    """
    assert layer.weight is not None
    weight = np.asarray(network.array(layer.weight), np.float32)
    other = mean if mean_quantized is None else mean_quantized
    return np.asarray(mean_output(weight, layer, mean) - mean_output(quantized.dequantized, layer, other))


def mean_output(weight: FloatArray, layer: Layer, mean: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """(channels_out,) mean output of a layer without bias for inputs with the given channel means."""
    wide = weight.astype(np.float64)
    if layer.kind in ("Gemm", "MatMul"):
        return np.asarray(mean @ wide)
    group = layer.group
    taps = wide.reshape(*wide.shape[:2], -1)
    if layer.kind == "ConvTranspose":
        # Each output position uses only every stride-th tap: on average the sum of all taps divided by the strides'
        # product.
        strides = next((list(entry.ints) for entry in layer.node.attribute if entry.name == "strides"), [1, 1])
        taps = taps.sum(axis=2) / float(np.prod(strides))
        grouped = taps.reshape(group, wide.shape[0] // group, wide.shape[1])
        return np.asarray(np.einsum("gi,gio->go", mean.reshape(group, -1), grouped)).reshape(-1)
    grouped = taps.sum(axis=2).reshape(group, wide.shape[0] // group, wide.shape[1])
    return np.asarray(np.einsum("goi,gi->go", grouped, mean.reshape(group, -1))).reshape(-1)
