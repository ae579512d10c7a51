"""The pytest plugin: its options, and the run where there are specs.

Inert where there are no specs: without a ``models/*/model.toml`` (or ``--om-models DIR``) nothing is registered beyond
the options. Nothing here imports torch, onnx or onnxruntime.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pth2om import progress
from pth2om.harness import garbage, options, rootdir, watching
from pth2om.language import say
from pth2om.terminal import choose_language, prepare_streams


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of an acceptance run."""
    progress.keep_terminal()
    choose_language()
    options.add(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: list[str]) -> Generator[None, None, None]:
    """Keep pytest's root where the command was typed, also when it reads ``--om-data-dir /data``.

    And keep pytest from rewriting the assertions of this package, which it does with every module of a distribution
    that has a plugin: they are no tests, and where ``site-packages`` cannot be written it would begin anew in each run.
    """
    marked = getattr(early_config.pluginmanager.rewrite_hook, "_must_rewrite", None)
    if isinstance(marked, set):
        marked.discard("pth2om")
    rootdir.correct(early_config, args)
    yield


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Find the specs; without any, stay inert."""
    watching.take_note(config)
    config.addinivalue_line("markers", "question(name): which question of the report a test answers")
    config.addinivalue_line("markers", "asks(method, *roles): the method of accept that a test calls, and of whom")
    asked = config.getoption("--om-models")
    models = (config.invocation_params.dir / asked) if asked else config.rootpath / "models"
    if asked and not any(models.glob("*/model.toml")):
        key = "plugin.no-specs" if models.is_dir() else "plugin.no-models"
        raise pytest.UsageError(say(key, folder=str(models), parent=str(models.parent)).render())
    if not asked and not any(models.glob("*/model.toml")):
        return
    garbage.rest(config)
    from pth2om.harness import fixtures, outcomes, workers
    from pth2om.harness.run import RUN, Run

    prepare_streams()
    workers.share_cores(config)
    run = Run(config, models)
    config.stash[RUN] = run
    config.pluginmanager.register(run, "pth2om-run")
    config.pluginmanager.register(fixtures, "pth2om-fixtures")
    config.pluginmanager.register(outcomes, "pth2om-outcomes")
    config.pluginmanager.register(workers, "pth2om-workers")
    garbage.keep()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """Tell a parent that watches this run of its end, after everything else."""
    yield
    watching.note_end(session.config)
