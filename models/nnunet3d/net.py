"""The plain-conv U-Net of nnU-Net, 2-D or 3-D, with the names that nnU-Net v2 gives its state dict; v1's are renamed.

nnU-Net v2 registers each convolution as ``conv`` and inside ``all_modules``, and the encoder also as
``decoder.encoder``: a state dict holds the same tensors up to four times. All heads for deep supervision are always
there; ``decoder.deep_supervision`` only switches what is returned (largest first).

Isensee et al. 2021, nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

TEMPLATE_NAME = "nnU-Net plain-conv U-Net"

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class ConvNormReLU(nn.Module):
    """Convolution, instance norm, leaky ReLU."""

    def __init__(self, dims: int, before: int, after: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        padding = [(side - 1) // 2 for side in kernel]
        self.conv = CONV[dims](before, after, tuple(kernel), tuple(stride), tuple(padding), bias=True)
        self.norm = NORM[dims](after, eps=1e-5, affine=True)
        self.nonlin = nn.LeakyReLU(0.01)
        self.all_modules = nn.Sequential(self.conv, self.norm, self.nonlin)

    def forward(self, x: Tensor) -> Tensor:
        return self.all_modules(x)


class Stack(nn.Module):
    """Some convolutions, the first with a stride."""

    def __init__(
        self, dims: int, count: int, before: int, after: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        one = [1] * dims
        self.convs = nn.Sequential(
            ConvNormReLU(dims, before, after, kernel, stride),
            *(ConvNormReLU(dims, after, after, kernel, one) for _ in range(count - 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(x)


class Encoder(nn.Module):
    def __init__(self, stages: Sequence[Stack]) -> None:
        super().__init__()
        self.stages = nn.Sequential(*(nn.Sequential(stage) for stage in stages))

    def forward(self, x: Tensor) -> list[Tensor]:
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return skips


class Decoder(nn.Module):
    deep_supervision: bool

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        dims: int,
        features: Sequence[int],
        kernels: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        convs: Sequence[int],
    ) -> None:
        super().__init__()
        self.deep_supervision = False
        self.encoder = encoder
        stages, transposed, heads = [], [], []
        for step, count in enumerate(convs, 1):
            below, skip = features[-step], features[-step - 1]
            stride = tuple(strides[-step])
            transposed.append(TRANSPOSED[dims](below, skip, stride, stride, bias=True))
            stages.append(Stack(dims, count, 2 * skip, skip, kernels[step - 1], [1] * dims))
            heads.append(CONV[dims](skip, num_classes, 1, bias=True))
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(transposed)
        self.seg_layers = nn.ModuleList(heads)

    def forward(self, skips: list[Tensor]) -> Tensor | list[Tensor]:
        x, found = skips[-1], []
        last = len(self.stages) - 1
        for step, (stage, up, head) in enumerate(zip(self.stages, self.transpconvs, self.seg_layers, strict=True)):
            x = stage(torch.cat((up(x), skips[-step - 2]), 1))
            if self.deep_supervision or step == last:
                found.append(head(x))
        return found[::-1] if self.deep_supervision else found[0]


class PlainConvUNet(nn.Module):
    def __init__(
        self,
        num_classes: int,
        dims: int,
        in_channels: int,
        features: Sequence[int],
        kernels: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        convs: Sequence[int],
        decoder_convs: Sequence[int],
        decoder_kernels: Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        channels = [in_channels, *features]
        self.encoder = Encoder(
            [
                Stack(dims, convs[stage], channels[stage], channels[stage + 1], kernels[stage], strides[stage])
                for stage in range(len(features))
            ]
        )
        self.decoder = Decoder(self.encoder, num_classes, dims, features, decoder_kernels, strides, decoder_convs)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        return self.decoder(self.encoder(x))


def build(
    num_classes: int,
    pretrained: bool = False,
    dims: int = 3,
    in_channels: int = 1,
    features: Sequence[int] = (32, 64, 128, 256, 320, 320),
    kernels: Sequence[Sequence[int]] | None = None,
    strides: Sequence[Sequence[int]] | None = None,
    convs: Sequence[int] | None = None,
    decoder_convs: Sequence[int] | None = None,
    decoder_kernels: Sequence[Sequence[int]] | None = None,
    deep_supervision: bool = False,
) -> nn.Module:
    """The net; every sequence has an entry a stage, from the input downwards (the decoder's from the bottom up)."""
    if pretrained:
        raise ValueError("this net holds no weights; name the checkpoint in model.toml")
    count = len(features)
    kernels = kernels or [[3] * dims] * count
    module = PlainConvUNet(
        num_classes,
        dims,
        in_channels,
        features,
        kernels,
        strides or [[1] * dims, *([[2] * dims] * (count - 1))],
        convs or [2] * count,
        decoder_convs or [2] * (count - 1),
        decoder_kernels or kernels[-2::-1],  # v1 takes those of the stage below
    )
    module.decoder.deep_supervision = deep_supervision
    return module


def deploy(module: nn.Module) -> nn.Module:
    """One output: what deep supervision returns besides is for training."""
    module.decoder.deep_supervision = False
    return module


_V1 = re.compile(
    r"^conv_blocks_(?P<side>context|localization)\.(?P<stage>\d+)\.(?:(?P<part>[01])\.)?blocks\.(?P<block>\d+)\."
    r"(?P<kind>conv|instnorm)\.(?P<leaf>weight|bias)$"
)


def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """nnU-Net v1's names to v2's; v2's are kept.

    v1 splits the convolutions of a decoder stage, and of the bottleneck, in two; its transposed convolutions and heads
    have no bias, which is a bias of zeros.
    """
    if any(name.startswith("encoder.stages.") and ".blocks." in name for name in state):
        raise ValueError(
            "this is nnU-Net's ResidualEncoderUNet, and this net is its PlainConvUNet: write a net.py whose build() "
            "returns the class that plans.json names under network_class_name, from the package "
            "dynamic_network_architectures, or convert a TorchScript file of the net"
        )
    if not any(name.startswith("conv_blocks_context.") for name in state):
        return state
    blocks: dict[tuple[str, int], list[tuple[int, int]]] = {}
    matches = {name: match for name in state if (match := _V1.match(name))}
    for match in matches.values():
        place = int(match["part"] or 0), int(match["block"])
        found = blocks.setdefault((match["side"], int(match["stage"])), [])
        if place not in found:
            found.append(place)
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        match = matches.get(name)
        if match is not None:
            places = sorted(blocks[match["side"], int(match["stage"])])
            number = places.index((int(match["part"] or 0), int(match["block"])))
            kind, slot = ("conv", 0) if match["kind"] == "conv" else ("norm", 1)
            if match["side"] == "context":
                fronts = [f"{front}encoder.stages.{match['stage']}.0" for front in ("", "decoder.")]
            else:
                fronts = [f"decoder.stages.{match['stage']}"]
            for front in fronts:
                for inner in (kind, f"all_modules.{slot}"):
                    renamed[f"{front}.convs.{number}.{inner}.{match['leaf']}"] = value
            continue
        for old, new, axis in (("tu", "transpconvs", 1), ("seg_outputs", "seg_layers", 0)):
            if name.startswith(f"{old}."):
                number, leaf = name.removeprefix(f"{old}.").split(".")
                renamed[f"decoder.{new}.{number}.{leaf}"] = value
                if leaf == "weight" and f"{old}.{number}.bias" not in state:
                    renamed[f"decoder.{new}.{number}.bias"] = torch.zeros(value.shape[axis], dtype=value.dtype)
                break
        else:
            renamed[name] = value
    return renamed


def infer(state: dict[str, Tensor]) -> dict[str, object]:
    """All arguments of `build` can be read off the tensors: strides are the kernels of the transposed convolutions."""
    shapes = {name: tuple(value.shape) for name, value in state.items()}

    def stages(front: str, back: str) -> list[list[tuple[int, ...]]]:
        found: list[list[tuple[int, ...]]] = []
        while f"{front}.{len(found)}{back}.convs.0.conv.weight" in shapes:
            stage: list[tuple[int, ...]] = []
            while (name := f"{front}.{len(found)}{back}.convs.{len(stage)}.conv.weight") in shapes:
                stage.append(shapes[name])
            found.append(stage)
        return found

    encoder, decoder = stages("encoder.stages", ".0"), stages("decoder.stages", "")
    if not encoder or len(decoder) != len(encoder) - 1:
        return {}
    dims = len(encoder[0][0]) - 2
    ups = [list(shapes[f"decoder.transpconvs.{step}.weight"][2:]) for step in range(len(decoder))]
    return {
        "num_classes": shapes["decoder.seg_layers.0.weight"][0],
        "dims": dims,
        "in_channels": encoder[0][0][1],
        "features": [stage[-1][0] for stage in encoder],
        "kernels": [list(stage[0][2:]) for stage in encoder],
        "strides": [[1] * dims, *ups[::-1]],
        "convs": [len(stage) for stage in encoder],
        "decoder_convs": [len(stage) for stage in decoder],
        "decoder_kernels": [list(stage[0][2:]) for stage in decoder],
    }
