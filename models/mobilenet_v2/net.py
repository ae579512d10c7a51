"""MobileNetV2 (Sandler et al. 2018) with the key layout of torchvision's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

TEMPLATE_NAME = "mobilenet-v2"

# Expansion, output channels, repeats, stride of the first: table 2 of the paper.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _round_to_8(channels: float) -> int:
    """The nearest multiple of 8, never more than 10 % below ``channels``."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def _conv(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(),
    )


class _InvertedResidual(nn.Module):
    def __init__(self, channels: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [_conv(channels, hidden, 1)]
        layers += [
            _conv(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, out, 1, bias=False),
            nn.BatchNorm2d(out),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """(N, 3, H, W) float32 -> (N, classes) logits."""

    def __init__(self, num_classes: int, width: float) -> None:
        super().__init__()
        channels = _round_to_8(32 * width)
        features: list[nn.Module] = [_conv(3, channels, 3, 2)]
        for expansion, base, repeats, stride in _STAGES:
            out = _round_to_8(base * width)
            for number in range(repeats):
                features.append(_InvertedResidual(channels, out, stride if number == 0 else 1, expansion))
                channels = out
        last = _round_to_8(1280 * max(1.0, width))
        features.append(_conv(channels, last, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def infer(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """The number of classes, read off the classifier."""
    weight = state_dict.get("classifier.1.weight")
    return {} if weight is None else {"num_classes": weight.shape[0]}


def build(num_classes: int = 1000, pretrained: bool = False, *, width: float = 1.0) -> nn.Module:
    """The net; weights come from the checkpoint, never from here."""
    if pretrained:
        raise ValueError("this net holds no weights; name the checkpoint in model.toml")
    return MobileNetV2(num_classes, width)
