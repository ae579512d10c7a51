"""The INT8 section of a card: its layers, the worst of them, the two levels of arithmetic, the FP32 checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pth2om.evidence import GateRecord, StageRecord
from pth2om.language import Message
from pth2om.report.collect import Card
from pth2om.report.figures import number, series

MOST_LAYERS = 400
DRAWN_APART = ("proof", "errors", "layers", "pictures", "settings")
"""What the stage's record holds that this section shows in its own way."""

_TWIN, _OM, _APART = "fake-quant", "om", "apart"
_SIDES = {"onnx~fake-quant": _TWIN, "onnx~om": _OM, "fake-quant~om": _APART}


@dataclass(frozen=True)
class Layer:
    """One candidate layer.

    Attributes:
        name, kind: of the node.
        int8: whether it computes in INT8.
        reason: why it does not, or None.
        scale, offset: of its input; None where it stays in floating point.
        low, high: extremes of its input over the calibration images.
        clipped: share of its input outside of the chosen range.
        weight_db, input_db: signal to quantization noise of its weight and of its input alone.
        output_db: of its output, with the errors of all layers before it.
        rolls_back: whether ATC compiles it in FP16 nevertheless.
    """

    name: str
    kind: str
    int8: bool
    reason: Message | None
    scale: float | None
    offset: float | None
    low: float | None
    high: float | None
    clipped: float | None
    weight_db: float | None
    input_db: float | None
    output_db: float | None
    rolls_back: bool


@dataclass(frozen=True)
class Picture:
    """The input of one of the worst layers: histogram, and the range that INT8 covers."""

    layer: str
    edges: tuple[float, ...]
    counts: tuple[float, ...]
    span: tuple[float, float]


@dataclass(frozen=True)
class Level:
    """One figure at both levels.

    Attributes:
        name: a slice or a dataset.
        metric: which figure.
        twin: gate of the fake-quant twin, or None.
        om: gate of the OM, or None.
        apart: gate of the OM against the twin: the NPU's arithmetic alone; or None.
    """

    name: str
    metric: str
    twin: GateRecord | None
    om: GateRecord | None
    apart: GateRecord | None = None


@dataclass(frozen=True)
class Calibration:
    """What the ranges come from.

    Attributes:
        dataset: its name; empty when unknown.
        images: how many, or None.
        digest: sha256 of what was fed; empty when unknown.
        scored: whether accuracy is measured on the same images.
        random: whether they were random numbers, no images at all: no figure means anything then.
        activations, weights: the algorithms; empty when unknown.
        tool: what else than this package quantized: a program or a given file; empty when it was this package.
    """

    dataset: str
    images: int | None
    digest: str
    scored: bool
    random: bool
    activations: str
    weights: str
    tool: str = ""


@dataclass(frozen=True)
class Int8:
    """The INT8 section of a card.

    Attributes:
        layers: in graph order; empty where they are in another card.
        origin: the card that shows the layers instead; None where this one does.
        more: how many further layers the evidence holds.
        pictures: of the worst layers, the worst first.
        levels: figures of the mathematical and of the NPU's level side by side.
        checkpoint: the gate of the FP32 checkpoint, or None.
        calibration: what the ranges come from, or None.
        floating: why layers stay in floating point -> their names, in graph order.
        integers: how far the fake-quant model and integer arithmetic are apart, counted; empty when not measured.
    """

    layers: tuple[Layer, ...]
    more: int
    pictures: tuple[Picture, ...]
    levels: tuple[Level, ...]
    checkpoint: GateRecord | None
    calibration: Calibration | None
    floating: tuple[tuple[Message | None, tuple[str, ...]], ...]
    integers: Mapping[str, int]
    origin: Card | None = None

    @property
    def count(self) -> int:
        """How many layers are INT8."""
        return sum(layer.int8 for layer in self.layers) if not self.more else -1


def section(card: Card) -> Int8 | None:
    """What the card shows of INT8; None where it is about none."""
    stage = _stage(card)
    levels = _levels(card.gates)
    checkpoint = next((gate for gate in card.gates if gate.check.startswith("fp32-checkpoint/")), None)
    origin = card.origin if stage is None and card.origin is not None and _stage(card.origin) else None
    if stage is None and origin is None and checkpoint is None and not any(level.twin for level in levels):
        return None
    details = stage.details if stage is not None else {}
    rows = [row for row in _rows(details.get("layers")) if isinstance(row.get("name"), str)]
    outputs = {str(row.get("layer")): number(row.get("sqnr_db")) for row in _rows(details.get("errors"))}
    every = [_layer(row, outputs) for row in rows]
    return Int8(
        tuple(every[:MOST_LAYERS]),
        max(0, len(every) - MOST_LAYERS),
        tuple(_pictures(details)),
        tuple(levels),
        checkpoint,
        calibration(card),
        _floating(every),
        _integers(card.gates),
        origin,
    )


def calibration(card: Card) -> Calibration | None:
    """What the ranges of a card's INT8 model come from; None where no record says."""
    stage = _stage(card) or (_stage(card.origin) if card.origin is not None else None)
    if stage is None:
        return None
    settings = stage.details.get("settings")
    settings = settings if isinstance(settings, Mapping) else {}
    images = number(stage.details.get("images"))
    words = {
        name: value if isinstance(value, str) else ""
        for name, value in (
            ("dataset", stage.details.get("dataset")),
            ("tool", stage.details.get("quantized_by")),
            ("digest", stage.details.get("calibration_digest")),
            ("activations", settings.get("activations")),
            ("weights", settings.get("weights")),
        )
    }
    rules = {finding.rule for finding in stage.findings}
    return Calibration(
        # The calibration images of a model that was already quantized are unknown.
        images=int(images) if images is not None and math.isfinite(images) and images > 0 else None,
        scored="pipeline.calibrated-on-scored" in rules,
        random=stage.details.get("random_calibration") is True or "quantize.random-calibration" in rules,
        **words,
    )


def _stage(card: Card) -> StageRecord | None:
    return next((one for one in card.stages if one.stage == "quantized"), None)


def _integers(gates: Sequence[GateRecord]) -> dict[str, int]:
    gate = next((one for one in gates if one.check.startswith("quantized/twin-")), None)
    if gate is None:
        return {}
    counts = {name: number(gate.details.get(name)) for name in ("differing", "values", "exact", "layers")}
    found = {name: int(value) for name, value in counts.items() if value is not None and math.isfinite(value)}
    return found if len(found) == len(counts) else {}


def _floating(layers: Sequence[Layer]) -> tuple[tuple[Message | None, tuple[str, ...]], ...]:
    groups: dict[str, tuple[Message | None, list[str]]] = {}
    for layer in layers:
        if not layer.int8:
            groups.setdefault(repr(layer.reason), (layer.reason, []))[1].append(layer.name)
    return tuple((reason, tuple(names)) for reason, names in groups.values())


def _layer(row: Mapping[str, Any], outputs: Mapping[Any, float | None]) -> Layer:
    reason, values = row.get("reason"), row.get("values")
    plain = values if isinstance(values, Mapping) else {}
    figures = [number(row.get(name)) for name in ("scale", "offset", "low", "high", "clipped")]
    scale, offset, low, high, clipped = figures
    return Layer(
        row["name"],
        str(row.get("kind", "")),
        row.get("int8") is True,
        Message(reason, dict(plain)) if isinstance(reason, str) and reason else None,
        scale,
        offset,
        low,
        high,
        clipped,
        number(row.get("weight_sqnr_db")),
        number(row.get("input_sqnr_db")),
        outputs.get(row["name"]),
        row.get("rolls_back") is True,
    )


def _pictures(details: Mapping[str, Any]) -> list[Picture]:
    found = []
    drawn = details.get("pictures")
    for layer, data in drawn.items() if isinstance(drawn, Mapping) else ():
        if not isinstance(data, Mapping):
            continue
        edges, counts = series(data.get("edges")), series(data.get("counts"))
        low, high = number(data.get("low")), number(data.get("high"))
        if low is not None and high is not None and counts and len(edges) == len(counts) + 1:
            found.append(Picture(str(layer), edges, counts, (low, high)))
    return found[:6]


def _levels(gates: Sequence[GateRecord]) -> list[Level]:
    """Figures that both the fake-quant twin and the OM have, or one of them."""
    found: dict[tuple[str, str], dict[str, GateRecord]] = {}
    for gate in gates:
        parts = gate.check.split("/")
        if "~" in parts[0] and len(parts) >= 3:
            side = _SIDES.get(parts[0])
            if side is not None and parts[-1] != "new_nonfinite":
                found.setdefault(("/".join(parts[1:-1]), parts[-1]), {})[side] = gate
        elif parts[0] in (_TWIN, _OM) and parts[-1] in ("drop", "agreement"):
            name = gate.details.get("dataset")
            found.setdefault((name if isinstance(name, str) else "", "/".join(parts[1:])), {})[parts[0]] = gate
    return [
        Level(name, metric, pair.get(_TWIN), pair.get(_OM), pair.get(_APART))
        for (name, metric), pair in found.items()
        if _TWIN in pair or _APART in pair
    ]


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list | tuple) else []
