"""Operators that ONNX Runtime does not have (AscendQuant ...): rooms above register how to compute them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

Array = npt.NDArray[np.generic]


class Emission(Protocol):
    """What an emulation writes its nodes with.

    Attributes:
        node: the node to replace.
        band: ``fused`` or ``unfused``.
        half: whether the mode says that this node computes in float16.
    """

    node: onnx.NodeProto
    band: str
    half: bool

    def input(self, index: int, *, rounded: bool = False) -> str:
        """The tensor of an input (float16 tensors are carried as float32); `rounded` to float16 values if asked."""

    def dtype(self, index: int) -> int:
        """Element type (`onnx.TensorProto`) of an input in the source model; 0 where not known."""

    def value(self, index: int) -> Array | None:
        """An input's values when it is a constant."""

    def constant(self, values: Array) -> str:
        """A new constant."""

    def add(self, op_type: str, inputs: list[str], **attributes: Any) -> str:  # noqa: ANN401 - ONNX attributes
        """A new standard node with one output, whose name is returned."""

    def output(self, index: int, tensor: str, dtype: int, *, rounded: bool = False) -> None:
        """Bind ``tensor`` (of element type ``dtype``) to an output; `rounded`: round it to float16 values."""


Emulate = Callable[[Emission], None]
Applies = Callable[[onnx.NodeProto, list[int]], bool]

Join = Callable[[onnx.ModelProto, str], onnx.ModelProto]
"""Joins operators that the SoC computes as one (the INT8 layers of a deploy model); takes the model and the SoC."""

_REGISTERED: dict[tuple[str, str], list[tuple[Applies, Emulate]]] = {}


def register(op_type: str, emulate: Emulate, *, domain: str = "", when: Applies | None = None) -> None:
    """Teach the emulator an operator, or how to compute a standard one in a special case.

    Args:
        op_type: the node's type.
        emulate: writes standard ONNX nodes that compute it, and binds every output of the node.
        domain: ``""`` is ai.onnx.
        when: whether it applies, from the node and the element types of its inputs; always by default. The last
            registered that applies is taken.
    """
    _REGISTERED.setdefault((domain, op_type), []).append((when or (lambda _node, _types: True), emulate))


def find(node: onnx.NodeProto, types: list[int]) -> Emulate | None:
    """The emulation of ``node``, if one is registered and applies."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    for applies, emulate in reversed(_REGISTERED.get((domain, node.op_type), [])):
        if applies(node, types):
            return emulate
    return None


def knows(node: onnx.NodeProto) -> bool:
    """Whether anything is registered for the node's type."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    return (domain, node.op_type) in _REGISTERED
