"""Whether both sides compute the same, slice by slice, on the same samples."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pth2om.errors import Pth2omError
from pth2om.evidence import Judgement
from pth2om.language import say
from pth2om.questions.candidate import Candidate, pair
from pth2om.questions.rounding import own_rounding
from pth2om.questions.steadiness import repeats, steady
from pth2om.questions.subject import Subject, answers

if TYPE_CHECKING:
    from pth2om.data import Samples
    from pth2om.evidence import GateRecord
    from pth2om.session import Session
    from pth2om.spec import Spec, Variant
    from pth2om.store import Artifact


@answers("closeness")
def closeness(subject: Subject, reference: Candidate, candidate: Candidate, samples: Samples) -> list[GateRecord]:
    """Whether the candidate computes the same as the reference.

    Args:
        subject: of the variant or batch size.
        reference: PyTorch or ONNX; or the OM without AIPP, each band of which is compared with its own.
        candidate: ONNX, or an OM, of whose bands the worse is judged.
        samples: the inputs of both.
    """
    from pth2om import compare
    from pth2om.compare import repeating

    spec = subject.pipeline.spec
    deterministic = all(repeating.repeats(repeats(subject, side, samples)[0]) for side in (reference, candidate))
    slices = [part.model_dump(mode="json") for part in spec.slices]
    measured: dict[str, Any] = {}
    known: dict[tuple[str, str], tuple[Any, Artifact]] = {}
    for band, session in candidate.bands.items():
        left = reference.band(band)

        def measure(left: Session = left, session: Session = session) -> Any:  # noqa: ANN401 - JSON
            first, second = (subject.pipeline.remembering(side) for side in (left, session))
            return compare.measure(first, second, samples, spec.slices)

        pair_of_digests = (left.digest, session.digest)
        if pair_of_digests not in known:
            inputs = {"reference": left.digest, "candidate": session.digest, "samples": samples.digest}
            known[pair_of_digests] = subject.measured(
                "closeness", compare.VERSION, inputs, {"slices": slices}, ("numpy",), measure
            )
        measured[band], artifact = known[pair_of_digests]
    if len(measured) == 2:
        first, second = measured
        joined = compare.worse(measured[first], measured[second], (first, second))
    else:
        (joined,) = measured.values()
    between = pair(reference, candidate)
    judgements = judged(subject, joined, between, samples, excused=deterministic)
    judgements += _unnamed_boxes(spec, joined, between)
    first_band = next(iter(candidate.bands))
    digests = {"reference": reference.band(first_band).digest, "samples": samples.digest}
    digests |= {band or "candidate": session.digest for band, session in candidate.bands.items()}
    gates = subject.gates("closeness", judgements, candidate.session, digests, artifact)
    return gates + steady(subject, reference, candidate, samples)


def judged(
    subject: Subject, measured: Mapping[str, Any], between: str, samples: Samples, *, excused: bool
) -> list[Judgement]:
    """A measurement (`pth2om.compare.measure`) against the limits of the subject's model.

    Args:
        subject: of the variant or batch size.
        measured: of both sides on the samples.
        between: the pair whose limits hold: ``torch~om``.
        samples: what was fed.
        excused: whether the original's own rounding excuses a difference; not where a side is not deterministic.
    """
    from pth2om import compare

    variant = subject.variant
    int8 = variant is not None and variant.quantized
    judge = functools.partial(
        compare.judge,
        measured,
        pair=between,
        gates=subject.pipeline.spec.gates,
        int8=int8,
        layers=_int8_layers(subject, variant) if variant is not None and int8 else 0,
        metric=_judging_metric(subject) if int8 else "",
    )
    judgements = judge()
    if excused and any(each.verdict == "failed" and each.measured is not None for each in judgements):
        # Only now: what meets its limit needs no excuse, and the twin takes time.
        judgements = judge(own=own_rounding(subject, samples))
    return judgements


def _int8_layers(subject: Subject, variant: Variant) -> int:
    """How many layers of the variant run in INT8."""
    rows = subject.pipeline.quantized(variant.shape).record.details["layers"]
    return sum(bool(row["int8"]) for row in rows)


def _judging_metric(subject: Subject) -> str:
    """The metric that judges the variant on images that are here, with the dataset's name; "" where none does."""
    pipeline = subject.pipeline
    if pipeline.seeded:
        return ""
    for entry in pipeline.spec.datasets:
        if entry.metric == "agreement":
            continue
        try:
            pipeline.data.dataset(entry.name, entry.subset)
        except Pth2omError:
            continue  # absent or wrong: it judges nothing
        return f"{entry.metric} ({entry.name})"
    return ""


def _unnamed_boxes(spec: Spec, measured: Mapping[str, Any], between: str) -> list[Judgement]:
    """One that decides nothing where no slice says which numbers of a detector are boxes: nobody looks at them."""
    from pth2om.compare.judging import FLOAT32

    if spec.task != "detection" or between in FLOAT32 or any(part.kind == "boxes" for part in spec.slices):
        return []
    outputs = ", ".join(dict.fromkeys(part["output"] for part in measured["slices"].values()))
    message = say("compare.no-boxes", outputs=outputs)
    return [Judgement(f"{between}/boxes", None, "", None, "inconclusive", message=message)]
