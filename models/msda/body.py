"""MultiScaleDeformableAttn in PyTorch's own operators: what the NPU's kernel computes, for the host."""

from __future__ import annotations

import torch
from torch import Tensor


def multi_scale_deformable_attn(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Weighted sum of bilinear samples of each level; outside a level everything is zero.

    A location u in 0..1 is the pixel coordinate u * width - 0.5: the middle of the first pixel is 0.5 / width. No value
    of the inputs decides a shape, so that a trace holds for all of them.

    Args:
        value: (batch, keys, heads, embed) float32; the pixels of all levels, row by row, one level behind the other.
        value_spatial_shapes: (levels, 2) integers: height and width of each level.
        value_level_start_index: (levels,) integers: where each level begins among the keys.
        sampling_locations: (batch, queries, heads, levels, points, 2) float32: x, y.
        attention_weights: (batch, queries, heads, levels, points) float32.

    Returns:
        (batch, queries, heads * embed) float32.
    """
    batch, keys, heads, embed = value.shape
    queries = sampling_locations.shape[1]
    levels = sampling_locations.shape[3]
    sizes = value_spatial_shapes.long()
    height = sizes[:, 0].reshape(1, 1, 1, levels, 1)
    width = sizes[:, 1].reshape(1, 1, 1, levels, 1)
    start = value_level_start_index.long().reshape(1, 1, 1, levels, 1)
    x = sampling_locations[..., 0] * width.float() - 0.5
    y = sampling_locations[..., 1] * height.float() - 0.5
    left, top = torch.floor(x), torch.floor(y)
    right_share, bottom_share = x - left, y - top
    column, row = left.long(), top.long()
    # The pixel of key k of head h of item b is row (b * keys + k) * heads + h of the flat values.
    items = torch.arange(batch).reshape(batch, 1, 1, 1, 1) * keys
    offsets = torch.arange(heads).reshape(1, 1, heads, 1, 1)
    flat = value.reshape(batch * keys * heads, embed)
    total = torch.zeros(batch, queries, heads, embed)
    for below in (0, 1):
        for beside in (0, 1):
            share = (right_share if beside else 1 - right_share) * (bottom_share if below else 1 - bottom_share)
            at_row, at_column = row + below, column + beside
            inside = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
            weight = share * attention_weights * inside.float()
            key = start + torch.minimum(at_row.clamp(min=0), height - 1) * width
            key = key + torch.minimum(at_column.clamp(min=0), width - 1)
            places = (items + key) * heads + offsets
            pixels = torch.index_select(flat, 0, places.flatten())
            pixels = pixels.reshape(batch, queries, heads, -1, embed)
            total = total + (pixels * weight.flatten(3).unsqueeze(-1)).sum(3)
    return total.reshape(batch, queries, heads * embed)
