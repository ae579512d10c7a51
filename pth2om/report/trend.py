"""The history of a model as one page: a small plot per figure, night by night, toolchain changes marked."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from markupsafe import Markup, escape

from pth2om.language import Message, say
from pth2om.release import history
from pth2om.release.history import Point
from pth2om.report.figures import text

_MOST_PLOTS = 500
_MOST_NIGHTS = 400
_LARGEST = 1e100


def curve(values: Sequence[float | None], marks: Sequence[int], width: int = 220, height: int = 60) -> Markup:
    """One figure over nights.

    Args:
        values: one a night, oldest first; None where it was not measured.
        marks: nights on which the toolchain changed.
        width: of the drawing in pixels.
        height: of the drawing in pixels.
    """
    shown = [(night, value) for night, value in enumerate(values) if value is not None and abs(value) < _LARGEST]
    if not shown or not all(math.isfinite(value) for _, value in shown):
        return Markup("")
    low, high = min(value for _, value in shown), max(value for _, value in shown)
    step = (width - 12) / max(1, len(values) - 1)

    def place(night: int, value: float) -> tuple[float, float]:
        part = (value - low) / (high - low) if high > low else 0.5
        return 6 + night * step, height - 6 - part * (height - 12)

    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*one) for one in shown))
    lines = "".join(f'<path class=t d="M{6 + night * step:.1f} 0V{height}"/>' for night in marks)
    x, y = place(*shown[-1])
    return Markup(  # noqa: S704 - numbers only
        f'<svg viewBox="0 0 {width} {height}" width={width} height={height} role=img>{lines}'
        f'<polyline points="{points}"/><circle cx={x:.1f} cy={y:.1f} r=3 /></svg>'
    )


def page(model: str, nights: Sequence[Point], skipped: Sequence[Message] = ()) -> str:
    """The page of one model.

    Args:
        model: its name.
        nights: oldest first; the last 400 are shown.
        skipped: what could not be read.
    """
    nights = nights[-_MOST_NIGHTS:]
    marks = [number for number in range(1, len(nights)) if nights[number].toolchain != nights[number - 1].toolchain]
    series: dict[tuple[str, str, str], list[float | None]] = {}
    for number, night in enumerate(nights):
        for name, (value, ground, host) in night.values.items():
            # Latency of two machines is never one line, nor are figures of two grounds.
            machine = host if "/latency/" in name else ""
            series.setdefault((name, ground, machine), [None] * len(nights))[number] = value
    rows = [
        Markup("<figure>{}<figcaption>{} <b>{}</b> {} {}</figcaption></figure>").format(
            curve(values, marks), name, text(next(v for v in reversed(values) if v is not None)), ground, machine
        )
        for (name, ground, machine), values in sorted(series.items())[:_MOST_PLOTS]
    ]
    changes = [
        Markup("<li>{} {} → {}</li>").format(nights[n].started[:10], nights[n - 1].toolchain, nights[n].toolchain)
        for n in marks
    ]
    remarks = [Markup("<li>{}</li>").format(one.render()) for one in skipped]
    title = escape(say("release.history-title", model=model, count=len(nights)).render())
    return (
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
        f"<ul>{''.join(remarks)}{''.join(changes)}</ul>{''.join(rows)}\n"
    )


def draw(folder: Path, models: Collection[str] | None = None) -> Iterator[Path | Message]:
    """Draw the pages of a history.

    Args:
        folder: with its files.
        models: only these.

    Yields:
        What could not be read, and each page that was written.

    Raises:
        DataError: a file cannot be read or a page not be written.
    """
    from pth2om.report import write_text

    for file in history.files(folder):
        if models is None or file.stem in models:
            points, skipped = history.read(file)
            yield from skipped
            write_text(file.with_suffix(".html"), page(file.stem, points, skipped))
            yield file.with_suffix(".html")


_STYLE = (
    "body{font:14px sans-serif;margin:2em}figure{display:inline-block;width:240px;margin:8px;vertical-align:top}"
    "figcaption{font-size:11px;overflow-wrap:anywhere}polyline{fill:none;stroke:#36c}circle{fill:#36c}"
    ".t{stroke:#c60;stroke-dasharray:3 2}"
)
