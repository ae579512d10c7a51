"""Tensors of one graph (or sub-graph) while it is rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from pth2om.toolchain.emulator.numerics.modes import Policy

Array = npt.NDArray[np.generic]


@dataclass
class Tensor:
    """What is known of one tensor of the source graph.

    Attributes:
        carrier: the tensor that holds it in the rewritten graph; float16 tensors are carried as float32.
        dtype: element type in the source model, 0 where not known.
        on_grid: whether every value is a float16 value already.
        host: whether ATC knows it while compiling (constants, shapes): computed on the host, in the source type.
        half: whether a kernel in float16 made it.
        constant: its initializer.
    """

    carrier: str
    dtype: int
    on_grid: bool = False
    host: bool = False
    half: bool = False
    constant: TensorProto | None = None


class Scope:
    """One graph being rewritten; names of enclosing graphs are visible.

    Attributes:
        tensors: by source name.
        rounded: source name -> tensor of its rounded values.
        nodes: of the rewritten graph.
        constants: of the rewritten graph, by name.
    """

    def __init__(self, parent: Scope | None = None) -> None:
        self.parent = parent
        self.tensors: dict[str, Tensor] = {}
        self.rounded: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, TensorProto] = {}

    @property
    def root(self) -> Scope:
        """The outermost graph."""
        return self if self.parent is None else self.parent.root

    def owner(self, name: str) -> Scope | None:
        """The innermost scope in which ``name`` is defined."""
        scope: Scope | None = self
        while scope is not None and name not in scope.tensors:
            scope = scope.parent
        return scope

    def tensor(self, name: str) -> Tensor:
        """What is known of ``name``; nothing, for a name that no graph defines (ONNX Runtime will say so)."""
        owner = self.owner(name)
        return Tensor(name, 0) if owner is None else owner.tensors[name]

    def rounded_name(self, name: str) -> str | None:
        """The tensor of the rounded values of ``name``, where one was made in reach."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.rounded:
                return scope.rounded[name]
            if name in scope.tensors:
                return None
            scope = scope.parent
        return None


class Writer(Protocol):
    """What one node is rewritten with: the `Rewriter` of its model, as a node sees it.

    Attributes:
        policy: who computes in float16.
        band: ``fused`` or ``unfused``.
        opset: of the default domain.
        types: element types by tensor name.
        half_outputs: graph outputs that leave as float16.
        saturates: whether overflow gives 65504 instead of infinity.
        counts: what was done so far.
    """

    policy: Policy
    band: str
    opset: int
    half_outputs: frozenset[str]
    saturates: bool
    counts: dict[str, int]

    @property
    def types(self) -> Mapping[str, int]:
        """See the attributes."""

    def graph(self, graph: onnx.GraphProto, scope: Scope) -> onnx.GraphProto:
        """See `Rewriter.graph`."""

    def constant_tensor(self, proto: TensorProto, scope: Scope) -> None:
        """See `Rewriter.constant_tensor`."""

    def fresh(self, name: str) -> str:
        """See `Rewriter.fresh`."""

    def shared(self, scope: Scope, values: Array) -> str:
        """See `Rewriter.shared`."""

    def value(self, scope: Scope, name: str) -> Array | None:
        """See `Rewriter.value`."""

    def round(self, scope: Scope, name: str) -> str:
        """See `Rewriter.round`."""

    def cast(
        self, scope: Scope, before: str, after: str, *, limit: bool, nan: bool = False, measured: str | None = None
    ) -> None:
        """See `Rewriter.cast`."""

    def limit(self, scope: Scope, tensor: str, low: float = ..., into: str | None = None) -> str:
        """See `Rewriter.limit`."""
