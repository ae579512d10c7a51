"""Evidence and a browser for the tests of the report."""

from __future__ import annotations

import sys

import pytest

from tests.report import chromium as browsers
from tests.report import evidence_factory


@pytest.fixture(scope="session")
def factory():
    """The functions that make evidence up."""
    return evidence_factory


@pytest.fixture(scope="session")
def small(factory):
    """The records of a run that holds every verdict and every ground."""
    return list(factory.small_run())


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium."""
    if sys.platform == "win32":
        pytest.skip("the DevTools pipe needs inherited descriptors")
    if browsers.found() is None:
        pytest.skip(f"no browser: none of {', '.join(browsers.NAMES)} is on PATH")
    with browsers.Chromium() as browser:
        yield browser
