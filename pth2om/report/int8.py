"""What a card says of INT8: its layers, the worst of them, the two levels of its arithmetic, the way back to FP32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pth2om.evidence import GateRecord, StageRecord
from pth2om.language import Message
from pth2om.report.collect import Card
from pth2om.report.figures import number

MOST_LAYERS = 400
DRAWN_APART = ("proof", "errors", "layers", "pictures", "settings")
"""What the stage's record holds that this section shows in its own way."""

_TWIN, _OM = "fake-quant", "om"


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
    """

    name: str
    metric: str
    twin: GateRecord | None
    om: GateRecord | None


@dataclass(frozen=True)
class Int8:
    """The INT8 section of a card.

    Attributes:
        layers: in graph order; empty where the stage is in another card.
        more: how many further layers the evidence holds.
        pictures: of the worst layers, the worst first.
        levels: figures of the mathematical and of the NPU's level side by side.
        checkpoint: the gate of the FP32 checkpoint, or None.
        facts: dataset, images, algorithms: what was calibrated, as words.
    """

    layers: tuple[Layer, ...]
    more: int
    pictures: tuple[Picture, ...]
    levels: tuple[Level, ...]
    checkpoint: GateRecord | None
    facts: Mapping[str, str]

    @property
    def count(self) -> int:
        """How many layers are INT8."""
        return sum(layer.int8 for layer in self.layers) if not self.more else -1


def section(card: Card) -> Int8 | None:
    """What the card shows of INT8; None where it is about none."""
    stage = next((one for one in card.stages if one.stage == "quantized"), None)
    levels = _levels(card.gates)
    checkpoint = next((gate for gate in card.gates if gate.check.startswith("fp32-checkpoint/")), None)
    if stage is None and checkpoint is None and not any(level.twin for level in levels):
        return None
    details = stage.details if stage is not None else {}
    rows = [row for row in _rows(details.get("layers")) if isinstance(row.get("name"), str)]
    outputs = {row.get("layer"): number(row.get("sqnr_db")) for row in _rows(details.get("errors"))}
    layers = tuple(_layer(row, outputs) for row in rows[:MOST_LAYERS])
    return Int8(
        layers, max(0, len(rows) - len(layers)), tuple(_pictures(details)), tuple(levels), checkpoint, _facts(stage)
    )


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
        edges, counts = _series(data.get("edges")), _series(data.get("counts"))
        low, high = number(data.get("low")), number(data.get("high"))
        if low is not None and high is not None and counts and len(edges) == len(counts) + 1:
            found.append(Picture(str(layer), edges, counts, (low, high)))
    return found[:6]


def _facts(stage: StageRecord | None) -> dict[str, str]:
    if stage is None:
        return {}
    settings = stage.details.get("settings")
    settings = settings if isinstance(settings, Mapping) else {}
    named = {
        "dataset": stage.details.get("dataset"),
        "images": stage.details.get("images"),
        "activations": settings.get("activations"),
        "weights": settings.get("weights"),
    }
    return {name: str(value) for name, value in named.items() if isinstance(value, str | int)}


def _levels(gates: Sequence[GateRecord]) -> list[Level]:
    """Figures that both the fake-quant twin and the OM have, or one of them."""
    found: dict[tuple[str, str], dict[str, GateRecord]] = {}
    for gate in gates:
        parts = gate.check.split("/")
        if "~" in parts[0] and len(parts) >= 3:
            left, _, right = parts[0].partition("~")
            if left == "onnx" and right in (_TWIN, _OM) and parts[-1] != "new_nonfinite":
                found.setdefault(("/".join(parts[1:-1]), parts[-1]), {})[right] = gate
        elif parts[0] in (_TWIN, _OM) and parts[-1] in ("drop", "agreement"):
            name = gate.details.get("dataset")
            found.setdefault((name if isinstance(name, str) else "", "/".join(parts[1:])), {})[parts[0]] = gate
    return [
        Level(name, metric, pair.get(_TWIN), pair.get(_OM)) for (name, metric), pair in found.items() if _TWIN in pair
    ]


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list | tuple) else []


def _series(values: object) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or len(values) > 1000:
        return ()
    numbers = [number(value) for value in values]
    return tuple(value for value in numbers if value is not None) if None not in numbers else ()
