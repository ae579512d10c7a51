"""Finds the parameters of a checkpoint from which an ONNX layer's constants were made, by their values.

Exporters fold, rename and reorder, but the values stay. A layer's weight is that of the checkpoint times one factor per
output channel; the factor is one, or a BatchNorm's ``gamma / sqrt(var + eps)``, or a separate parameter (layer scale);
or the weight is the sum of a re-parameterized block's branches. Names and the order of the keys only decide between
equal candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pth2om.quantize.layers import Layer, from_rows, to_rows

Doubles = npt.NDArray[np.float64]
Arrays = Mapping[str, npt.NDArray[Any]]

_EPSILONS = (1e-5, 1e-3, 1e-4, 1e-6, 2e-5, 1e-2, 1e-8)
_LARGEST_EPSILON = 0.1
_TOLERANCE = 1e-4
"""Largest relative difference between a folded ONNX weight and its parameters; folding rounds in FP32."""
_DENSE = "rbr_dense.conv.weight"
_WEIGHT_DEPENDENT = ("weight_v", "weight_orig", "weight_g")
"""Parameters of weight norm and spectral norm: their factor depends on the weight itself, so it cannot be kept."""


@dataclass(frozen=True)
class Constants:
    """One ONNX layer in the scale of the original model, without balancing and equalization.

    Attributes:
        layer: the layer.
        floating: its float weight, in the layout of the ONNX model.
        plain: (channels_out,) its float bias, or None.
        weight: the weight that its INT8 integers represent; None if the layer stays in floating point.
        bias: (channels_out,) the bias that its INT32 integers represent, or None.
    """

    layer: Layer
    floating: Doubles
    plain: Doubles | None
    weight: Doubles | None = None
    bias: Doubles | None = None


@dataclass(frozen=True)
class Source:
    """The origin of a layer's constants.

    Attributes:
        kind: ``plain``: the parameters unchanged; ``batch_norm``: times a BatchNorm's factor; ``scaled``: times a
            separate parameter; ``rep``: the sum of a re-parameterized block.
        key: the weight; for ``rep`` that of the dense branch.
        layout: `to_rows` kind of the weight in the checkpoint.
        factor: (channels_out,) the factor by which the script multiplies the weight.
        norm: prefix of the BatchNorm, or "".
        bias: key of the layer's own bias, or "".
    """

    kind: Literal["plain", "batch_norm", "scaled", "rep"]
    key: str
    layout: str
    factor: Doubles
    norm: str = ""
    bias: str = ""

    @property
    def block(self) -> str:
        """Prefix of the re-parameterized block."""
        return self.key[: -len(_DENSE)]


@dataclass
class Tracer:
    """Finds sources in one state dict; parameters of one layer are tried for others only if nothing else fits.

    Attributes:
        state: parameter name -> array, floating point only, in the checkpoint's order.
        unexplained: layer name -> key of a weight that matches except for an unexplained factor.
    """

    state: Arrays
    unexplained: dict[str, str] = field(default_factory=dict)
    _claimed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._order = {key: number for number, key in enumerate(self.state)}
        self._norms = [key.removesuffix(".running_mean") for key in self.state if key.endswith(".running_mean")]

    def trace(self, constants: Constants) -> Source | None:
        """The source of a layer, or None."""
        source = self._rep(constants) or self._weight(constants)
        if source is not None:
            self._claimed |= {source.key} | ({f"{source.norm}.running_mean"} if source.norm else set())
        return source

    def keys(self, source: Source) -> list[str]:
        """The parameters to change in order to change the layer."""
        if source.kind == "rep":
            return [key for key in self.state if key.startswith(source.block) and "rbr_" in key]
        named = [source.key, source.bias]
        if source.norm:
            named += [f"{source.norm}.bias", f"{source.norm}.running_mean"]
        return [key for key in named if key in self.state]

    def _weight(self, constants: Constants) -> Source | None:
        for key, layout, factor in self._candidates(constants):
            source = self._explained(key, layout, factor, constants)
            if source is not None:
                return source
            self.unexplained.setdefault(constants.layer.name, key)
        return None

    def _candidates(self, constants: Constants) -> Iterator[tuple[str, str, Doubles]]:
        """Weights equal to the layer's up to a factor per output channel; the factor of a channel of zeros is NaN."""
        layer = constants.layer
        target = to_rows(constants.floating, layer.kind, layer.group)
        size = np.abs(target).max(axis=1)
        # torch stores (out, in) for a Linear, ONNX (in, out); some nets (GPT-2's Conv1D) also store the latter.
        linear = layer.kind in ("Gemm", "MatMul")
        shape = constants.floating.shape
        layouts = (("Conv", shape[::-1]), ("MatMul", shape)) if linear else ((layer.kind, shape),)
        for key in sorted(self.state, key=lambda key: self._rank(key, layer)):
            for layout, wanted in layouts:
                if _core(self.state[key].shape) != _core(wanted) or self.state[key].size != target.size:
                    continue
                rows = to_rows(self.state[key].astype(np.float64).reshape(wanted), layout, layer.group)
                power = (rows * rows).sum(axis=1)
                with np.errstate(invalid="ignore", divide="ignore"):
                    factor = np.where(power > 0, (rows * target).sum(axis=1) / power, np.nan)
                gap = np.abs(target - rows * np.nan_to_num(factor)[:, None]).max(axis=1)
                if np.all(gap <= _TOLERANCE * np.maximum(size, 1e-12)):
                    yield key, layout, factor
                    break

    def _rank(self, key: str, layer: Layer) -> tuple[bool, bool, int]:
        """The order of trying: unused keys, then keys with the layer's name, then the checkpoint's order."""
        module = key.rpartition(".")[0]
        path = module_path(layer.name)
        named = key == layer.weight or (bool(path) and (module == path or module.endswith(f".{path}")))
        return key in self._claimed, not named, self._order[key]

    def _explained(self, key: str, layout: str, factor: Doubles, constants: Constants) -> Source | None:
        if key.rpartition(".")[2] in _WEIGHT_DEPENDENT or "parametrizations." in key:
            return None
        plain = constants.plain
        own = self._own_bias(key, factor.size)
        told = ~np.isnan(factor)
        unit = np.abs(factor[told] - 1).max(initial=0)
        ones = np.ones(factor.size)
        matches = plain is None or (own != "" and _close(self.state[own].reshape(-1), plain))
        if unit < 1e-6 and matches:
            return Source("plain", key, layout, ones, bias=own)
        # Exporters omit a bias of zeros, so no bias can mean a BatchNorm without shift.
        norm = self._norm(key, own, factor, np.zeros(factor.size) if plain is None else plain)
        if norm is not None:
            return Source("batch_norm", key, layout, norm[1], norm=norm[0], bias=own)
        if unit < 1e-5:
            other = own if matches else self._equal_bias(key, plain)
            return Source("plain", key, layout, ones, bias=other)
        for scale in self._near(key, [name for name, value in self.state.items() if value.size == factor.size]):
            value = self.state[scale].astype(np.float64).reshape(-1)
            if scale != key and _agree(value, factor):
                return Source("scaled", key, layout, value, bias=own)
        return None

    def _own_bias(self, key: str, channels: int) -> str:
        """The key of the bias beside a weight, or ""."""
        parent, _, last = key.rpartition(".")
        named = f"{parent}." if parent else ""
        for weight, bias in (("weight", "bias"), ("kernel", "bias"), ("w", "b"), ("W", "b")):
            found = f"{named}{bias}"
            if last == weight and found in self.state and self.state[found].size == channels:
                return found
        return ""

    def _equal_bias(self, key: str, plain: Doubles | None) -> str:
        """A parameter near ``key`` whose values are the bias, or ""."""
        if plain is None or not plain.any():
            return ""
        for name in self._near(key, [name for name, value in self.state.items() if value.shape == plain.shape]):
            if _close(self.state[name], plain):
                return name
        return ""

    def _near(self, key: str, keys: Sequence[str]) -> list[str]:
        """``keys`` by their distance from ``key`` in the checkpoint's order; following keys come first."""

        def distance(name: str) -> tuple[bool, int]:
            gap = self._order[name] - self._order[key]
            return gap < 0, abs(gap)

        return sorted(keys, key=distance)

    def _norm(self, key: str, own: str, factor: Doubles, plain: Doubles) -> tuple[str, Doubles] | None:
        """The BatchNorm whose ``gamma / sqrt(var + eps)`` is ``factor`` and whose shift explains the bias."""
        means = self._near(key, [f"{prefix}.running_mean" for prefix in self._norms])
        for mean_key in sorted(means, key=lambda name: name in self._claimed):
            prefix = mean_key.removesuffix(".running_mean")
            if f"{prefix}.running_var" not in self.state or self.state[mean_key].shape != factor.shape:
                continue
            scale = self._best_scale(prefix, factor)
            if not _agree(scale, factor):
                continue
            before = np.zeros(factor.shape) if own == "" else self.state[own].astype(np.float64).reshape(-1)
            shift = self._get(f"{prefix}.bias", 0.0, factor) + (before - self.state[mean_key]) * scale
            if _close(shift, plain):
                return prefix, scale
        return None

    def _best_scale(self, prefix: str, factor: Doubles) -> Doubles:
        """``gamma / sqrt(var + eps)`` with the epsilon that fits best: a usual one, or the one the factor implies."""
        gamma = self._get(f"{prefix}.weight", 1.0, factor)
        variance = self.state[f"{prefix}.running_var"].astype(np.float64)
        live = ~np.isnan(factor) & (factor != 0) & (gamma != 0)
        epsilons = list(_EPSILONS)
        if live.any():
            implied = float(np.median((gamma[live] / factor[live]) ** 2 - variance[live]))
            epsilons += [implied] if 0 < implied < _LARGEST_EPSILON else []
        scales = [gamma / np.sqrt(np.maximum(variance + epsilon, 1e-30)) for epsilon in epsilons]
        return scales[int(np.argmin([_gap(scale, factor) for scale in scales]))]

    def _get(self, key: str, default: float, like: Doubles) -> Doubles:
        value = self.state.get(key)
        return np.full(like.shape, default) if value is None else value.astype(np.float64)

    # ------------------------------------------------------------------------------------- re-parameterized blocks

    def _rep(self, constants: Constants) -> Source | None:
        """The block whose branches sum to the layer's weight, or None."""
        if constants.layer.kind != "Conv" or constants.floating.ndim != 4:
            return None
        wanted = to_rows(constants.floating, "Conv", 1)
        for key in self.state:
            if not key.endswith(_DENSE) or key in self._claimed or self.state[key].shape != constants.floating.shape:
                continue
            for epsilon in _EPSILONS:
                fused = self._fused(key[: -len(_DENSE)], epsilon)
                if fused is not None and relative(to_rows(fused, "Conv", 1), wanted) < _TOLERANCE:
                    return Source("rep", key, "Conv", np.ones(wanted.shape[0]))
        return None

    def _fused(self, block: str, epsilon: float) -> Doubles | None:
        """The sum of the weights of a block's branches; None for a single branch, which is an ordinary convolution."""
        total = self._branch(f"{block}rbr_dense", epsilon)
        small = self._branch(f"{block}rbr_1x1", epsilon)
        scale = self._scale(f"{block}rbr_identity", epsilon)
        if total is None or (small is None and scale is None):
            return None
        side = (total.shape[2] - 1) // 2
        if small is not None:
            total = total + np.pad(small, ((0, 0), (0, 0), (side, side), (side, side)))
        if scale is not None:
            for channel in range(total.shape[0]):
                total[channel, channel % total.shape[1], side, side] += scale[channel]
        return total

    def _branch(self, prefix: str, epsilon: float) -> Doubles | None:
        scale = self._scale(f"{prefix}.bn", epsilon)
        weight = self.state.get(f"{prefix}.conv.weight")
        return None if scale is None or weight is None else np.asarray(weight * scale.reshape(-1, 1, 1, 1))

    def _scale(self, norm: str, epsilon: float) -> Doubles | None:
        if f"{norm}.running_var" not in self.state or f"{norm}.weight" not in self.state:
            return None
        variance = self.state[f"{norm}.running_var"].astype(np.float64)
        return np.asarray(self.state[f"{norm}.weight"].astype(np.float64) / np.sqrt(variance + epsilon))


def module_path(node: str) -> str:
    """The module in a node name of the TorchScript exporter: ``/body/body.1/conv/Conv`` gives ``body.1.conv``."""
    parts = node.strip("/").split("/")[:-1]
    path: list[str] = []
    for part in parts:
        if path and part.startswith(f"{path[-1]}."):
            path[-1] = part
        else:
            path.append(part)
    return ".".join(path)


def relative(got: Doubles, wanted: Doubles) -> float:
    """Largest difference, relative to the largest value of its row."""
    scale = np.maximum(np.abs(wanted).max(axis=1), 1e-30)
    return float((np.abs(got - wanted).max(axis=1) / scale).max())


def unrows(rows: Doubles, source: Source, shape: tuple[int, ...], constants: Constants) -> Doubles:
    """Rows per output channel in the checkpoint's own layout and shape."""
    like = {"Conv": rows.shape, "MatMul": rows.shape[::-1]}.get(source.layout, constants.floating.shape)
    return np.asarray(from_rows(rows, like, source.layout, constants.layer.group), np.float64).reshape(shape)


def _core(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without axes of length 1: a Linear can be equivalent to a 1x1 convolution."""
    return tuple(size for size in shape if size != 1)


def _gap(scale: Doubles, factor: Doubles) -> float:
    told = ~np.isnan(factor)
    return float((np.abs(scale - factor)[told] / np.maximum(np.abs(scale[told]), 1e-9)).max(initial=0.0))


def _agree(scale: Doubles, factor: Doubles) -> bool:
    return _gap(scale, factor) <= _TOLERANCE


def _close(got: npt.NDArray[Any], wanted: Doubles) -> bool:
    return got.shape == wanted.shape and bool(np.allclose(got, wanted, rtol=1e-3, atol=1e-4))
