"""How long one inference takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pth2om.conversion.stage import Work, forget, run
from pth2om.host import host_fingerprint
from pth2om.questions.subject import Subject, answers

if TYPE_CHECKING:
    from pth2om.evidence import GateRecord
    from pth2om.questions.candidate import Candidate
    from pth2om.spec import Variant

_SECONDS = 3.0
"""The longest time to measure a session; within it most models reach an interval of 2 %."""


@answers("latency")
def latency(subject: Subject, candidate: Candidate, *, remeasure: bool = False) -> list[GateRecord]:
    """How long one inference takes; an emulated OM is not timed, a roofline estimate is shown instead.

    A double's OM is timed, and its figure shown and not judged: it says nothing of an NPU.

    Args:
        subject: of the variant or batch size.
        candidate: PyTorch, ONNX, or an OM.
        remeasure: time again although the store has a measurement of this machine.
    """
    from pth2om import latency as timing

    pipeline = subject.pipeline
    settings, spec, session = pipeline.settings, pipeline.spec, candidate.session
    ground = session.provenance.ground
    measured, artifact, estimate = None, None, None
    if candidate.role == "om" and ground != "device":
        estimate = None if subject.variant is None else _estimate(subject, subject.variant)
    if candidate.role != "om" or ground in ("device", "double"):
        batch = subject.batch or spec.batches[0]

        def timed(_: Work) -> Any:  # noqa: ANN401 - JSON
            from pth2om.export_probe import example

            feeds = example(subject.spec.inputs, batch, settings.seed)
            return timing.measure(session, feeds, batch=batch, cap_seconds=_SECONDS)

        stage = subject.measurement(
            "latency",
            timing.VERSION,
            {"session": session.digest},
            {"host": host_fingerprint(), "batch": batch, "threads": settings.threads, "seed": settings.seed},
            ("numpy",),
            timed,
        )
        if remeasure:
            forget(stage, pipeline.store)
        done = run(stage, pipeline.store)
        measured, artifact = done.result.value, done.artifact
    judgements = timing.judge(
        measured,
        subject=candidate.role,
        ground=ground,
        gates=spec.gates,
        variant=subject.case,
        soc=settings.soc,
        estimate=estimate,
    )
    return subject.gates("latency", judgements, session, {"session": session.digest}, artifact)


def _estimate(subject: Subject, variant: Variant) -> Any:  # noqa: ANN401 - JSON
    """The roofline bound of a variant on the SoC; None where the SoC is unknown."""
    from pth2om import roofline

    pipeline = subject.pipeline
    soc = pipeline.settings.soc
    if soc is None:
        return None
    source = subject.pipeline.onnx(variant.shape)
    shapes = {} if variant.gears is None else {entry.name: variant.shape.of(entry) for entry in pipeline.spec.inputs}
    work, _ = subject.measured(
        "work",
        roofline.VERSION,
        {"onnx": source.record.digest},
        {"shapes": {name: list(sizes) for name, sizes in shapes.items()}} if shapes else {},
        ("onnx",),
        lambda: roofline.work(source.file, shapes),
    )
    return roofline.estimate(work, soc, batch=variant.batch, quantized=variant.quantized)
