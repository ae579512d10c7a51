"""One acceptance run under pytest: its cases, its pipelines, and the hooks that a run with specs needs.

Nothing here imports torch, onnx or onnxruntime.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pth2om.errors import Pth2omError
from pth2om.evidence import Planned, PlanRecord
from pth2om.harness import (
    exit_status,
    garbage,
    htmllog,
    junit,
    machines,
    planning,
    selection,
    sharding,
    summary,
    watching,
)
from pth2om.harness import options as run_options
from pth2om.harness.cases import Case, Selection, case_of, expand, question_of, read_cases
from pth2om.harness.records import RunRecords, reason_of
from pth2om.host import keep_memory
from pth2om.language import Message, joined, say
from pth2om.release import waivers

if TYPE_CHECKING:
    from pth2om.conversion.pipeline import Pipeline
    from pth2om.spec import Spec


class UndecidableWarning(UserWarning):
    """A gate that the chosen subset can never decide, whatever the model does."""


class Run:
    """The specs of a run, its pipelines, and its evidence."""

    def __init__(self, config: pytest.Config, models: Path) -> None:
        self.config = config
        self.models = models
        self.is_worker = hasattr(config, "workerinput")
        machines.settle(config)
        self.settings = run_options.settings(config, models)
        self._pipeline: Pipeline | None = None
        self._selection = Selection(
            frozenset(run_options.words(config.getoption("--om-precision"))),
            frozenset(int(size) for size in run_options.words(config.getoption("--om-batch"), digits=True)),
        )
        self.waivers = waivers.read(
            config.invocation_params.dir / (config.getoption("--om-waivers") or models.parent / waivers.NAME)
        )
        self.records = RunRecords(config, self.settings.soc, self.waivers)
        self.fail_on = run_options.fail_on(config)
        self.baseline = run_options.baseline(config)
        self.shard = sharding.shard(config)
        self._elsewhere: list[pytest.Item] = []
        self._shared = False
        self._begun = False
        self._plans: tempfile.TemporaryDirectory[str] | None = None  # where workers leave theirs
        self._uncollected: dict[str, str] = {}
        self._interrupted = False
        self._ahead = contextlib.ExitStack()  # a child that makes data
        self._reasons: list[Message] = []
        if not self.is_worker:
            run_options.check(config, self.settings, [case.folder.name for case in self.cases], self._datasets())
        if not self.is_worker and self._is_acceptance():
            htmllog.place(config, self.records.folder)

    # --- cases ---

    @functools.cached_property
    def cases(self) -> list[Case]:
        """One case per spec, good or bad."""
        return read_cases(self.models, self.settings.calib)

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

    def rest(self) -> None:
        """End what the current test had on a device.

        Raises:
            CrashError: its worker crashed or hung while it left.
        """
        if self._pipeline is not None:
            self._pipeline.rest()

    def _is_acceptance(self) -> bool:
        """Whether the run's arguments point at acceptance tests and not, say, at the tests of pth2om itself."""
        if self.config.getoption("--om-dry-run") or self.config.option.collectonly:
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
        """The SoC, the toolchain, and filters that no variant fits."""
        return summary.header(self.config, self.settings, self.cases, self._selection)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One case per model, batch, variant or dataset, as the test's fixtures ask."""
        if "acceptance_case" in metafunc.fixturenames:
            whole, definition = self.settings.subset is None, metafunc.definition
            cases = [
                case
                for case in selection.left_by(
                    self.config.option.keyword,
                    definition,
                    expand(self.cases, metafunc.fixturenames, self._selection),
                )
                if not planning.asks_nothing(definition, case, whole=whole)
            ]
            # Of no wider scope: pytest would group the tests by case, and they are sorted by model anyway.
            metafunc.parametrize("acceptance_case", cases, indirect=True, ids=[case.id for case in cases])

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

        ranks: dict[str, int] = {}

        def place(item: pytest.Item) -> tuple[int, int, int]:
            case = case_of(item)
            if case is None:
                return (-1, 0, 0)
            # The tests of one variant follow one another: what it was asked is remembered for the next.
            rank = ranks.setdefault(case.id, len(ranks))
            return (order[case.folder.name], QUESTIONS.index(question_of(item)), rank)

        items[:] = sorted(kept, key=place)
        if self.shard is not None:
            items[:], self._elsewhere = self.shard.share(items)
            config.hook.pytest_deselected(items=self._elsewhere)
        if not config.option.collectonly:
            self._warn_undecidable(items)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Make the plan; a worker hands it to the controller."""
        if getattr(self.config.option, "collectonly", False) or self.config.getoption("--om-dry-run"):
            return
        tests = []
        for item in filter(planning.is_about_a_model, session.items):
            whole = self.settings.subset is None
            item.stash[planning.PLANNED] = each = planning.planned(item, self.settings.soc, whole=whole)
            tests.append(each)
        soc, shard = self.settings.soc, str(self.shard or "")
        plan = PlanRecord(tuple(tests), soc, shard, planning.others(self._elsewhere, soc))
        if self.is_worker:
            given = self.config.workerinput  # type: ignore[attr-defined]  # of xdist
            if "pth2om_plans" in given:
                planning.hand_over(plan, Path(given["pth2om_plans"]), given["workerid"])
        else:
            self._begin(plan)
            self._make_ahead(session.items)

    def pytest_report_collectionfinish(self, items: Sequence[pytest.Item]) -> list[str]:
        """How the tests were shared."""
        if self.shard is None or self.is_worker:
            return []
        counts = {"count": len(items), "others": len(self._elsewhere)}
        return [say("plugin.header-shard", shard=str(self.shard), **counts).render()]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remember a file of tests that cannot be collected: its tests are in no plan."""
        if report.failed and not self.is_worker:
            self._uncollected[report.nodeid] = reason_of(report)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:  # noqa: ANN401 - xdist's WorkerController
        """Tell a worker of xdist what the machines are, and where to leave its plan."""
        machines.hand_over(self.config, node)
        if self._plans is None:
            self._plans = tempfile.TemporaryDirectory(prefix="pth2om-plans-", ignore_cleanup_errors=True)
        node.workerinput["pth2om_plans"] = self._plans.name

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:  # noqa: ANN401 - as above
        """Write the plan of the first worker; all workers collect the same tests."""
        if self._begun or self._plans is None:
            return
        self._begin(planning.handed_over(ids, Path(self._plans.name), node.gateway.id))

    def _begin(self, plan: PlanRecord) -> None:
        """Write the plan, and the errors of files and specs that no test of the plan would tell."""
        self._shared = bool(plan.elsewhere)
        if not plan.items:
            return
        self._begun = True
        watching.note_folder(self.config, self.records.folder)
        specs = planning.specs(self.cases, {each.model for each in plan.items})
        self.records.plan(dataclasses.replace(plan, specs=specs))
        for place, reason in self._uncollected.items():
            lost = Planned(place, place, "", None, "export", "export/collection")
            self.records.write([lost.gate("failed", say("plugin.test-failed", reason=reason))])
        told = {each.model for each in plan.items} | {model for _, model, *_ in plan.elsewhere}
        by_id = all("[" in str(argument) for argument in self.config.args)
        for case in self.cases:
            name = case.folder.name
            if case.error is None or name in told or by_id:
                continue
            if planning.would_ask_of(name, plan.items, self.config.option.keyword):
                wrong = Planned(name, name, "", None, "checkpoint", "checkpoint/spec")
                self.records.write([wrong.gate("failed", case.error.message)])

    def _make_ahead(self, items: Sequence[pytest.Item]) -> None:
        """Have the data that these tests need made by a child, while the models are exported."""
        from pth2om.data import drawn, made_ahead
        from pth2om.store import Store

        names: list[str] = []
        for item in items:
            case = case_of(item)
            if case is None or case.spec is None:
                continue
            if case.dataset is not None:
                names.append(case.dataset.name)
            elif question_of(item) == "closeness":
                names += [each.name for each in case.spec.datasets]
            if case.variant is not None and case.variant.quantized and case.spec.quantize.dataset:
                names.append(case.spec.quantize.dataset)
        found = (drawn(name, self.settings.calib, self.settings.datasets) for name in dict.fromkeys(names))
        self._ahead.enter_context(made_ahead([each for each in found if each is not None], Store()))

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
                    UndecidableWarning(joined((case.spec.name, str(message)), ": ")),
                    None,
                    str(case.spec.folder / "model.toml"),
                    1,
                )

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """``--om-dry-run``: say what would run and stop."""
        garbage.work(self.config)
        if not self.config.getoption("--om-dry-run"):
            keep_memory()
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
        if not self.is_worker:
            self.records.take(report)

    def pytest_keyboard_interrupt(self) -> None:
        """For the summary."""
        self._interrupted = True

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, None, None]:
        """Close what is open; on the controller render the report, after pytest-html wrote the log it links to.

        The innermost wrapper: what goes wrong here is still told in the terminal's summary.
        """
        garbage.rest(self.config)
        self._ahead.close()
        if not self.is_worker:
            if self.baseline is not None:
                self.records.compare(self.baseline)
            self.records.end(interrupted=self._interrupted)
            if self._shared and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
                session.exitstatus = pytest.ExitCode.OK  # more shards than models: the others have all tests
            junit.complete(self.config, self.records.gates, self.records.judged[len(self.records.gates) :])
        try:
            yield
        except OSError as error:
            if self.is_worker or not self.records.has_folder:
                raise
            self.records.unwritten = self.records.unwritten or error
        if self._pipeline is not None:
            self._pipeline.close()
        if self._plans is not None:
            self._plans.cleanup()
        if self.is_worker or not self.records.has_folder:
            return
        if not self.records.path.exists():
            if self.records.unwritten is None:
                htmllog.drop(self.config, self.records.folder)
            self._reasons = exit_status.reasons(self.records, self.fail_on)
            exit_status.apply(session, self._reasons)
            return
        from pth2om.report import render

        try:
            render(self.records.path, self.records.folder)
        except (OSError, Pth2omError) as error:
            self.records.unwritten = self.records.unwritten or error
        self._reasons = exit_status.reasons(self.records, self.fail_on)
        exit_status.apply(session, self._reasons)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Verdicts by ground, and where the report is."""
        if not self.is_worker:
            summary.summarise(terminalreporter, self.records, self._reasons, self.models, interrupted=self._interrupted)


RUN = pytest.StashKey[Run]()
"""Where a session's config keeps its run."""
