"""YOLOv6 (v3.0/v4.0) of the n/s kind: a re-parameterizable backbone, a bi-directional neck, an anchor-free head.

Keys and shapes are those of the official checkpoints. ``width`` and ``depth`` scale it: 0.25 and 0.33 are YOLOv6n.

Every 3x3 "rep" block is trained as three branches (3x3, 1x1, identity, each with its BatchNorm) and deployed as the one
3x3 convolution that computes their sum; `deploy` does that in double precision.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

TEMPLATE_NAME = "yolov6"

STRIDES = (8, 16, 32)
_BACKBONE_CHANNELS = (64, 128, 256, 512, 1024)
_BACKBONE_REPEATS = (6, 12, 18, 6)
_NECK_CHANNELS = (256, 128, 128, 256, 256, 512)
_NECK_REPEATS = 12
_DISTRIBUTION_BINS = 17
"""Of the box distribution that larger YOLOv6 models regress; stored in every checkpoint, unused by n."""


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)


class _ConvBN(nn.Module):
    def __init__(self, channels: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        self.bn = _batch_norm(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Kernel and bias of the convolution that does both, in float64."""
        scale, bias = _affine(self.bn)
        return self.conv.weight.double() * scale.view(-1, 1, 1, 1), bias


class _Block(nn.Module):
    """Convolution, BatchNorm, activation."""

    def __init__(self, channels: int, out: int, kernel: int = 1, stride: int = 1, *, act: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.block = _ConvBN(channels, out, kernel, stride)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.block(x))


class _Rep(nn.Module):
    """The sum of a 3x3, a 1x1 and (where the shape stays) an identity branch, then ReLU."""

    def __init__(self, channels: int, out: int, stride: int = 1, *, deployed: bool = False) -> None:
        super().__init__()
        if deployed:
            self.rbr_reparam = nn.Conv2d(channels, out, 3, stride, 1)
            return
        self.rbr_identity = _batch_norm(out) if channels == out and stride == 1 else None
        self.rbr_dense = _ConvBN(channels, out, 3, stride)
        self.rbr_1x1 = _ConvBN(channels, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "rbr_reparam"):
            return torch.relu(self.rbr_reparam(x))
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        return torch.relu(y if self.rbr_identity is None else y + self.rbr_identity(x))

    @torch.no_grad()
    def reparameterized(self) -> _Rep:
        """The deployed form with the same values."""
        if hasattr(self, "rbr_reparam"):
            return self
        kernel, bias = self.rbr_dense.folded()
        point, point_bias = self.rbr_1x1.folded()
        kernel[:, :, 1:2, 1:2] += point
        bias = bias + point_bias
        if self.rbr_identity is not None:
            scale, shift = _affine(self.rbr_identity)
            diagonal = torch.arange(len(scale))
            kernel[diagonal, diagonal, 1, 1] += scale
            bias = bias + shift
        conv = self.rbr_dense.conv
        made = _Rep(conv.in_channels, conv.out_channels, conv.stride[0], deployed=True)
        made.rbr_reparam.weight.copy_(kernel)
        made.rbr_reparam.bias.copy_(bias)
        return made.to(conv.weight).train(self.training)


def _affine(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """BatchNorm in evaluation as ``scale * x + shift``, float64."""
    scale = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    return scale, bn.bias.double() - bn.running_mean.double() * scale


class _RepStage(nn.Module):
    """``repeats`` rep blocks, the first of which sets the width."""

    def __init__(self, channels: int, out: int, repeats: int, *, deployed: bool) -> None:
        super().__init__()
        self.conv1 = _Rep(channels, out, deployed=deployed)
        rest = [_Rep(out, out, deployed=deployed) for _ in range(repeats - 1)]
        self.block = nn.Sequential(*rest) if rest else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return x if self.block is None else self.block(x)


class _CspSppf(nn.Module):
    """Three chained 5x5 poolings beside a straight branch."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        hidden = out // 2
        self.cv1 = _Block(channels, hidden)
        self.cv2 = _Block(channels, hidden)
        self.cv3 = _Block(hidden, hidden, 3)
        self.cv4 = _Block(hidden, hidden)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.cv5 = _Block(4 * hidden, hidden)
        self.cv6 = _Block(hidden, hidden, 3)
        self.cv7 = _Block(2 * hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [self.cv4(self.cv3(self.cv1(x)))]
        for _ in range(3):
            pooled.append(self.pool(pooled[-1]))
        return self.cv7(torch.cat((self.cv2(x), self.cv6(self.cv5(torch.cat(pooled, 1)))), 1))


class _Spp(nn.Module):
    """Names the pooling block as the checkpoints do."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cspsppf = _CspSppf(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.cspsppf(x)


class _Backbone(nn.Module):
    def __init__(self, channels: list[int], repeats: list[int], *, deployed: bool) -> None:
        super().__init__()
        self.stem = _Rep(3, channels[0], 2, deployed=deployed)
        for number, (before, out, count) in enumerate(zip(channels, channels[1:], repeats, strict=False), 2):
            steps = [_Rep(before, out, 2, deployed=deployed), _RepStage(out, out, count, deployed=deployed)]
            setattr(self, f"ERBlock_{number}", nn.Sequential(*steps, *([_Spp(out)] if number == 5 else [])))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        taken = []
        for number in (2, 3, 4, 5):
            x = getattr(self, f"ERBlock_{number}")(x)
            taken.append(x)
        return taken


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.upsample_transpose = nn.ConvTranspose2d(channels, channels, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample_transpose(x)


class _BiFusion(nn.Module):
    """A coarser, an equal and a finer level brought to the equal one's size and mixed."""

    def __init__(self, same: int, down: int, out: int) -> None:
        super().__init__()
        self.cv1 = _Block(same, out)
        self.cv2 = _Block(down, out)
        self.cv3 = _Block(3 * out, out)
        self.upsample = _Upsample(out)
        self.downsample = _Block(out, out, 3, 2)

    def forward(self, up: Tensor, same: Tensor, down: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.upsample(up), self.cv1(same), self.downsample(self.cv2(down))), 1))


class _Neck(nn.Module):
    def __init__(self, backbone: list[int], channels: list[int], repeats: int, *, deployed: bool) -> None:
        super().__init__()
        _, p2, p3, p4, p5 = backbone
        n0, n1, n2, n3, n4, n5 = channels
        self.reduce_layer0 = _Block(p5, n0)
        self.Bifusion0 = _BiFusion(p4, p3, n0)
        self.Rep_p4 = _RepStage(n0, n0, repeats, deployed=deployed)
        self.reduce_layer1 = _Block(n0, n1)
        self.Bifusion1 = _BiFusion(p3, p2, n1)
        self.Rep_p3 = _RepStage(n1, n1, repeats, deployed=deployed)
        self.downsample2 = _Block(n1, n2, 3, 2)
        self.Rep_n3 = _RepStage(n1 + n2, n3, repeats, deployed=deployed)
        self.downsample1 = _Block(n3, n4, 3, 2)
        self.Rep_n4 = _RepStage(n0 + n4, n5, repeats, deployed=deployed)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        p2, p3, p4, p5 = levels
        f0 = self.reduce_layer0(p5)
        f1 = self.reduce_layer1(self.Rep_p4(self.Bifusion0(f0, p4, p3)))
        n3 = self.Rep_p3(self.Bifusion1(f1, p3, p2))
        n4 = self.Rep_n3(torch.cat((self.downsample2(n3), f1), 1))
        n5 = self.Rep_n4(torch.cat((self.downsample1(n4), f0), 1))
        return [n3, n4, n5]


class _Detect(nn.Module):
    def __init__(self, channels: list[int], num_classes: int) -> None:
        super().__init__()
        self.proj = nn.Parameter(torch.linspace(0, _DISTRIBUTION_BINS - 1, _DISTRIBUTION_BINS), requires_grad=False)
        self.proj_conv = nn.Conv2d(_DISTRIBUTION_BINS, 1, 1, bias=False).requires_grad_(requires_grad=False)
        with torch.no_grad():
            self.proj_conv.weight.copy_(self.proj.view(1, -1, 1, 1))
        self.stems = nn.ModuleList(_Block(width, width, act=nn.SiLU) for width in channels)
        self.cls_convs = nn.ModuleList(_Block(width, width, 3, act=nn.SiLU) for width in channels)
        self.reg_convs = nn.ModuleList(_Block(width, width, 3, act=nn.SiLU) for width in channels)
        self.cls_preds = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in channels)
        self.reg_preds = nn.ModuleList(nn.Conv2d(width, 4, 1) for width in channels)

    def forward(self, levels: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        layers = (self.stems, self.cls_convs, self.cls_preds, self.reg_convs, self.reg_preds)
        for x, stem, cls_conv, cls_pred, reg_conv, reg_pred in zip(levels, *layers, strict=True):
            x = stem(x)
            yield cls_pred(cls_conv(x)), reg_pred(reg_conv(x))


class YOLOv6(nn.Module):
    """(N, 3, H, W) float32, RGB 0..1, H and W multiples of 32 -> (N, cells, 5 + classes).

    A row is ``cx, cy, w, h, 1, scores...`` in input pixels; cells are row-major, strides 8, 16, 32 one after another.
    """

    def __init__(self, num_classes: int, width: float, depth: float, *, deployed: bool = False) -> None:
        super().__init__()
        backbone = [_round_up_to_8(channels * width) for channels in _BACKBONE_CHANNELS]
        neck = [_round_up_to_8(channels * width) for channels in _NECK_CHANNELS]
        repeats = [max(1, round(count * depth)) for count in _BACKBONE_REPEATS]
        neck_repeats = max(1, round(_NECK_REPEATS * depth))
        self.backbone = _Backbone(backbone, repeats, deployed=deployed)
        self.neck = _Neck(backbone, neck, neck_repeats, deployed=deployed)
        self.detect = _Detect([neck[1], neck[3], neck[5]], num_classes)

    def levels(self, image: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Per stride: class logits (N, classes, h, w) and distances left, top, right, bottom (N, 4, h, w) in cells."""
        return list(self.detect(self.neck(self.backbone(image))))

    def forward(self, image: Tensor) -> Tensor:
        levels = zip(self.levels(image), STRIDES, strict=True)
        return torch.cat([_decode(logits.sigmoid(), distances, stride) for (logits, distances), stride in levels], 1)


def centres(height: int, width: int) -> Tensor:
    """(height * width, 2) float32: x, y of each cell's middle, in cells, row-major."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), 1)


def _decode(scores: Tensor, distances: Tensor, stride: int) -> Tensor:
    with warnings.catch_warnings():
        # The cells' middles are meant to be constants of the exported graph.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        height, width = int(scores.shape[2]), int(scores.shape[3])
    rows = distances.flatten(2).transpose(1, 2)
    before, after = rows[..., :2], rows[..., 2:]
    middle = centres(height, width).to(scores) + (after - before) / 2
    boxes = torch.cat((middle, before + after), 2) * stride
    return torch.cat((boxes, torch.ones_like(rows[..., :1]), scores.flatten(2).transpose(1, 2)), 2)


def _round_up_to_8(channels: float) -> int:
    return math.ceil(channels / 8) * 8


def infer(state_dict: Mapping[str, Tensor]) -> dict[str, Any]:
    """Classes, width, depth and form, read off the weights of any scale of this architecture."""
    found: dict[str, Any] = {"deployed": any(".rbr_reparam." in key for key in state_dict)}
    stem = "stem.rbr_reparam.weight" if found["deployed"] else "stem.rbr_dense.conv.weight"
    block = re.compile(r"(^|\.)backbone\.ERBlock_4\.1\.block\.(\d+)\.")
    repeats = 1
    for key, tensor in state_dict.items():
        if key.endswith("detect.cls_preds.0.weight"):
            found["num_classes"] = tensor.shape[0]
        elif key.endswith(stem):
            found["width"] = tensor.shape[0] / _BACKBONE_CHANNELS[0]
        elif match := block.search(key):
            repeats = max(repeats, int(match[2]) + 2)
    return {**found, "depth": repeats / _BACKBONE_REPEATS[2]}


def build(
    num_classes: int = 80, pretrained: bool = False, *, width: float = 0.25, depth: float = 0.33, deployed: bool = False
) -> nn.Module:
    """YOLOv6n by default; weights come from the checkpoint, never from here."""
    if pretrained:
        raise ValueError("this net holds no weights; name the checkpoint in model.toml")
    return YOLOv6(num_classes, width, depth, deployed=deployed)


def deploy(module: nn.Module) -> nn.Module:
    """A copy of ``module`` whose rep blocks are single convolutions; the original stays as it is."""
    made = copy.deepcopy(module)
    for owner in list(made.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, _Rep):
                setattr(owner, name, child.reparameterized())
    return made
