"""The layout of the boxes: by Graphviz's dot if it is installed, else in layers from top to bottom."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import defaultdict

from pth2om.graph.picture import Box, Picture

_ROW = 34.0
"""Points between two layers."""
_COLUMN = 18.0
_SWEEPS = 4
_TIME_LIMIT = 60.0


def place(picture: Picture, layout: str = "auto") -> str:
    """Set every box's centre.

    Args:
        picture: its boxes are changed.
        layout: ``auto``, ``dot`` or ``own``.

    Returns:
        Who did it: ``dot`` or ``pth2om``. A dot that is absent, fails or takes more than a minute is passed over.
    """
    if layout in ("auto", "dot") and _by_dot(picture):
        return "dot"
    _by_layers(picture)
    return "pth2om"


def _by_dot(picture: Picture) -> bool:
    program = shutil.which("dot")
    if program is None:
        return False
    numbers = {key: f"n{number}" for number, key in enumerate(picture.boxes)}
    lines = ["digraph g {", "rankdir=TB; nodesep=0.25; ranksep=0.45; splines=line;"]
    lines += [
        f'{numbers[key]} [shape=box,fixedsize=true,label="",width={box.width / 72:.3f},height={box.height / 72:.3f}];'
        for key, box in picture.boxes.items()
    ]
    lines += [f"{numbers[source]} -> {numbers[target]};" for source, target, _ in picture.arrows]
    text = "\n".join([*lines, "}"])
    try:
        done = subprocess.run(
            [program, "-Tjson0"], input=text.encode(), capture_output=True, timeout=_TIME_LIMIT, check=True
        )
        found = json.loads(done.stdout)
        top = float(found["bb"].split(",")[3])
        places = {item["name"]: [float(part) for part in item["pos"].split(",")] for item in found["objects"]}
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, IndexError):
        return False
    if set(places) < set(numbers.values()):
        return False
    for key, box in picture.boxes.items():
        box.x, box.y = places[numbers[key]][0], top - places[numbers[key]][1]
    return True


def _by_layers(picture: Picture) -> None:
    """Longest path from the inputs gives the layer; neighbours pull a box sideways, sweep by sweep."""
    before: dict[str, list[str]] = defaultdict(list)
    after: dict[str, list[str]] = defaultdict(list)
    for source, target, _ in picture.arrows:
        before[target].append(source)
        after[source].append(target)
    layer = _layers(picture, before)
    rows: dict[int, list[Box]] = defaultdict(list)
    for key, box in picture.boxes.items():
        rows[layer[key]].append(box)
    y = 0.0
    for number in sorted(rows):
        height = max(box.height for box in rows[number])
        x = 0.0
        for box in rows[number]:
            box.x, box.y = x + box.width / 2, y + height / 2
            x += box.width + _COLUMN
        y += height + _ROW
    for sweep in range(_SWEEPS):
        neighbours = before if sweep % 2 == 0 else after
        for number in sorted(rows, reverse=sweep % 2 == 1):
            _settle(rows[number], picture, neighbours)


def _layers(picture: Picture, before: dict[str, list[str]]) -> dict[str, int]:
    """Boxes are in graph order; an unsorted graph's late arrows simply go upwards."""
    layer: dict[str, int] = {}
    for key in picture.boxes:
        layer[key] = max((layer[source] + 1 for source in before[key] if source in layer), default=0)
    # Inputs go right above their first reader, not all to the top.
    readers: dict[str, int] = {}
    for source, target, _ in picture.arrows:
        readers[source] = min(readers.get(source, layer[target]), layer[target])
    for key, box in picture.boxes.items():
        if box.kind == "input" and key in readers:
            layer[key] = max(readers[key] - 1, 0)
    return layer


def _settle(row: list[Box], picture: Picture, neighbours: dict[str, list[str]]) -> None:
    """Order a row by where its neighbours are and move each box there, without overlaps."""
    wished: dict[str, float] = {}
    for box in row:
        places = [picture.boxes[key].x for key in neighbours[box.key]]
        wished[box.key] = sum(places) / len(places) if places else box.x
    row.sort(key=lambda box: wished[box.key])
    edge = float("-inf")
    for box in row:
        box.x = max(wished[box.key], edge + box.width / 2)
        edge = box.x + box.width / 2 + _COLUMN
    # What was pushed to the right as a group goes back by its mean push.
    push = sum(box.x - wished[box.key] for box in row) / len(row)
    for box in row:
        box.x -= push
