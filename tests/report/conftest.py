"""Evidence and a browser for the tests of the report."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _module(name):
    spec = importlib.util.spec_from_file_location(f"report_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def factory():
    """The functions that make evidence up."""
    return _module("evidence_factory")


@pytest.fixture(scope="session")
def small(factory):
    """The records of a run that holds every verdict and every ground."""
    return list(factory.small_run())


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium."""
    if sys.platform == "win32":
        pytest.skip("the DevTools pipe needs inherited descriptors")
    module = _module("chromium")
    if module.found() is None:
        pytest.skip(f"no browser: none of {', '.join(module.NAMES)} is on PATH")
    with module.Chromium() as browser:
        yield browser
