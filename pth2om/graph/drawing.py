"""A graph as an SVG file that opens in any browser."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from pth2om.errors import GraphError
from pth2om.escaping import visible_lines
from pth2om.files import write_text
from pth2om.graph.document import Document
from pth2om.graph.layout import place
from pth2om.graph.picture import Box, Picture, describe, picture
from pth2om.graph.surgery import types
from pth2om.language import say
from pth2om.preflight import check

LIMIT = 1500
"""Nodes drawn without being asked for more: beyond it no layout is readable and browsers get slow."""

_COLOURS = {
    "input": "#d7e8d4",
    "output": "#d7e8d4",
    "matrix": "#b9d2ee",
    "normalization": "#e6dcf2",
    "activation": "#f6dcd2",
    "pooling": "#cdeceb",
    "movement": "#ececec",
    "quantization": "#fbe7b6",
    "control": "#f3c9de",
    "foreign": "#f8c9c4",
    "other": "#fafafa",
}
_EDGES = {"error": "#c0262d", "warning": "#d98200"}
_MARGIN = 24.0
_TITLE = 34.0
_LABELLED = 400
"""Pictures with more arrows than this show no shapes on them; they are in the tooltips still."""


@dataclass(frozen=True)
class Drawn:
    """What was drawn.

    Attributes:
        path: the file.
        nodes: of the root graph.
        shown: of them.
        layout: ``dot`` or ``pth2om``.
    """

    path: Path
    nodes: int
    shown: int
    layout: str


def draw(
    source: Path,
    destination: Path,
    *,
    soc: str | None = None,
    cann: str = "9.x",
    layout: str = "auto",
    limit: int = LIMIT,
) -> Drawn:
    """Draw the root graph of an ONNX file.

    Args:
        source: the file.
        destination: the SVG to write, by a temporary name.
        soc: with a chip, what pre-flight finds for it is marked.
        cann: whose parser pre-flight follows.
        layout: ``auto``, ``dot`` (Graphviz) or ``own``.
        limit: at most that many nodes.

    Raises:
        GraphError: `source` cannot be read or `destination` not be written.
    """
    document = Document.open(source)
    findings = check(source, soc=soc, cann=cann) if soc else []
    title = say("graph.draw-title", **describe(document, source)).render()
    made = picture(document, types(document), findings, title=title, limit=limit)
    by = place(made, layout)
    text = svg(made)
    try:
        write_text(destination, text)
    except OSError as error:
        raise GraphError("graph.unwritable", where=str(destination), reason=error.strerror or str(error)) from None
    nodes = len(document.graph.node)
    return Drawn(destination, nodes, nodes - made.hidden, by)


def svg(made: Picture) -> str:
    """The SVG text of a picture whose boxes have their places."""
    boxes = list(made.boxes.values())
    left = min((box.x - box.width / 2 for box in boxes), default=0.0) - _MARGIN
    top = min((box.y - box.height / 2 for box in boxes), default=0.0) - _MARGIN - _TITLE
    right = max((box.x + box.width / 2 for box in boxes), default=200.0) + _MARGIN
    bottom = max((box.y + box.height / 2 for box in boxes), default=0.0) + _MARGIN
    width, height = max(right - left, 420.0), bottom - top
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="{left:.1f} {top:.1f} {width:.1f} {height:.1f}" font-family="sans-serif">'
        ),
        (
            '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0 8 4 0 8z" fill="#777"/></marker></defs>'
        ),
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" fill="#fff"/>',
        (
            f'<text x="{left + _MARGIN:.1f}" y="{top + _MARGIN:.1f}" font-size="15" font-weight="bold">'
            f"{_text(made.title)}</text>"
        ),
    ]
    labelled = len(made.arrows) <= _LABELLED
    parts.extend(_arrow(made, arrow, labelled=labelled) for arrow in made.arrows)
    parts.extend(_box(box) for box in boxes)
    if made.hidden:
        note = _text(say("graph.draw-cut", count=made.hidden).render())
        parts.append(f'<text x="{left + _MARGIN:.1f}" y="{bottom - 6:.1f}" font-size="12" fill="#c0262d">{note}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _arrow(made: Picture, arrow: tuple[str, str, str], *, labelled: bool) -> str:
    source, target = made.boxes[arrow[0]], made.boxes[arrow[1]]
    y1, y2 = source.y + source.height / 2, target.y - target.height / 2
    middle = (y1 + y2) / 2
    path = f"M{source.x:.1f} {y1:.1f}C{source.x:.1f} {middle:.1f} {target.x:.1f} {middle:.1f} {target.x:.1f} {y2:.1f}"
    line = f'<path d="{path}" fill="none" stroke="#999" marker-end="url(#a)">'
    line += f"<title>{_text(arrow[2])}</title></path>" if arrow[2] else "</path>"
    if labelled and arrow[2]:
        x = (source.x + target.x) / 2 + 4
        line += f'<text x="{x:.1f}" y="{middle:.1f}" font-size="9" fill="#555">{_text(arrow[2])}</text>'
    return line


def _box(box: Box) -> str:
    left, top = box.x - box.width / 2, box.y - box.height / 2
    edge = _EDGES.get(box.severity or "", "#888")
    stroke = 2.5 if box.severity in _EDGES else 1
    hint = "\n".join((box.title, *box.lines, *box.notes))
    mark = f' data-severity="{box.severity}"' if box.severity else ""
    parts = [
        (
            f'<g class="{box.kind}"{mark}><title>{_text(hint)}</title>'
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="5" '
            f'fill="{_COLOURS[box.kind]}" stroke="{edge}" stroke-width="{stroke}"/>'
        ),
        (
            f'<text x="{box.x:.1f}" y="{top + 16:.1f}" font-size="12" font-weight="bold" text-anchor="middle">'
            f"{_text(box.title)}</text>"
        ),
    ]
    y = top + 29
    for line in box.lines:
        if line:
            parts.append(f'<text x="{box.x:.1f}" y="{y:.1f}" font-size="9.5" text-anchor="middle">{_text(line)}</text>')
            y += 13
    return "".join([*parts, "</g>"])


def _text(text: str) -> str:
    """Text that XML can hold: control characters, which names in damaged files have, are replaced."""
    return escape(visible_lines(text))
