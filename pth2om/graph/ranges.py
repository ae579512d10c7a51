"""Which values an INT64 tensor can hold: interval arithmetic from constants, shapes and indices onwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pth2om.graph.document import Document
from pth2om.graph.surgery import Scope, scopes
from pth2om.onnxfile.walking import STANDARD, Types, input_of, integer, integers, opset

if TYPE_CHECKING:
    from onnx import NodeProto

Interval = tuple[int, int]
"""Smallest and largest value, both inclusive."""

INT32: Interval = (-(2**31), 2**31 - 1)
SIZE: Interval = (0, 2**31 - 1)
"""A size or an index: no tensor that runs here has a longer axis."""

ARITHMETIC = frozenset(
    [
        "Abs",
        "Add",
        "Clip",
        "CumSum",
        "Div",
        "Max",
        "Min",
        "Mod",
        "Mul",
        "Neg",
        "ReduceMax",
        "ReduceMin",
        "ReduceSum",
        "Sub",
        "Where",
    ]
)
"""What runs on AI CPU for INT64 and has an INT32 kernel in ONNX at every opset from 11 on."""
MOVING = frozenset(
    [
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "Identity",
        "Reshape",
        "Slice",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    ]
)
"""What hands values on."""

_INT64 = 7
_SINCE_13 = frozenset({"Clip", "Max", "Min"})


class Ranges:
    """Intervals of a model's INT64 tensors.

    Args:
        document: the model.
        known: its tensors' types.
        trust_inputs: whether INT64 graph inputs are taken to fit INT32.
    """

    def __init__(self, document: Document, known: Types, *, trust_inputs: bool) -> None:
        self._known = known
        self._found: dict[str, Interval] = {}
        self._folded: set[str] = set()
        version = opset(document.model)
        if trust_inputs:
            for value in document.graph.input:
                self._found[value.name] = INT32
        seen: set[str] = set()
        for scope in scopes(document):
            for tensor in scope.graph.initializer:
                self._constant(scope, tensor.name)
            for node in scope.graph.node:
                repeated = seen.intersection(node.output)
                seen.update(node.output)
                if node.domain not in STANDARD:
                    continue
                if node.op_type == "Constant" and node.output:
                    self._constant(scope, node.output[0])
                    continue
                found = self._of(node, scope)
                if repeated:
                    # The same name in another branch: nothing is said of either.
                    for name in node.output:
                        self._found.pop(name, None)
                elif found is not None and (version >= 12 or node.op_type not in _SINCE_13):
                    for name in self._whole_outputs(node):
                        self._found[name] = found
                self._fold(node)

    def fits(self, name: str) -> bool:
        """Whether every value of that tensor is known to be an INT32."""
        interval = self._found.get(name)
        return interval is not None and INT32[0] <= interval[0] and interval[1] <= INT32[1]

    def interval(self, name: str) -> Interval | None:
        """What is known of a tensor's values."""
        return self._found.get(name)

    def folded(self, name: str) -> bool:
        """Whether ATC computes the tensor while it compiles: made of constants and of static shapes."""
        return name in self._folded

    def _constant(self, scope: Scope, name: str) -> None:
        tensor = scope.constants.get(name)
        if tensor is None:
            return
        self._folded.add(name)
        if tensor.data_type not in (6, _INT64, 2, 3, 4, 5, 9):
            return
        array = scope.values(name)
        if array is not None:
            self._found[name] = (int(array.min()), int(array.max())) if array.size else (0, 0)

    def _whole_outputs(self, node: NodeProto) -> list[str]:
        if node.op_type == "TopK":
            return list(node.output[1:])
        if node.op_type == "Unique":
            return list(node.output[1:])
        return list(node.output)

    def _fold(self, node: NodeProto) -> None:
        if node.op_type in ("Shape", "Size"):
            sizes = self._known.get(input_of(node, 0), (0, None))[1]
            if sizes is not None and min(sizes, default=0) >= 0:
                self._folded.update(node.output)
        elif node.op_type in ARITHMETIC | MOVING | {"Cast", "ConstantOfShape", "Range", "Equal"} and all(
            name in self._folded for name in node.input if name
        ):
            self._folded.update(node.output)

    def _of(self, node: NodeProto, scope: Scope) -> Interval | None:
        """The interval of a node's whole-number outputs."""
        kind = node.op_type
        if kind in ("Shape", "Size", "NonZero", "ArgMax", "ArgMin", "TopK", "Unique"):
            return self._index(node)
        if kind in ("Cast", "CastLike"):
            return self._cast(node)
        if kind == "Range":
            return self._hull(node.input[:2])
        if kind == "ConstantOfShape":
            return self._filled(node)
        if kind == "OneHot":
            return self._found.get(input_of(node, 2))
        if kind in MOVING:
            return self._hull(node.input if kind == "Concat" else node.input[:1])
        if kind in ARITHMETIC:
            return self._computed(node, scope)
        return None

    def _index(self, node: NodeProto) -> Interval:
        sizes = self._known.get(input_of(node, 0), (0, None))[1]
        if node.op_type != "Size" and sizes and min(sizes) >= 0:
            return (0, max(sizes))
        return SIZE

    def _cast(self, node: NodeProto) -> Interval | None:
        source = input_of(node, 0)
        kind = self._known.get(source, (0, None))[0]
        small = {9: (0, 1), 2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767), 6: INT32}
        return self._found.get(source) or small.get(kind)

    def _filled(self, node: NodeProto) -> Interval | None:
        for item in node.attribute:
            if item.name == "value" and item.t.data_type in (6, _INT64):
                from onnx import numpy_helper

                values = np.asarray(numpy_helper.to_array(item.t)).ravel()
                return (int(values[0]), int(values[0])) if values.size else None
        return None

    def _hull(self, names: object) -> Interval | None:
        found = [self._found.get(name) for name in names if name]  # type: ignore[attr-defined]  # names of a node
        if not found or any(interval is None for interval in found):
            return None
        return min(one[0] for one in found if one), max(one[1] for one in found if one)

    def _computed(self, node: NodeProto, scope: Scope) -> Interval | None:
        kind = node.op_type
        if kind == "Where":
            return self._hull(node.input[1:3])
        if kind in ("ReduceMax", "ReduceMin"):
            return self._found.get(input_of(node, 0))
        if kind in ("Max", "Min"):
            parts = [self._found.get(name) for name in node.input]
            if any(part is None for part in parts):
                return None
            pick = max if kind == "Max" else min
            return pick(part[0] for part in parts if part), pick(part[1] for part in parts if part)
        first = self._found.get(input_of(node, 0))
        if first is None:
            return None
        if kind == "Neg":
            return -first[1], -first[0]
        if kind == "Abs":
            return (0 if first[0] <= 0 <= first[1] else min(abs(first[0]), abs(first[1]))), max(map(abs, first))
        if kind == "Clip":
            return first
        if kind in ("ReduceSum", "CumSum"):
            count = self._count(node, scope)
            return None if count is None else (min(first[0] * count, first[0], 0), max(first[1] * count, first[1], 0))
        second = self._found.get(input_of(node, 1))
        return None if second is None else _binary(kind, first, second, fmod=integer(node, "fmod", 0) == 1)

    def _count(self, node: NodeProto, scope: Scope) -> int | None:
        """How many values are summed at most."""
        sizes = self._known.get(input_of(node, 0), (0, None))[1]
        if sizes is None or min(sizes, default=0) < 0:
            return None
        axes = integers(node, "axes") if node.op_type == "ReduceSum" else None
        if input_of(node, 1):
            axes = scope.integers(input_of(node, 1))
        if axes is None or any(not -len(sizes) <= axis < len(sizes) for axis in axes):
            axes = list(range(len(sizes)))
        return int(np.prod([sizes[axis] for axis in axes or range(len(sizes))], dtype=object))


def _binary(kind: str, a: Interval, b: Interval, *, fmod: bool) -> Interval | None:
    if kind == "Add":
        return a[0] + b[0], a[1] + b[1]
    if kind == "Sub":
        return a[0] - b[1], a[1] - b[0]
    if kind == "Mul":
        corners = [x * y for x in a for y in b]
        return min(corners), max(corners)
    if kind == "Div":
        # Truncation or floor: either stays between the corners, give or take one.
        if b[0] <= 0 <= b[1]:
            return None
        corners = [x // y for x in a for y in b]
        return min(corners) - 1, max(corners) + 1
    if kind == "Mod":
        if b[0] <= 0 <= b[1]:
            return None
        most = max(abs(b[0]), abs(b[1])) - 1
        return (-most, most) if fmod or b[0] < 0 else (0, most)
    return None
