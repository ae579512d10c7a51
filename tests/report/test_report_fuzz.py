"""Damaged evidence never ends a report in a traceback: it is refused in a sentence, or shown."""

from __future__ import annotations

import copy
import random

import pytest

from pth2om import evidence
from pth2om.errors import DataError
from pth2om.report import collect
from pth2om.report.html import render_html
from pth2om.report.markdown import render_markdown
from tests.report.test_report_int8 import DETAILS

EXTREMES = (
    None, True, -1, 0, 2, 1e308, -1e308, 10**400, -(10**400), 5e-324, "", "NaN", "Infinity", "x", "\ud800\x1b[2J",
    [], {}, [[]], [1e308, "NaN"], [0] * 50, {"a": 10**400}, {"worst": 10**400, "bands": {"fused": "x"}},
    [None], [{}], {"": None},
)  # fmt: skip
DEEP: object = 0
for _ in range(150):
    DEEP = [DEEP] if _ % 2 else {"a": DEEP}


def places(value: object, path: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


def changed(row: dict, generator: random.Random) -> dict:
    row = copy.deepcopy(row)
    for _ in range(generator.randint(1, 3)):
        path = generator.choice(places(row)[1:])
        parent = row
        for key in path[:-1]:
            parent = parent[key]
        value = generator.choice((*EXTREMES, DEEP))
        if isinstance(parent, dict) and generator.random() < 0.2:
            del parent[path[-1]]
        else:
            parent[path[-1]] = copy.deepcopy(value)
    return row


def campaign(rows: list[dict], seeds: range) -> int:
    """How many of the mutated records were shown; the others were refused."""
    by_kind: dict[tuple, list[dict]] = {}
    for row in rows:
        by_kind.setdefault((row["kind"], row.get("question"), row.get("stage")), []).append(row)
    shown = 0
    for seed in seeds:
        generator = random.Random(seed)
        kept = []
        for group in by_kind.values():
            for _ in range(2):
                try:
                    kept.append(evidence.from_json(changed(generator.choice(group), generator)))
                except DataError:
                    continue
        report = collect(kept)
        render_html(report, "en")
        render_markdown(report, "zh")
        shown += len(kept)
    return shown


@pytest.fixture(scope="module")
def rows(factory, small):
    quantized = factory.stage("resnet20", "int8-bs1", "quantized", details=DETAILS)
    return [evidence.to_json(record) for record in (*small, quantized)]


def test_any_value_in_any_place_is_shown_or_refused(rows):
    assert campaign(rows, range(3)) > 5


@pytest.mark.nightly
def test_many_more(rows):
    assert campaign(rows, range(100, 1100))
