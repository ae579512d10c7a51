"""The fixtures of acceptance tests: each is one stage or one session of a model; `accept` measures and judges."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pth2om.harness.cases import Case, question_of
from pth2om.harness.records import keep
from pth2om.harness.run import RUN, Run
from pth2om.release.waivers import is_waived
from pth2om.report.lines import line_of

if TYPE_CHECKING:
    from pth2om.conversion.pipeline import Pipeline
    from pth2om.conversion.stage import Built
    from pth2om.evidence import GateRecord, Judgement
    from pth2om.questions.subject import Subject
    from pth2om.session import Session
    from pth2om.spec import Shape, Spec, Variant


class InconclusiveWarning(UserWarning):
    """A subset is too small to tell; a failure under ``--fail-on inconclusive``."""


def subject_of(run: Run, case: Case) -> Subject:
    """What the questions about a case are asked of."""
    from pth2om.questions.subject import Subject

    assert case.spec is not None
    return Subject(run.pipeline(case.spec), case.variant, case.shape)


@pytest.fixture
def acceptance_case(request: pytest.FixtureRequest) -> Case:
    """The model, batch, variant and dataset of this test."""
    found: Case = request.param
    if found.error is not None:
        raise found.error
    return found


@pytest.fixture
def pipeline(acceptance_case: Case, pytestconfig: pytest.Config) -> Pipeline:
    """The model's stages."""
    assert acceptance_case.spec is not None
    return pytestconfig.stash[RUN].pipeline(acceptance_case.spec)


@pytest.fixture
def spec(acceptance_case: Case) -> Spec:
    """The model's spec."""
    assert acceptance_case.spec is not None
    return acceptance_case.spec


@pytest.fixture
def variant(acceptance_case: Case) -> Variant:
    """The variant in question."""
    assert acceptance_case.variant is not None
    return acceptance_case.variant


@pytest.fixture
def batch(acceptance_case: Case) -> int:
    """The batch size in question."""
    return shape_of(acceptance_case).batch


def shape_of(case: Case) -> Shape:
    """The shape of a test about a variant or a batch size."""
    shape = case.variant.shape if case.variant is not None else case.shape
    assert shape is not None
    return shape


@pytest.fixture
def checkpoint(pipeline: Pipeline) -> Built:
    """The checkpoint, read and fitted to its net."""
    return pipeline.checkpoint()


@pytest.fixture
def torch_session(pipeline: Pipeline) -> Session:
    """PyTorch with the checkpoint's weights."""
    return pipeline.torch_session()


@pytest.fixture
def reference_session(pipeline: Pipeline) -> Session:
    """The original model: PyTorch, or the ONNX file that the spec starts from."""
    return pipeline.reference_session()


@pytest.fixture
def onnx_model(pipeline: Pipeline, batch: int, acceptance_case: Case) -> Built:  # noqa: ARG001 - it chooses the cases
    """The exported ONNX file."""
    return pipeline.onnx(shape_of(acceptance_case))


@pytest.fixture
def onnx_session(pipeline: Pipeline, batch: int, acceptance_case: Case) -> Session:  # noqa: ARG001 - as above
    """ONNX Runtime over the exported file."""
    return pipeline.onnx_session(shape_of(acceptance_case))


@pytest.fixture
def torchscript_model(pipeline: Pipeline, batch: int) -> Built:
    """The TorchScript program of a model whose spec has ``[torchscript]``."""
    return pipeline.torchscript(batch)


@pytest.fixture
def torchscript_session(pipeline: Pipeline, batch: int, torchscript_model: Built) -> Session:
    """The TorchScript program, run by PyTorch."""
    return pipeline.sessions.torchscript(batch, lambda: torchscript_model)


@pytest.fixture
def quantized_model(pipeline: Pipeline, variant: Variant) -> Built:
    """The INT8 deploy model of an int8 variant, with its twins."""
    return pipeline.quantized(variant.shape)


@pytest.fixture
def fake_quant_session(pipeline: Pipeline, variant: Variant) -> Session:
    """The INT8 model's twin of standard operators, in ONNX Runtime."""
    return pipeline.fake_quant_session(variant.shape)


@pytest.fixture
def int8_weights_session(pipeline: Pipeline, quantized_model: Built) -> Session:
    """PyTorch with the INT8 weights and FP32 activations."""
    return pipeline.int8_weights_session(quantized_model)


@pytest.fixture
def om_model(pipeline: Pipeline, variant: Variant) -> Built:
    """The compiled variant."""
    return pipeline.om(variant)


@pytest.fixture
def om_session(pipeline: Pipeline, variant: Variant) -> dict[str, Session]:
    """The compiled variant, by band: ``fused`` and ``unfused`` when emulated, ``device`` on an NPU."""
    return pipeline.om_sessions(variant)


@pytest.fixture
def plain_om_session(pipeline: Pipeline, variant: Variant) -> dict[str, Session]:
    """The variant compiled without AIPP, of a variant with; by band as `om_session`."""
    return pipeline.om_sessions(variant.model_copy(update={"aipp": False}))


@pytest.fixture
def twin_om_session(pipeline: Pipeline, variant: Variant) -> dict[str, Session]:
    """Of a variant with gears, an OM compiled from the same ONNX for its gear alone; by band as `om_session`."""
    return pipeline.twin_sessions(variant)


@pytest.fixture
def samples(pipeline: Pipeline, batch: int, acceptance_case: Case) -> Any:  # noqa: ANN401, ARG001 - data.Samples; as above
    """Inputs for closeness: real, random, zeros."""
    return pipeline.data.samples(shape_of(acceptance_case), acceptance_case.variant)


@pytest.fixture
def labelled(acceptance_case: Case, pipeline: Pipeline) -> Any:  # noqa: ANN401 - data.Labelled, not imported here
    """The labelled images of this test."""
    assert acceptance_case.dataset is not None
    return pipeline.data.dataset(acceptance_case.dataset.name, acceptance_case.dataset.subset)


@pytest.fixture
def accept(request: pytest.FixtureRequest, acceptance_case: Case, pytestconfig: pytest.Config) -> Iterator[Accept]:
    """Measures against gates, writes evidence, and turns verdicts into pytest's outcomes."""
    judge = Accept(request.node, pytestconfig.stash[RUN], acceptance_case)
    yield judge
    judge.keep_stages()


class Accept:
    """What a test calls: each method answers one question, records the evidence and fails when a gate does."""

    def __init__(self, item: pytest.Item, run: Run, case: Case) -> None:
        self._item = item
        self._case = case
        self._fail_on = run.fail_on
        self._baseline = run.baseline
        self._waivers = run.waivers
        self._remeasure = bool(run.config.getoption("--om-remeasure"))
        self.subject = subject_of(run, case)

    def stage(self, built: Built) -> None:
        """The stage has no finding that is an error."""
        from pth2om.questions.stages import stage

        self._settle(stage(self.subject, question_of(self._item), built))

    def preflight(self, built: Built) -> None:
        """ATC will take the ONNX file on this SoC, as far as the tables know."""
        from pth2om.questions.preflight import preflight

        assert self._case.variant is not None
        self._settle(preflight(self.subject, self._case.variant, built))

    def quantized(self, built: Built, samples: Any) -> None:  # noqa: ANN401 - data.Samples, not imported
        """The INT8 files are well formed, and FP32 and integer arithmetic agree in them."""
        from pth2om.questions import int8_files

        self._settle(int8_files.files(self.subject, built, samples))

    def fp32_checkpoint(self, built: Built, samples: Any) -> None:  # noqa: ANN401 - as above
        """The INT8 weights load as an FP32 checkpoint with the same keys, and compute what the INT8 weights do."""
        from pth2om.questions import int8_files

        self._settle(int8_files.fp32_checkpoint(self.subject, built, samples))

    def closeness(self, reference: Any, candidate: Any, samples: Any) -> None:  # noqa: ANN401 - sessions, or bands
        """The candidate computes what the reference computes, slice by slice."""
        from pth2om.questions.candidate import Candidate
        from pth2om.questions.closeness import closeness

        self._settle(closeness(self.subject, Candidate.of(reference), Candidate.of(candidate), samples))

    def twin(self, alone: Any, candidate: Any, samples: Any) -> None:  # noqa: ANN401 - bands of two OMs
        """A gear computes what an OM that was compiled for its shape alone computes."""
        from pth2om.questions.candidate import TWIN, Candidate
        from pth2om.questions.closeness import closeness

        self._settle(closeness(self.subject, Candidate(TWIN, alone), Candidate.of(candidate), samples))

    def score(self, session: Any, labelled: Any) -> None:  # noqa: ANN401 - as above
        """PyTorch reproduces the score the spec expects on these images."""
        from pth2om.questions.accuracy import score

        assert self._case.dataset is not None
        self._settle(score(self.subject, session, labelled, self._case.dataset))

    def accuracy(self, reference: Any, candidate: Any, labelled: Any) -> None:  # noqa: ANN401 - as above
        """The candidate's metric drops by no more than the gate, judged paired on the same images."""
        from pth2om.questions.accuracy import accuracy
        from pth2om.questions.candidate import Candidate

        assert self._case.dataset is not None
        reference, candidate = Candidate.of(reference), Candidate.of(candidate)
        self._settle(accuracy(self.subject, reference, candidate, labelled, self._case.dataset))

    def latency(self, session: Any) -> None:  # noqa: ANN401 - as above
        """How long one inference takes; judged on device ground only."""
        from pth2om.questions.candidate import Candidate
        from pth2om.questions.latency import latency

        candidate = Candidate.of(session)
        gates = latency(self.subject, candidate, remeasure=self._remeasure)
        if self._baseline is not None:
            from pth2om.release.regression import confirmed

            gates = confirmed(self._baseline, gates, lambda: latency(self.subject, candidate, remeasure=True))
        self._settle(gates)

    def judged(self, judgements: Sequence[Judgement], session: Session) -> None:
        """Figures of the user's own, judged by the test that measured them, as evidence about ``session``.

        Args:
            judgements: `pth2om.evidence.Judgement`s; the name of each check is part of its id.
            session: who computed them: its provenance decides on which ground they stand.
        """
        self._settle(self.subject.gates(question_of(self._item), judgements, session, {"session": session.digest}))

    def keep_stages(self) -> None:
        """Hand over the records of the stages this test used."""
        keep(self._item, list(self.subject.pipeline.records.values()))

    def _settle(self, gates: Sequence[GateRecord]) -> None:
        gates = [self._waivers.over(gate) for gate in gates]
        keep(self._item, gates)
        by_verdict: dict[str, list[GateRecord]] = {}
        for gate in gates:
            if is_waived(gate):
                continue
            by_verdict.setdefault(gate.verdict, []).append(gate)
        bad = [gate for word, of in by_verdict.items() if word == "failed" or word in self._fail_on for gate in of]
        if bad:
            pytest.fail("\n".join(line_of(gate) for gate in bad), pytrace=False)
        for gate in by_verdict.get("inconclusive", []):
            # Without the model's name: pytest then shows one warning and lists the tests it concerns.
            warnings.warn(InconclusiveWarning(line_of(gate, subject="")), stacklevel=3)
