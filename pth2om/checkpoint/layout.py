"""What a state dict's names and shapes tell of a net without its code: input channels, classes, likely task.

Everything here is a reading of shapes, with the tensor it was read off; whoever shows it says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Reading:
    """A number and the tensor it was read off.

    Attributes:
        value: the number.
        source: name of the tensor.
        shape: its shape.
    """

    value: int
    source: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """What the shapes say.

    Attributes:
        channels: of the input, off the first convolution (or features, off a first linear layer).
        axes: spatial axes of that convolution: 2 for images, 3 for volumes, 1 for sound, 0 for a linear layer.
        classes: outputs of the last linear layer or convolution.
        ends_linear: whether the last layer is linear.
        task: ``classification``, ``detection``, ``segmentation`` where names or shapes suggest one.
        reason: the name that suggested it.
    """

    channels: Reading | None
    axes: int
    classes: Reading | None
    ends_linear: bool
    task: Literal["classification", "detection", "segmentation"] | None
    reason: str


_DETECTION = (
    "anchor",
    "cls_pred",
    "reg_pred",
    "bbox",
    "box_",
    "detect",
    "dfl",
    "rpn",
    "yolo",
    "objectness",
    "obj_pred",
)
_SEGMENTATION = ("decode_head", "up_conv", "upconv", "upsample", "decoder", "unet", "seg_head", "segment", "aux_head")


def layout(tensors: Mapping[str, Any]) -> Layout:
    """Read the layout off tensors in the order they are stored (the order of the layers, as modules register them).

    Args:
        tensors: name -> anything with ``shape``.
    """
    shapes = {name: tuple(int(size) for size in tensor.shape) for name, tensor in tensors.items()}
    kernels = {name: shape for name, shape in shapes.items() if name.endswith("weight") and 2 <= len(shape) <= 5}
    convolutions = {name: shape for name, shape in kernels.items() if len(shape) >= 3}
    linear = {name: shape for name, shape in kernels.items() if len(shape) == 2}
    channels = None
    axes = 0
    if convolutions:
        name, shape = next(iter(convolutions.items()))
        channels, axes = Reading(shape[1], name, shape), len(shape) - 2
    elif linear:
        name, shape = next(iter(linear.items()))
        channels = Reading(shape[1], name, shape)
    last = next(reversed(kernels.items()), None)
    classes = Reading(last[1][0], last[0], last[1]) if last else None
    ends_linear = last is not None and len(last[1]) == 2
    task, reason = _task(list(shapes), classes, ends_linear)
    return Layout(channels, axes, classes, ends_linear, task, reason)


def _task(
    names: list[str], classes: Reading | None, ends_linear: bool
) -> tuple[Literal["classification", "detection", "segmentation"] | None, str]:
    for name in names:
        if any(word in name.lower() for word in _DETECTION):
            return "detection", name
    for name in names:
        if any(word in name.lower() for word in _SEGMENTATION):
            return "segmentation", name
    # A 1x1 convolution before pooling classifies too (SqueezeNet), but so does the head of a segmentation net.
    return ("classification", classes.source) if ends_linear and classes is not None else (None, "")
