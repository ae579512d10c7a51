"""What the tests of pth2om itself share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent

pytest_plugins = ["pytester"]

# How long an example or its drawing takes is the machine's load, not a fault; what takes long is in benchmarks/.
settings.register_profile("pth2om", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pth2om")


def _data_folder() -> Path | None:
    asked = os.environ.get("PTH2OM_DATA")
    folder = Path(asked) if asked else REPOSITORY.parent / "shared" / "data"
    return folder if (folder / "README.md").is_file() else None


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real weights, labelled images and .om files; tests that need it skip where it is absent."""
    folder = _data_folder()
    if folder is None:
        pytest.skip("real data is absent: set PTH2OM_DATA to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this repository."""
    return REPOSITORY


@pytest.fixture(scope="session", autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """English, and no test touches the user's artifact store; what one test builds, another may reuse.

    Of the session: what a fixture of a module starts has them too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTH2OM_LANG", "en")
        patch.setenv("PTH2OM_STORE", str(tmp_path_factory.getbasetemp() / "store"))
        for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):  # of the workflow that runs these tests
            patch.delenv(name, raising=False)
        yield
