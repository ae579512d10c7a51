"""What the tests of an acceptance run are about: one case per model, variant, batch size or dataset, as they ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pth2om.errors import SpecError

if TYPE_CHECKING:
    import pytest

    from pth2om.evidence import Question
    from pth2om.spec import Dataset, Shape, Spec, Variant


@dataclass(frozen=True)
class Case:
    """What one test is about: a model, and maybe one variant, shape or dataset of it.

    Attributes:
        folder: the model's folder.
        spec: None when the spec is wrong; then `error` says why.
    """

    folder: Path
    spec: Spec | None
    error: SpecError | None = None
    variant: Variant | None = None
    shape: Shape | None = None
    dataset: Dataset | None = None

    @property
    def id(self) -> str:
        """``yolov6lite-fp16-bs1``."""
        parts = [self.folder.name]
        if self.variant is not None:
            parts.append(self.variant.name)
        elif self.shape is not None:
            parts.append(self.shape.name)
        if self.dataset is not None and self.spec is not None and len(self.spec.datasets) > 1:
            parts.append(self.dataset.name)
        return "-".join(parts)


@dataclass(frozen=True)
class Selection:
    """Which variants a run asks for; an empty set asks for all.

    Attributes:
        precisions: ``--om-precision``.
        batches: ``--om-batch``.
    """

    precisions: frozenset[str] = frozenset()
    batches: frozenset[int] = frozenset()

    def has(self, precision: str | None, batch: int) -> bool:
        """Whether a variant is asked for; ``precision`` None: whether its batch size is."""
        return (precision is None or not self.precisions or precision in self.precisions) and (
            not self.batches or batch in self.batches
        )


def read_cases(models: Path, calib: Path) -> list[Case]:
    """One case per ``models/*/model.toml``, good or bad.

    Args:
        models: the folder of specs.
        calib: the folder of datasets, whose classes must be those of the spec.
    """
    from pth2om.data.columns import check_columns
    from pth2om.spec import load

    found = []
    for path in sorted(models.glob("*/model.toml")):
        try:
            spec = load(path.parent)
            check_columns(spec, calib)
            if spec.volume is not None:
                from pth2om.data.normalizing import check_volume

                check_volume(spec)
            found.append(Case(path.parent, spec))
        except SpecError as error:
            found.append(Case(path.parent, None, error))
    return found


def expand(cases: Sequence[Case], fixtures: Sequence[str], selection: Selection) -> list[Case]:
    """The cases of a test that uses ``fixtures``.

    Args:
        cases: one per spec, of `read_cases`.
        fixtures: names; ``variant``, ``batch`` and ``labelled`` decide what a case is about, and what only some
            variants have which of them.
        selection: which variants and batch sizes the run asks for.
    """
    found: list[Case] = []
    for case in cases:
        spec = case.spec
        if spec is None:
            # A wrong spec is one error of that model, not one per question.
            if "checkpoint" in fixtures:
                found.append(case)
            continue
        if "torchscript_model" in fixtures and spec.torchscript is None:
            continue
        datasets: list[Dataset | None] = list(spec.datasets) if "labelled" in fixtures else [None]
        for dataset in datasets:
            if "variant" in fixtures:
                found += [
                    Case(case.folder, spec, variant=variant, dataset=dataset)
                    for variant in spec.variants
                    if selection.has(variant.precision, variant.batch)
                    and ("quantized_model" not in fixtures or variant.quantized)
                    and ("plain_om_session" not in fixtures or _has_plain(spec, variant))
                    and ("twin_om_session" not in fixtures or variant.gears is not None)
                ]
            elif "batch" in fixtures:
                found += [
                    Case(case.folder, spec, shape=shape, dataset=dataset)
                    for shape in (spec.shapes if dataset is None else spec.shapes[:1])
                    if selection.has(None, shape.batch)
                ]
            else:
                found.append(Case(case.folder, spec, dataset=dataset))
    return found


def _has_plain(spec: Spec, variant: Variant) -> bool:
    """Whether a variant with AIPP is in the spec without it too."""
    return variant.aipp and any(
        not other.aipp and (other.precision, other.shape) == (variant.precision, variant.shape)
        for other in spec.variants
    )


def case_of(item: pytest.Item) -> Case | None:
    """The case of a test; None for one that is about no model."""
    callspec = getattr(item, "callspec", None)
    case = callspec.params.get("acceptance_case") if callspec is not None else None
    return case if isinstance(case, Case) else None


def question_of(item: pytest.Item) -> Question:
    """Which question of the report a test answers."""
    marker = item.get_closest_marker("question")
    return marker.args[0] if marker is not None and marker.args else "export"
