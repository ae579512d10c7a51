"""Which gates a question has to give, known from the spec before anything runs: the plan of a run holds them.

A question that returns fewer than these has not answered, whatever pytest calls the test. Where only the data decide
which of several gates is measured, any of them will do; where they decide how many there are, one is required.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pth2om.errors import Pth2omError
from pth2om.evidence import Expected, Question
from pth2om.questions.candidate import TWIN, pair_of

if TYPE_CHECKING:
    from pth2om.spec import Dataset, Slice, Spec, Variant


@dataclass(frozen=True)
class Asked:
    """One question about one case.

    Attributes:
        roles: whom it is asked of, as the parts of a check's name: ``onnx``, ``om``; of a conversion step its name.
        question: of the report; only a conversion step needs to be told, the others know their own.
        spec: the model.
        variant: the variant, or None.
        batch: its batch size, or None.
        dataset: the labelled images, or None.
        whole: whether the run takes all images that the spec asks for.
    """

    roles: Sequence[str]
    question: Question
    spec: Spec
    variant: Variant | None = None
    batch: int | None = None
    dataset: Dataset | None = None
    whole: bool = True


def expected(name: str, asked: Asked) -> Iterator[Expected]:
    """The gates of one question; light as long as only the first is looked at.

    Args:
        name: a method of the fixture ``accept``.
        asked: about what.

    Raises:
        Pth2omError: there is no such question, or it is asked of another number of roles.
    """
    if name not in QUESTIONS_ASKED or len(asked.roles) != QUESTIONS_ASKED[name][0]:
        known = ", ".join(f"{word} ({count})" for word, (count, _) in QUESTIONS_ASKED.items())
        raise Pth2omError("questions.unknown", name=name, count=len(asked.roles), known=known)
    return QUESTIONS_ASKED[name][1](asked)


def _stage(asked: Asked) -> Iterator[Expected]:
    from pth2om.questions.columns import labelled

    yield Expected(asked.question, (f"{asked.roles[0]}/findings",))
    if asked.roles[0] == "onnx":
        for dataset in labelled(asked.spec):
            yield Expected("export", (f"onnx/columns/{dataset.name}",))


def _preflight(asked: Asked) -> Iterator[Expected]:  # noqa: ARG001 - the same of every model
    for check in ("errors", "refused"):
        yield Expected("preflight", (f"preflight/{check}",))


def _quantized(asked: Asked) -> Iterator[Expected]:  # noqa: ARG001 - the same of every model
    """Of the twins, whether all sums are exact decides which of two figures is judged."""
    for check in ("findings", "form", "refused-by-parser", "exact-layers-differing"):
        yield Expected("quantization", (f"quantized/{check}",))
    yield Expected("quantization", ("quantized/twin-differing", "quantized/twin-relative_l2"))
    for check in ("layers-unexplained", "int8-layers"):
        yield Expected("quantization", (f"quantized/{check}",))


def _fp32_checkpoint(asked: Asked) -> Iterator[Expected]:  # noqa: ARG001 - the same of every model
    for check in ("keys-changed", "relative_l2"):
        yield Expected("quantization", (f"fp32-checkpoint/{check}",))


def _closeness(asked: Asked) -> Iterator[Expected]:
    """Every slice of the spec and, where it names the outputs, every output, by every limit that holds for it.

    Not derivable before the run: the names of outputs that the spec does not name (then one gate is required where
    there are no slices either), columns of different scale, and outputs that turn out to be constant or too small.
    """
    spec, variant = asked.spec, asked.variant
    reference, candidate = asked.roles
    between = pair_of(reference, candidate)
    named = False
    for part, output in _parts(spec):
        named = True
        mismatch = (f"{between}/{output}/shape",) if output else ()
        for count in ("new_nonfinite", "lost_nonfinite"):
            yield Expected("closeness", (f"{between}/{part.name}/{count}", *mismatch))
        from pth2om.compare import limits

        quantized = variant is not None and variant.quantized
        for metric in limits(between, spec.gates, slice_name=part.name, kind=part.kind, int8=quantized):
            # Whole numbers, which only the data show, are judged by equality.
            equal = (f"{between}/{part.name}/equal",) if part.kind == "values" else ()
            yield Expected("closeness", (f"{between}/{part.name}/{metric}", *equal, *mismatch))
    if not named:
        yield Expected("closeness", (f"{between}/*",))
    from pth2om.questions.steadiness import held_against_singles, roles_asked

    for role in roles_asked(reference, candidate, has_torch=spec.source.onnx is None):
        yield Expected("closeness", (f"{role}/repeats",))
        if (asked.batch or 1) > 1:
            yield Expected("closeness", (f"{role}/apart/*",))
            if held_against_singles(role, quantized=variant is not None and variant.quantized):
                yield Expected("closeness", (f"{role}/batch/*",))


def _twin(asked: Asked) -> Iterator[Expected]:
    return _closeness(replace(asked, roles=(TWIN, "om")))


def _parts(spec: Spec) -> Iterator[tuple[Slice, str]]:
    """The slices of a spec, and the whole outputs that it names and no slice covers; each with its output, if known."""
    from pth2om.spec import Slice

    outputs = spec.export.outputs if spec.source.onnx is None else ()
    first = outputs[0] if outputs else ""
    taken = {part.name for part in spec.slices}
    for output in outputs:
        parts = [part for part in spec.slices if (part.output or first) == output]
        if not any(part.index.strip() == "..." for part in parts):
            yield Slice.model_construct(name=f"{output}.whole" if output in taken else output), output
    for part in spec.slices:
        yield part, part.output or first


def _score(asked: Asked) -> Iterator[Expected]:
    """Nothing of a dataset without labels, where only two sessions can agree."""
    dataset = asked.dataset
    assert dataset is not None
    if dataset.metric != "agreement":
        yield Expected("accuracy", (f"{dataset.metric}/score",), dataset.name)
        if asked.spec.volume is not None:
            yield Expected("accuracy", (f"{dataset.metric}:*",), dataset.name)
    if dataset.expected is not None and dataset.subset is None and asked.whole:
        yield Expected("accuracy", (f"{dataset.metric}/expected",), dataset.name)


def _accuracy(asked: Asked) -> Iterator[Expected]:
    dataset, role = asked.dataset, asked.roles[1]
    assert dataset is not None
    checks: tuple[str, ...] = (f"{role}/{dataset.metric}/drop",)
    if dataset.metric == "agreement":
        checks = (f"{role}/top1/agreement", f"{role}/boxes/agreement")
    yield Expected("accuracy", checks, dataset.name)
    if asked.spec.volume is not None and dataset.metric != "agreement":
        yield Expected("accuracy", (f"{role}/{dataset.metric}:*",), dataset.name)
    yield Expected("accuracy", (f"{role}/unreadable",), dataset.name)
    if role == "om" and dataset.om_min_score is not None and dataset.metric != "agreement":
        yield Expected("accuracy", (f"om/{dataset.metric}/score",), dataset.name)


def _latency(asked: Asked) -> Iterator[Expected]:
    """Of an OM the rate alone: whether it can be timed is known when the toolchain is."""
    (role,) = asked.roles
    for check in ("fps",) if role == "om" else ("median_ms", "fps"):
        yield Expected("latency", (f"{role}/{check}",))


QUESTIONS_ASKED: dict[str, tuple[int, Callable[[Asked], Iterator[Expected]]]] = {
    "stage": (1, _stage),
    "preflight": (0, _preflight),
    "quantized": (0, _quantized),
    "fp32_checkpoint": (0, _fp32_checkpoint),
    "closeness": (2, _closeness),
    "twin": (0, _twin),
    "score": (0, _score),
    "accuracy": (2, _accuracy),
    "latency": (1, _latency),
}
"""By the method of ``accept`` that asks: of how many roles, and what it has to give."""
