"""The test log of pytest-html, beside the report of a run."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from pth2om.language import say


def place(config: pytest.Config, folder: Path) -> None:
    """Have pytest-html write its log into the run's folder, unless the command line names another place.

    Raises:
        UsageError: the folder cannot be made.
    """
    if getattr(config.option, "htmlpath", "absent") is not None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        where, reason = str(folder.parent), error.strerror or str(error)
        raise pytest.UsageError(say("plugin.reports-unwritable", path=where, reason=reason).render()) from None
    config.option.htmlpath = str(folder / "log.html")
    config.option.self_contained_html = True


def drop(config: pytest.Config, folder: Path) -> None:
    """Remove the log and the folder of a run that measured nothing, and keep pytest-html from naming them."""
    log = folder / "log.html"
    if str(log) != getattr(config.option, "htmlpath", None):
        return
    with contextlib.suppress(OSError):
        log.unlink(missing_ok=True)
        folder.rmdir()
        folder.parent.rmdir()  # reports/ itself, when there is nothing else in it
    for plugin in config.pluginmanager.get_plugins():
        if type(plugin).__module__.startswith("pytest_html.") and hasattr(plugin, "pytest_terminal_summary"):
            config.pluginmanager.unregister(plugin)
