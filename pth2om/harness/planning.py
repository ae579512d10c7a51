"""What a run is to answer, made of the tests it collected; xdist's workers hand it to the controller through a file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pth2om.evidence import Planned
from pth2om.harness.cases import case_of, question_of


def check_of(item: pytest.Item) -> str:
    """What a gate is called that stands for a whole test: ``accuracy/test_om_keeps_the_score``.

    Where a test has parameters besides the model's (a dataset, a user's own), they follow.
    """
    case, callspec = case_of(item), getattr(item, "callspec", None)
    name = getattr(item, "originalname", None) or item.name.partition("[")[0]
    if callspec is None:
        rest = ""
    elif case is None:
        rest = callspec.id
    else:
        rest = callspec.id.replace(dataclasses.replace(case, dataset=None).id, "", 1).strip("-")
    return f"{question_of(item)}/{name}" + (f"/{rest}" if rest else "")


def planned(item: pytest.Item, soc: str | None) -> Planned:
    """One collected test.

    Args:
        item: the test.
        soc: the SoC of the run; it concerns tests of a variant only.
    """
    case = case_of(item)
    if case is None:
        place, _, name = item.nodeid.partition("::")
        return Planned(item.nodeid, place, "", None, question_of(item), f"{question_of(item)}/{name}")
    model = case.spec.name if case.spec is not None else case.folder.name
    variant = case.variant.name if case.variant is not None else "" if case.shape is None else case.shape.name
    return Planned(
        item.nodeid, model, variant, soc if case.variant is not None else None, question_of(item), check_of(item)
    )


def hand_over(plan: Sequence[Planned], folder: Path, worker: str) -> None:
    """Leave the plan where the controller looks for it."""
    with contextlib.suppress(OSError):  # the controller then knows the tests by their names only
        folder.mkdir(parents=True, exist_ok=True)
        _path(folder, worker).write_text(json.dumps([dataclasses.asdict(each) for each in plan]), encoding="utf-8")


def handed_over(ids: Sequence[str], folder: Path, worker: str) -> list[Planned]:
    """The plan of a worker, which is removed; without one, the tests by their names."""
    path = _path(folder, worker)
    try:
        found = [Planned(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        found = [Planned(each, each.partition("::")[0], "", None, "export", each.partition("::")[2]) for each in ids]
    with contextlib.suppress(OSError):
        path.unlink()
    return found


def _path(folder: Path, worker: str) -> Path:
    return folder / f".plan-{worker}.json"
