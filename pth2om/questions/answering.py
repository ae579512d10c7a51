"""The questions of an acceptance run, answered: measured through the store, judged against the spec, as evidence.

Each method of `Acceptance` answers one question about one model or variant and returns its `GateRecord`s. Measurements
are kept in the store under the digests of what was measured, so a second run with the same files measures nothing again
and says so (``cached``, ``measured_at``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.conversion.pipeline import Built, Pipeline
from pth2om.errors import Absent, Pth2omError
from pth2om.evidence import Finding, GateRecord, Judgement, Limit, Question
from pth2om.export import example
from pth2om.host import host_fingerprint
from pth2om.language import Message, say
from pth2om.questions import pictures as showing
from pth2om.questions.int8_files import INT8_WEIGHTS
from pth2om.session import Ground, Provenance, Session
from pth2om.spec import Dataset, Variant
from pth2om.store import Artifact, Key, version_of

if TYPE_CHECKING:
    from pth2om.data import Labelled, Samples

_OPERATOR_PACKAGES = ("ASCEND_OPP_PATH", "ASCEND_CUSTOM_OPP_PATH", "ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
_LATENCY_SECONDS = 3.0
"""How long a session is timed at most; within it the median of most models is known to 2 %."""

Bands = Mapping[str, Session]
"""The ways an OM can be run: ``fused`` and ``unfused`` on the emulator, one on a device."""


class Acceptance:
    """Answers for one model, and for one variant or batch of it.

    Args:
        pipeline: the model's stages.
        variant: the variant in question, or None.
        batch: the batch size in question, or None.
    """

    def __init__(self, pipeline: Pipeline, variant: Variant | None = None, batch: int | None = None) -> None:
        self.pipeline = pipeline
        self.variant = variant
        self.batch = variant.batch if variant else batch

    @property
    def case(self) -> str:
        """What evidence calls this case: ``fp16-bs1``, ``bs4`` or ``""``."""
        if self.variant is not None:
            return self.variant.name
        return "" if self.batch is None else f"bs{self.batch}"

    # --- stages -------------------------------------------------------------------------------------------------

    def stage(self, question: Question, built: Built) -> list[GateRecord]:
        """A stage is accepted when none of its findings is an error."""
        errors = [finding for finding in built.record.findings if finding.severity == "error"]
        judgement = Judgement(
            check=f"{built.record.stage}/findings",
            measured=float(len(errors)),
            unit="errors",
            limit=Limit("==", 0),
            verdict="failed" if errors else "passed",
            message=errors[0].message if errors else None,
            details={"findings": [finding.to_json() for finding in built.record.findings]},
        )
        ground = built.record.provenance.ground
        return [
            self.gate(question, judgement, built.record.provenance, {built.record.stage: built.record.digest}, ground)
        ]

    def preflight(self, built: Built) -> list[GateRecord]:
        """Whether ATC will take the ONNX file on this SoC: its front end's word, then the rules'.

        Raises:
            Absent: no SoC was asked for.
        """
        from pth2om import preflight

        assert self.variant is not None
        settings, spec = self.pipeline.settings, self.pipeline.spec
        toolchain = self.pipeline.toolchain()
        if self.variant.precision == "int8":
            built = self.pipeline.quantized(self.variant.batch)  # what atc is given
        options = self.pipeline.atc_options(self.variant, built.file)
        asked = {name: value for name, value in options.to_json().items() if name not in ("model", "insert_op_conf")}
        inputs = {"onnx": built.record.digest}
        if options.insert_op_conf:
            inputs["aipp"] = self.pipeline.store.digest(Path(options.insert_op_conf))
        # Whose operators are installed on this machine is part of the answer.
        packages = {name: os.environ[name] for name in _OPERATOR_PACKAGES if name in os.environ}
        latency_ms = spec.gates.latency_ms.get(self.variant.name)

        def measure() -> Any:  # noqa: ANN401 - JSON
            found = preflight.check(built.file, options=options, cann=settings.cann, latency_ms=latency_ms)
            return [finding.to_json() for finding in found]

        found, artifact = self.measured(
            "preflight",
            preflight.VERSION,
            inputs,
            {"atc": asked, "cann": settings.cann, "latency_ms": latency_ms, "packages": packages},
            ("onnx", "pth2om"),
            measure,
        )
        findings = [Finding.from_json(entry) for entry in found]
        errors = [finding for finding in findings if finding.severity == "error"]
        warned = [finding for finding in findings if finding.severity == "warning"]
        judgement = Judgement(
            check="preflight/errors",
            measured=float(len(errors)),
            unit="errors",
            limit=Limit("==", 0),
            verdict="failed" if errors else "passed",
            message=errors[0].message if errors else None,
            details={"findings": [finding.to_json() for finding in errors + warned], "command": options.command_line()},
        )
        provenance = toolchain.provenance
        digests = {"onnx": built.record.digest}
        return [self.gate("preflight", judgement, provenance, digests, provenance.ground, artifact)]

    # --- closeness ----------------------------------------------------------------------------------------------

    def closeness(self, reference: Session | Bands, candidate: Session | Bands, samples: Samples) -> list[GateRecord]:
        """Whether the candidate computes what the reference computes, slice by slice, on the same samples.

        Args:
            reference: PyTorch or ONNX; or the bands of the OM without AIPP, each compared with its own.
            candidate: ONNX, or the bands of an OM, of which the worse is judged.
            samples: what both are fed.
        """
        from pth2om import compare

        spec = self.pipeline.spec
        right = _bands(candidate)
        left = {band: _of_band(reference, band) for band in right}
        pair = "plain~aipp" if isinstance(reference, Mapping) else f"{_role(reference)}~{_role(candidate)}"
        slices = [part.model_dump(mode="json") for part in spec.slices]
        measured: dict[str, Any] = {}
        artifacts = []
        for band, session in right.items():

            def measure(session: Session = session, band: str = band) -> Any:  # noqa: ANN401 - JSON
                return compare.measure(self.pipeline.remembering(left[band]), session, samples, spec.slices)

            inputs = {"reference": left[band].digest, "candidate": session.digest, "samples": samples.digest}
            measured[band], artifact = self.measured(
                "closeness", compare.VERSION, inputs, {"slices": slices}, ("numpy",), measure
            )
            artifacts.append(artifact)
        if len(measured) == 2:
            first, second = measured
            joined = compare.worse(measured[first], measured[second], (first, second))
        else:
            (joined,) = measured.values()
        int8 = self.variant is not None and self.variant.precision == "int8"
        judgements = compare.judge(joined, pair=pair, gates=spec.gates, int8=int8)
        digests = {"reference": next(iter(left.values())).digest, "samples": samples.digest}
        digests |= {band or "candidate": session.digest for band, session in right.items()}
        return self.gates("closeness", judgements, next(iter(right.values())), digests, artifacts[-1])

    # --- accuracy -----------------------------------------------------------------------------------------------

    def score(self, session: Session, labelled: Labelled, dataset: Dataset) -> list[GateRecord]:
        """PyTorch's own score: what the spec expects on exactly these files, and at least its least score."""
        from pth2om import accuracy

        if self.pipeline.seeded:
            raise self.pipeline.weights_absent()
        measured, artifact = self._scored(session, labelled, self.pipeline.spec.batches[0])
        judgements: list[Judgement] = []
        if dataset.metric != "agreement":
            judgements.append(accuracy.least(measured, dataset.min_score, metric=dataset.metric))
        whole = dataset.subset is None and self.pipeline.settings.subset is None
        if dataset.expected is not None and whole:
            exact = labelled.exact and dataset.images in (None, len(labelled))
            judgements.append(
                accuracy.reproduces(
                    measured, dataset.expected, dataset.tolerance, metric=dataset.metric, exact_files=exact
                )
            )
        if judgements:
            side = showing.Side("PyTorch", session, measured, self.pipeline.spec.batches[0])
            pictures = self._pictures([side], labelled, {})
            judgements[0] = replace(judgements[0], details={**judgements[0].details, "pictures": pictures})
        return self._accuracy_gates(judgements, session, labelled, artifact)

    def accuracy(
        self, reference: Session, candidate: Session | Bands, labelled: Labelled, dataset: Dataset
    ) -> list[GateRecord]:
        """Whether the candidate's metric drops by no more than the gate, judged paired on the same images.

        Args:
            reference: the original model: PyTorch, or the ONNX file that the spec starts from.
            candidate: ONNX, or the bands of an OM, of which the worse is judged; what PyTorch scores with INT8
                weights alone is shown, not judged, because the loss of the activations is not in it.
            labelled: the images.
            dataset: the spec's table: which metric.
        """
        from pth2om import accuracy

        if self.pipeline.seeded and dataset.metric != "agreement":
            raise self.pipeline.weights_absent()
        spec = self.pipeline.spec
        gate = spec.gates.int8_drop if self.variant and self.variant.precision == "int8" else spec.gates.drop
        before, _ = self._scored(reference, labelled, spec.batches[0])
        role = _role(candidate)
        judged: list[tuple[Judgement, Session, Artifact]] = []
        measured: dict[str, Any] = {}
        scores: list[Judgement] = []
        figures: dict[str, Any] = {}
        for band, session in _bands(candidate).items():
            after, artifact = self._scored(session, labelled, self.batch or spec.batches[0])
            measured[session.digest] = after
            if dataset.metric == "agreement":
                judgement = accuracy.agreement(before, after, gate)
            else:
                judgement = accuracy.judge(self._difference(reference, session, labelled, before, after, dataset), gate)
                figures[band] = judgement.measured
                if role == "om" and dataset.om_min_score is not None:
                    scores.append(_published(after, labelled, dataset))
            judged.append((judgement, session, artifact))
        worst, session, artifact = max(judged, key=lambda each: _badness(each[0]))
        details = showing.named(worst.details, labelled.names)
        details |= {"dataset": dataset.name, "bands": figures if len(figures) > 1 else None}
        if not self.pipeline.has_torch:
            details["original"] = "onnx"
        if role == "om":
            first = spec.batches[0]
            batch = self.batch or first
            onnx = showing.Side("ONNX", self.pipeline.onnx_session(batch), None, batch)
            original = showing.Side(onnx.title if _role(reference) == "onnx" else "PyTorch", reference, before, first)
            sides = [
                original,
                *([onnx] if original.title != onnx.title else []),
                showing.Side("OM", session, measured[session.digest], batch),
            ]
            details["pictures"] = self._pictures(sides, labelled, worst.details)
        judgement = replace(worst, check=f"{role}/{worst.check}", details=details)
        if role == INT8_WEIGHTS:
            judgement = replace(judgement, limit=None, verdict="passed", message=None)
        lowest = [min(scores, key=lambda each: each.measured or 0.0)] if scores else []
        return self._accuracy_gates([judgement, *lowest], session, labelled, artifact)

    def _pictures(
        self, sides: Sequence[showing.Side], labelled: Labelled, details: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """The pictures of a gate, from the store; none where they cannot be drawn: a verdict does not hang on them."""
        spec = self.pipeline.spec
        preprocess, measured = spec.preprocess, sides[0].measured
        assert preprocess is not None
        assert measured is not None
        if not showing.drawable(measured):
            return []
        inputs = {side.title: side.session.digest for side in sides} | {"dataset": labelled.digest}
        options = {**self._scoring(), "batch": [side.batch for side in sides]}
        key = self.measurement_key("pictures", showing.VERSION, inputs, options, ("numpy", "pillow"))
        try:
            artifact = self.pipeline.store.artifact(
                key, lambda folder: showing.draw(folder, sides, labelled, preprocess, spec.postprocess, details)
            )
        except Pth2omError:
            return []
        return showing.listed(artifact.path)

    def _difference(
        self,
        reference: Session,
        session: Session,
        labelled: Labelled,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        dataset: Dataset,
    ) -> Any:  # noqa: ANN401 - JSON
        from pth2om import accuracy

        inputs = {"reference": reference.digest, "candidate": session.digest, "dataset": labelled.digest}
        seed = self.pipeline.settings.seed
        options = {"metric": dataset.metric, "seed": seed, **self._scoring(), "batch": self.batch}
        value, _ = self.measured(
            "drop",
            accuracy.VERSION,
            inputs,
            options,
            ("numpy",),
            lambda: accuracy.difference(before, after, metric=dataset.metric, seed=seed),
        )
        return value

    def _scoring(self) -> dict[str, Any]:
        spec = self.pipeline.spec
        assert spec.preprocess is not None
        return {
            "preprocess": spec.preprocess.model_dump(mode="json"),
            "postprocess": spec.postprocess.model_dump(mode="json"),
        }

    def _scored(self, session: Session, labelled: Labelled, batch: int) -> tuple[Any, Artifact]:
        from pth2om import accuracy
        from pth2om.data import Preprocessor
        from pth2om.progress import counted

        spec = self.pipeline.spec
        assert spec.preprocess is not None
        preprocess = spec.preprocess

        def measure() -> Any:  # noqa: ANN401 - JSON
            with counted(f"{spec.name} {session.provenance.name} {labelled.name}", len(labelled)) as seen:
                return accuracy.measure(
                    session,
                    labelled,
                    Preprocessor(preprocess),
                    spec.postprocess,
                    batch=batch,
                    feed=preprocess.input,
                    seen=seen,
                )

        inputs = {"session": session.digest, "dataset": labelled.digest}
        options = {**self._scoring(), "batch": batch}
        return self.measured("score", accuracy.VERSION, inputs, options, ("numpy", "pillow"), measure)

    def _accuracy_gates(
        self, judgements: Sequence[Judgement], session: Session, labelled: Labelled, artifact: Artifact
    ) -> list[GateRecord]:
        judgements = [
            replace(each, details={"dataset": labelled.name, "images": len(labelled), **each.details})
            for each in judgements
        ]
        digests = {"session": session.digest, "dataset": labelled.digest}
        return self.gates("accuracy", judgements, session, digests, artifact)

    # --- latency ------------------------------------------------------------------------------------------------

    def latency(self, session: Session | Bands, *, remeasure: bool = False) -> list[GateRecord]:
        """How long one inference takes; an emulated OM is not timed, a roofline estimate is shown instead.

        Args:
            session: PyTorch, ONNX, or an OM.
            remeasure: time again although the store has a measurement of this machine.
        """
        from pth2om import latency

        role, settings, spec = _role(session), self.pipeline.settings, self.pipeline.spec
        one = _only(session)
        ground = one.provenance.ground
        measured, artifact, estimate = None, None, None
        if role == "om" and ground != "device":
            assert self.variant is not None
            estimate = self._estimate(self.variant)
        else:
            batch = self.batch or spec.batches[0]
            feeds = example(spec.inputs, batch, settings.seed)
            key = self.measurement_key(
                "latency",
                latency.VERSION,
                {"session": one.digest},
                {"host": host_fingerprint(), "batch": batch, "threads": settings.threads, "seed": settings.seed},
                ("numpy",),
            )
            if remeasure:
                self.pipeline.store.forget(key)
            measured, artifact = self.pipeline.store.measurement(
                key, lambda: latency.measure(one, feeds, batch=batch, cap_seconds=_LATENCY_SECONDS)
            )
        judgements = latency.judge(
            measured,
            subject=role,
            ground=ground,
            gates=spec.gates,
            variant=self.case,
            soc=settings.soc,
            estimate=estimate,
        )
        return self.gates("latency", judgements, one, {"session": one.digest}, artifact)

    def _estimate(self, variant: Variant) -> Any:  # noqa: ANN401 - JSON
        """The roofline bound of a variant on the SoC; None where the SoC is unknown."""
        from pth2om import roofline

        soc = self.pipeline.settings.soc
        assert soc is not None
        source = self.pipeline.onnx(variant.batch)
        work, _ = self.measured(
            "work", roofline.VERSION, {"onnx": source.record.digest}, {}, ("onnx",), lambda: roofline.work(source.file)
        )
        return roofline.estimate(work, soc, batch=variant.batch, precision=variant.precision)

    # --- evidence -----------------------------------------------------------------------------------------------

    def failed(self, question: Question, check: str, error: Pth2omError) -> GateRecord:
        """The evidence of a question that could not be answered: failed, or not measured when something is absent."""
        absent = isinstance(error, Absent)
        details = {"where": error.where} if error.where else {}
        judgement = Judgement(
            check, None, "", None, "not_measured" if absent else "failed", message=error.message, details=details
        )
        return self.gate(question, judgement, None, {}, "host")

    # --- measurements -------------------------------------------------------------------------------------------

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
        key = self.measurement_key(kind, version, inputs, options, libraries)
        return self.pipeline.store.measurement(key, measure)

    def measurement_key(
        self,
        kind: str,
        version: int,
        inputs: Mapping[str, str],
        options: Mapping[str, Any],
        libraries: Sequence[str],
    ) -> Key:
        """The store's key of a measurement; arguments as `measured`."""
        label = f"{self.pipeline.spec.name}-{self.case}" if self.case else self.pipeline.spec.name
        return Key(kind, version, inputs, options, {name: version_of(name) for name in libraries}, label)

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
            digests=digests,
            details=judgement.details,
            seed=judgement.seed,
            cached=artifact.cached if artifact else False,
            measured_at=artifact.created if artifact else "",
            host=host_fingerprint(),
        )


def undecidable(pipeline: Pipeline, dataset: Dataset, variant: Variant) -> Message | None:
    """The warning that this subset can never decide the gate, whatever the model does; None when it can."""
    from pth2om import accuracy

    if dataset.metric == "agreement" or pipeline.seeded:
        return None
    try:
        labelled = pipeline.data.dataset(dataset.name, dataset.subset)
    except Pth2omError:
        return None  # absent or wrong: said where it is used
    gates = pipeline.spec.gates
    return accuracy.can_decide(len(labelled), gates.int8_drop if variant.precision == "int8" else gates.drop)[1]


def _published(measured: Mapping[str, Any], labelled: Labelled, dataset: Dataset) -> Judgement:
    """The OM's own score against the published one, which belongs to exactly so many images."""
    from pth2om import accuracy

    judgement = accuracy.least(measured, dataset.om_min_score, metric=dataset.metric)
    judgement = replace(judgement, check=f"om/{judgement.check}")
    if labelled.exact and dataset.images in (None, len(labelled)):
        return judgement
    score, expected = judgement.measured or 0.0, dataset.om_min_score or 0.0
    message = say("accuracy.other-files", metric=dataset.metric, score=round(score, 2), expected=expected)
    return replace(judgement, verdict="not_measured", message=message)


def _bands(candidate: Session | Bands) -> Bands:
    return candidate if isinstance(candidate, Mapping) else {"": candidate}


def _of_band(reference: Session | Bands, band: str) -> Session:
    """The reference of one band: its own where there is one, so that rounding alone is not taken for a difference."""
    return reference[band] if isinstance(reference, Mapping) and band in reference else _only(reference)


def _only(reference: Session | Bands) -> Session:
    return next(iter(reference.values())) if isinstance(reference, Mapping) else reference


def _role(session: Session | Bands) -> str:
    """``torch``, ``onnx`` or ``om``."""
    if isinstance(session, Mapping):
        return "om"
    return {"torch": "torch", "onnxruntime": "onnx"}.get(session.provenance.name, session.provenance.name)


def _badness(judgement: Judgement) -> tuple[int, float]:
    order = {"passed": 0, "not_measured": 1, "inconclusive": 2, "failed": 3}
    sign = -1.0 if judgement.limit is not None and judgement.limit.relation in (">=", ">") else 1.0
    return order[judgement.verdict], sign * (judgement.measured or 0.0)
