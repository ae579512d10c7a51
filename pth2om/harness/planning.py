"""What a run is to answer, made of the tests it collected; xdist's workers hand it to the controller through a file.

The border: the plan holds the tests that ask about a model, wherever they lie. A test asks about a model when it uses a
fixture of `pth2om.harness.fixtures` that the plugin makes a case of, or when it is marked ``question``. All other tests
of the session are pytest's alone: a session without a single test about a model writes no report, and beside tests
about models they leave a trace only where they fail, because a failure may be the one that matters.

What a test of the plan has to give:

* marked ``asks``: the gates that `pth2om.questions.expected` derives from the spec;
* marked ``question`` or using ``accept``: any gate; what it is going to measure is not known before it runs;
* using another fixture only (a user's own assertion about a session): nothing; its failure is a failed gate.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import pytest

from pth2om.errors import DataError, Pth2omError
from pth2om.evidence import Expected, Planned, PlanRecord, Question, SpecText, from_json, to_json
from pth2om.harness.cases import Case, case_of, question_of

PLANNED = pytest.StashKey[Planned]()
"""What a collected test is to answer."""


def is_about_a_model(item: pytest.Item) -> bool:
    """Whether a test belongs in the plan."""
    return case_of(item) is not None or item.get_closest_marker("question") is not None


def asks_nothing(definition: pytest.Function, case: Case, *, whole: bool) -> bool:
    """Whether a test that says what it asks would ask nothing about a case, such as the score of unlabelled images."""
    marker = definition.get_closest_marker("asks")
    return marker is not None and case.spec is not None and next(_expected(definition, case, whole=whole), None) is None


def _expected(item: pytest.Item, case: Case, *, whole: bool) -> Iterator[Expected]:
    from pth2om.questions.expected import Asked, expected

    marker = item.get_closest_marker("asks")
    if marker is None or case.spec is None:
        return iter(())
    name, roles = (str(marker.args[0]), marker.args[1:]) if marker.args else ("", ())
    shape = case.variant.shape if case.variant is not None else case.shape
    batch = None if shape is None else shape.batch
    asked = Asked(roles, question_of(item), case.spec, case.variant, batch, case.dataset, whole=whole)
    try:
        return expected(name, asked)
    except Pth2omError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}") from None


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


def planned(item: pytest.Item, soc: str | None, *, whole: bool = True) -> Planned:
    """One collected test.

    Args:
        item: the test.
        soc: the SoC of the run; it concerns tests of a variant only.
        whole: whether the run takes all images that a spec asks for.

    Raises:
        UsageError: its mark ``asks`` names nothing that can be asked.
    """
    gates = tuple(_expected(item, case, whole=whole)) if (case := case_of(item)) is not None else ()
    measures = item.get_closest_marker("question") is not None or "accept" in getattr(item, "fixturenames", ())
    return dataclasses.replace(_named(item, soc), gates=gates, measures=measures)


def _named(item: pytest.Item, soc: str | None) -> Planned:
    """A test without what it has to give."""
    case, question = case_of(item), question_of(item)
    if case is None:
        place, _, name = item.nodeid.partition("::")
        return Planned(item.nodeid, place, "", None, question, f"{question}/{name}")
    model = case.spec.name if case.spec is not None else case.folder.name
    variant = case.variant.name if case.variant is not None else "" if case.shape is None else case.shape.name
    return Planned(item.nodeid, model, variant, soc if case.variant is not None else None, question, check_of(item))


def other(nodeid: str) -> Planned:
    """A test that is about no model, by its name alone: what stands for it is ``export/<test>``."""
    place, _, name = nodeid.partition("::")
    return Planned(nodeid, place, "", None, "export", f"export/{name or place}")


def specs(cases: Iterable[Case], models: Collection[str]) -> tuple[SpecText, ...]:
    """The specs of the models of a plan, as they were read when the run began."""
    found = {case.spec.name: case.spec for case in cases if case.spec is not None and case.spec.name in models}
    return tuple(SpecText(name, spec.digest, spec.text) for name, spec in sorted(found.items()) if spec.text)


def would_ask_of(model: str, plan: Iterable[Planned], keyword: str) -> bool:
    """Whether a test of the plan would be asked of another model too, as far as pytest's ``-k`` decides.

    A model whose spec is wrong has no tests but one; that ``-k exports`` leaves this one out does not mean that nobody
    asked for the model.
    """
    try:
        from _pytest.mark.expression import Expression

        chosen = Expression.compile(keyword) if keyword else None
    except (ImportError, SyntaxError):
        chosen = None
    for each in plan:
        item = each.item.replace(f"[{each.model}", f"[{model}")
        if item != each.item and (
            chosen is None or chosen.evaluate(lambda word, /, item=item, **_: word.lower() in item.lower())
        ):
            return True
    return False


def others(items: Iterable[pytest.Item], soc: str | None) -> tuple[tuple[str, str, str, str, Question, str], ...]:
    """The tests that other shards have, by name; their gates are in the plans of those shards."""
    return tuple(_named(item, soc).row for item in filter(is_about_a_model, items))


def hand_over(plan: PlanRecord, folder: Path, worker: str) -> None:
    """Leave the plan where the controller looks for it; also an empty one."""
    with contextlib.suppress(OSError):  # the controller then knows the tests by their names only
        _path(folder, worker).write_text(json.dumps(to_json(plan)), encoding="utf-8")


def handed_over(ids: Sequence[str], folder: Path, worker: str) -> PlanRecord:
    """The plan of a worker; where it could not leave one all its tests, by their names."""
    try:
        record = from_json(json.loads(_path(folder, worker).read_text(encoding="utf-8")))
    except (OSError, ValueError, DataError):
        return PlanRecord(tuple(other(each) for each in ids))
    assert isinstance(record, PlanRecord)
    return record


def _path(folder: Path, worker: str) -> Path:
    return folder / f"plan-{worker}.json"
