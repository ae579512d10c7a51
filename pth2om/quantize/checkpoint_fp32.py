"""The INT8 weights written back as FP32 into a checkpoint with the same keys, for the user's unchanged script.

Every quantized ONNX layer is traced to the parameters it came from by its numbers: a convolution to its weight times
one factor per output channel, the factor to the BatchNorm that explains it, a re-parameterized block to the sum of its
branches. Then the parameters are changed so that the same script computes with the INT8 weight:

* a plain layer gets the dequantized weight and bias;
* a convolution with BatchNorm gets the dequantized folded weight divided by the BatchNorm's factor (its sign included,
  so the 127/128 rule sees the same sign as the deploy model); the bias goes into the BatchNorm's own;
* a re-parameterized block gets the fused weight in ``rbr_dense``, with a BatchNorm there that changes nothing, and
  zeros in the other branches.

Activations stay FP32: their loss, usually the larger one, is not in this file.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pth2om.errors import QuantizeError
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.quantize.plan import Plan
from pth2om.quantize.weights import Quantized

Doubles = npt.NDArray[np.float64]
State = dict[str, npt.NDArray[Any]]

_EPSILONS = (1e-5, 1e-3, 1e-4, 1e-6, 2e-5, 1e-2, 1e-8)
_TOLERANCE = 1e-4
"""Relative agreement of a folded ONNX weight with the parameters it is traced to; folding rounds in FP32."""
_NEUTRAL = 1 << 10
"""Weight of a BatchNorm with variance ``_NEUTRAL**2``: it multiplies by one to 1e-9, whatever its epsilon is."""


@dataclass(frozen=True)
class Written:
    """What came of one quantized layer.

    Attributes:
        layer: ONNX node name.
        kind: ``plain``, ``batch_norm``, ``rep`` or ``none`` (not found in the checkpoint).
        keys: parameters changed.
        error: largest difference of the weight that the changed parameters fold to from the INT8 weight, relative to
            the largest weight of its channel.
    """

    layer: str
    kind: str
    keys: tuple[str, ...]
    error: float


@dataclass(frozen=True)
class _Norm:
    prefix: str
    factor: Doubles
    gamma: Doubles
    beta: Doubles
    mean: Doubles
    std: Doubles


def int8_as_fp32(plan: Plan, state: Mapping[str, Any]) -> tuple[State, list[Written], list[Finding]]:
    """A state dict whose weights are the INT8 model's.

    Args:
        plan: a calibrated network, exported from ``state``.
        state: the checkpoint's state dict, arrays or tensors.

    Returns:
        A new state dict with the same keys, shapes and (floating) dtypes float32; what was written for each layer; and
        findings for layers that were not found.
    """
    changed: State = {key: np.array(_array(value)) for key, value in state.items()}
    search = _Search(changed)
    written, findings = [], []
    for quantized in plan.quantized.values():
        if quantized.weight is None:
            continue
        weight, bias, float_weight, float_bias = _original(plan, quantized)
        result = search.write(quantized, weight, bias, float_weight, float_bias)
        written.append(result)
        if bias is not None and result.kind == "plain" and not any(key.endswith("bias") for key in result.keys):
            message = say("quantize.bias-not-in-checkpoint")
            findings.append(Finding("quantize.bias-not-in-checkpoint", "warning", message, node=result.layer))
        if result.kind == "none":
            message = say("quantize.not-in-checkpoint")
            findings.append(Finding("quantize.not-in-checkpoint", "warning", message, node=result.layer))
    findings.append(Finding("quantize.weights-only", "info", say("quantize.weights-only")))
    return changed, written, findings


def write_checkpoint(plan: Plan, checkpoint: Path, destination: Path) -> tuple[list[Written], list[Finding]]:
    """`int8_as_fp32` from file to file: the same nesting and keys, ready for the user's own ``torch.load``.

    Args:
        plan: a calibrated network, exported from ``checkpoint``.
        checkpoint: a ``.pth`` that holds a state dict, bare or under a key such as ``state_dict``.
        destination: file to write.

    Raises:
        QuantizeError: the checkpoint holds no state dict that can be read as data, or no layer was found in it.
    """
    import copy

    import torch

    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise QuantizeError("quantize.no-checkpoint", where=str(checkpoint)) from None
    except Exception as error:  # noqa: BLE001 - torch.load raises pickle, zip and runtime errors alike
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise QuantizeError("quantize.checkpoint", where=str(checkpoint), reason=reason[:200]) from None
    place = _state_in(content)
    if place is None:
        raise QuantizeError("quantize.checkpoint", where=str(checkpoint), reason="no state dict")
    state, written, findings = int8_as_fp32(plan, place)
    if not any(entry.keys for entry in written):
        raise QuantizeError("quantize.foreign-checkpoint", where=str(checkpoint), count=len(written))
    result = copy.deepcopy(content)
    target = _state_in(result)
    assert target is not None
    for key, value in place.items():
        if isinstance(value, torch.Tensor):
            target[key] = torch.from_numpy(np.ascontiguousarray(state[key]).reshape(value.shape))
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}")
    try:
        torch.save(result, temporary)
        temporary.replace(destination)
    except OSError as error:
        raise QuantizeError("quantize.not-writable", where=str(destination), reason=str(error.strerror)) from None
    finally:
        temporary.unlink(missing_ok=True)
    return written, findings


def _state_in(content: Any) -> dict[str, Any] | None:  # noqa: ANN401 - whatever the checkpoint holds
    """The state dict in a checkpoint: itself, or the likeliest of its values."""
    import torch

    if not isinstance(content, dict):
        return None
    if content and sum(isinstance(value, torch.Tensor) for value in content.values()) * 2 > len(content):
        return content
    for name in ("ema", "model_ema", "state_dict", "model_state_dict", "model", "net", "weights"):
        if isinstance(content.get(name), dict):
            found = _state_in(content[name])
            if found is not None:
                return found
    return next((found for value in content.values() if (found := _state_in(value)) is not None), None)


def _array(value: Any) -> npt.NDArray[Any]:  # noqa: ANN401 - a tensor or an array
    array = value.detach().cpu().float().numpy() if _is_float(value) else np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _is_float(value: Any) -> bool:  # noqa: ANN401 - a tensor or an array
    """Whether it is a floating-point tensor (BF16 has no NumPy counterpart, so it goes through FP32)."""
    return hasattr(value, "is_floating_point") and bool(value.is_floating_point())


def _original(plan: Plan, quantized: Quantized) -> tuple[Doubles, Doubles | None, Doubles, Doubles | None]:
    """Integers and float constants of a layer in the scale of the model before balancing, as rows per channel."""
    layer = quantized.layer
    assert quantized.weight is not None
    weight = quantized.dequantized.astype(np.float64)
    floating = np.asarray(quantized.float_weight, np.float64)
    bias: Doubles | None = None
    if quantized.bias is not None:
        bias = quantized.bias.astype(np.float64) * quantized.deq_scale.astype(np.float64)
    plain = None if layer.bias is None else np.asarray(plan.network.array(layer.bias), np.float64).reshape(-1)
    for entry in plan.balances.get(layer.name, []):
        shape = (1, -1) + (1,) * (weight.ndim - 2)
        if layer.group > 1:
            each = np.repeat(entry.factor, weight.shape[0] // entry.factor.size).reshape(-1, *shape[2:], 1)
            weight, floating = weight * each, floating * each
        else:
            weight, floating = weight * entry.factor.reshape(shape), floating * entry.factor.reshape(shape)
    for entries in plan.balances.values():
        for entry in entries:
            if entry.folded_into == layer.name:
                rows = _by_channel(entry.factor, weight, layer.kind, layer.group)
                weight, floating = weight / rows, floating / rows
                bias = None if bias is None else bias / entry.factor
                plain = None if plain is None else plain / entry.factor
    if plain is not None:
        plain = np.broadcast_to(plain, (layer.channels_out,))
    return weight, bias, floating, plain


def _by_channel(values: Doubles, weight: Doubles, kind: str, group: int) -> Doubles:
    """One value per output channel, shaped to multiply a convolution's weight."""
    tail = (1,) * (weight.ndim - 2)
    if kind == "Conv":
        return values.reshape(-1, 1, *tail)
    per_input = values.reshape(group, 1, -1)
    return np.broadcast_to(per_input, (group, weight.shape[0] // group, weight.shape[1])).reshape(
        weight.shape[0], weight.shape[1], *tail
    )


class _Search:
    """Finds the parameters behind ONNX layers, and changes them."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.original = {key: value.copy() for key, value in state.items()}
        self.used: set[str] = set()
        self.norms = [key[: -len(".running_mean")] for key in state if key.endswith(".running_mean")]

    def write(
        self, quantized: Quantized, weight: Doubles, bias: Doubles | None, floating: Doubles, plain: Doubles | None
    ) -> Written:
        layer = quantized.layer
        rep = self._rep(layer.kind, floating)
        if rep is not None:
            return self._write_rep(layer.name, rep, weight, bias)
        for key, factor in self._weights(layer.kind, layer.group, floating, layer.name):
            norm = None if np.allclose(factor, 1, rtol=1e-6) else self._norm(key, factor, plain)
            if norm is None and not np.allclose(factor, 1, rtol=1e-5):
                continue
            return self._write_one(quantized, key, norm, weight, bias)
        return Written(layer.name, "none", (), float("nan"))

    def _weights(self, kind: str, group: int, floating: Doubles, name: str) -> Iterator[tuple[str, Doubles]]:
        """Weights that equal the layer's up to a factor per output channel; likely names first."""
        transpose = kind in ("Gemm", "MatMul")
        wanted = floating.T if transpose else floating
        keys = [key for key, value in self.original.items() if value.shape == wanted.shape and key not in self.used]
        for key in sorted(keys, key=lambda key: _unlikeness(key, name)):
            value = self.original[key].astype(np.float64)
            rows, target = _rows(value, kind, group), _rows(wanted, kind, group)
            power = (rows * rows).sum(axis=1)
            factor = np.where(power > 0, (rows * target).sum(axis=1) / np.where(power > 0, power, 1), 1.0)
            gap = np.abs(target - rows * factor[:, None]).max(axis=1)
            if np.all(gap <= _TOLERANCE * np.maximum(np.abs(target).max(axis=1), 1e-12)):
                yield key, factor

    def _norm(self, key: str, factor: Doubles, plain: Doubles | None) -> _Norm | None:
        """The BatchNorm whose ``gamma / sqrt(var + eps)`` is ``factor``, and whose shift explains the bias."""
        prefixes = sorted(self.norms, key=lambda prefix: _unlikeness(prefix, key))
        bias = self.original.get(key[: -len("weight")] + "bias")
        for prefix in prefixes:
            variance = self.original[f"{prefix}.running_var"].astype(np.float64)
            if variance.shape != factor.shape or f"{prefix}.running_mean" in self.used:
                continue
            gamma = self.original.get(f"{prefix}.weight", np.ones(variance.shape)).astype(np.float64)
            beta = self.original.get(f"{prefix}.bias", np.zeros(variance.shape)).astype(np.float64)
            mean = self.original[f"{prefix}.running_mean"].astype(np.float64)
            for epsilon in _EPSILONS:
                std = np.sqrt(variance + epsilon)
                scale = gamma / std
                if np.all(np.abs(scale - factor) <= _TOLERANCE * np.maximum(np.abs(scale), 1e-9)):
                    own = np.zeros(mean.shape) if bias is None else bias.astype(np.float64)
                    shift = beta + (own - mean) * scale
                    close = plain is None or np.allclose(shift, plain, rtol=1e-3, atol=1e-4)
                    if close:
                        return _Norm(prefix, scale, gamma, beta, mean, std)
        return None

    def _write_one(
        self, quantized: Quantized, key: str, norm: _Norm | None, weight: Doubles, bias: Doubles | None
    ) -> Written:
        layer = quantized.layer
        rows = _rows(weight.T if layer.kind in ("Gemm", "MatMul") else weight, layer.kind, layer.group)
        factor = np.ones(rows.shape[0]) if norm is None else norm.factor
        live = factor != 0
        before = _rows(self.original[key].astype(np.float64), layer.kind, layer.group)
        new = np.where(live[:, None], rows / np.where(live, factor, 1)[:, None], before).astype(np.float32)
        self.state[key] = _unrows(new, self.original[key].shape, layer.kind, layer.group).astype(np.float32)
        keys = [key]
        bias_key = key[: -len("weight")] + "bias"
        if bias is not None and norm is not None and f"{norm.prefix}.bias" in self.state:
            # Mean and convolution bias become zero: the shift is then one number, not a difference of large ones.
            self.state[f"{norm.prefix}.bias"] = bias.astype(np.float32)
            keys.append(f"{norm.prefix}.bias")
            for zero in (f"{norm.prefix}.running_mean", bias_key):
                if zero in self.state:
                    self.state[zero] = np.zeros_like(self.state[zero])
                    keys.append(zero)
        elif bias is not None and bias_key in self.state:
            self.state[bias_key] = bias.astype(np.float32)
            keys.append(bias_key)
        self.used.add(key)
        if norm is not None:
            self.used.add(f"{norm.prefix}.running_mean")
        folded = new.astype(np.float64) * factor[:, None]
        return Written(layer.name, "plain" if norm is None else "batch_norm", tuple(keys), _relative(folded, rows))

    # ------------------------------------------------------------------------------------- re-parameterized blocks

    def _rep(self, kind: str, floating: Doubles) -> str | None:
        """The prefix of the block whose branches sum to the layer's weight, or None."""
        if kind != "Conv" or floating.ndim != 4:
            return None
        for key in self.original:
            if not key.endswith("rbr_dense.conv.weight") or key in self.used:
                continue
            prefix = key[: -len("rbr_dense.conv.weight")]
            if self.original[key].shape != floating.shape:
                continue
            for epsilon in _EPSILONS:
                fused = self._fused(prefix, epsilon)
                if fused is not None and _relative(_flat(fused), _flat(floating)) < _TOLERANCE:
                    return prefix
        return None

    def _fused(self, prefix: str, epsilon: float) -> Doubles | None:
        """The 3x3 weight that a block's branches sum to."""
        total = self._branch(f"{prefix}rbr_dense.conv.weight", f"{prefix}rbr_dense.bn", epsilon)
        if total is None:
            return None
        small = self._branch(f"{prefix}rbr_1x1.conv.weight", f"{prefix}rbr_1x1.bn", epsilon)
        if small is not None:
            side = (total.shape[2] - 1) // 2
            total = total + np.pad(small, ((0, 0), (0, 0), (side, side), (side, side)))
        scale = self._scale(f"{prefix}rbr_identity", epsilon)
        if scale is not None:
            side = (total.shape[2] - 1) // 2
            for channel in range(total.shape[0]):
                total[channel, channel % total.shape[1], side, side] += scale[channel]
        return total

    def _branch(self, weight: str, norm: str, epsilon: float) -> Doubles | None:
        scale = self._scale(norm, epsilon)
        if scale is None or weight not in self.original:
            return None
        return np.asarray(self.original[weight].astype(np.float64) * scale.reshape(-1, 1, 1, 1))

    def _scale(self, norm: str, epsilon: float) -> Doubles | None:
        if f"{norm}.running_var" not in self.original or f"{norm}.weight" not in self.original:
            return None
        variance = self.original[f"{norm}.running_var"].astype(np.float64)
        return np.asarray(self.original[f"{norm}.weight"].astype(np.float64) / np.sqrt(variance + epsilon))

    def _write_rep(self, layer: str, prefix: str, weight: Doubles, bias: Doubles | None) -> Written:
        dense = f"{prefix}rbr_dense"
        channels = weight.shape[0]
        values: dict[str, npt.NDArray[Any]] = {
            f"{dense}.conv.weight": weight.astype(np.float32),
            f"{dense}.bn.weight": np.full(channels, _NEUTRAL, np.float32),
            f"{dense}.bn.running_var": np.full(channels, float(_NEUTRAL) ** 2, np.float32),
            f"{dense}.bn.running_mean": np.zeros(channels, np.float32),
            f"{dense}.bn.bias": np.zeros(channels, np.float32) if bias is None else bias.astype(np.float32),
        }
        zeros = [f"{prefix}rbr_1x1.conv.weight"]
        for norm in (f"{prefix}rbr_1x1.bn", f"{prefix}rbr_identity"):
            zeros += [f"{norm}.weight", f"{norm}.bias", f"{norm}.running_mean"]
        for key in zeros:
            if key in self.state:
                values[key] = np.zeros_like(self.state[key])
        self.state.update(values)
        self.used |= set(values)
        folded = values[f"{dense}.conv.weight"].astype(np.float64)
        return Written(layer, "rep", tuple(values), _relative(_flat(folded), _flat(weight)))


def _rows(value: Doubles, kind: str, group: int) -> Doubles:
    from pth2om.quantize.layers import to_rows

    return np.asarray(to_rows(value, "ConvTranspose" if kind == "ConvTranspose" else "Conv", group), np.float64)


def _unrows(rows: npt.NDArray[Any], shape: tuple[int, ...], kind: str, group: int) -> npt.NDArray[Any]:
    from pth2om.quantize.layers import from_rows

    return np.asarray(from_rows(rows, shape, "ConvTranspose" if kind == "ConvTranspose" else "Conv", group))


def _flat(value: Doubles) -> Doubles:
    return value.reshape(value.shape[0], -1)


def _relative(got: Doubles, wanted: Doubles) -> float:
    """Largest difference, relative to the largest weight of its row."""
    scale = np.maximum(np.abs(wanted).max(axis=1), 1e-30)
    return float((np.abs(got - wanted).max(axis=1) / scale).max())


def _unlikeness(key: str, name: str) -> tuple[int, str]:
    """How little a key resembles a name: words of the key's path that the name lacks, in order of the graph."""
    import difflib

    plain = name.strip("/").replace("/", ".")
    return (-round(1000 * difflib.SequenceMatcher(None, key, plain).ratio()), key)
