"""What a session must keep before its outputs mean anything: the same for the same feeds, and pictures apart.

Asked of each side of a comparison once: that it repeats itself, at any batch size; that a picture gives in a batch what
it gives alone, and that no other picture reaches it, at a batch size above 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pth2om.data import Samples
    from pth2om.data.samples import Sample
    from pth2om.evidence import GateRecord
    from pth2om.questions.candidate import Candidate
    from pth2om.questions.subject import Subject
    from pth2om.store import Artifact

ORIGINAL = ("torch", "onnx", "torchscript")


def repeats(subject: Subject, side: Candidate, samples: Samples) -> tuple[Any, Artifact]:
    """How far a side is from itself on the same feeds (`pth2om.compare.repeating.repeated`), through the store.

    Of an emulated OM the first band: the bands differ in rounding, not in what they compute.

    Args:
        subject: of the variant or batch size.
        side: a side of the comparison.
        samples: what both sides are fed; the first batch that is not zeros alone is enough.
    """
    from pth2om.compare import repeating

    session = side.session
    inputs = {"session": session.digest, "samples": samples.digest}

    def measure() -> Any:  # noqa: ANN401 - JSON
        return repeating.repeated(session, _telling(samples), before=subject.pipeline.remembering(session))

    return subject.measured("repeats", repeating.VERSION, inputs, {}, ("numpy",), measure)


def steady(subject: Subject, reference: Candidate, candidate: Candidate, samples: Samples) -> list[GateRecord]:
    """Gates on both sides of a comparison; each side is asked in one comparison only.

    A picture of a batch is held against the original model on single pictures, unless a quantized graph computes, whose
    noise would hide a difference. Of every session the other pictures of the batch are replaced, which must not move a
    picture's own output: rounding hides nothing there. The first batch of the samples is enough: a
    graph that mixes pictures mixes any.

    Args:
        subject: of the variant or batch size.
        reference: see `pth2om.questions.closeness.closeness`.
        candidate: likewise.
        samples: what both are fed.
    """
    sides = {reference.role: reference, candidate.role: candidate}
    asked = roles_asked(reference.role, candidate.role, has_torch=subject.pipeline.has_torch)
    return [gate for role in asked for gate in _asked(subject, sides[role], samples)]


def roles_asked(reference: str, candidate: str, *, has_torch: bool) -> list[str]:
    """Which sides of a comparison are asked, by their roles.

    Args:
        reference: role of the side that is taken for right.
        candidate: role of the other.
        has_torch: whether the model has a PyTorch side.
    """
    if "torchscript" in (reference, candidate):
        # The other sides are asked in comparisons that every model has.
        return [candidate] if candidate == "torchscript" else []
    if candidate in ORIGINAL:
        return [reference, candidate]
    if reference != "onnx":
        return []
    # Without PyTorch nothing else compares the ONNX file.
    return [candidate, reference] if candidate == "om" and not has_torch else [candidate]


def held_against_singles(role: str, *, quantized: bool) -> bool:
    """Whether a side is held against single pictures: a quantized graph is not, whose noise would hide a difference."""
    return role in ORIGINAL or (role == "om" and not quantized)


def _asked(subject: Subject, side: Candidate, samples: Samples) -> list[GateRecord]:
    from pth2om.compare import DEFAULTS, batching, repeating

    session, role = side.session, side.role
    inputs = {"session": session.digest, "samples": samples.digest}
    again, artifact = repeats(subject, side, samples)
    gates = subject.gates("closeness", [repeating.judge_repeats(again, role)], session, inputs, artifact)
    if (subject.batch or 1) < 2 or not repeating.repeats(again):
        return gates  # of chance nothing else can be asked
    remembering = subject.pipeline.remembering
    measured, artifact = subject.measured(
        "apart",
        batching.VERSION,
        inputs,
        {},
        ("numpy",),
        lambda: batching.others_replaced(session, _telling(samples), before=remembering(session)),
    )
    judgements = batching.judge_replaced(measured, role, repeating.restless(again))
    gates += subject.gates("closeness", judgements, session, inputs, artifact)
    if held_against_singles(role, quantized=subject.variant is not None and subject.variant.quantized):
        pipeline = subject.pipeline
        single = pipeline.torch_session() if pipeline.has_torch else pipeline.onnx_session(subject.sized(1))
        inputs["single"] = single.digest
        measured, artifact = subject.measured(
            "batching",
            batching.VERSION,
            inputs,
            {},
            ("numpy",),
            lambda: batching.against_singles(remembering(session), remembering(single), _telling(samples)),
        )
        own = pipeline.spec.gates.onnx_om.relative_l2 or 0.0
        allowed = None if role in ORIGINAL else max(DEFAULTS["float"]["relative_l2"], own)
        gates += subject.gates("closeness", batching.judge_batch(measured, role, allowed), session, inputs, artifact)
    return gates


def _telling(samples: Samples) -> Sample:
    """The first batch that is not zeros alone: dropout leaves these as they are."""
    first = None
    for sample in samples:
        first = first or sample
        if set(sample.names) != {"zeros"}:
            return sample
    assert first is not None
    return first
