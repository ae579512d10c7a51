"""The loss from INT8: the error at every layer's output, and every layer's own effect on the model's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from pth2om.quantize.calibrate import MEMORY, Feeds, Progress, groups_by_memory
from pth2om.quantize.effects import Effect
from pth2om.quantize.network import open_session, run_session
from pth2om.quantize.plan import Plan
from pth2om.quantize.twins import fake_quant


@dataclass(frozen=True)
class LayerError:
    """The difference between a layer's output in the INT8 model and in the float model, over some images.

    Attributes:
        layer: its name.
        tensor: the compared output, before the activation function.
        sqnr_db: signal to quantization noise, including the errors of all layers before it; infinite if equal.
        cosine: similarity; 1 if both are zero.
        largest: greatest absolute difference.
    """

    layer: str
    tensor: str
    sqnr_db: float
    cosine: float
    largest: float


class _Sums:
    """Running sums of a pair of tensors."""

    def __init__(self) -> None:
        self.signal = self.other = self.product = self.noise = self.largest = 0.0

    def add(self, first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> None:
        a, b = first.reshape(-1), second.reshape(-1)
        # FP32 pieces summed in double precision: accurate enough for decibels, without copies of double size.
        for start in range(0, a.size, 1 << 20):
            x, y = a[start : start + (1 << 20)], b[start : start + (1 << 20)]
            gap = x - y
            self.signal += float(np.dot(x, x))
            self.other += float(np.dot(y, y))
            self.product += float(np.dot(x, y))
            self.noise += float(np.dot(gap, gap))
            self.largest = max(self.largest, float(np.abs(gap).max()))

    @property
    def sqnr_db(self) -> float:
        if self.noise == 0:
            return float("inf")
        return float("-inf") if self.signal == 0 else float(10 * np.log10(self.signal / self.noise))

    @property
    def cosine(self) -> float:
        if self.signal == 0 or self.other == 0:
            return 1.0 if self.signal == self.other else 0.0
        return float(self.product / np.sqrt(self.signal * self.other))


def layer_errors(
    plan: Plan, feeds: Iterable[Feeds], *, memory: int = MEMORY, progress: Progress | None = None
) -> list[LayerError]:
    """The error at each INT8 layer's output, from running the float model and its fake-quant twin on the same data.

    Memory use is one batch's activations of both (at most ``memory`` bytes at a time), whatever the number of batches.
    """
    owner = {quantized.layer.output: name for name, quantized in plan.quantized.items()}
    renamed = {tensor: plan.renamed.get(name, tensor) for tensor, name in owner.items()}
    sums = {tensor: _Sums() for tensor in owner}
    sessions: list[tuple[Any, Any, list[str]]] = []
    for number, batch in enumerate(feeds, 1):
        if not sessions:
            sessions = _side_by_side(plan, renamed, batch, memory)
        for reference, quantized, group in sessions:
            wanted = run_session(reference, batch, group)
            got = run_session(quantized, batch, [renamed[tensor] for tensor in group])
            for tensor in group:
                other = got.pop(renamed[tensor])
                sums[tensor].add(np.asarray(wanted.pop(tensor), np.float32), np.asarray(other, np.float32))
        if progress is not None:
            progress(number, None)
    return [LayerError(owner[tensor], tensor, one.sqnr_db, one.cosine, one.largest) for tensor, one in sums.items()]


def _side_by_side(
    plan: Plan, renamed: Mapping[str, str], batch: Feeds, memory: int
) -> list[tuple[Any, Any, list[str]]]:
    """Sessions of the float model and of its twin that return tensors, in groups that fit ``memory``.

    ``renamed`` maps each tensor's name in the float model to that in the twin. One model is released before the next is
    made, because each model and each session contains all weights.
    """
    model = plan.model
    groups = groups_by_memory(model, list(renamed), batch, memory // 2)
    references = [open_session(model, outputs=group) for group in groups]
    del model
    twin = fake_quant(plan.deploy())
    return [
        (one, open_session(twin, outputs=[renamed[tensor] for tensor in group]), group)
        for one, group in zip(references, groups, strict=True)
    ]


def own_effects(plan: Plan, feeds: Sequence[Feeds], progress: Progress | None = None) -> list[Effect]:
    """Every INT8 layer's own effect on the outputs, the most harmful layer first.

    Each layer is quantized alone and the model run on ``feeds``; nothing is retrained.
    """
    model = plan.model
    outputs = [value.name for value in model.graph.output]
    reference = open_session(model)
    wanted = [run_session(reference, batch, outputs) for batch in feeds]
    effects = []
    for number, name in enumerate(plan.quantized, 1):
        effects.append(Effect(name, output_sqnr(fake_quant(plan.deploy([name])), feeds, wanted)))
        if progress is not None:
            progress(number, len(plan.quantized))
    # With equal effects the later layer comes first: it affects fewer layers, and the order is the same everywhere.
    return sorted(effects, key=lambda effect: effect.sqnr_db)


def output_sqnr(model: onnx.ModelProto, feeds: Sequence[Feeds], wanted: Sequence[dict[str, Any]]) -> float:
    """The smallest SQNR in decibels over a model's float outputs, compared with the reference outputs."""
    session = open_session(model)
    sums: dict[str, _Sums] = {}
    for batch, reference in zip(feeds, wanted, strict=True):
        values = run_session(session, batch, list(reference))
        for name, value in reference.items():
            if value.dtype.kind == "f":
                one = sums.setdefault(name, _Sums())
                one.add(np.asarray(value, np.float32), np.asarray(values[name], np.float32))
    return min((one.sqnr_db for one in sums.values()), default=float("inf"))


def range_picture(plan: Plan, layer: str, bars: int = 96) -> dict[str, Any]:
    """A layer's input distribution with its chosen range, for a plot.

    Returns:
        ``edges`` (bars + 1), ``counts`` (bars), ``low`` and ``high`` of the INT8 range, ``scale``, ``offset``.
    """
    quantized = plan.quantized[layer]
    histogram = plan.calibration.histograms[quantized.layer.input]
    values, counts = histogram.points()
    # Bars of a constant tensor also need a width.
    least = max(1e-12, 1e-6 * abs(histogram.lowest))
    edges = np.linspace(histogram.lowest, max(histogram.highest, histogram.lowest + least), bars + 1)
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bars - 1)
    return {
        "edges": [float(edge) for edge in edges],
        "counts": [int(count) for count in np.bincount(bins, counts, minlength=bars)],
        "low": quantized.activation.lowest,
        "high": quantized.activation.highest,
        "scale": float(quantized.activation.scale),
        "offset": quantized.activation.offset,
    }
