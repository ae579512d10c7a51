"""ConvMixer (Trockman and Kolter 2022, "Patches Are All You Need?"): patches, then depth-wise and 1x1 mixing.

The net has the key layout of the paper's own code, one numbered sequence. `rename` brings timm's layout (``stem``,
``blocks``, ``head``) to it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

TEMPLATE_NAME = "convmixer"

_FIRST_BLOCK = 3
"""Place of the first block in the sequence: patch convolution, activation and BatchNorm come before it."""

_ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}
_KEY = re.compile(r"^(?P<prefix>(?:[A-Za-z_]\w*\.)*?)(?P<part>stem|blocks|head)\.(?P<rest>.+)$")


class _Residual(nn.Module):
    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x) + x


def _mixer(
    dim: int, depth: int, kernel: int, patch: int, classes: int, channels: int, activation: str
) -> nn.Sequential:
    act = _ACTIVATIONS[activation]

    def block() -> nn.Sequential:
        # The same padding as padding="same" gives an odd kernel, in the form every exporter knows.
        spatial = nn.Sequential(
            nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim), act(), nn.BatchNorm2d(dim)
        )
        return nn.Sequential(_Residual(spatial), nn.Conv2d(dim, dim, 1), act(), nn.BatchNorm2d(dim))

    return nn.Sequential(
        nn.Conv2d(channels, dim, patch, stride=patch),
        act(),
        nn.BatchNorm2d(dim),
        *(block() for _ in range(depth)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(dim, classes),
    )


def rename(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's names as places in the sequence; anything else stays as it is.

    ``stem.i`` -> ``i``; ``blocks.i`` -> ``3 + i``; ``head`` -> the place after the blocks, pooling and flattening. A
    prefix before them (``module.``) stays.
    """
    found = {key: match for key in state_dict if (match := _KEY.match(key))}
    numbers = [int(match["rest"].split(".")[0]) for match in found.values() if match["part"] == "blocks"]
    if not numbers:
        return dict(state_dict)
    head = _FIRST_BLOCK + max(numbers) + 1 + 2

    def renamed(key: str) -> str:
        match = found.get(key)
        if match is None:
            return key
        prefix, part, rest = match["prefix"], match["part"], match["rest"]
        if part == "stem":
            return prefix + rest
        if part == "head":
            return f"{prefix}{head}.{rest}"
        number, _, inner = rest.partition(".")
        return f"{prefix}{_FIRST_BLOCK + int(number)}.{inner}"

    return {renamed(key): tensor for key, tensor in state_dict.items()}


def infer(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Width, depth, kernel, patch, channels and classes, read off weights in the sequence's layout."""
    found: dict[str, Any] = {}
    depth = 0
    for key, tensor in state_dict.items():
        if key.endswith(".0.fn.0.weight"):
            depth += 1
            found["kernel"] = tensor.shape[-1]
        elif tensor.ndim == 4 and re.search(r"(^|\.)0\.weight$", key) and not re.search(r"\d\.0\.weight$", key):
            found.update(dim=tensor.shape[0], in_channels=tensor.shape[1], patch=tensor.shape[-1])
        elif tensor.ndim == 2:
            found["num_classes"] = tensor.shape[0]
    return {**found, "depth": depth} if depth else found


def build(
    num_classes: int = 1000,
    pretrained: bool = False,
    *,
    dim: int = 1536,
    depth: int = 20,
    kernel: int = 9,
    patch: int = 7,
    in_channels: int = 3,
    activation: str = "gelu",
) -> nn.Module:
    """ConvMixer-1536/20 by default, (N, 3, 224, 224) -> logits; weights come from the checkpoint, never from here."""
    if pretrained:
        raise ValueError("this net holds no weights; name the checkpoint in model.toml")
    if kernel % 2 == 0:
        raise ValueError(f"kernel {kernel} is even: the residual needs an odd one")
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is none of {', '.join(sorted(_ACTIVATIONS))}")
    module = _mixer(dim, depth, kernel, patch, num_classes, in_channels, activation)
    _start(module)
    return module


def _start(module: nn.Module) -> None:
    """Truncated normal weights, so that a fresh net can be trained."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=math.sqrt(1.0 / layer.weight[0].numel()))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
