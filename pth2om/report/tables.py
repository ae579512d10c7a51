"""The tables of a card: closeness side by side per slice, accuracy, latency, and the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pth2om.evidence import GateRecord
from pth2om.report.collect import VERDICTS, Card
from pth2om.report.figures import number

PAIRS = ("torch~onnx", "onnx~om", "torch~om")
METRICS = (
    "cosine",
    "relative_l2",
    "mean_abs",
    "max_abs",
    "sqnr_db",
    "within_tolerance",
    "topk_agreement",
    "new_nan",
    "new_inf",
)
_MOST_DISAGREEMENTS = 200


@dataclass(frozen=True)
class Cell:
    """One metric of one pair: a gate, or a figure that nobody judged.

    Attributes:
        gate: the gate, or None.
        value: the figure where there is no gate.
        bands: the emulator's two values, ``fused`` and ``unfused``, where they are known.
    """

    gate: GateRecord | None
    value: float | None = None
    bands: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Side:
    """What is known about one pair on one slice besides its metrics.

    Attributes:
        pair: ``torch~onnx``.
        ground: where the figures come from.
        sample: name of the worst sample.
        edges, counts: histogram of the absolute error; counts has one entry less than edges.
    """

    pair: str
    ground: str
    sample: str | None = None
    edges: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()


@dataclass
class SliceTable:
    """Closeness of one slice, the pairs side by side.

    Attributes:
        name: the slice.
        sides: one per pair that was compared, in reading order.
        rows: metric -> one cell per side, None where it was not compared.
    """

    name: str
    sides: list[Side]
    rows: dict[str, list[Cell | None]]


@dataclass(frozen=True)
class Score:
    """One accuracy gate with both sides.

    Attributes:
        gate: the gate.
        dataset, metric: what was scored; empty when unknown.
        n: number of images, or None.
        reference, candidate: the two scores, or None.
        needed: images that would settle it, or None.
        disagreements: (image, reference, candidate) texts.
        more: how many further disagreements are not in the list.
    """

    gate: GateRecord
    dataset: str
    metric: str
    n: int | None
    reference: float | None
    candidate: float | None
    needed: int | None
    disagreements: tuple[tuple[str, str, str], ...]
    more: int


@dataclass(frozen=True)
class Speed:
    """One latency gate.

    Attributes:
        gate: the gate.
        subject: ``torch``, ``onnx``, ``om``.
        p50, p90, p99: milliseconds per batch, or None.
        fps: images per second, or None.
        batch, runs: or None.
        roofline: lower bound in milliseconds out of the SoC's peak figures; an estimate; or None.
    """

    gate: GateRecord
    subject: str
    p50: float | None
    p90: float | None
    p99: float | None
    fps: float | None
    batch: int | None
    runs: int | None
    roofline: float | None


def closeness(card: Card) -> list[SliceTable]:
    """Closeness gates of a card, the model's own included, one table per slice."""
    gates: dict[str, dict[str, dict[str, GateRecord]]] = {}
    details: dict[tuple[str, str], dict[str, Any]] = {}
    for gate in (*card.shared, *card.gates):
        place = _closeness_place(gate)
        if place is None:
            continue
        pair, name, metric = place
        cells = gates.setdefault(name, {}).setdefault(pair, {})
        # The same check twice (a merged or repeated run): the worse verdict is the one shown.
        if metric not in cells or VERDICTS.index(gate.verdict) <= VERDICTS.index(cells[metric].verdict):
            cells[metric] = gate
        details.setdefault((name, pair), {}).update(gate.details)
    return [_slice_table(name, pairs, details) for name, pairs in gates.items()]


def _closeness_place(gate: GateRecord) -> tuple[str, str, str] | None:
    """(pair, slice, metric) of a closeness gate, or None for another."""
    parts = gate.check.split("/")
    if gate.question not in ("closeness", "export", "quantization") or len(parts) < 3 or "~" not in parts[0]:
        return None
    return parts[0], "/".join(parts[1:-1]), parts[-1]


def in_closeness(gate: GateRecord) -> bool:
    """Whether `closeness` shows this gate."""
    return _closeness_place(gate) is not None


def _slice_table(
    name: str, pairs: Mapping[str, Mapping[str, GateRecord]], details: Mapping[tuple[str, str], Mapping[str, Any]]
) -> SliceTable:
    order = sorted(pairs, key=lambda pair: PAIRS.index(pair) if pair in PAIRS else len(PAIRS))
    sides = [_side(pair, next(iter(pairs[pair].values())).ground, details[name, pair]) for pair in order]
    judged = {metric for pair in order for metric in pairs[pair]}
    loose = {pair: _numbers(details[name, pair].get("metrics")) for pair in order}
    metrics = judged | {metric for values in loose.values() for metric in values}
    rows: dict[str, list[Cell | None]] = {}
    for metric in sorted(metrics, key=lambda word: (_metric_order(word), word)):
        cells: list[Cell | None] = []
        for pair in order:
            gate = pairs[pair].get(metric)
            if gate is not None:
                cells.append(Cell(gate, bands=_bands(gate)))
            elif metric in loose[pair]:
                cells.append(Cell(None, loose[pair][metric]))
            else:
                cells.append(None)
        rows[metric] = cells
    return SliceTable(name, sides, rows)


def _metric_order(metric: str) -> int:
    return METRICS.index(metric) if metric in METRICS else len(METRICS)


def _bands(gate: GateRecord) -> dict[str, float]:
    return _numbers(gate.details.get("bands"))


def _side(pair: str, ground: str, details: Mapping[str, Any]) -> Side:
    side = Side(pair, ground)
    sample = details.get("sample")
    side.sample = sample if isinstance(sample, str) else None
    histogram = details.get("histogram")
    if isinstance(histogram, Mapping):
        edges, counts = _series(histogram.get("edges")), _series(histogram.get("counts"))
        if counts and len(edges) == len(counts) + 1:
            side.edges, side.counts = edges, counts
    return side


def _series(values: object) -> tuple[float, ...]:
    if not isinstance(values, list | tuple) or len(values) > 1000:
        return ()
    numbers = [number(value) for value in values]
    return tuple(value for value in numbers if value is not None) if None not in numbers else ()


def _numbers(values: object) -> dict[str, float]:
    """The entries of a JSON object that are numbers."""
    if not isinstance(values, Mapping):
        return {}
    found = {str(name): number(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def scores(gates: Iterable[GateRecord]) -> list[Score]:
    """Accuracy gates that have two sides or an interval."""
    return [_score(gate) for gate in gates if is_score(gate)]


def is_score(gate: GateRecord) -> bool:
    """Whether an accuracy gate compares two scores, or has an interval to draw."""
    return gate.question in ("accuracy", "quantization") and (
        "reference" in gate.details or "candidate" in gate.details or gate.interval is not None
    )


def _score(gate: GateRecord) -> Score:
    details = gate.details
    listed = details.get("disagreements")
    listed = listed if isinstance(listed, list | tuple) else ()
    shown = tuple(
        (str(entry.get("image", "")), str(entry.get("reference", "")), str(entry.get("candidate", "")))
        for entry in listed[:_MOST_DISAGREEMENTS]
        if isinstance(entry, Mapping)
    )
    total = _whole(details.get("disagreements_total")) or len(listed)
    return Score(
        gate,
        dataset=_word(details.get("dataset")),
        metric=_word(details.get("metric")) or gate.check.split("/")[0],
        n=_whole(details.get("n")),
        reference=number(details.get("reference")),
        candidate=number(details.get("candidate")),
        needed=_whole(details.get("needed_images")),
        disagreements=shown,
        more=max(0, total - len(shown)),
    )


def speeds(gates: Iterable[GateRecord]) -> list[Speed]:
    """Latency gates, PyTorch first, then ONNX, then OM."""
    order = ("torch", "onnx", "om")
    found = [_speed(gate) for gate in gates if gate.question == "latency"]
    return sorted(found, key=lambda speed: order.index(speed.subject) if speed.subject in order else len(order))


def _speed(gate: GateRecord) -> Speed:
    details = gate.details
    metric = gate.check.rpartition("/")[2]
    value = gate.measured
    return Speed(
        gate,
        subject=gate.check.partition("/")[0],
        p50=_first(number(details.get("p50_ms")), value if metric in ("p50", "p50_ms", "latency") else None),
        p90=number(details.get("p90_ms")),
        p99=number(details.get("p99_ms")),
        fps=_first(number(details.get("fps")), value if metric == "fps" else None),
        batch=_whole(details.get("batch")),
        runs=_whole(details.get("runs")),
        roofline=number(details.get("roofline_ms")),
    )


def others(gates: Sequence[GateRecord]) -> list[GateRecord]:
    """The gates that no special table shows; failures first."""
    rest = [gate for gate in gates if not in_closeness(gate) and not is_score(gate) and gate.question != "latency"]
    return sorted(rest, key=lambda gate: VERDICTS.index(gate.verdict))


def _whole(value: object) -> int | None:
    real = number(value)
    return int(real) if real is not None and abs(real) < 1e15 else None


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
