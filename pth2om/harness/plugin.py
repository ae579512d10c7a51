"""The pytest face: options, one case per model and variant, fixtures around the pipeline's stages, evidence, report.

Inert where there are no specs: without a ``models/*/model.toml`` (or ``--models DIR``) nothing is registered beyond the
options. Nothing here imports torch, onnx or onnxruntime.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pth2om import progress
from pth2om.errors import Absent, Pth2omError
from pth2om.harness import options
from pth2om.harness.cases import Case, case_of, question_of
from pth2om.harness.run import RECORDS, Board
from pth2om.language import say

if TYPE_CHECKING:
    from pth2om.conversion.pipeline import Built, Pipeline
    from pth2om.evidence import GateRecord, Record
    from pth2om.questions.subject import Subject
    from pth2om.session import Session
    from pth2om.spec import Spec, Variant

    AnyReport = pytest.CollectReport | pytest.TestReport

_EXPLANATIONS = 2
_MOST_CAPTURED = 20_000  # characters of a test's captured output that its log keeps
_BOARD = pytest.StashKey[Board]()
_TOLD = pytest.StashKey[dict[str, str]]()
_EVIDENCE = pytest.StashKey[list["Record"]]()


class InconclusiveWarning(UserWarning):
    """A subset is too small to tell; an error under ``--strict``."""


# --- options -----------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of an acceptance run."""
    progress.keep_terminal()
    options.add(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    """Keep pytest's root where the command was typed, also when it reads ``--data-dir /data``.

    Before it knows a plugin's options, pytest takes every word that exists as a path for the place of the tests, and
    looks for its configuration there. Where that led it away, it is started again with the words joined.
    """
    typed = early_config.invocation_params
    joined = options.joined([str(word) for word in typed.args], typed.dir)
    if len(joined) < len(typed.args) and early_config.rootpath != typed.dir:
        raise SystemExit(int(pytest.main(joined, plugins=typed.plugins)))
    yield


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Find the specs; without any, stay inert."""
    config.addinivalue_line("markers", "question(name): which question of the report a test answers")
    asked = config.getoption("--models")
    models = (config.invocation_params.dir / asked) if asked else config.rootpath / "models"
    if asked and not any(models.glob("*/model.toml")):
        key = "plugin.no-specs" if models.is_dir() else "plugin.no-models"
        raise pytest.UsageError(say(key, folder=str(models), parent=str(models.parent)).render())
    if not asked and not any(models.glob("*/model.toml")):
        return
    board = Board(config, models)
    config.stash[_BOARD] = board
    config.pluginmanager.register(board, "pth2om-board")


# --- outcomes ----------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """A stage that fails while a fixture is made is told in a paragraph, not in a traceback."""
    met = None
    try:
        yield
    except Pth2omError as error:
        met = error
    if met is not None:  # outside of the handler: what is told has no second exception hanging on it
        _tell(item, met)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """As `pytest_runtest_setup`."""
    met = None
    try:
        yield
    except Pth2omError as error:
        met = error
    if met is not None:
        _tell(item, met)


def _tell(item: pytest.Item, error: Pth2omError) -> None:
    case = case_of(item)
    if case is not None and case.spec is not None and _BOARD in item.config.stash:
        subject = _subject(item.config.stash[_BOARD], case)
        record = subject.failed(question_of(item), f"{question_of(item)}/{item.name.partition('[')[0]}", error)
        _keep(item, [record])
        _keep(item, list(subject.pipeline.records.values()))
    if isinstance(error, Absent):
        pytest.skip(str(error))
    # A stage that fails stops every question behind it: said in full once, referred to afterwards.
    first = item.config.stash.setdefault(_TOLD, {}).setdefault(str(error), item.name)
    if first != item.name:
        pytest.fail(say("plugin.same-error", test=first).render(), pytrace=False)
    pytest.fail(_explained(error), pytrace=False)


def _explained(error: Pth2omError) -> str:
    """The error, and what is known about what a tool said underneath it."""
    from pth2om.explain import explain_error

    lines = [str(error)]
    # A user's own net.py speaks for itself: what is known of PyTorch's loader would only mislead.
    found = [] if error.message.key == "checkpoint.net-broken" else explain_error(error)
    known = [each for each in found if each.stage][:_EXPLANATIONS]
    lines += [f"  [{each.id}] {each.cause()}\n  → {each.fix()}" for each in known]
    return "\n".join(lines)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Hang the evidence on the report, so that it travels through xdist."""
    report = yield
    if _BOARD in item.config.stash:
        report.sections = [(title, _bounded(text)) for title, text in report.sections]
    records = item.stash.get(_EVIDENCE, [])
    if _BOARD in item.config.stash and report.skipped and isinstance(report.longrepr, tuple):
        # Not this file's line, which says nothing, but the spec of the model that was not measured.
        case = case_of(item)
        path, _, reason = report.longrepr
        if case is not None and Path(path).resolve() == Path(__file__).resolve():
            report.longrepr = (str(case.folder / "model.toml"), 1, reason)
    if records:
        from pth2om.evidence import properties, to_json

        # Also in JUnit's XML, for those who read nothing else.
        item.user_properties.extend(properties(records))
        setattr(report, RECORDS, [to_json(record) for record in records])
        item.stash[_EVIDENCE] = []
    return report


def _bounded(text: str) -> str:
    """What a library printed, cut in the middle: a log of megabytes is read by nobody."""
    if len(text) <= _MOST_CAPTURED:
        return text
    half = _MOST_CAPTURED // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"


def pytest_report_teststatus(report: AnyReport) -> tuple[str, str, str] | None:
    """A pass on emulated ground is a pass, and says that it is unproven."""
    rows = getattr(report, RECORDS, None)
    if rows and report.when == "call" and report.passed:
        if any(row.get("verdict") == "inconclusive" for row in rows):
            return "passed", "?", say("plugin.word-inconclusive").render()
        if any(row.get("kind") == "gate" and row.get("ground") == "emulated" for row in rows):
            return "passed", ".", say("plugin.word-unproven").render()
    return None


def _keep(item: pytest.Item, records: Sequence[Record]) -> None:
    item.stash.setdefault(_EVIDENCE, []).extend(records)


def _subject(board: Board, case: Case) -> Subject:
    from pth2om.questions.subject import Subject

    assert case.spec is not None
    return Subject(board.pipeline(case.spec), case.variant, case.batch)


# --- fixtures: each one stage or one session ---------------------------------------------------------------------


@pytest.fixture(scope="session")
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
    return pytestconfig.stash[_BOARD].pipeline(acceptance_case.spec)


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
    size = acceptance_case.variant.batch if acceptance_case.variant is not None else acceptance_case.batch
    assert size is not None
    return size


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
def onnx_model(pipeline: Pipeline, batch: int) -> Built:
    """The exported ONNX file."""
    return pipeline.onnx(batch)


@pytest.fixture
def onnx_session(pipeline: Pipeline, batch: int) -> Session:
    """ONNX Runtime over the exported file."""
    return pipeline.onnx_session(batch)


@pytest.fixture
def quantized_model(pipeline: Pipeline, variant: Variant) -> Built:
    """The INT8 deploy model of an int8 variant, with its twins."""
    return pipeline.quantized(variant.batch)


@pytest.fixture
def fake_quant_session(pipeline: Pipeline, variant: Variant) -> Session:
    """The INT8 model's twin of standard operators, in ONNX Runtime."""
    return pipeline.fake_quant_session(variant.batch)


@pytest.fixture
def int8_weights_session(pipeline: Pipeline, quantized_model: Built) -> Session:
    """PyTorch with the INT8 weights and FP32 activations."""
    from pth2om.questions import int8_files

    return int8_files.weights_session(pipeline, quantized_model)


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
def samples(pipeline: Pipeline, batch: int, acceptance_case: Case) -> Any:  # noqa: ANN401 - data.Samples, not imported
    """Inputs for closeness: real, random, zeros."""
    return pipeline.data.samples(batch, acceptance_case.variant)


@pytest.fixture
def labelled(acceptance_case: Case, pipeline: Pipeline) -> Any:  # noqa: ANN401 - data.Labelled, not imported here
    """The labelled images of this test."""
    assert acceptance_case.dataset is not None
    return pipeline.data.dataset(acceptance_case.dataset.name, acceptance_case.dataset.subset)


@pytest.fixture
def accept(request: pytest.FixtureRequest, acceptance_case: Case, pytestconfig: pytest.Config) -> Iterator[Accept]:
    """Measures against gates, writes evidence, and turns verdicts into pytest's outcomes."""
    judge = Accept(request.node, pytestconfig.stash[_BOARD], acceptance_case)
    yield judge
    judge.keep_stages()


class Accept:
    """What a test calls: each method answers one question, records the evidence and fails when a gate does."""

    def __init__(self, item: pytest.Item, board: Board, case: Case) -> None:
        self._item = item
        self._case = case
        self._strict = options.is_strict(board.config)
        self._remeasure = bool(board.config.getoption("--remeasure"))
        self.subject = _subject(board, case)

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

        self._settle(latency(self.subject, Candidate.of(session), remeasure=self._remeasure))

    def keep_stages(self) -> None:
        """Hand over the records of the stages this test used."""
        _keep(self._item, list(self.subject.pipeline.records.values()))

    def _settle(self, gates: Sequence[GateRecord]) -> None:
        _keep(self._item, gates)
        by_verdict: dict[str, list[GateRecord]] = {}
        for gate in gates:
            by_verdict.setdefault(gate.verdict, []).append(gate)
        inconclusive = by_verdict.get("inconclusive", [])
        bad = by_verdict.get("failed", []) + (inconclusive if self._strict else [])
        if bad:
            pytest.fail("\n".join(_line(gate) for gate in bad), pytrace=False)
        for gate in inconclusive:
            # Without the model's name: pytest then shows one warning and lists the tests it concerns.
            warnings.warn(InconclusiveWarning(_line(gate, subject="")), stacklevel=3)
        if gates and len(by_verdict.get("not_measured", [])) == len(gates):
            pytest.skip("; ".join(dict.fromkeys(_line(gate) for gate in gates)))


def _line(gate: GateRecord, subject: str | None = None) -> str:
    """One gate in one line (and its fix in the next)."""
    if subject is None:
        subject = f"{gate.model}-{gate.variant}" if gate.variant else gate.model
    text = f"{subject} {gate.check}".strip()
    if gate.measured is not None:
        shown = f"{gate.measured:.6g}" if gate.limit is None else gate.limit.beside(gate.measured)
        text += f" = {shown}{f' {gate.unit}' if gate.unit else ''}"
    if gate.limit is not None:
        text += f" ({say('plugin.limit').render()} {gate.limit})"
    if gate.ground == "emulated":
        text += f" [{say('plugin.ground-emulated').render()}]"
    if gate.message is not None:
        text += f": {gate.message.render()}"
        fix = gate.message.fix()
        text += f"\n  → {fix}" if fix else ""
    return text


if sys.platform == "win32":  # pragma: no cover - the arrow needs UTF-8 on an old console
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
