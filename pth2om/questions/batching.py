"""Whether a picture gives in a batch what it gives alone: asked of every session with more than one picture a batch."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from pth2om.questions.rounding import own_rounding

if TYPE_CHECKING:
    from pth2om.data import Samples
    from pth2om.evidence import GateRecord
    from pth2om.questions.candidate import Candidate
    from pth2om.questions.subject import Subject
    from pth2om.session import Session

_ORIGINAL = ("torch", "onnx")


def batching(subject: Subject, reference: Candidate, candidate: Candidate, samples: Samples) -> list[GateRecord]:
    """Gates on both sides of a comparison at a batch size above 1; each side is asked in one comparison only.

    Each is held against the original model on single pictures; what is quantized, whose noise would hide a difference,
    against itself on batches of nothing but one picture. The first batch of the samples is enough: a graph that mixes
    pictures mixes any.

    Args:
        subject: of the variant or batch size.
        reference: see `pth2om.questions.closeness.closeness`.
        candidate: likewise.
        samples: what both are fed.
    """
    if (subject.batch or 1) < 2:
        return []
    if candidate.role not in _ORIGINAL:
        sides = [candidate] if reference.role == "onnx" else []
        if sides and candidate.role == "om" and not subject.pipeline.has_torch:
            sides.append(reference)  # nothing else compares it
    else:
        sides = [reference, candidate]
    return [gate for side in sides for gate in _asked(subject, side, samples)]


def _asked(subject: Subject, side: Candidate, samples: Samples) -> list[GateRecord]:
    from pth2om import compare
    from pth2om.compare import batching as measuring

    # Of an emulated OM the first band: the bands differ in rounding, not in what reaches what.
    pipeline, session = subject.pipeline, side.session
    original = side.role in _ORIGINAL
    single: Session | None = None
    if original or (side.role == "om" and not (subject.variant and subject.variant.quantized)):
        single = pipeline.torch_session() if pipeline.has_torch else pipeline.onnx_session(1)

    def measure() -> Any:  # noqa: ANN401 - JSON
        first = next(iter(samples))
        if single is not None:
            return measuring.against_singles(session, single, first)
        return measuring.against_repeats(session, first)

    inputs = {"session": session.digest, "samples": samples.digest}
    inputs |= {} if single is None else {"single": single.digest}
    options = {"closeness": compare.VERSION}
    measured, artifact = subject.measured("batching", measuring.VERSION, inputs, options, ("numpy",), measure)
    gates = pipeline.spec.gates
    largest = (gates.torch_onnx if original else gates.onnx_om).relative_l2
    judge = functools.partial(measuring.judge_batch, measured, side.role, half=not original, largest=largest)
    judgements = judge()
    if any(each.verdict == "failed" and each.measured is not None for each in judgements):
        judgements = judge(own=own_rounding(subject, samples))
    return subject.gates("closeness", judgements, session, inputs, artifact)
