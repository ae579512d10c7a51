"""MultiScaleDeformableAttn in PyTorch's own operators: what the NPU's kernel computes, for the host."""

from __future__ import annotations

import torch
from torch import Tensor

_AT_ONCE = 1 << 18
"""Numbers of a temporary tensor: 2 MB in float64, which a processor's cache holds."""


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

    PyTorch, the reference, computes in float64, some queries at a time: rounding the result to float32 is its only
    error. The exported form computes in the kernel's float32 and all queries at once. There a coordinate in a level 200
    pixels wide is known to 8e-6 of a pixel, and a sample to 8e-6 of the difference between neighbouring pixels.

    Args:
        value: (batch, keys, heads, embed) float32; the pixels of all levels, row by row, one level behind the other.
        value_spatial_shapes: (levels, 2) integers: height and width of each level.
        value_level_start_index: (levels,) integers: where each level begins among the keys.
        sampling_locations: (batch, queries, heads, levels, points, 2) float32: x, y.
        attention_weights: (batch, queries, heads, levels, points) float32.

    Returns:
        (batch, queries, heads * embed) float32.
    """
    if torch.onnx.is_in_onnx_export():
        return _attended(value, value_spatial_shapes, value_level_start_index, sampling_locations, attention_weights)
    batch, _, heads, embed = value.shape
    queries = sampling_locations.shape[1]
    some = max(1, _AT_ONCE // (batch * heads * embed))
    result = torch.empty(batch, queries, heads * embed)
    for start in range(0, queries, some):
        part = slice(start, start + some)
        locations, weights = sampling_locations[:, part].double(), attention_weights[:, part].double()
        result[:, part] = _attended(value, value_spatial_shapes, value_level_start_index, locations, weights)
    return result


def _attended(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """The operator in the precision of ``locations``, one point of one level in memory at a time."""
    batch, keys, heads, embed = value.shape
    queries, levels, points = locations.shape[1], locations.shape[3], locations.shape[4]
    sizes, first = shapes.long(), starts.long()
    # The pixel of key k of head h of item b is row (b * keys + k) * heads + h of the flat values.
    items = torch.arange(batch).reshape(batch, 1, 1) * keys
    offsets = torch.arange(heads).reshape(1, 1, heads)
    flat = value.reshape(batch * keys * heads, embed)
    total = torch.zeros(batch, queries, heads, embed, dtype=locations.dtype)
    for level in range(levels):
        height, width = sizes[level, 0], sizes[level, 1]
        for point in range(points):
            x = locations[:, :, :, level, point, 0] * width.to(locations.dtype) - 0.5
            y = locations[:, :, :, level, point, 1] * height.to(locations.dtype) - 0.5
            left, top = torch.floor(x), torch.floor(y)
            right_share, bottom_share = x - left, y - top
            column, row = left.long(), top.long()
            for below in (0, 1):
                for beside in (0, 1):
                    share = (right_share if beside else 1 - right_share) * (bottom_share if below else 1 - bottom_share)
                    at_row, at_column = row + below, column + beside
                    inside = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
                    weight = share * weights[:, :, :, level, point] * inside.to(locations.dtype)
                    key = first[level] + torch.minimum(at_row.clamp(min=0), height - 1) * width
                    key = key + torch.minimum(at_column.clamp(min=0), width - 1)
                    places = (items + key) * heads + offsets
                    pixels = torch.index_select(flat, 0, places.flatten()).reshape(batch, queries, heads, embed)
                    total = total + pixels * weight.unsqueeze(-1)
    return total.reshape(batch, queries, heads * embed)
