"""What a pass is: a module with a name, a bound it promises, and a function that changes a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pth2om.ascend.versions import DEFAULT
from pth2om.language import Message

if TYPE_CHECKING:
    from pth2om.graph.document import Document

EQUAL = 0.0
"""The bound of a pass whose outputs are bit-equal."""
ROUNDING = 1e-5
"""Relative L2 for a pass that computes the same in another order: float32 carries 6e-8, deep nets add up to 1e-6."""

HALF_ROUNDING = 5e-3
"""The same for outputs in float16 or bfloat16, which carry 5e-4 and 4e-3."""


@dataclass(frozen=True)
class PassSettings:
    """The settings of the passes.

    Attributes:
        input_shapes: graph input to its sizes.
        outputs: tensors or nodes at which the graph is cut; empty: nowhere.
        opset: the opset to convert to.
        cann: whose parser decides what has to be decomposed: ``7.0``, ``8.0`` or ``9.x``.
        asked: passes that were asked for by name; some do more then.
        decompose: operators to decompose although ATC registers them.
        int32_inputs: INT64 graph inputs become INT32.
        simplifier: ``auto``, ``onnxslim`` or ``onnxsim``.
        time_limit: of the simplifier, in seconds.
        keep_unproven: keep what could not be proven because ONNX Runtime does not run the model.
    """

    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    opset: int = 17
    cann: str = DEFAULT
    asked: frozenset[str] = frozenset()
    decompose: frozenset[str] = frozenset()
    int32_inputs: bool = False
    simplifier: str = "auto"
    time_limit: float = 300.0
    keep_unproven: bool = False


@dataclass
class Applied:
    """The result of a pass.

    Attributes:
        count: how many places it changed; 0: nothing at all.
        nodes: names of nodes or tensors concerned.
        left: what it could not fix, and why.
        notes: consequences of the change for the user (for example a new dtype of an output).
        values: further values of the pass's sentence ``graph.<name>``.
    """

    count: int = 0
    nodes: Sequence[str] = ()
    left: Sequence[Message] = ()
    notes: Sequence[Message] = ()
    values: Mapping[str, str | int | float] = field(default_factory=dict)


class Pass(Protocol):
    """A module of `pth2om.graph.passes`.

    Attributes:
        NAME: as in ``pth2om fix --pass NAME``.
        BOUND: `EQUAL`, or the largest relative L2 between the outputs before and after.
        STRUCTURAL: whether the change follows from the ONNX text alone, so that it is kept where ONNX Runtime cannot
            run the model (custom operators); the finding then says that it was not proven.
    """

    NAME: str
    BOUND: float
    STRUCTURAL: bool

    def apply(self, document: Document, settings: PassSettings) -> Applied:
        """Change the document in place."""
