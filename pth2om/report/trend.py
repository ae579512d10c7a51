"""The history of a model as one page: a small plot per figure, night by night, toolchain changes marked."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from pth2om.escaping import visible
from pth2om.language import Message, language, say
from pth2om.release import history
from pth2om.release.history import Point
from pth2om.report.figures import MISSING, text

_MOST_PLOTS = 500
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

    # Within a run of equal values only its ends are drawn.
    ends = [
        one
        for before, one, after in zip([None, *shown], shown, [*shown[1:], None], strict=False)
        if before is None or after is None or not before[1] == one[1] == after[1]
    ]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*one) for one in ends))
    lines = "".join(f'<path class=t d="M{6 + night * step:.1f} 0V{height}"/>' for night in marks)
    x, y = place(*shown[-1])
    return Markup(  # noqa: S704 - numbers only
        f'<svg viewBox="0 0 {width} {height}" width={width} height={height} role=img>{lines}'
        f'<polyline points="{points}"/><circle cx={x:.1f} cy={y:.1f} r=3 /></svg>'
    )


@dataclass(frozen=True)
class Series:
    """One figure, night by night.

    Attributes:
        name: its evidence id.
        ground: of all its values.
        machine: that measured them; of a latency alone, since two machines are never one line.
        values: one a night, oldest first; None where it was not measured.
    """

    name: str
    ground: str
    machine: str
    values: tuple[float | None, ...]

    @property
    def last(self) -> tuple[int, float]:
        """The last night that measured it, and what."""
        return next((night, value) for night, value in _measured(self.values)[::-1])

    @functools.cached_property
    def changed(self) -> int:
        """The last night whose value differs from the one before; 0 where it never changed."""
        pairs = itertools.pairwise(_measured(self.values))
        return max((night for (_, before), (night, value) in pairs if value != before), default=0)


def series_of(nights: Sequence[Point]) -> list[Series]:
    """The figures of a history: those that changed first, the latest change before others.

    Args:
        nights: oldest first.
    """
    found: dict[tuple[str, str, str], list[float | None]] = {}
    for number, night in enumerate(nights):
        for name, (value, ground, host) in night.values.items():
            machine = host if "/latency/" in name else ""
            found.setdefault((name, ground, machine), [None] * len(nights))[number] = value
    every = [Series(*key, tuple(values)) for key, values in found.items()]
    return sorted(every, key=lambda one: (-one.changed, one.name, one.ground, one.machine))


def page(model: str, nights: Sequence[Point], skipped: Sequence[Message] = ()) -> str:
    """The page of one model: what changed as plots, what never did as lines that are folded away.

    Args:
        model: its name.
        nights: oldest first.
        skipped: what could not be read.
    """
    marks = [number for number in range(1, len(nights)) if nights[number].toolchain != nights[number - 1].toolchain]
    every = series_of(nights)
    changed = [one for one in every if one.changed]
    plots = [
        Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(curve(one.values, marks), _caption(one, nights))
        for one in changed[:_MOST_PLOTS]
    ]
    changes = [
        Markup("<li>{} <b class=t>{} → {}</b></li>").format(
            _day(nights[n]), visible(nights[n - 1].toolchain or MISSING), visible(nights[n].toolchain or MISSING)
        )
        for n in marks
    ]
    if changes:
        changes.insert(0, Markup("<li>{}</li>").format(say("release.history-marks").render()))
    remarks = [Markup("<li>{}</li>").format(one.render()) for one in skipped]
    title = escape(say("release.history-title", model=model, count=len(nights)).render())
    heading = escape(say("release.history-changed", count=len(changed)).render())
    return (
        f"<!doctype html><html lang={language()}><meta charset=utf-8>"
        f'<meta name=viewport content="width=device-width"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><ul>{''.join(remarks)}{''.join(changes)}</ul><h2>{heading}</h2>{''.join(plots)}"
        f"{_folded('more', changed[_MOST_PLOTS:], nights)}"
        f"{_folded('same', [one for one in every if not one.changed], nights)}</html>\n"
    )


def _folded(kind: str, figures: Sequence[Series], nights: Sequence[Point]) -> Markup:
    """Figures as one line each, which a reader opens; nothing where there are none."""
    if not figures:
        return Markup("")
    title = say(f"release.history-{kind}", count=len(figures)).render()
    lines = "\n".join(_line(one, nights) for one in figures)
    return Markup("<details><summary>{}</summary><pre>{}</pre></details>").format(title, lines)


def _line(one: Series, nights: Sequence[Point]) -> str:
    night, value = one.last
    return "  ".join(part for part in (text(value), visible(one.name), *_place(one), _when(night, nights)) if part)


def _caption(one: Series, nights: Sequence[Point]) -> Markup:
    night, value = one.last
    numbers = [value for _, value in _measured(one.values)]
    low, high = min(numbers), max(numbers)
    # As many digits as it takes to tell them apart.
    digits = next((count for count in range(4, 18) if text(low, count) != text(high, count)), 17)
    return Markup("{} <b>{}</b> ({} … {}) {} {}").format(
        visible(one.name),
        text(value, digits),
        text(low, digits),
        text(high, digits),
        " ".join(_place(one)),
        _when(night, nights),
    )


def _place(one: Series) -> tuple[str, str]:
    known = one.ground in ("emulated", "double", "device")
    return say(f"release.ground-{one.ground}").render() if known else visible(one.ground), visible(one.machine)


def _when(night: int, nights: Sequence[Point]) -> str:
    """The day of a value that is not of the last night."""
    if night == len(nights) - 1:
        return ""
    return say("release.history-last", day=_day(nights[night])).render()


def _day(night: Point) -> str:
    return visible(night.started[:10])


def _measured(values: Sequence[float | None]) -> list[tuple[int, float]]:
    return [(night, value) for night, value in enumerate(values) if value is not None]


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
    "path.t{stroke:#c60;stroke-dasharray:3 2}b.t{color:#a40}pre{overflow-wrap:anywhere;white-space:pre-wrap}"
)
