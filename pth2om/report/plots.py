"""Plots as inline SVG: numbers only, so that they read in any language; colours come from the page's style sheet."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from markupsafe import Markup, escape

from pth2om.report.figures import text

_MOST_BARS = 60
_LARGEST = 1e100


@dataclass(frozen=True)
class Whisker:
    """One line of an interval plot.

    Attributes:
        label: at the left, already short.
        value: the measured value.
        low, high: its interval; equal to the value where there is none.
        limit: the gate, or None.
        kind: style class: ``p`` passed, ``u`` unproven, ``f`` failed, ``q`` inconclusive, ``s`` only shown.
    """

    label: str
    value: float
    low: float
    high: float
    limit: float | None
    kind: str


def histogram(
    edges: Sequence[float],
    counts: Sequence[float],
    width: int = 220,
    height: int = 66,
    span: tuple[float, float] | None = None,
    title: str = "",
) -> Markup:
    """Bars of a histogram; the bars' heights are logarithmic, so that a single bad element stays visible.

    Args:
        edges: n + 1 ascending bin edges; on a logarithmic axis when they span more than a factor of 100 (a first edge
            of zero then starts the axis one bin before the second edge).
        counts: n counts.
        width: of the drawing in pixels.
        height: of the drawing in pixels.
        span: a range to mark; what lies outside is shaded, and the axis is linear.
        title: for readers who hear the page; where there is none, what stands beside the drawing says it.

    Returns:
        The ``<svg>``, or nothing where the data is no histogram.
    """
    bars = _merged(list(edges), list(counts))
    if bars is None:
        return Markup("")
    places, tops = bars
    scale = _axis(places, width) if span is None else _axis_with(places, span, width)
    if scale is None:
        return Markup("")
    base, most = height - 16, math.log1p(max(tops))
    parts = [f'<svg class=h viewBox="0 0 {width} {height}" width={width} height={height} role=img>']
    if title:
        parts.append(f"<title>{escape(title)}</title>")
    if span is not None:
        start, end, scale = scale[-2], scale[-1], scale[:-2]
        parts.append(f'<path class=x d="M0 0H{start:.1f}V{base}H0zM{end:.1f} 0H{width}V{base}H{end:.1f}z"/>')
        parts.append(f'<path class=l d="M{start:.1f} 0V{base}M{end:.1f} 0V{base}"/>')
    path = []
    for (left, right), count in zip(itertools.pairwise(scale), tops, strict=True):
        tall = (base - 4) * math.log1p(count) / most if most and count > 0 else 0.0
        if tall > 0:
            tall = max(tall, 1.5)
            path.append(f"M{left:.1f} {base}v{-tall:.1f}h{max(0.6, right - left - 0.6):.1f}v{tall:.1f}z")
    parts.append(f'<path class=b d="{"".join(path)}"/><path class=a d="M0 {base}.5H{width}"/>')
    for index in _ticks(scale):
        anchor = "start" if index == 0 else "end" if index == len(scale) - 1 else "middle"
        label = escape(text(places[index], 2))
        parts.append(f"<text x={scale[index]:.0f} y={height - 3} text-anchor={anchor}>{label}</text>")
    parts.append("</svg>")
    return Markup("".join(parts))  # noqa: S704 - numbers, and text that was escaped


def _merged(edges: list[float], counts: list[float]) -> tuple[list[float], list[float]] | None:
    """At most `_MOST_BARS` bars; None for what is no histogram."""
    if len(edges) != len(counts) + 1 or not counts or not all(map(_sane, [*edges, *counts])):
        return None
    if any(right <= left for left, right in itertools.pairwise(edges)) or min(counts) < 0 or max(counts) <= 0:
        return None
    step = math.ceil(len(counts) / _MOST_BARS)
    merged = [sum(counts[start : start + step]) for start in range(0, len(counts), step)]
    kept = [*edges[:-1:step], edges[-1]]
    return kept, merged


def _axis(edges: list[float], width: int) -> list[float] | None:
    """Where each edge lies, in pixels."""
    low, high = edges[0], edges[-1]
    lead = edges[1] if low == 0 and len(edges) > 2 else low
    if lead > 0 and high / lead > 100:
        inner = edges[1:] if low == 0 else edges
        logs = [math.log(edge) for edge in inner]
        if low == 0:
            logs.insert(0, logs[0] - (logs[-1] - logs[0]) / max(1, len(logs) - 1))
        return [(place - logs[0]) / (logs[-1] - logs[0]) * width for place in logs]
    return [(edge - low) / (high - low) * width for edge in edges] if high > low else None


def _axis_with(edges: list[float], span: tuple[float, float], width: int) -> list[float] | None:
    """Where each edge and both ends of `span` lie, in pixels, on a linear axis that holds them all."""
    if not all(map(_sane, span)) or span[1] < span[0]:
        return None
    low, high = min(edges[0], span[0]), max(edges[-1], span[1])
    return [(value - low) / (high - low) * width for value in (*edges, *span)] if high > low else None


def _ticks(scale: Sequence[float]) -> list[int]:
    """Indices of up to four edges that are far enough apart to be labelled."""
    last = len(scale) - 1
    wanted = [scale[0] + (scale[last] - scale[0]) * part for part in (0, 1 / 3, 2 / 3, 1)]
    chosen: list[int] = []
    for place in wanted:
        index = min(range(len(scale)), key=lambda one: abs(scale[one] - place))
        if index not in chosen and all(abs(scale[index] - scale[other]) > 60 for other in chosen):
            chosen.append(index)
    return chosen


def intervals(lines: Sequence[Whisker], width: int = 620) -> Markup:
    """Measured values with their intervals against the gate, one line each on a common axis.

    The region beyond the gate (larger is worse, as a drop is) is shaded; zero is marked.

    Args:
        lines: drawn from top to bottom.
        width: of the drawing in pixels.
    """
    lines = [line for line in lines if all(map(_sane, (line.value, line.low, line.high)))]
    if not lines:
        return Markup("")
    values = [0.0]
    for line in lines:
        values += [line.low, line.high, line.value] + (
            [line.limit] if line.limit is not None and _sane(line.limit) else []
        )
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 if high - low > 1 / _LARGEST else 1.0
    low, high = low - pad, high + pad
    left, right, pitch = 190, 76, 26
    height = pitch * len(lines) + 22

    def place(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    foot = height - 18
    out = [f'<svg class=w viewBox="0 0 {width} {height}" width={width} height={height} role=img>']
    ticks = _nice(low, high)
    for tick in ticks:
        out.append(f'<path class="g{" z" if tick == 0 else ""}" d="M{place(tick):.1f} 2V{foot}"/>')
        out.append(f"<text x={place(tick):.1f} y={height - 5} text-anchor=middle>{escape(text(tick, 3))}</text>")
    for row, line in enumerate(lines):
        middle = row * pitch + pitch / 2 + 1
        if line.limit is not None and _sane(line.limit):
            edge = place(line.limit)
            out.append(f'<path class=x d="M{edge:.1f} {middle - 11:.1f}H{width - right}v22H{edge:.1f}z"/>')
            out.append(f'<path class=l d="M{edge:.1f} {middle - 11:.1f}v22"/>')
        out.append(f"<text class=n x={left - 8} y={middle + 4:.0f} text-anchor=end>{escape(line.label[:30])}</text>")
        start, end = place(line.low), place(line.high)
        if end - start > 0.5:
            out.append(
                f'<path class="v {line.kind}" d="M{start:.1f} {middle:.1f}H{end:.1f}'
                f'M{start:.1f} {middle - 4:.1f}v8M{end:.1f} {middle - 4:.1f}v8"/>'
            )
        out.append(f'<circle class="{line.kind}" cx={place(line.value):.1f} cy={middle:.1f} r=4 />')
        shown = escape(text(line.value, 3))
        out.append(f"<text class=n x={width - right + 8} y={middle + 4:.0f}>{shown}</text>")
    out.append("</svg>")
    return Markup("".join(out))  # noqa: S704 - numbers, and text that was escaped


def _nice(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers between `low` and `high`, zero among them when it lies there."""
    span = high - low
    step = 10 ** math.floor(math.log10(span / most))
    for factor in (1, 2, 5, 10):
        if span / (step * factor) <= most:
            step *= factor
            break
    first = math.ceil(low / step)
    return [round(index * step, 12) for index in range(first, math.floor(high / step) + 1)]


@dataclass(frozen=True)
class Noise:
    """One layer of a noise plot, in decibels; None leaves that mark out.

    Attributes:
        number: under its bar.
        label: told where the pointer rests on the layer.
        output: of its output: the bar.
        input: of its input alone: the circle.
        weight: of its weight alone: the tick.
    """

    number: int
    label: str
    output: float | None
    input: float | None
    weight: float | None


def noises(layers: Sequence[Noise], width: int = 620, height: int = 150) -> Markup:
    """Signal to quantization noise of the layers in graph order: lower is worse; the axis starts at zero.

    Args:
        layers: from the input to the output of the model.
        width: of the drawing in pixels.
        height: of the drawing in pixels.
    """
    values = [
        value for one in layers for value in (one.output, one.input, one.weight) if value is not None and _sane(value)
    ]
    top = max(values, default=0.0) * 1.05
    if top <= 1:
        return Markup("")
    left, foot = 40, height - 16
    pitch = (width - left) / len(layers)

    def place(value: float) -> float:
        return foot - max(0.0, min(value, top)) / top * (foot - 4)

    out = [f'<svg class=w viewBox="0 0 {width} {height}" width={width} height={height} role=img>']
    for tick in _nice(0.0, top, 5):
        out.append(f'<path class="g{" z" if tick == 0 else ""}" d="M{left} {place(tick):.1f}H{width}"/>')
        out.append(f"<text x={left - 6} y={place(tick) + 4:.0f} text-anchor=end>{escape(text(tick, 3))}</text>")
    step = max(1, math.ceil(len(layers) / 16))
    wide = max(0.8, min(18.0, pitch * 0.7))
    for index, one in enumerate(layers):
        middle = left + (index + 0.5) * pitch
        out.append(f"<g><title>{one.number}: {escape(one.label[:120])}</title>")
        if one.output is not None and _sane(one.output):
            high = place(one.output)
            out.append(f'<path class=b d="M{middle - wide / 2:.1f} {foot}V{high:.1f}h{wide:.1f}V{foot}z"/>')
        if one.weight is not None and _sane(one.weight):
            out.append(f'<path class="v n" d="M{middle - wide / 2:.1f} {place(one.weight):.1f}h{wide:.1f}"/>')
        if one.input is not None and _sane(one.input):
            out.append(f"<circle class=u cx={middle:.1f} cy={place(one.input):.1f} r=3 />")
        out.append("</g>")
        if index % step == 0:
            out.append(f"<text x={middle:.1f} y={height - 3} text-anchor=middle>{one.number}</text>")
    out.append("</svg>")
    return Markup("".join(out))  # noqa: S704 - numbers, and text that was escaped


@dataclass(frozen=True)
class Span:
    """One line of a latency plot, in milliseconds.

    Attributes:
        label: at the left.
        p50, p90, p99: percentiles; None leaves that mark out.
        estimate: a lower bound that nobody measured; drawn hollow.
    """

    label: str
    p50: float | None
    p90: float | None
    p99: float | None
    estimate: float | None = None


def latencies(lines: Sequence[Span], width: int = 620) -> Markup:
    """Median (dot), p90 (tick) and p99 (end of the line) per line, from zero; estimates as hollow diamonds."""
    drawn = [line for line in lines if _drawn(line.p50) or _drawn(line.estimate)]
    most = max((max(_finite(line)) for line in drawn), default=0.0)
    if most <= 1 / _LARGEST:
        return Markup("")
    left, right, pitch = 190, 76, 24
    height = pitch * len(drawn) + 22
    foot = height - 18
    reach = width - left - right

    def place(value: float) -> float:
        return left + value / (most * 1.05) * reach

    out = [f'<svg class=w viewBox="0 0 {width} {height}" width={width} height={height} role=img>']
    for tick in _nice(0.0, most * 1.05):
        out.append(f'<path class="g{" z" if tick == 0 else ""}" d="M{place(tick):.1f} 2V{foot}"/>')
        out.append(f"<text x={place(tick):.1f} y={height - 5} text-anchor=middle>{escape(text(tick, 3))}</text>")
    for row, line in enumerate(drawn):
        y = row * pitch + pitch / 2 + 1
        out.append(f"<text class=n x={left - 8} y={y + 4:.0f} text-anchor=end>{escape(line.label[:30])}</text>")
        if _drawn(line.p50):
            end = max(_finite(Span("", line.p50, line.p90, line.p99)))
            out.append(f'<path class="v s" d="M{place(line.p50):.1f} {y:.1f}H{place(end):.1f}m0 -4v8"/>')
            if _drawn(line.p90):
                out.append(f'<path class="v s" d="M{place(line.p90):.1f} {y - 4:.1f}v8"/>')
            out.append(f"<circle class=s cx={place(line.p50):.1f} cy={y:.1f} r=4 />")
        if _drawn(line.estimate):
            x = place(line.estimate)
            out.append(f'<path class=e d="M{x - 5:.1f} {y:.1f}l5 -5l5 5l-5 5z"/>')
        value = line.p50 if _drawn(line.p50) else line.estimate
        mark = "" if _drawn(line.p50) else "≥ "
        out.append(f"<text class=n x={width - right + 8} y={y + 4:.0f}>{mark}{escape(text(value, 3))} ms</text>")
    out.append("</svg>")
    return Markup("".join(out))  # noqa: S704 - numbers, and text that was escaped


def _sane(value: float) -> bool:
    """Whether a value can be drawn; absurd magnitudes overflow what computes the axis."""
    return math.isfinite(value) and abs(value) < _LARGEST


def _drawn(value: float | None) -> TypeGuard[float]:
    return value is not None and _sane(value) and value >= 0


def _finite(line: Span) -> list[float]:
    return [value for value in (line.p50, line.p90, line.p99, line.estimate) if _drawn(value)]
