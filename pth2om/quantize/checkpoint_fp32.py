"""Writes the INT8 weights back as FP32 into a checkpoint with the same keys, for the user's unchanged script.

Every ONNX layer is traced to its parameters (`pth2om.quantize.checkpoint_trace`). Then the parameters of the quantized
layers are changed so that the same script computes with the INT8 weight, and nothing else is changed:

* a plain layer gets the dequantized weight and bias;
* a convolution with BatchNorm gets the dequantized folded weight divided by the BatchNorm's factor (its sign included,
  so that the 127/128 rule applies to the same sign as in the deploy model); the bias is added to the BatchNorm's bias,
  or to its mean if it has none;
* a re-parameterized block gets the fused weight in ``rbr_dense``, with a neutral BatchNorm, and zeros in the other
branches.

Activations stay FP32: their loss, usually the larger one, is not included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pth2om.checkpoint import branches
from pth2om.checkpoint import tensors as numbers
from pth2om.checkpoint.formats import READABLE, Kind, kind_of
from pth2om.errors import QuantizeError, causes, first_line, reason_of
from pth2om.evidence import Finding
from pth2om.files import replacing
from pth2om.language import Value, say
from pth2om.quantize.checkpoint_trace import Constants, Doubles, Source, Tracer, relative, unrows
from pth2om.quantize.layers import Layer, to_rows
from pth2om.quantize.plan import Plan

if TYPE_CHECKING:
    import torch

_NEUTRAL = 1 << 7
"""Weight of a BatchNorm with variance ``_NEUTRAL**2``: for any usual epsilon it multiplies by one to 3e-8, and both
numbers are exact in FP16 too."""


@dataclass(frozen=True)
class Written:
    """The result for one quantized layer.

    Attributes:
        layer: ONNX node name.
        kind: ``plain``, ``batch_norm``, ``scaled``, ``rep``, or ``none`` (unchanged).
        keys: parameters changed.
        error: largest difference between the weight folded from the changed parameters and the INT8 weight, relative to
            the largest weight of its channel.
        lost_bias: whether the checkpoint has no parameter for the layer's bias.
    """

    layer: str
    kind: str
    keys: tuple[str, ...] = ()
    error: float = float("nan")
    lost_bias: bool = False


@dataclass(frozen=True)
class _Change:
    written: Written
    values: Mapping[str, Doubles]


def int8_as_fp32(plan: Plan, state: Mapping[str, Any]) -> tuple[dict[str, Doubles], list[Written], list[Finding]]:
    """The parameters of a state dict to change so that it computes with the INT8 weights.

    Args:
        plan: a calibrated network, exported from ``state``.
        state: the checkpoint's state dict, arrays or tensors.

    Returns:
        Changed parameters in double precision, by key; the result for each quantized layer; and findings for the
        unchanged layers.
    """
    changes, findings = _changes(plan, state)
    values = {key: value for change in changes for key, value in change.values.items()}
    return values, [change.written for change in changes], findings


def write_checkpoint(plan: Plan, checkpoint: Path, destination: Path) -> tuple[list[Written], list[Finding]]:
    """`int8_as_fp32` from file to file: same nesting, keys and shapes, for the user's own loading code.

    Dtypes stay too, except for changed parameters of 16 bits, which become FP32; a finding reports this.
    In a checkpoint with several sets of weights (``model``, ``ema``) the set from which the model was exported is
    changed.

    Args:
        plan: a calibrated network, exported from ``checkpoint``.
        checkpoint: a ``.pth`` or ``.safetensors`` with a state dict, at the top or under keys such as ``state_dict``.
        destination: file to write, in the format of ``checkpoint``.

    Raises:
        QuantizeError: it is a program or pickled module, contains no state dict, or contains none of the layers.
        CheckpointError: it is missing, damaged, or not a checkpoint.
    """
    kind = kind_of(checkpoint)
    content, metadata = content_of(checkpoint, kind)
    found = branches.find(content, numbers.is_tensor)
    if not found:
        raise QuantizeError("quantize.checkpoint", where=str(checkpoint))
    tried = [(branch, *_changes(plan, branch.tensors)) for branch in found]
    hits = [sum(change.written.kind != "none" for change in changes) for _, changes, _ in tried]
    if not max(hits):
        raise QuantizeError("quantize.foreign-checkpoint", where=str(checkpoint), count=len(tried[0][1]))
    chosen = [entry for entry, count in zip(tried, hits, strict=True) if count == max(hits)]
    results = [_apply(branch.owner, changes) for branch, changes, _ in chosen]
    findings = [*chosen[0][2], *results[0][1]]
    if len(found) > 1:
        changed = [branch.path or "-" for branch, _, _ in chosen]
        left = [branch.path or "-" for branch in found if (branch.path or "-") not in changed]
        message = say("quantize.checkpoint-branch", changed=", ".join(changed), left=", ".join(left) or "-")
        findings.append(Finding("quantize.checkpoint-branch", "warning" if left else "info", message))
    findings.append(Finding("quantize.weights-only", "info", say("quantize.weights-only")))
    _save(content, metadata, kind, destination)
    return results[0][0], findings


def check(checkpoint: Path) -> None:
    """Refuse a checkpoint into which weights cannot be written back; needs no plan.

    Raises: as in `write_checkpoint`.
    """
    content, _ = content_of(checkpoint, kind_of(checkpoint))
    if not branches.find(content, numbers.is_tensor):
        raise QuantizeError("quantize.checkpoint", where=str(checkpoint))


def name_for(checkpoint: Path) -> str:
    """The file name of a checkpoint's INT8 form; the ending gives the format.

    Raises:
        CheckpointError: there is no such file.
    """
    ending = ".safetensors" if kind_of(checkpoint) == "safetensors" else ".pth"
    return f"{checkpoint.stem}_int8_as_fp32{ending}"


# ----------------------------------------------------------------------------------------------------------- changing


def _changes(plan: Plan, state: Mapping[str, Any]) -> tuple[list[_Change], list[Finding]]:
    arrays = {key: _array(value) for key, value in state.items() if _is_numbers(value)}
    tracer = Tracer(arrays)
    traced = [(entry, tracer.trace(entry)) for entry in _constants(plan)]
    tied = _tied(state)

    def changed(source: Source | None) -> list[str]:
        """The parameters behind a source; of tied ones the first."""
        return [] if source is None else [tied.get(key, (key,))[0] for key in tracer.keys(source)]

    users = Counter(key for _, source in traced for key in set(changed(source)))
    changes, findings = [], []
    for entry, source in traced:
        if entry.weight is None:
            continue
        name = entry.layer.name
        shared = [key for key in changed(source) if users[key] > 1]
        if source is None or shared:
            changes.append(_Change(Written(name, "none"), {}))
            findings.append(_left(name, shared, tracer.unexplained.get(name)))
            continue
        change = _rewritten(entry, source, arrays)
        values = {twin: value for key, value in change.values.items() for twin in tied.get(key, (key,))}
        changes.append(_Change(replace(change.written, keys=tuple(values)), values))
        if change.written.lost_bias:
            findings.append(_finding("quantize.bias-not-in-checkpoint", name))
    return changes, findings


def _left(name: str, shared: list[str], unexplained: str | None) -> Finding:
    if shared:
        return _finding("quantize.shared-in-checkpoint", name, parameter=shared[0])
    if unexplained is not None:
        return _finding("quantize.scaled-in-checkpoint", name, parameter=unexplained)
    return _finding("quantize.not-in-checkpoint", name)


def _finding(key: str, node: str, **values: Value) -> Finding:
    return Finding(key, "warning", say(key, **values), node=node)


def _constants(plan: Plan) -> Iterable[Constants]:
    """All layers with a weight, quantized or not: parameters used by a floating-point layer must not change."""
    for layer in plan.selection.layers:
        quantized = plan.quantized.get(layer.name)
        weight = None if layer.weight is None else plan.network.array(layer.weight)
        if weight is None or (quantized is None and not np.any(weight)):
            continue
        bias = None if layer.bias is None else np.asarray(plan.network.array(layer.bias), np.float64).reshape(-1)
        floating, plain = _unbalanced(plan, layer, np.asarray(weight, np.float64), bias)
        if quantized is None:
            yield Constants(layer, floating, plain)
            continue
        integers: Doubles | None = None
        if quantized.bias is not None:
            integers = quantized.bias.astype(np.float64) * quantized.deq_scale.astype(np.float64)
        yield Constants(
            layer, floating, plain, *_unbalanced(plan, layer, quantized.dequantized.astype(np.float64), integers)
        )


def _unbalanced(plan: Plan, layer: Layer, weight: Doubles, bias: Doubles | None) -> tuple[Doubles, Doubles | None]:
    """A layer's constants in the scale of the model before balancing and equalization."""
    for entry in plan.balances.get(layer.name, []):
        tail = (1,) * (weight.ndim - 2)
        if layer.group > 1:
            each = np.repeat(entry.factor, weight.shape[0] // entry.factor.size)
            weight = weight * each.reshape(-1, 1, *tail)
        else:
            weight = weight * entry.factor.reshape(1, -1, *tail)
    for entries in plan.balances.values():
        for entry in entries:
            if entry.folded_into == layer.name:
                weight = weight / _by_channel(entry.factor, weight, layer)
                bias = None if bias is None else bias / entry.factor
    if bias is not None:
        bias = np.array(np.broadcast_to(bias, (layer.channels_out,)))
    return weight, bias


def _by_channel(values: Doubles, weight: Doubles, layer: Layer) -> Doubles:
    """One value per output channel, shaped to multiply a convolution's weight."""
    tail = (1,) * (weight.ndim - 2)
    if layer.kind == "Conv":
        return values.reshape(-1, 1, *tail)
    each = values.reshape(layer.group, 1, -1)
    wide = np.broadcast_to(each, (layer.group, weight.shape[0] // layer.group, weight.shape[1]))
    return wide.reshape(*weight.shape[:2], *tail)


def _rewritten(entry: Constants, source: Source, arrays: Mapping[str, npt.NDArray[Any]]) -> _Change:
    assert entry.weight is not None
    if source.kind == "rep":
        return _rewritten_block(entry, source, arrays)
    layer, factor = entry.layer, source.factor
    rows = to_rows(entry.weight, layer.kind, layer.group)
    live = (factor != 0)[:, None]
    shape = arrays[source.key].shape
    like = entry.floating.shape if source.layout == layer.kind else entry.floating.shape[::-1]
    before = to_rows(arrays[source.key].astype(np.float64).reshape(like), source.layout, layer.group)
    new = np.where(live, rows / np.where(live, factor[:, None], 1), before)
    values = {source.key: unrows(new, source, shape, entry), **_bias(entry, source, arrays)}
    folded = new.astype(np.float32).astype(np.float64) * factor[:, None]
    lost = entry.bias is not None and len(values) == 1
    return _Change(Written(layer.name, source.kind, tuple(values), relative(folded, rows), lost), values)


def _bias(entry: Constants, source: Source, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Doubles]:
    """The parameters that receive a layer's INT8 bias; empty if there are none for it."""
    bias, own, norm = entry.bias, source.bias, source.norm
    if bias is None:
        return {}
    live = source.factor != 0
    unscaled = np.where(live, bias / np.where(live, source.factor, 1), 0.0)
    if not norm:
        if not own:
            return {}
        moved = bias
        if source.kind == "scaled":
            before = arrays[own].astype(np.float64).reshape(-1)
            moved = np.where(live, unscaled, before)
        return {own: moved.reshape(arrays[own].shape)}
    # Mean and convolution bias become zero, so the shift is one number and not a difference of large ones.
    zeros = {key: np.zeros(bias.shape) for key in (f"{norm}.running_mean", own) if key in arrays}
    if f"{norm}.bias" in arrays:
        return {f"{norm}.bias": bias, **zeros}
    return {**zeros, f"{norm}.running_mean": -unscaled}


def _rewritten_block(entry: Constants, source: Source, arrays: Mapping[str, npt.NDArray[Any]]) -> _Change:
    assert entry.weight is not None
    block, channels = source.block, entry.layer.channels_out
    dense = f"{block}rbr_dense"
    bias = np.zeros(channels) if entry.bias is None else entry.bias
    values = {
        source.key: entry.weight,
        f"{dense}.bn.weight": np.full(channels, float(_NEUTRAL)),
        f"{dense}.bn.running_var": np.full(channels, float(_NEUTRAL) ** 2),
        f"{dense}.bn.running_mean": np.zeros(channels),
        f"{dense}.bn.bias": bias,
    }
    zeros = [f"{dense}.conv.bias", f"{block}rbr_1x1.conv.weight", f"{block}rbr_1x1.conv.bias"]
    for norm in (f"{block}rbr_1x1.bn", f"{block}rbr_identity"):
        zeros += [f"{norm}.weight", f"{norm}.bias", f"{norm}.running_mean"]
    values |= {key: np.zeros(arrays[key].shape) for key in zeros if key in arrays}
    folded = to_rows(entry.weight.astype(np.float32).astype(np.float64), "Conv", 1)
    error = relative(folded, to_rows(entry.weight, "Conv", 1))
    return _Change(Written(entry.layer.name, "rep", tuple(values), error), values)


# ---------------------------------------------------------------------------------------------------------- the file


def content_of(checkpoint: Path, kind: Kind) -> tuple[Any, dict[str, str] | None]:
    """The content of a checkpoint, with torch tensors, and the metadata of a safetensors file."""
    from pth2om.checkpoint import reading

    if kind not in READABLE:
        raise reading.not_readable(checkpoint, kind)
    if kind == "torchscript":
        raise QuantizeError("quantize.checkpoint-program", where=str(checkpoint))
    if kind == "safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(checkpoint, framework="pt", device="cpu") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - safetensors' file is no mapping
        except (SafetensorError, OSError) as error:
            raise QuantizeError("quantize.checkpoint-unread", where=str(checkpoint), reason=first_line(error)) from None
    content = reading.load_plain(checkpoint)
    if content is None:
        classes = reading.read(checkpoint).classes  # damaged files are detected here
        raise QuantizeError("quantize.checkpoint-module", where=str(checkpoint), classes=reading.listed(classes))
    return content, None


def _save(content: Any, metadata: dict[str, str] | None, kind: Kind, destination: Path) -> None:  # noqa: ANN401 - what torch.save takes
    import torch

    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with replacing(destination) as scratch:
            if kind == "safetensors":
                from safetensors.torch import save_file

                save_file({key: value.contiguous() for key, value in content.items()}, scratch, metadata)
            else:
                with scratch.open("wb") as file:  # given a path, PyTorch does not say why it failed
                    torch.save(content, file)
    except Exception as error:  # noqa: BLE001 - a full disk is a RuntimeError of torch, a SafetensorError of safetensors
        refused = next((each for each in causes(error) if isinstance(each, OSError)), None)
        if refused is not None:
            reason = reason_of(refused)
            raise QuantizeError("quantize.not-writable", where=str(destination), reason=reason) from None
        reason = first_line(error)
        raise QuantizeError("quantize.checkpoint-unwritten", where=str(destination), reason=reason) from None


def _apply(state: dict[str, Any], changes: list[_Change]) -> tuple[list[Written], list[Finding]]:
    """Insert the changed parameters; layers whose values FP32 cannot represent are unchanged."""
    import torch

    written, findings = [], []
    widened: dict[str, int] = {}
    made: dict[int, torch.Tensor] = {}
    for change in changes:
        tensors = {}
        for key, value in change.values.items():
            # Tied parameters share one array here, and again one tensor in the file.
            if id(value) not in made:
                made[id(value)] = _like(state[key], value)
            tensors[key] = made[id(value)]
        full = [key for key, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
        if full:
            findings.append(_finding("quantize.checkpoint-range", change.written.layer, parameter=full[0]))
            written.append(Written(change.written.layer, "none"))
            continue
        for key, tensor in tensors.items():
            if tensor.dtype != state[key].dtype:
                dtype = str(state[key].dtype).removeprefix("torch.")
                widened[dtype] = widened.get(dtype, 0) + 1
            state[key] = tensor
        written.append(change.written)
    for dtype, count in widened.items():
        message = say("quantize.checkpoint-widened", count=count, dtype=dtype)
        findings.append(Finding("quantize.checkpoint-widened", "info", message))
    return written, findings


def _like(old: torch.Tensor, value: Doubles) -> torch.Tensor:
    """``value`` with the dtype, strides and kind (parameter or tensor) of ``old``; 16 bits become FP32.

    The eleven bits of FP16 cannot represent an INT8 weight times its scale, and ``load_state_dict`` accepts both.
    """
    import torch

    with torch.no_grad():
        dtype = torch.float32 if old.element_size() < 4 else old.dtype
        new = torch.empty_like(old, dtype=dtype).copy_(torch.from_numpy(np.ascontiguousarray(value)).reshape(old.shape))
    return torch.nn.Parameter(new, old.requires_grad) if isinstance(old, torch.nn.Parameter) else new.detach()


def _tied(state: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Key -> all keys that share exactly its memory; only for keys that share."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for key, value in state.items():
        if hasattr(value, "untyped_storage") and _is_numbers(value) and value.numel():
            place = (value.untyped_storage().data_ptr(), value.storage_offset(), *value.shape, *value.stride())
            groups.setdefault(place, []).append(key)
    return {key: tuple(keys) for keys in groups.values() if len(keys) > 1 for key in keys}


def _is_numbers(value: Any) -> bool:  # noqa: ANN401 - a tensor or an array
    """Whether it is a plain floating-point tensor or array."""
    if isinstance(value, np.ndarray):
        return bool(value.dtype.kind == "f")
    return numbers.problem(value) is None and bool(value.is_floating_point())


def _array(value: Any) -> npt.NDArray[Any]:  # noqa: ANN401 - a tensor or an array
    """The values of a parameter; BF16, which NumPy lacks, as FP32."""
    if isinstance(value, np.ndarray):
        return value
    import torch

    value = value.detach().cpu()
    return np.asarray(value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy())
