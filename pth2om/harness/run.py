"""One acceptance run under pytest: its cases, its pipelines, its evidence, its report and its summary.

Nothing here imports torch, onnx or onnxruntime.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Generator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pth2om.errors import Pth2omError
from pth2om.harness import options as run_options
from pth2om.harness.cases import Case, Selection, case_of, expand, question_of, read_cases
from pth2om.language import say

if TYPE_CHECKING:
    from pth2om.conversion.pipeline import Pipeline
    from pth2om.evidence import GateRecord
    from pth2om.spec import Spec

RECORDS = "pth2om_records"
"""Attribute of a test's report that carries its evidence."""


class UndecidableWarning(UserWarning):
    """A gate that the chosen subset can never decide, whatever the model does."""


class Board:
    """The specs of a run, its pipelines, and its evidence."""

    def __init__(self, config: pytest.Config, models: Path) -> None:
        self.config = config
        self.models = models
        self.is_worker = hasattr(config, "workerinput")
        self.settings = run_options.settings(config, models)
        self._pipeline: Pipeline | None = None
        self._run_folder: Path | None = None
        self._seen: set[tuple[str, str, str]] = set()
        self.verdicts: dict[tuple[str, str], int] = {}
        self._int8: list[GateRecord] = []
        self._selection = Selection(
            frozenset(run_options.words(config.getoption("--precision"))),
            frozenset(int(size) for size in run_options.words(config.getoption("--batch"), digits=True)),
        )
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

    @functools.cached_property
    def cases(self) -> list[Case]:
        """One case per spec, good or bad."""
        return read_cases(self.models)

    def _datasets(self) -> list[str]:
        """Names of datasets, of the specs and of ``calib/``; a wrong spec may name any, so then none is unknown."""
        found = {folder.parent.name for folder in self.settings.calib.glob("*/dataset.toml")}
        for case in self.cases:
            names = self.settings.datasets if case.spec is None else [each.name for each in case.spec.datasets]
            found.update(names)
        return sorted(found)

    def pipeline(self, spec: Spec) -> Pipeline:
        """The pipeline of a model; only the current model's is kept open."""
        from pth2om.conversion.pipeline import Pipeline
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
        from pth2om import evidence, host
        from pth2om.questions import pictures

        file = evidence.EvidenceFile(self.run_folder / "evidence.jsonl")
        if not file.path.exists():
            command = ("pytest", *(str(argument) for argument in self.config.invocation_params.args))
            started = datetime.now().astimezone().isoformat(timespec="seconds")
            file.append([evidence.RunRecord(self.run_folder.name, started, command, host.environment())])
        records = []
        for row in rows:
            record = evidence.from_json(pictures.carry(row, self.run_folder))
            if isinstance(record, evidence.StageRecord):
                name = (record.model, record.variant, record.stage)
                if name in self._seen:
                    continue
                self._seen.add(name)
            elif isinstance(record, evidence.GateRecord):
                pair = (record.verdict, record.ground)
                self.verdicts[pair] = self.verdicts.get(pair, 0) + 1
                if record.question == "accuracy" and record.variant.startswith("int8-"):
                    self._int8.append(record)
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
        if variants and not any(self._selection.has(variant.precision, variant.batch) for variant in variants):
            options = run_options.filters(self.config)
            lines.append(f"pth2om: {say('plugin.no-variant', options=options)}")
        return lines

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One case per model, batch, variant or dataset, as the test's fixtures ask."""
        if "acceptance_case" in metafunc.fixturenames:
            cases = expand(self.cases, metafunc.fixturenames, self._selection)
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
        from pth2om.questions import QUESTIONS

        order = {case.folder.name: number for number, case in enumerate(self.cases)} if kept else {}

        def place(item: pytest.Item) -> tuple[int, int]:
            case = case_of(item)
            return (-1, 0) if case is None else (order[case.folder.name], QUESTIONS.index(question_of(item)))

        items[:] = sorted(kept, key=place)
        if not config.option.collectonly:
            self._warn_undecidable(items)

    def _warn_undecidable(self, items: Sequence[pytest.Item]) -> None:
        told: set[tuple[str, str]] = set()
        for item in items:
            case = case_of(item)
            if case is None or case.dataset is None or case.spec is None or case.variant is None:
                continue
            name = (case.spec.name, case.dataset.name)
            if name in told:
                continue
            told.add(name)
            from pth2om.questions.accuracy import undecidable

            message = undecidable(self.pipeline(case.spec), case.dataset, case.variant)
            if message is not None:
                warnings.warn_explicit(
                    UndecidableWarning(f"{case.spec.name}: {message}"), None, str(case.spec.folder / "model.toml"), 1
                )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """``--dry-run``: say what would run and stop."""
        if not self.config.getoption("--dry-run"):
            return None
        writer = self.config.get_terminal_writer()
        told: set[str] = set()
        for item in session.items:
            case = case_of(item)
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
        rows = getattr(report, RECORDS, None)
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
        self._tell_costs(terminalreporter)
        if self._run_folder is not None and (self._run_folder / "index.html").exists():
            terminalreporter.line(say("plugin.report", path=str(self._run_folder / "index.html")).render())

    def _tell_costs(self, reporter: pytest.TerminalReporter) -> None:
        """What INT8 costs, in one line per variant and dataset."""
        if not self._int8:
            return
        from pth2om.report.cost import costs

        for one in costs(self._int8):
            reporter.line(one.line())


def _tell_line(reporter: pytest.TerminalReporter, key: str, **values: str) -> None:
    message = say(key, **values)
    reporter.line(message.render())
    if fix := message.fix():
        reporter.line(f"  → {fix}")
