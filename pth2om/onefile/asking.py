"""The questions of a conversion: those of an acceptance run, asked in its order by the same functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pth2om.errors import Pth2omError
from pth2om.evidence import GateRecord, Judgement, Question
from pth2om.language import say
from pth2om.progress import Progress
from pth2om.questions.candidate import Candidate
from pth2om.questions.closeness import closeness
from pth2om.questions.int8_files import files, fp32_checkpoint
from pth2om.questions.preflight import preflight
from pth2om.questions.stages import stage
from pth2om.questions.subject import Subject

if TYPE_CHECKING:
    from pth2om.conversion.pipeline import Pipeline
    from pth2om.onefile.options import Options
    from pth2om.spec import Variant

Ask = Callable[[], list[GateRecord]]


@dataclass(frozen=True)
class Step:
    """One question of a conversion.

    Attributes:
        title: for progress: ``export``, ``onnx~om``.
        question: of the evidence.
        check: what a gate is called that stands for the whole step.
        subject: what is asked about.
        ask: asks it.
        wanted: whether the options ask for it.
        makes: whether the steps behind it need what it makes.
    """

    title: str
    question: Question
    check: str
    subject: Subject
    ask: Ask
    wanted: bool = True
    makes: bool = False


def steps(pipeline: Pipeline, variant: Variant, options: Options) -> list[Step]:
    """All steps, in order; none of them is asked yet."""
    batch = variant.batch
    model, exported, compiled = Subject(pipeline), Subject(pipeline, shape=variant.shape), Subject(pipeline, variant)
    data = pipeline.data

    def compared(subject: Subject, left: Callable[[], Candidate], right: Callable[[], Candidate]) -> Ask:
        return lambda: closeness(subject, left(), right(), data.samples(variant.shape, subject.variant))

    def torch() -> Candidate:
        return Candidate.of(pipeline.torch_session())

    def onnx() -> Candidate:
        return Candidate.of(pipeline.onnx_session(variant.shape))

    def twin() -> Candidate:
        return Candidate.of(pipeline.fake_quant_session(batch))

    def om() -> Candidate:
        return Candidate.of(pipeline.om_sessions(variant))

    found = [
        Step(
            "checkpoint",
            "checkpoint",
            "checkpoint/reading",
            model,
            lambda: stage(model, "checkpoint", pipeline.checkpoint()),
            makes=True,
        ),
        Step(
            "export",
            "export",
            "export/exporting",
            exported,
            lambda: stage(exported, "export", pipeline.onnx(variant.shape)),
            makes=True,
        ),
    ]
    if pipeline.has_torch:
        ask = compared(exported, torch, onnx)
        found.append(Step("torch~onnx", "closeness", "closeness/torch~onnx", exported, ask, options.validate_onnx))
    if variant.quantized:

        def int8() -> list[GateRecord]:
            return files(compiled, pipeline.quantized(batch), data.samples(batch, variant))

        found.append(Step("int8", "quantization", "quantization/files", compiled, int8, makes=True))
        ask = compared(compiled, onnx, twin)
        found.append(Step("onnx~fake-quant", "quantization", "closeness/onnx~fake-quant", compiled, ask))
        if pipeline.has_torch and pipeline.spec.quantize.onnx is None:

            def weights() -> list[GateRecord]:
                return fp32_checkpoint(compiled, pipeline.quantized(batch), data.samples(batch, variant))

            found.append(Step("int8-weights", "quantization", "quantization/fp32-checkpoint", compiled, weights))
    if pipeline.settings.soc is None:
        return found

    def precheck() -> list[GateRecord]:
        return preflight(compiled, variant, pipeline.onnx(variant.shape))

    found += [
        Step("preflight", "preflight", "preflight/asking", compiled, precheck, options.precheck),
        Step(
            "om",
            "preflight",
            "om/compiling",
            compiled,
            lambda: stage(compiled, "preflight", pipeline.om(variant)),
            makes=True,
        ),
        Step("onnx~om", "closeness", "closeness/onnx~om", compiled, compared(compiled, onnx, om), options.validate_om),
    ]
    if variant.quantized:
        ask = compared(compiled, twin, om)
        found.append(
            Step("fake-quant~om", "quantization", "closeness/fake-quant~om", compiled, ask, options.validate_om)
        )
    if pipeline.has_torch:
        ask = compared(compiled, torch, om)
        found.append(Step("torch~om", "closeness", "closeness/torch~om", compiled, ask, options.validate_om))
    return found


def asked(steps: list[Step], progress: Progress) -> Iterator[GateRecord]:
    """Ask the steps one after the other.

    What cannot be measured is a gate that says why. A step behind one that failed to make what it needs is not reached.
    """
    lost: Step | None = None
    for step in steps:
        if lost is not None:
            yield _gate(step, "not_reached", "convert.not-reached", before=lost.title)
        elif not step.wanted:
            yield _gate(step, "not_measured", "convert.switched-off")
        else:
            with progress.counted(f"{step.subject.pipeline.spec.name}: {step.title}", 1) as seen:
                try:
                    yield from step.ask()
                except Pth2omError as error:
                    lost = step if step.makes else None
                    yield step.subject.failed(step.question, step.check, error)
                seen(1)


def _gate(step: Step, verdict: str, key: str, **values: str) -> GateRecord:
    judgement = Judgement(step.check, None, "", None, verdict, message=say(key, **values))  # type: ignore[arg-type]
    return step.subject.gate(step.question, judgement, None, {}, "host")
