"""One MultiScaleDeformableAttn (deformable DETR, Zhu et al. 2021) and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TEMPLATE_NAME = "multi-scale-deformable-attn"


class Attention(nn.Module):
    """See `body.multi_scale_deformable_attn` for shapes."""

    def forward(
        self,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
    ) -> Tensor:
        return torch.ops.npu.multi_scale_deformable_attn(
            value, value_spatial_shapes, value_level_start_index, sampling_locations, attention_weights
        )


def build(num_classes: int = 1, pretrained: bool = False) -> nn.Module:  # noqa: ARG001 - the contract of a net
    """The net; it has no weights."""
    if pretrained:
        raise ValueError("this net holds no weights and needs none")
    return Attention()
