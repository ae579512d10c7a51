"""The subject of a question, and how answers become evidence.

Measurements are kept in the store under the digests of what was measured, so a second run with the same files measures
nothing again and records this (``cached``, ``measured_at``).
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from pth2om.conversion.sessions import INT8_WEIGHTS
from pth2om.conversion.stage import Measurement, Work, run
from pth2om.errors import Absent, Pth2omError
from pth2om.evidence import GateRecord, Judgement, Question
from pth2om.host import host_fingerprint
from pth2om.language import say
from pth2om.session import Ground, Provenance, Session
from pth2om.store import Artifact

if TYPE_CHECKING:
    from pth2om.conversion.pipeline import Pipeline
    from pth2om.spec import Shape, Spec, Variant


_LOG = logging.getLogger(__name__)
_LONGEST = 300
_MADE_OF: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnx",),
    "fake-quant": ("onnx", "quantized"),
    INT8_WEIGHTS: ("onnx", "quantized"),
}
"""Who computes on this host -> the stages that made what it runs."""
P = ParamSpec("P")


class Subject:
    """One model, or one variant or batch size of it.

    Args:
        pipeline: the model's stages.
        variant: the variant in question, or None.
        shape: the batch size or gear in question, or None; a variant has its own.
    """

    def __init__(self, pipeline: Pipeline, variant: Variant | None = None, shape: Shape | None = None) -> None:
        self.pipeline = pipeline
        self.variant = variant
        self.shape = variant.shape if variant else shape
        self.batch = None if self.shape is None else self.shape.batch

    @property
    def case(self) -> str:
        """Its name in evidence: ``fp16-bs1``, ``bs4`` or ``""``."""
        if self.variant is not None:
            return self.variant.name
        return "" if self.shape is None else self.shape.name

    @property
    def spec(self) -> Spec:
        """The model's spec, with the sizes of the gear in question."""
        return self.pipeline.spec if self.shape is None else self.pipeline.spec.at(self.shape)

    def sized(self, batch: int) -> int | Shape:
        """The exported file and shape of a batch size: the subject's own where it is about gears."""
        geared = self.shape is not None and self.shape.gears is not None
        others = self.shape.others() if self.shape is not None and geared else ()
        own = self.shape if self.shape is not None and self.shape.batch == batch else None
        return (own or next((shape for shape in others if shape.batch == batch), batch)) if geared else batch

    def measured(
        self,
        kind: str,
        version: int,
        inputs: Mapping[str, str],
        options: Mapping[str, Any],
        libraries: Sequence[str],
        measure: Callable[[], Any],
    ) -> tuple[Any, Artifact]:
        """``measure()`` through the store.

        Args:
            kind: name of the measurement, the store's stage.
            version: of the measuring code.
            inputs: role -> digest.
            options: whatever else it depends on.
            libraries: whose versions it depends on.
            measure: returns JSON values.
        """
        stage = self.measurement(kind, version, inputs, options, libraries, lambda _: measure())
        done = run(stage, self.pipeline.store)
        return done.result.value, done.artifact

    def measurement(
        self,
        kind: str,
        version: int,
        inputs: Mapping[str, str],
        options: Mapping[str, Any],
        libraries: Sequence[str],
        measure: Callable[[Work], Any],
    ) -> Measurement:
        """A measurement as a stage, for one that writes files or is to be forgotten; arguments as `measured`."""
        label = f"{self.pipeline.spec.name}-{self.case}" if self.case else self.pipeline.spec.name
        # What an OM gives on a device may change with its driver; the OM itself does not.
        device = {} if self.variant is None else self.pipeline.device()
        asked = {**options, "device": dict(device)} if device else options
        return Measurement(kind, version, tuple(libraries), label, inputs, asked, measure)

    def gates(
        self,
        question: Question,
        judgements: Sequence[Judgement],
        session: Session,
        digests: Mapping[str, str],
        artifact: Artifact | None = None,
    ) -> list[GateRecord]:
        """Evidence of ``judgements`` about ``session``."""
        provenance = session.provenance
        return [self.gate(question, each, provenance, digests, provenance.ground, artifact) for each in judgements]

    def gate(
        self,
        question: Question,
        judgement: Judgement,
        provenance: Provenance | None,
        digests: Mapping[str, str],
        ground: Ground,
        artifact: Artifact | None = None,
    ) -> GateRecord:
        """Evidence of one judgement; ``artifact`` is the measurement in the store, where there is one."""
        return GateRecord(
            model=self.pipeline.spec.name,
            variant=self.case,
            soc=self.pipeline.settings.soc if self.variant is not None else None,
            question=question,
            check=judgement.check,
            measured=judgement.measured,
            unit=judgement.unit,
            limit=judgement.limit,
            verdict=judgement.verdict,
            ground=ground,
            interval=judgement.interval,
            message=judgement.message,
            provenance=provenance,
            digests={**self._artifacts(provenance), **digests},
            details={**judgement.details, **self._device(ground)},
            seed=judgement.seed,
            cached=artifact.cached if artifact else False,
            measured_at=artifact.created if artifact else "",
            host=host_fingerprint(),
        )

    def _artifacts(self, provenance: Provenance | None) -> dict[str, str]:
        """The spec, and the artifacts of this run that the judged side was made of: role -> digest."""
        pipeline = self.pipeline
        found = {"spec": pipeline.spec.digest} if pipeline.spec.digest else {}
        if provenance is None:
            return found
        # Not from the records: whether this process has read the checkpoint depends on what it asked before.
        with contextlib.suppress(Absent):
            found |= {"checkpoint": weights} if (weights := pipeline.source.digest) else {}
        stages = ("onnx", "quantized", "om") if provenance.ground != "host" else _MADE_OF.get(provenance.name, ())
        for stage in stages:
            record = pipeline.records.get((self._owner(stage), stage))
            if record is not None:
                found[stage] = record.digest
                if stage == "quantized" and (images := record.details.get("calibration_digest")):
                    found["calibration"] = str(images)
        return found

    def _owner(self, stage: str) -> str:
        """Whose record the stage of this subject is: the model's, a shape's, or a variant's."""
        if self.shape is None:
            return ""
        if stage == "onnx":
            return self.shape.name
        if stage == "quantized":
            return f"int8-bs{self.batch}" if self.variant is not None and self.variant.quantized else "-"
        return self.case

    def _device(self, ground: Ground) -> dict[str, Any]:
        """Driver, firmware and machine of a figure that was measured on a device."""
        return {"device": dict(self.pipeline.device())} if ground == "device" else {}

    def failed(self, question: Question, check: str, error: Pth2omError) -> GateRecord:
        """The evidence of a question that could not be answered: failed, or not measured when something is absent."""
        absent = isinstance(error, Absent)
        details = {"whole": True, **({"where": error.where} if error.where else {})}
        judgement = Judgement(
            check, None, "", None, "not_measured" if absent else "failed", message=error.message, details=details
        )
        return self.gate(question, judgement, None, {}, "host")


Ask = Callable[Concatenate[Subject, P], list[GateRecord]]


def answers(question: Question) -> Callable[[Ask[P]], Ask[P]]:
    """Decorates a question: an unexpected error becomes a failed gate with a message, so there is always evidence.

    Errors of `pth2om.errors` are passed on: they have their own message.
    """

    def wrap(ask: Ask[P]) -> Ask[P]:
        @functools.wraps(ask)
        def asked(subject: Subject, /, *args: P.args, **kwargs: P.kwargs) -> list[GateRecord]:
            try:
                return ask(subject, *args, **kwargs)
            except Pth2omError:
                raise
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - whatever a net's own code, or a mistake in ours, raises
                _LOG.exception("%s of %s %s", question, subject.pipeline.spec.name, subject.case)
                text = " ".join(str(error).split())[:_LONGEST]
                message = say("questions.broke", kind=type(error).__name__, text=text)
                # The name is part of the gate's id, so it does not depend on the error.
                judgement = Judgement(
                    f"{question}/{ask.__name__}", None, "", None, "failed", message=message, details={"whole": True}
                )
                return [subject.gate(question, judgement, None, {}, "host")]

        return asked

    return wrap
