"""The tables of a card: closeness side by side per slice, accuracy, latency, and the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pth2om.evidence import GateRecord
from pth2om.language import SAMPLES_ARE
from pth2om.report.collect import VERDICTS, Card
from pth2om.report.figures import number, series, text

PAIRS = (
    "torch~torchscript",
    "torchscript~onnx",
    "torch~onnx",
    "onnx~fake-quant",
    "fake-quant~om",
    "onnx~om",
    "torch~om",
    "torchscript~om",
    "static~om",
    "plain~aipp",
)
METRICS = (
    "cosine",
    "relative_l2",
    "mean_abs",
    "max_abs",
    "sqnr_db",
    "within_tolerance",
    "shift_pixels",
    "top1_agreement",
    "top5_overlap",
    "equal",
    "new_nonfinite",
    "lost_nonfinite",
    "undefined",
    "column_l2",
    "reference_peak",
)
_MOST_DISAGREEMENTS = 200
_COLUMNS = ("file", "image", "label", "reference", "candidate", "lost", "false_alarms")
_NO_METRIC = ("torch", "onnx", "om", "fake-quant", "int8-weights", "drop", "expected", "score")
_MOSTLY_ZERO = ("equal", "lost_nonfinite", "undefined")
_WORST_FIRST = ("failed", "not_reached", "inconclusive", "not_measured", "passed", "shown")


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
        sample: name of the worst sample: of the first metric that failed, else of the first that names one.
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
    """One accuracy gate.

    Attributes:
        gate: the gate.
        dataset, metric: what was scored; empty when unknown.
        n: number of images, or None.
        of: what they are: ``images``, ``volumes``, ``samples``.
        reference, candidate: the two scores, or None.
        needed: images that would settle it, or None.
        columns: what is known of each image on which the two sides disagree.
        disagreements: one text per column and image.
        more: how many further disagreements are not in the list.
    """

    gate: GateRecord
    dataset: str
    metric: str
    n: int | None
    of: str
    reference: float | None
    candidate: float | None
    needed: int | None
    columns: tuple[str, ...]
    disagreements: tuple[tuple[str, ...], ...]
    more: int


@dataclass(frozen=True)
class Speed:
    """What is known about one thing that was timed.

    Attributes:
        gate: the gate with the worst verdict.
        gates: all of them.
        subject: ``torch``, ``onnx``, ``om``.
        p50, p90, p99: milliseconds per batch, or None.
        fps: images per second, or None.
        batch, runs: or None.
        roofline: lower bound in milliseconds out of the SoC's peak figures; an estimate; or None.
    """

    gate: GateRecord
    gates: tuple[GateRecord, ...]
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
    sides = [_side(pair, list(pairs[pair].values()), details[name, pair]) for pair in order]
    judged = {metric for pair in order for metric in pairs[pair]}
    loose = {pair: _worst_figures(details[name, pair].get("metrics")) for pair in order}
    # A figure nobody judged is left out where it says nothing.
    metrics = judged | {
        metric for values in loose.values() for metric, value in values.items() if value or metric not in _MOSTLY_ZERO
    }
    rows: dict[str, list[Cell | None]] = {}
    for metric in sorted(metrics, key=lambda word: (_metric_order(word), word)):
        cells: list[Cell | None] = []
        for pair in order:
            gate = pairs[pair].get(metric)
            if gate is not None:
                cells.append(Cell(gate, bands=_bands(gate, details[name, pair].get("metrics"))))
            elif metric in loose[pair]:
                cells.append(Cell(None, loose[pair][metric]))
            else:
                cells.append(None)
        rows[metric] = cells
    return SliceTable(name, sides, rows)


def _metric_order(metric: str) -> int:
    return METRICS.index(metric) if metric in METRICS else len(METRICS)


def _bands(gate: GateRecord, figures: object) -> dict[str, float]:
    """The two values of the emulator: of the gate's own details, or of its metric in those of its slice."""
    own = _numbers(gate.details.get("bands"))
    if own or not isinstance(figures, Mapping):
        return own
    entry = figures.get(gate.check.rpartition("/")[2])
    return _numbers(entry.get("bands")) if isinstance(entry, Mapping) else {}


def _worst_figures(figures: object) -> dict[str, float]:
    """Metric -> its worst value, out of ``{"cosine": 0.99}`` or ``{"cosine": {"worst": 0.99, "sample": ...}}``."""
    if not isinstance(figures, Mapping):
        return {}
    return _numbers(
        {name: entry.get("worst") if isinstance(entry, Mapping) else entry for name, entry in figures.items()}
    )


def _side(pair: str, gates: Sequence[GateRecord], details: Mapping[str, Any]) -> Side:
    side = Side(pair, gates[0].ground)
    by_verdict = sorted(gates, key=lambda gate: gate.verdict != "failed")
    named = [gate.details.get(key) for gate in by_verdict for key in ("worst", "sample")]
    side.sample = next((name for name in named if isinstance(name, str)), None)
    histogram = details.get("histogram")
    if isinstance(histogram, Mapping):
        side.edges, side.counts = _histogram(histogram)
    return side


def _histogram(data: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Edges and counts; ``log10_edges`` have a count below the first and one beyond the last edge as well."""
    counts = series(data.get("counts"))
    edges = series(data.get("edges"))
    logs = series(data.get("log10_edges"))
    if logs and len(counts) == len(logs) + 1 and all(abs(edge) < 100 for edge in logs):
        edges = (0.0, *(10.0**edge for edge in logs))
        # What is beyond the last edge is drawn as one more bin, so that nothing large is hidden.
        edges, counts = ((*edges, edges[-1] * 10), counts) if counts[-1] else (edges, counts[:-1])
        filled = [index for index, count in enumerate(counts) if count]
        if filled:
            first, last = filled[0], filled[-1] + 1
            edges, counts = edges[first : last + 1], counts[first:last]
    return (edges, counts) if counts and len(edges) == len(counts) + 1 else ((), ())


def _numbers(values: object) -> dict[str, float]:
    """The entries of a JSON object that are numbers."""
    if not isinstance(values, Mapping):
        return {}
    found = {str(name): number(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def scores(gates: Iterable[GateRecord]) -> list[Score]:
    """Accuracy gates that were measured."""
    return [_score(gate) for gate in gates if is_score(gate)]


def is_score(gate: GateRecord) -> bool:
    """Whether the accuracy table shows this gate."""
    if gate.question not in ("accuracy", "quantization") or gate.measured is None:
        return False
    return gate.question == "accuracy" or gate.interval is not None or "reference" in gate.details


def _score(gate: GateRecord) -> Score:
    details = gate.details
    lists = [details.get(name) for name in ("disagreements", "lost", "gained", "changed", "differing")]
    listed = [entry for entries in lists if isinstance(entries, list | tuple) for entry in entries]
    rows = [entry if isinstance(entry, Mapping) else {"image": entry} for entry in listed]
    columns = [name for name in _COLUMNS if any(name in row for row in rows)]
    if "file" in columns and "image" in columns:
        columns.remove("image")
    counted = [_whole(details.get(name)) for name in ("lost_count", "gained_count")]
    total = sum(many for many in counted if many is not None) if "lost_count" in details else len(rows)
    parts = [part for part in gate.check.split("/") if part not in _NO_METRIC]
    return Score(
        gate,
        dataset=_word(details.get("dataset")),
        metric=_word(details.get("metric")) or (parts[0] if parts else ""),
        n=_first_whole(details.get("n"), details.get("images")),
        reference=_first(number(details.get("reference")), number(details.get("expected"))),
        candidate=_first(number(details.get("candidate")), number(details.get("score"))),
        of=samples_of(gate),
        needed=needed_images(gate),
        columns=tuple(columns),
        disagreements=tuple(tuple(_cell(row.get(name)) for name in columns) for row in rows[:_MOST_DISAGREEMENTS]),
        more=max(0, total - min(len(rows), _MOST_DISAGREEMENTS)),
    )


COUNTED = ("images", "volumes", "samples")
"""Units of what a data set holds."""


def samples_of(gate: GateRecord) -> str:
    """Which of `COUNTED` a gate was scored on."""
    found = gate.details.get(SAMPLES_ARE)
    return next((word for word in COUNTED if word == found), "images")


def needed_images(gate: GateRecord) -> int | None:
    """How many images would settle an inconclusive gate, where that is known."""
    needed = _first_whole(gate.details.get("images_needed"), gate.details.get("needed_images"))
    return needed if needed is not None and gate.verdict == "inconclusive" and needed > 0 else None


def _cell(value: object) -> str:
    return text(value) if isinstance(value, float) else "" if value is None else str(value)


def _first_whole(*values: object) -> int | None:
    return next((found for found in map(_whole, values) if found is not None), None)


def speeds(gates: Iterable[GateRecord]) -> list[Speed]:
    """Latency gates, those of one subject together: PyTorch first, then ONNX, then OM."""
    order = ("torch", "onnx", "om")
    groups: dict[tuple[str, str], list[GateRecord]] = {}
    for gate in gates:
        if gate.question == "latency":
            groups.setdefault((gate.variant, gate.check.partition("/")[0]), []).append(gate)
    found = [_speed(subject, group) for (_, subject), group in groups.items()]
    return sorted(found, key=lambda speed: order.index(speed.subject) if speed.subject in order else len(order))


def _speed(subject: str, gates: Sequence[GateRecord]) -> Speed:
    details: dict[str, Any] = {}
    for gate in gates:
        details.update(gate.details)
        details.setdefault(gate.check.rpartition("/")[2], gate.measured)
    estimate = details.get("estimate")
    estimate = estimate if isinstance(estimate, Mapping) else {}
    worst = min(gates, key=lambda gate: (_WORST_FIRST.index(gate.verdict), gate.limit is None))
    return Speed(
        worst,
        tuple(gates),
        subject,
        p50=_first(number(details.get("median_ms")), number(details.get("p50_ms"))),
        p90=number(details.get("p90_ms")),
        p99=number(details.get("p99_ms")),
        fps=number(details.get("fps")),
        batch=_whole(details.get("batch")),
        runs=_whole(details.get("runs")),
        roofline=_first(number(details.get("roofline_ms")), number(estimate.get("milliseconds"))),
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
