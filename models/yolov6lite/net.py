"""YOLOv6Lite-S in its deployed form, as the published ncnn graph has it: BatchNorm folded, every layer a convolution.

The checkpoint's keys are ``conv.<layer>.{weight,bias}`` with the layer names of that graph. The graph's writer numbered
its 1x1 and stem convolutions from 28 and its depth-wise ones from 270 in the order of the forward pass, so building the
blocks in that order gives every layer its own name back. The blocks are plain objects that share the layers of the one
``conv`` dictionary, so that the keys stay flat and a deep copy of the net stays whole.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional

TEMPLATE_NAME = "yolov6lite-s"

STRIDES = (8, 16, 32, 64)


class _Layers:
    """Makes convolutions under the names of the published graph.

    A 1x1 convolution with an activation fused into it (``convrelu``, ``convsigmoid``) keeps a name of its own kind but
    uses up a number of the 1x1 sequence.
    """

    def __init__(self) -> None:
        self.modules = nn.ModuleDict()
        self._full, self._depthwise, self._relu, self._sigmoid = 28, 270, 0, 17

    def full(self, channels: int, out: int, kernel: int = 1, stride: int = 1, fused: str = "") -> nn.Module:
        name = f"conv_{self._full}"
        self._full += 1
        if fused == "relu":
            name, self._relu = f"convrelu_{self._relu}", self._relu + 1
        elif fused == "sigmoid":
            name, self._sigmoid = f"convsigmoid_{self._sigmoid}", self._sigmoid - 1
        return self._keep(name, nn.Conv2d(channels, out, kernel, stride, kernel // 2))

    def depthwise(self, channels: int, kernel: int, stride: int = 1) -> nn.Module:
        name = f"convdw_{self._depthwise}"
        self._depthwise += 1
        return self._keep(name, nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels))

    def _keep(self, name: str, module: nn.Module) -> nn.Module:
        self.modules[name] = module
        return module


class _Activated:
    """Each convolution followed by HardSwish."""

    def __init__(self, *steps: nn.Module) -> None:
        self.steps = steps

    def __call__(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = functional.hardswish(step(x))
        return x


class _Squeezed:
    """Squeeze-and-excitation with a quarter of the channels in between."""

    def __init__(self, layers: _Layers, channels: int) -> None:
        self.down = layers.full(channels, channels // 4, fused="relu")
        self.up = layers.full(channels // 4, channels)

    def __call__(self, x: Tensor) -> Tensor:
        return x * functional.hardsigmoid(self.up(functional.relu(self.down(x.mean((2, 3), keepdim=True)))))


class _Branch:
    """1x1, depth-wise 3x3, squeeze, 1x1: what both kinds of unit do with one half."""

    def __init__(self, layers: _Layers, channels: int, middle: int, half: int, stride: int) -> None:
        self.enter = _Activated(layers.full(channels, middle))
        self.depth = layers.depthwise(middle, 3, stride)
        self.squeeze = _Squeezed(layers, middle)
        self.leave = _Activated(layers.full(middle, half))

    def __call__(self, x: Tensor) -> Tensor:
        return self.leave(self.squeeze(self.depth(self.enter(x))))


class _HalvingUnit:
    """Stride 2: a separable branch and a squeezed branch side by side, then a separable 3x3; ``2 * half`` channels."""

    def __init__(self, layers: _Layers, channels: int, half: int) -> None:
        self.depth, self.point = layers.depthwise(channels, 3, 2), _Activated(layers.full(channels, half))
        self.branch = _Branch(layers, channels, half // 2, half, 2)
        self.join = _Activated(layers.depthwise(2 * half, 3), layers.full(2 * half, 2 * half))

    def __call__(self, x: Tensor) -> Tensor:
        return self.join(torch.cat((self.point(self.depth(x)), self.branch(x)), 1))


def _shuffled(x: Tensor) -> Tensor:
    """Channel shuffle in 2 groups, by views: the exporter has no symbol for ``torch.channel_shuffle``."""
    batch, channels, height, width = x.shape
    return x.reshape(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


class _ShufflingUnit:
    """Stride 1: the second half of the channels is worked on, then the halves are interleaved."""

    def __init__(self, layers: _Layers, half: int) -> None:
        self.half = half
        self.branch = _Branch(layers, half, half, half, 1)

    def __call__(self, x: Tensor) -> Tensor:
        kept, worked = x.split(self.half, 1)
        return _shuffled(torch.cat((kept, self.branch(worked)), 1))


class _Stage:
    def __init__(self, layers: _Layers, channels: int, half: int, units: int) -> None:
        self.halve = _HalvingUnit(layers, channels, half)
        self.units = [_ShufflingUnit(layers, half) for _ in range(units)]

    def __call__(self, x: Tensor) -> Tensor:
        x = self.halve(x)
        for unit in self.units:
            x = unit(x)
        return x


class _Csp:
    """192 channels in, a worked and a straight branch of 48, 96 out."""

    def __init__(self, layers: _Layers) -> None:
        self.worked = _Activated(
            layers.full(192, 48), layers.full(48, 48), layers.depthwise(48, 5), layers.full(48, 48)
        )
        self.straight = _Activated(layers.full(192, 48))
        self.join = _Activated(layers.full(96, 96))

    def __call__(self, x: Tensor) -> Tensor:
        return self.join(torch.cat((self.worked(x), self.straight(x)), 1))


def _separable(layers: _Layers, stride: int = 1) -> _Activated:
    return _Activated(layers.depthwise(96, 5, stride), layers.full(96, 96))


class _Head:
    """One level's scores (N, classes, H, W) in 0..1 and distances (N, 4, H, W) in cells."""

    def __init__(self, layers: _Layers, num_classes: int) -> None:
        self.stem = _separable(layers)
        self.towards_scores, self.scores = _separable(layers), layers.full(96, num_classes, fused="sigmoid")
        self.towards_boxes, self.boxes = _separable(layers), layers.full(96, 4)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        return torch.sigmoid(self.scores(self.towards_scores(x))), self.boxes(self.towards_boxes(x))


def _decode(scores: Tensor, distances: Tensor, stride: int) -> Tensor:
    """One level's rows ``cx, cy, w, h, 1, scores...`` in input pixels, row-major over its cells."""
    with warnings.catch_warnings():
        # The cells' centres are meant to be constants of the exported graph.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        height, width = int(scores.shape[2]), int(scores.shape[3])
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    centre = torch.stack((x.flatten(), y.flatten()), 1).to(scores)
    rows = distances.flatten(2).transpose(1, 2)
    before, after = rows[..., :2], rows[..., 2:]
    boxes = torch.cat((centre + (after - before) / 2, before + after), 2) * stride
    return torch.cat((boxes, torch.ones_like(rows[..., :1]), scores.flatten(2).transpose(1, 2)), 2)


class YOLOv6Lite(nn.Module):
    """(N, 3, H, W) float32, RGB 0..1, H and W multiples of 64 -> (N, cells, 5 + classes)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers = _Layers()
        self._stem = _Activated(layers.full(3, 24, 3, 2))
        self._stage2 = _Stage(layers, 24, 16, 0)
        self._stage3 = _Stage(layers, 32, 24, 2)
        self._stage4 = _Stage(layers, 48, 48, 6)
        self._stage5 = _Stage(layers, 96, 88, 2)
        self._reduce = [_Activated(layers.full(channels, 96)) for channels in (176, 96, 48)]
        self._up4, self._up3 = _Csp(layers), _Csp(layers)
        self._down4, self._out4 = _separable(layers, 2), _Csp(layers)
        self._down5, self._out5 = _separable(layers, 2), _Csp(layers)
        self._down6 = _separable(layers, 2), _separable(layers, 2)
        self._heads = [_Head(layers, num_classes) for _ in STRIDES]
        self.conv = layers.modules

    def forward(self, image: Tensor) -> Tensor:
        third = self._stage3(self._stage2(self._stem(image)))
        fourth = self._stage4(third)
        fifth = self._stage5(fourth)
        fifth, fourth, third = (step(x) for step, x in zip(self._reduce, (fifth, fourth, third), strict=True))
        fourth = self._up4(torch.cat((functional.interpolate(fifth, scale_factor=2.0), fourth), 1))
        out3 = self._up3(torch.cat((functional.interpolate(fourth, scale_factor=2.0), third), 1))
        out4 = self._out4(torch.cat((self._down4(out3), fourth), 1))
        out5 = self._out5(torch.cat((self._down5(out4), fifth), 1))
        out6 = self._down6[0](fifth) + self._down6[1](out5)
        levels = zip(self._heads, (out3, out4, out5, out6), STRIDES, strict=True)
        return torch.cat([_decode(*head(x), stride) for head, x, stride in levels], 1)


def build(num_classes: int = 80, pretrained: bool = False) -> nn.Module:
    """The net; weights come from the checkpoint, never from here."""
    if pretrained:
        raise ValueError("this net holds no weights; name the checkpoint in model.toml")
    return YOLOv6Lite(num_classes)
