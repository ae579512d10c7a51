"""Checks layer by layer that the fake-quant twin computes the deploy model's integers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from pth2om.quantize.calibrate import MEMORY, Feeds, groups_by_memory
from pth2om.quantize.network import open_session, run_session
from pth2om.quantize.parts import Part
from pth2om.quantize.twins import _IntegerWriter, _rewrite, float_sums


@dataclass(frozen=True)
class LayerProof:
    """One layer: FP32 arithmetic compared with integer arithmetic on the same INT8 input.

    Attributes:
        layer: its name.
        largest_sum: the largest magnitude that a sum in the layer can reach, over all inputs.
        exact: ``largest_sum < 2**24``: equal for every input.
        compared: values compared.
        differing: how many of them were not equal bit for bit.
        largest_difference: the greatest absolute difference.
    """

    layer: str
    largest_sum: int
    exact: bool
    compared: int
    differing: int
    largest_difference: float


class _ProofWriter(_IntegerWriter):
    """The integer twin, with a copy of each layer in FP32 on the same integers."""

    def part(self, part: Part) -> None:
        super().part(part)
        name = self.quant_name(part)
        zero = self.constant(f"{part.name}.proof.zero", np.float32(part.offset))
        q = self.int8(part, name)
        wide = self.emit("Cast", [q], f"{part.name}.proof.cast", to=TensorProto.FLOAT)
        levels = self.emit("Sub", [wide, zero], f"{part.name}.proof.sub")
        sums = float_sums(self, part, levels)
        scale = self.constant(f"{part.name}.proof.scale", part.broadcast(part.deq_scale))
        result = self.emit("Mul", [sums, scale], f"{part.name}.proof.mul", None if part.relu else _proof(part))
        if part.relu:
            self.emit("Relu", [result], f"{part.name}.proof.relu", _proof(part))


def _proof(part: Part) -> str:
    return f"{part.name}.proof.result"


def prove(deploy: onnx.ModelProto, feeds: Iterable[Feeds], memory: int = MEMORY) -> list[LayerProof]:
    """Run every layer of a deploy model in FP32 and in integers on the same inputs, and compare bit for bit.

    Args:
        deploy: a deploy model.
        feeds: input batches; memory does not grow with their number.
        memory: bytes of results that one inference may return.

    Raises:
        QuantizeError: it is not a deploy model, or the feeds do not fit.
    """
    parts: list[Part] = []

    class Writer(_ProofWriter):
        def part(self, part: Part) -> None:
            parts.append(part)
            super().part(part)

    model = _rewrite(deploy, "", Writer)
    pairs = {part.name: (part.dequant.output[0], _proof(part)) for part in parts}
    compared = dict.fromkeys(pairs, 0)
    differing = dict.fromkeys(pairs, 0)
    largest = dict.fromkeys(pairs, 0.0)
    sessions: list[tuple[Any, list[str]]] = []
    for batch in feeds:
        if not sessions:
            outputs = [first for first, _ in pairs.values()]
            owner = {first: name for name, (first, _) in pairs.items()}
            for group in groups_by_memory(deploy, outputs, batch, memory // 2):
                names = [name for first in group for name in pairs[owner[first]]]
                sessions.append((open_session(model, outputs=names, exact=True), [owner[one] for one in group]))
        for session, layers in sessions:
            values = run_session(session, batch)
            for name in layers:
                first, second = (np.asarray(values[label], np.float32) for label in pairs[name])
                compared[name] += first.size
                unequal = first != second
                differing[name] += int(np.count_nonzero(unequal))
                if np.any(unequal):
                    largest[name] = max(largest[name], float(np.abs(first - second).max()))
    return [
        LayerProof(
            part.name,
            part.largest_sum,
            part.exact_in_float,
            compared[part.name],
            differing[part.name],
            largest[part.name],
        )
        for part in parts
    ]
