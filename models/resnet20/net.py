"""ResNet for 32 x 32 images (He et al. 2015, section 4.2), with parameter-free shortcuts ("option A")."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

TEMPLATE_NAME = "resnet-cifar"


class _Block(nn.Module):
    """Two 3x3 convolutions; where the size halves, the shortcut drops every other pixel and adds zero channels."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride = stride
        self.extra = out - channels

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.extra or self.stride != 1:
            before = self.extra // 2
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.extra - before))
        return functional.relu(y + x)


class CifarResNet(nn.Module):
    """``6 * blocks + 2`` layers: (N, 3, 32, 32) float32 -> (N, classes) logits."""

    def __init__(self, num_classes: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, num_classes)

    @staticmethod
    def _stage(channels: int, out: int, blocks: int, stride: int) -> nn.Sequential:
        return nn.Sequential(_Block(channels, out, stride), *(_Block(out, out, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def infer(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Depth and number of classes, read off the weights: ResNet-20, 32, 44, 56, 110 all fit this net."""
    numbers = [int(match[1]) for key in state_dict if (match := re.search(r"layer1\.(\d+)\.conv1\.weight$", key))]
    found: dict[str, Any] = {"blocks": max(numbers) + 1} if numbers else {}
    classes = next((tensor for key, tensor in state_dict.items() if key.endswith("linear.weight")), None)
    return found if classes is None else {**found, "num_classes": classes.shape[0]}


def build(num_classes: int = 10, pretrained: bool = False, *, blocks: int = 3) -> nn.Module:
    """ResNet-20 by default (``blocks = 3`` a stage); weights come from the checkpoint, never from here."""
    if pretrained:
        raise ValueError("this net holds no weights; name the checkpoint in model.toml")
    return CifarResNet(num_classes, blocks)
