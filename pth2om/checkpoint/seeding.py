"""Seeded weights: stand-ins where the real ones are absent, so that closeness can be measured on the architecture.

Each tensor is drawn by its key, so the order of the layers does not matter. Drawn weights alone let activations die or
explode within a few dozen layers, and a comparison of zeros or infinities proves nothing; so one forward pass over the
examples brings every layer to order one: normalization layers take the statistics of what reaches them, and other
layers' weights are scaled by their output's spread (as in Mishkin and Matas, "All you need is a good init", 2015).
Scales and statistics are rounded to a few bits, which keeps them the same on machines whose sums differ in the last.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

VERSION = 3
"""Raised when the same seed gives other weights."""

_NORM_SHIFT = 1.0
"""Mean bias of a normalization layer. With 0 a ReLU cuts half of what it gets, and a random net of ReLUs then magnifies
every rounding error by sqrt(P(x > 0) / Var(relu(x))) = 1.21 a layer, 300-fold in 30 layers, which no trained net does;
with 1 it is 1.06 (for x normal with that mean and variance 1)."""


def seed_module(module: torch.nn.Module, example_inputs: Sequence[torch.Tensor], *, seed: int) -> None:
    """Fill ``module`` with seeded weights whose activations stay of order one on ``example_inputs``.

    Frozen parameters and buffers that are no running statistics are constants of the net and stay. The module is left
    in eval mode, float32.

    Args:
        module: the net; changed in place.
        example_inputs: what its forward takes, at least two samples with different values.
        seed: another seed gives other weights.
    """
    import torch

    module.float().eval()
    with torch.no_grad():
        _draw(module, seed)
        with _calibrating(module):
            module(*_varied(example_inputs))


def _varied(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The examples, and beside them smooth ones and zeros.

    Noise alone looks the same to a net everywhere: statistics taken of it call a plain picture an extreme one, and its
    activations then leave what float32 can compare (a seeded ConvMixer's logits of zeros were off by 0.1).
    """
    import torch

    if any(value.ndim < 3 or not value.is_floating_point() for value in inputs):
        return list(inputs)
    return [torch.cat((value, _smooth(value), torch.zeros_like(value[:1]))) for value in inputs]


def _smooth(value: torch.Tensor) -> torch.Tensor:
    """``value``'s first few elements stretched over each sample."""
    import torch

    few = value[(slice(None), slice(None), *(slice(0, 3) for _ in value.shape[2:]))]
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}.get(value.ndim)
    if mode is None:
        return few.mean(tuple(range(2, value.ndim)), keepdim=True).expand_as(value)
    return torch.nn.functional.interpolate(few, value.shape[2:], mode=mode, align_corners=False)


def _draw(module: torch.nn.Module, seed: int) -> None:
    import torch

    norms = _norm_types()
    done: set[int] = set()
    for prefix, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if id(parameter) in done or not parameter.requires_grad or not parameter.is_floating_point():
                continue
            done.add(id(parameter))
            key = f"{prefix}.{name}" if prefix else name
            random = np.random.default_rng([seed, zlib.crc32(key.encode())])
            values = _values(random, tuple(parameter.shape), name, isinstance(owner, norms), owner)
            parameter.copy_(torch.from_numpy(values.astype(np.float32)))
        for name, buffer in owner.named_buffers(recurse=False):
            if name == "running_mean":
                buffer.zero_()
            elif name == "running_var":
                buffer.fill_(1.0)


def _values(
    random: np.random.Generator, shape: tuple[int, ...], name: str, norm: bool, owner: object
) -> np.ndarray[Any, np.dtype[np.float64]]:
    import torch

    if isinstance(owner, torch.nn.PReLU):
        return random.uniform(0.1, 0.4, shape)
    if len(shape) >= 2:
        fan_in = max(math.prod(shape[1:]), 1)
        return random.standard_normal(shape) * math.sqrt(1.0 / fan_in)
    if "bias" in name:
        return random.standard_normal(shape) * 0.05 + (_NORM_SHIFT if norm else 0.0)
    return random.uniform(0.8, 1.2, shape) if norm else random.uniform(0.2, 0.8, shape)


def _norm_types() -> tuple[type[torch.nn.Module], ...]:
    from torch import nn

    return (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


@contextmanager
def _calibrating(module: torch.nn.Module) -> Iterator[None]:
    """Within it, the first pass through each layer sets its statistics or its scale."""
    from torch import nn

    hooks: list[Any] = []
    seen: set[int] = set()
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            hooks.append(
                layer.register_forward_pre_hook(lambda layer, inputs: _take_statistics(layer, inputs[0], seen))
            )
        elif isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
            hooks.append(layer.register_forward_hook(lambda layer, _, output: _scale(layer, output, seen)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _take_statistics(layer: Any, value: torch.Tensor, seen: set[int]) -> None:  # noqa: ANN401 - a batch norm
    if id(layer) in seen:
        return
    seen.add(id(layer))
    axes = [axis for axis in range(value.ndim) if axis != 1]
    layer.running_mean.copy_(_rounded(value.mean(axes)))
    # A constant channel has no spread; its variance of 1 leaves it as it is.
    variance = value.var(axes, unbiased=False)
    layer.running_var.copy_(_rounded(variance.where(variance > 1e-6, variance.new_ones(()))))


def _scale(layer: Any, output: torch.Tensor, seen: set[int]) -> torch.Tensor | None:  # noqa: ANN401 - a layer
    if id(layer.weight) in seen or not layer.weight.requires_grad:
        return None
    seen.add(id(layer.weight))  # the weight, not the layer: two layers may share it
    spread = float(output.std()) if output.numel() > 1 else 0.0
    if not math.isfinite(spread) or spread < 1e-12:
        return None
    # A power of two: rounding sums differently cannot change it (but at the very edge between two).
    factor = 2.0 ** -round(math.log2(spread))
    layer.weight.mul_(factor)
    if layer.bias is not None:
        layer.bias.mul_(factor)
    return output * factor


def _rounded(value: torch.Tensor) -> torch.Tensor:
    """Rounded to 8 significant bits."""
    import torch

    mantissa, exponent = torch.frexp(value)
    return torch.ldexp(torch.round(mantissa * 256) / 256, exponent)
