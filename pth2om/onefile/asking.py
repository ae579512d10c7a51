"""The questions of a conversion: those of an acceptance run, asked in its order by the same functions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pth2om.errors import Pth2omError
from pth2om.evidence import GateRecord, Judgement, Question
from pth2om.language import joined, say
from pth2om.own_words import in_own_words
from pth2om.progress import Progress
from pth2om.questions.accuracy import accuracy
from pth2om.questions.candidate import TWIN, Candidate
from pth2om.questions.closeness import closeness
from pth2om.questions.int8_files import files, fp32_checkpoint
from pth2om.questions.preflight import preflight
from pth2om.questions.stages import stage
from pth2om.questions.subject import Subject

if TYPE_CHECKING:
    from pth2om.conversion.pipeline import Pipeline
    from pth2om.conversion.stage import Built
    from pth2om.data import Samples
    from pth2om.onefile.options import Options
    from pth2om.session import Session
    from pth2om.spec import Dataset, Variant

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


def steps(pipeline: Pipeline, variants: Sequence[Variant], options: Options) -> list[Step]:
    """All steps, in order; none of them is asked yet.

    Args:
        pipeline: of the model.
        variants: one, or one a gear.
        options: say which questions are switched off.
    """
    model = Subject(pipeline)
    read = Step(
        "checkpoint",
        "checkpoint",
        "checkpoint/reading",
        model,
        lambda: stage(model, "checkpoint", pipeline.checkpoint()),
        makes=True,
    )
    return [read, *(step for variant in variants for step in _Questions(pipeline, variant, options).steps())]


class _Questions:
    """The questions about one variant."""

    def __init__(self, pipeline: Pipeline, variant: Variant, options: Options) -> None:
        self.pipeline = pipeline
        self.variant = variant
        self.options = options
        self.exported = Subject(pipeline, shape=variant.shape)
        self.compiled = Subject(pipeline, variant)

    def steps(self) -> Iterator[Step]:
        """Export, INT8, compilation; each with its comparisons."""
        if self.pipeline.spec.torchscript is not None:
            yield from self._torchscript()
        yield self._made("export", self.exported, "export", "exporting", self._onnx_file)
        if self.pipeline.spec.torchscript is not None:
            yield self._close("torchscript", "onnx", self.exported, wanted=self.options.validate_onnx)
        if self.pipeline.has_torch:
            yield self._close("torch", "onnx", self.exported, wanted=self.options.validate_onnx)
        yield from self._scored("torch", "onnx", self.exported)
        if self.variant.quantized:
            yield from self._int8()
            yield from self._scored("onnx", "fake-quant", self.compiled)
        if self.pipeline.settings.soc is not None:
            yield from self._compiled()

    def _torchscript(self) -> Iterator[Step]:
        yield self._made("torchscript", self.exported, "export", "making", self._program)
        yield self._close("torch", "torchscript", self.exported, wanted=self.options.validate_onnx)

    def _int8(self) -> Iterator[Step]:
        quantization: Question = "quantization"

        def int8() -> list[GateRecord]:
            return files(self.compiled, self._quantized(), self._samples(self.compiled))

        def weights() -> list[GateRecord]:
            return fp32_checkpoint(self.compiled, self._quantized(), self._samples(self.compiled))

        yield Step("int8", quantization, "quantization/files", self.compiled, int8, makes=True)
        yield self._close("onnx", "fake-quant", self.compiled, question=quantization)
        if self.pipeline.has_torch and self.pipeline.spec.quantize.onnx is None:
            yield Step("int8-weights", quantization, "quantization/fp32-checkpoint", self.compiled, weights)

    def _compiled(self) -> Iterator[Step]:
        def precheck() -> list[GateRecord]:
            return preflight(self.compiled, self.variant, self._onnx_file())

        wanted = self.options.validate_om
        yield Step("preflight", "preflight", "preflight/asking", self.compiled, precheck, self.options.precheck)
        yield self._made(
            "om", self.compiled, "preflight", "compiling", functools.partial(self.pipeline.om, self.variant)
        )
        yield self._close("onnx", "om", self.compiled, wanted=wanted)
        if self.variant.quantized:
            yield self._close("fake-quant", "om", self.compiled, question="quantization", wanted=wanted)
        if self.pipeline.has_torch:
            yield self._close("torch", "om", self.compiled, wanted=wanted)
        if self.variant.gears is not None:
            yield self._close(TWIN, "om", self.compiled, wanted=wanted)
        yield from self._scored("torch" if self.pipeline.has_torch else "onnx", "om", self.compiled)

    def _made(self, name: str, subject: Subject, question: Question, verb: str, make: Callable[[], Built]) -> Step:
        """A step that makes what those behind it need."""
        return Step(name, question, f"{name}/{verb}", subject, lambda: stage(subject, question, make()), makes=True)

    def _close(
        self, left: str, right: str, subject: Subject, *, question: Question = "closeness", wanted: bool = True
    ) -> Step:
        """A comparison of two sides by their roles."""

        def ask() -> list[GateRecord]:
            return closeness(subject, self._side(left), self._side(right), self._samples(subject))

        pair = f"{left}~{right}"
        return Step(pair, question, f"closeness/{pair}", subject, ask, wanted)

    def _scored(self, left: str, right: str, subject: Subject) -> Iterator[Step]:
        """How many points of the metric are lost, where there are labelled images."""
        if left == "torch" and not self.pipeline.has_torch:
            return
        for dataset in self.pipeline.spec.datasets:

            def ask(dataset: Dataset = dataset) -> list[GateRecord]:
                labelled = self.pipeline.data.dataset(dataset.name, dataset.subset)
                return accuracy(subject, self._side(left), self._side(right), labelled, dataset)

            yield Step(f"{dataset.metric} {right}", "accuracy", f"accuracy/{right}", subject, ask)

    def _side(self, role: str) -> Candidate:
        pipeline, shape = self.pipeline, self.variant.shape
        if role == TWIN:
            return Candidate(TWIN, pipeline.twin_sessions(self.variant))
        sessions: Mapping[str, Callable[[], Session | Mapping[str, Session]]] = {
            "torch": pipeline.torch_session,
            "torchscript": lambda: pipeline.torchscript_session(shape.batch),
            "onnx": lambda: pipeline.onnx_session(shape),
            "fake-quant": lambda: pipeline.fake_quant_session(shape),
            "om": lambda: pipeline.om_sessions(self.variant),
        }
        return Candidate.of(sessions[role]())

    def _samples(self, subject: Subject) -> Samples:
        return self.pipeline.data.samples(self.variant.shape, subject.variant)

    def _onnx_file(self) -> Built:
        return self.pipeline.onnx(self.variant.shape)

    def _program(self) -> Built:
        return self.pipeline.torchscript(self.variant.batch)

    def _quantized(self) -> Built:
        return self.pipeline.quantized(self.variant.shape)


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
            shape = step.subject.shape
            gear = f"{shape.name} " if shape is not None and shape.gears is not None else ""
            with progress.counted(joined((step.subject.pipeline.spec.name, f"{gear}{step.title}"), ": "), 1) as seen:
                try:
                    yield from (_told(gate) for gate in step.ask())
                except Pth2omError as error:
                    lost = step if step.makes else None
                    yield _told(step.subject.failed(step.question, step.check, error))
                seen(1)


def _told(gate: GateRecord) -> GateRecord:
    return gate if gate.message is None else replace(gate, message=in_own_words(gate.message, "convert"))


def _gate(step: Step, verdict: str, key: str, **values: str) -> GateRecord:
    judgement = Judgement(step.check, None, "", None, verdict, message=say(key, **values))  # type: ignore[arg-type]  # one of the verdicts
    return step.subject.gate(step.question, judgement, None, {}, "host")
