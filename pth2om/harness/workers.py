"""Workers of pytest-xdist: they share the machine's cores, and each stays with its models while there are others."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pth2om.host import THREADS, cores


def share_cores(config: pytest.Config) -> None:
    """In a worker: as many threads as are its share of the cores, for everything that computes in this process.

    A worker with as many threads as there are cores would only take turns with the others. A number that the user has
    set is kept.
    """
    count = getattr(config, "workerinput", {}).get("workercount")
    if count:
        os.environ.setdefault(THREADS, str(max(1, cores() // int(count))))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object | None:  # noqa: ANN401 - xdist's
    """A model at a time for each worker, and for one that has none left some of another's last tests.

    Tests are sorted by model, so that two workers meet at one model at most, where xdist's ``--dist load`` has all of
    them build the artifacts of the same model, or wait for each other. Any other ``--dist`` is as asked.
    """
    if config.getvalue("dist") != "load":
        return None
    from pth2om.harness.run import RUN
    from pth2om.harness.scheduling import ModelScheduling

    models = config.stash[RUN].models
    return ModelScheduling(config, log, [file.parent.name for file in models.glob("*/model.toml")])
