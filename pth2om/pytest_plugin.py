"""The pytest face: options, one case per model and variant, fixtures around the pipeline's stages, evidence, report.

Inert where there are no specs: without a ``models/*/model.toml`` (or ``--models DIR``) nothing is registered beyond the
options. Nothing here imports torch, onnx or onnxruntime.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pth2om import progress, run_options
from pth2om.errors import Absent, Pth2omError, SpecError
from pth2om.language import say

if TYPE_CHECKING:
    from pth2om.acceptance import Acceptance
    from pth2om.evidence import GateRecord, Question, Record
    from pth2om.pipeline import Built, Pipeline
    from pth2om.session import Session
    from pth2om.spec import Dataset, Spec, Variant

    AnyReport = pytest.CollectReport | pytest.TestReport

_RECORDS = "pth2om_records"
_EXPLANATIONS = 2
_QUESTIONS = ("checkpoint", "export", "preflight", "closeness", "quantization", "accuracy", "latency", "robustness")
_MOST_CAPTURED = 20_000  # characters of a test's captured output that its log keeps
_BOARD = pytest.StashKey["Board"]()
_TOLD = pytest.StashKey[dict[str, str]]()
_EVIDENCE = pytest.StashKey[list["Record"]]()


class InconclusiveWarning(UserWarning):
    """A subset is too small to tell; an error under ``--strict``."""


class UndecidableWarning(UserWarning):
    """A gate that the chosen subset can never decide, whatever the model does."""


# --- options -----------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of an acceptance run."""
    progress.keep_terminal()
    run_options.add(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    """Keep pytest's root where the command was typed, also when it reads ``--data-dir /data``.

    Before it knows a plugin's options, pytest takes every word that exists as a path for the place of the tests, and
    looks for its configuration there. Where that led it away, it is started again with the words joined.
    """
    typed = early_config.invocation_params
    joined = run_options.joined([str(word) for word in typed.args], typed.dir)
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


# --- one run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What one test is about: a model, and maybe one variant, batch size or dataset of it.

    Attributes:
        folder: the model's folder.
        spec: None when the spec is wrong; then `error` says why.
    """

    folder: Path
    spec: Spec | None
    error: SpecError | None = None
    variant: Variant | None = None
    batch: int | None = None
    dataset: Dataset | None = None

    @property
    def id(self) -> str:
        """``yolov6lite-fp16-bs1``."""
        parts = [self.folder.name]
        if self.variant is not None:
            parts.append(self.variant.name)
        elif self.batch is not None:
            parts.append(f"bs{self.batch}")
        if self.dataset is not None and self.spec is not None and len(self.spec.datasets) > 1:
            parts.append(self.dataset.name)
        return "-".join(parts)


class Board:
    """The specs of a run, its pipelines, and its evidence."""

    def __init__(self, config: pytest.Config, models: Path) -> None:
        self.config = config
        self.models = models
        self.is_worker = hasattr(config, "workerinput")
        self.settings = run_options.settings(config, models)
        self._cases: list[Case] | None = None
        self._pipeline: Pipeline | None = None
        self._run_folder: Path | None = None
        self._seen: set[tuple[str, str, str]] = set()
        self.verdicts: dict[tuple[str, str], int] = {}
        self._precisions = run_options.words(config.getoption("--precision"))
        self._batches = {int(size) for size in run_options.words(config.getoption("--batch"), digits=True)}
        self._unwritten: OSError | Pth2omError | None = None
        self._interrupted = False
        if not self.is_worker:
            run_options.check(config, self.settings, [case.folder.name for case in self.cases], self._datasets())
        if not self.is_worker and self._is_acceptance() and getattr(config.option, "htmlpath", "absent") is None:
            try:
                self.run_folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                where, reason = str(self.run_folder.parent), error.strerror or str(error)
                raise pytest.UsageError(say("plugin.reports-unwritable", path=where, reason=reason).render()) from None
            config.option.htmlpath = str(self.run_folder / "log.html")
            config.option.self_contained_html = True

    # --- cases ---

    @property
    def cases(self) -> list[Case]:
        """One case per spec, good or bad."""
        if self._cases is None:
            from pth2om.spec import load

            self._cases = []
            for path in sorted(self.models.glob("*/model.toml")):
                try:
                    self._cases.append(Case(path.parent, load(path.parent)))
                except SpecError as error:
                    self._cases.append(Case(path.parent, None, error))
        return self._cases

    def expand(self, fixtures: Sequence[str]) -> list[Case]:
        """The cases of a test that uses ``fixtures``."""
        found: list[Case] = []
        for case in self.cases:
            spec = case.spec
            if spec is None:
                # A wrong spec is one error of that model, not one per question.
                if "checkpoint" in fixtures:
                    found.append(case)
                continue
            datasets: list[Dataset | None] = list(spec.datasets) if "labelled" in fixtures else [None]
            for dataset in datasets:
                if "variant" in fixtures:
                    found += [
                        Case(case.folder, spec, variant=variant, dataset=dataset)
                        for variant in spec.variants
                        if self._selected(variant.precision, variant.batch)
                        and ("quantized_model" not in fixtures or variant.precision == "int8")
                    ]
                elif "batch" in fixtures:
                    found += [
                        Case(case.folder, spec, batch=batch, dataset=dataset)
                        for batch in (spec.batches if dataset is None else spec.batches[:1])
                        if self._selected(None, batch)
                    ]
                else:
                    found.append(Case(case.folder, spec, dataset=dataset))
        return found

    def _selected(self, precision: str | None, batch: int) -> bool:
        return (precision is None or not self._precisions or precision in self._precisions) and (
            not self._batches or batch in self._batches
        )

    def _datasets(self) -> list[str]:
        """Names of datasets, of the specs and of ``calib/``; a wrong spec may name any, so then none is unknown."""
        found = {folder.parent.name for folder in self.settings.calib.glob("*/dataset.toml")}
        for case in self.cases:
            names = self.settings.datasets if case.spec is None else [each.name for each in case.spec.datasets]
            found.update(names)
        return sorted(found)

    def pipeline(self, spec: Spec) -> Pipeline:
        """The pipeline of a model; only the current model's is kept open."""
        from pth2om.pipeline import Pipeline
        from pth2om.store import Store

        if self._pipeline is None or self._pipeline.spec is not spec:
            if self._pipeline is not None:
                self._pipeline.close()
            self._pipeline = Pipeline(spec, self.settings, Store())
        return self._pipeline

    # --- the run's folder and evidence ---

    @property
    def run_folder(self) -> Path:
        """``reports/<time>-<soc>``; made when something is written into it."""
        if self._run_folder is None:
            root = self.config.rootpath / self.config.getoption("--reports-dir")
            name = f"{datetime.now():%Y%m%d-%H%M%S}-{self.settings.soc or 'host'}"
            folder, number = root / name, 1
            while folder.exists():
                number += 1
                folder = root / f"{name}-{number}"
            self._run_folder = folder
        return self._run_folder

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append records to the run's evidence; a stage that several tests used is written once.

        A report that cannot be written does not end the run: what is measured stays in the store.
        """
        try:
            self._append(rows)
        except OSError as error:
            self._unwritten = self._unwritten or error

    def _append(self, rows: Sequence[dict[str, Any]]) -> None:
        from pth2om import evidence, machine, showing

        file = evidence.EvidenceFile(self.run_folder / "evidence.jsonl")
        if not file.path.exists():
            command = ("pytest", *(str(argument) for argument in self.config.invocation_params.args))
            started = datetime.now().astimezone().isoformat(timespec="seconds")
            file.append([evidence.RunRecord(self.run_folder.name, started, command, machine.environment())])
        records = []
        for row in rows:
            record = evidence.from_json(showing.carry(row, self.run_folder))
            if isinstance(record, evidence.StageRecord):
                name = (record.model, record.variant, record.stage)
                if name in self._seen:
                    continue
                self._seen.add(name)
            elif isinstance(record, evidence.GateRecord):
                pair = (record.verdict, record.ground)
                self.verdicts[pair] = self.verdicts.get(pair, 0) + 1
            records.append(record)
        file.append(records)

    def _is_acceptance(self) -> bool:
        """Whether the run's arguments point at acceptance tests and not, say, at the tests of pth2om itself."""
        if self.config.getoption("--dry-run") or self.config.option.collectonly:
            return False
        root = self.config.rootpath
        acceptance = [(root / path).resolve() for path in self.config.getini("testpaths") or ["test_cases"]]
        for argument in self.config.args:
            path = (self.config.invocation_params.dir / str(argument).partition("::")[0]).resolve()
            if path == root.resolve() or any(path == place or place in path.parents for place in acceptance):
                return True
        return False

    # --- hooks of a run with specs ---

    def pytest_report_header(self) -> list[str]:
        """Which SoC, which toolchain, and every wrong spec."""
        soc = self.settings.soc
        if soc is None:
            lines = [say("plugin.header-no-soc").render()]
        else:
            key = "plugin.header-emulator" if self.settings.toolchain == "emulator" else "plugin.header-cann"
            lines = [say(key, soc=soc, cann=self.settings.cann).render()]
        variants = [variant for case in self.cases if case.spec is not None for variant in case.spec.variants]
        if variants and not any(self._selected(variant.precision, variant.batch) for variant in variants):
            options = run_options.filters(self.config)
            lines.append(f"pth2om: {say('plugin.no-variant', options=options)}")
        return lines

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One case per model, batch, variant or dataset, as the test's fixtures ask."""
        if "acceptance_case" in metafunc.fixturenames:
            cases = self.expand(metafunc.fixturenames)
            metafunc.parametrize(
                "acceptance_case", cases, indirect=True, ids=[case.id for case in cases], scope="session"
            )

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Drop empty parameter sets, run model by model, and warn of gates that can never be decided."""
        kept: list[pytest.Item] = []
        empty: list[pytest.Item] = []
        for item in items:
            callspec = getattr(item, "callspec", None)
            (empty if callspec is not None and "NOTSET" in callspec.id else kept).append(item)
        if empty:
            config.hook.pytest_deselected(items=empty)
        order = {case.folder.name: number for number, case in enumerate(self.cases)} if kept else {}

        def place(item: pytest.Item) -> tuple[int, int]:
            case = _case_of(item)
            return (-1, 0) if case is None else (order[case.folder.name], _QUESTIONS.index(_question(item)))

        items[:] = sorted(kept, key=place)
        if not config.option.collectonly:
            self._warn_undecidable(items)

    def _warn_undecidable(self, items: Sequence[pytest.Item]) -> None:
        told: set[tuple[str, str]] = set()
        for item in items:
            case = _case_of(item)
            if case is None or case.dataset is None or case.spec is None or case.variant is None:
                continue
            name = (case.spec.name, case.dataset.name)
            if name in told:
                continue
            told.add(name)
            from pth2om.acceptance import undecidable

            message = undecidable(self.pipeline(case.spec), case.dataset, case.variant)
            if message is not None:
                warnings.warn_explicit(UndecidableWarning(f"{case.spec.name}: {message}"), None, str(item.path), 1)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """``--dry-run``: say what would run and stop."""
        if not self.config.getoption("--dry-run"):
            return None
        writer = self.config.get_terminal_writer()
        told: set[str] = set()
        for item in session.items:
            case = _case_of(item)
            if case is None or case.spec is None or case.variant is None or case.id in told:
                continue
            told.add(case.id)
            pipeline = self.pipeline(case.spec)
            writer.line(f"\n{case.id}")
            try:
                for line in pipeline.plan(case.variant):
                    writer.line(f"  {line}")
            except Pth2omError as error:
                writer.line(f"  {error}")
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Evidence arrives with the reports, from this process or from xdist's workers."""
        rows = getattr(report, _RECORDS, None)
        if rows and not self.is_worker:
            self.write(rows)

    def pytest_keyboard_interrupt(self) -> None:
        """For the summary."""
        self._interrupted = True

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Generator[None, None, None]:
        """Close what is open; on the controller render the report, after pytest-html wrote the log it links to.

        The innermost wrapper: what goes wrong here is still told in the terminal's summary.
        """
        try:
            yield
        except OSError as error:
            if self.is_worker or self._run_folder is None:
                raise
            self._unwritten = self._unwritten or error
        if self._pipeline is not None:
            self._pipeline.close()
        if self.is_worker or self._run_folder is None:
            return
        path = self._run_folder / "evidence.jsonl"
        if not path.exists():
            self._drop_empty_log()
            return
        from pth2om.report import render

        try:
            render(path, self._run_folder)
        except (OSError, Pth2omError) as error:
            self._unwritten = self._unwritten or error

    def _drop_empty_log(self) -> None:
        """A run that asked nothing leaves no folder among the reports, and pytest-html names no log."""
        assert self._run_folder is not None
        log = self._run_folder / "log.html"
        if str(log) != getattr(self.config.option, "htmlpath", None):
            return
        with contextlib.suppress(OSError):
            log.unlink(missing_ok=True)
            self._run_folder.rmdir()
            self._run_folder.parent.rmdir()  # reports/ itself, when there is nothing else in it
        for plugin in self.config.pluginmanager.get_plugins():
            if type(plugin).__module__.startswith("pytest_html.") and hasattr(plugin, "pytest_terminal_summary"):
                self.config.pluginmanager.unregister(plugin)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Verdicts by ground, and where the report is."""
        if self.is_worker or not (self.verdicts or self._unwritten or self._interrupted):
            return
        terminalreporter.section("pth2om")
        if self._interrupted:
            _tell_line(terminalreporter, "plugin.interrupted")
        if self._unwritten is not None:
            error = self._unwritten
            reason = error.message.values.get("reason") if isinstance(error, Pth2omError) else error.strerror
            _tell_line(
                terminalreporter, "plugin.report-unwritten", path=str(self._run_folder), reason=str(reason or error)
            )
        for (verdict, ground), count in sorted(self.verdicts.items()):
            name = "unproven" if (verdict, ground) == ("passed", "emulated") else verdict
            line = say(f"plugin.count-{name}", count=count, ground=say(f"plugin.ground-{ground}").render())
            terminalreporter.line(line.render())
        if self._run_folder is not None and (self._run_folder / "index.html").exists():
            terminalreporter.line(say("plugin.report", path=str(self._run_folder / "index.html")).render())


def _tell_line(reporter: pytest.TerminalReporter, key: str, **values: str) -> None:
    message = say(key, **values)
    reporter.line(message.render())
    if fix := message.fix():
        reporter.line(f"  → {fix}")


def _case_of(item: pytest.Item) -> Case | None:
    callspec = getattr(item, "callspec", None)
    case = callspec.params.get("acceptance_case") if callspec is not None else None
    return case if isinstance(case, Case) else None


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
    case = _case_of(item)
    if case is not None and case.spec is not None and _BOARD in item.config.stash:
        acceptance = _acceptance(item.config.stash[_BOARD], case)
        record = acceptance.failed(_question(item), f"{_question(item)}/{item.name.partition('[')[0]}", error)
        _keep(item, [record])
        _keep(item, list(acceptance.pipeline.records.values()))
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
        case = _case_of(item)
        path, _, reason = report.longrepr
        if case is not None and Path(path).resolve() == Path(__file__).resolve():
            report.longrepr = (str(case.folder / "model.toml"), 1, reason)
    if records:
        from pth2om.evidence import properties, to_json

        # Also in JUnit's XML, for those who read nothing else.
        item.user_properties.extend(properties(records))
        setattr(report, _RECORDS, [to_json(record) for record in records])
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
    rows = getattr(report, _RECORDS, None)
    if rows and report.when == "call" and report.passed:
        if any(row.get("verdict") == "inconclusive" for row in rows):
            return "passed", "?", say("plugin.word-inconclusive").render()
        if any(row.get("kind") == "gate" and row.get("ground") == "emulated" for row in rows):
            return "passed", ".", say("plugin.word-unproven").render()
    return None


def _question(item: pytest.Item) -> Question:
    marker = item.get_closest_marker("question")
    return marker.args[0] if marker is not None and marker.args else "export"


def _keep(item: pytest.Item, records: Sequence[Record]) -> None:
    item.stash.setdefault(_EVIDENCE, []).extend(records)


def _acceptance(board: Board, case: Case) -> Acceptance:
    from pth2om.acceptance import Acceptance

    assert case.spec is not None
    return Acceptance(board.pipeline(case.spec), case.variant, case.batch)


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
def om_model(pipeline: Pipeline, variant: Variant) -> Built:
    """The compiled variant."""
    return pipeline.om(variant)


@pytest.fixture
def om_session(pipeline: Pipeline, variant: Variant) -> dict[str, Session]:
    """The compiled variant, by band: ``fused`` and ``unfused`` when emulated, ``device`` on an NPU."""
    return pipeline.om_sessions(variant)


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
        self._strict = run_options.is_strict(board.config)
        self._remeasure = bool(board.config.getoption("--remeasure"))
        self.acceptance = _acceptance(board, case)

    def stage(self, built: Built) -> None:
        """The stage has no finding that is an error."""
        self._settle(self.acceptance.stage(_question(self._item), built))

    def preflight(self, built: Built) -> None:
        """ATC will take the ONNX file on this SoC, as far as the tables know."""
        self._settle(self.acceptance.preflight(built))

    def quantized(self, built: Built) -> None:
        """The INT8 files are well formed, and FP32 and integer arithmetic agree in them."""
        self._settle(self.acceptance.quantized(built))

    def fp32_checkpoint(self, built: Built) -> None:
        """The INT8 weights load as an FP32 checkpoint with the same keys."""
        self._settle(self.acceptance.fp32_checkpoint(built))

    def closeness(self, reference: Any, candidate: Any, samples: Any) -> None:  # noqa: ANN401 - sessions, or bands
        """The candidate computes what the reference computes, slice by slice."""
        self._settle(self.acceptance.closeness(reference, candidate, samples))

    def score(self, session: Any, labelled: Any) -> None:  # noqa: ANN401 - as above
        """PyTorch reproduces the score the spec expects on these images."""
        assert self._case.dataset is not None
        self._settle(self.acceptance.score(session, labelled, self._case.dataset))

    def accuracy(self, reference: Any, candidate: Any, labelled: Any) -> None:  # noqa: ANN401 - as above
        """The candidate's metric drops by no more than the gate, judged paired on the same images."""
        assert self._case.dataset is not None
        self._settle(self.acceptance.accuracy(reference, candidate, labelled, self._case.dataset))

    def latency(self, session: Any) -> None:  # noqa: ANN401 - as above
        """How long one inference takes; judged on device ground only."""
        self._settle(self.acceptance.latency(session, remeasure=self._remeasure))

    def keep_stages(self) -> None:
        """Hand over the records of the stages this test used."""
        _keep(self._item, list(self.acceptance.pipeline.records.values()))

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
        text += f" = {gate.measured:.6g}{f' {gate.unit}' if gate.unit else ''}"
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
