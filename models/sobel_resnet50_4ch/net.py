"""ResNet-50 (He et al. 2015, with the stride in the 3x3 convolution) that takes RGB and a Sobel channel.

Keys are those of torchvision's resnet50; only ``conv1`` has other input channels. Their number and that of the classes
are read off the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

TEMPLATE_NAME = "sobel-resnet50-4ch"

_BLOCKS = (3, 4, 6, 3)
_EXPANSION = 4


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, middle: int, stride: int) -> None:
        super().__init__()
        out = middle * _EXPANSION
        self.conv1 = nn.Conv2d(channels, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU()
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class SobelResNet50(nn.Module):
    """(N, 4, H, W) float32, normalized RGB and the Sobel magnitude in 0..1 -> (N, classes) logits."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for number, count in enumerate(_BLOCKS):
            middle = 64 * 2**number
            blocks = []
            for index in range(count):
                blocks.append(_Bottleneck(channels, middle, 2 if number and not index else 1))
                channels = middle * _EXPANSION
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def infer(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Input channels and classes, read off the first and the last layer."""
    found: dict[str, Any] = {}
    for key, tensor in state_dict.items():
        if key.split(".")[-2:] == ["fc", "weight"]:
            found["num_classes"] = tensor.shape[0]
        elif key.split(".")[-2:] == ["conv1", "weight"] and tensor.shape[2:] == (7, 7):
            found["in_channels"] = tensor.shape[1]
    return found


def build(num_classes: int = 2, pretrained: bool = False, *, in_channels: int = 4) -> nn.Module:
    """The net; weights come from the checkpoint, never from here."""
    if pretrained:
        raise ValueError("this net holds no weights; name the checkpoint in model.toml")
    return SobelResNet50(num_classes, in_channels)
