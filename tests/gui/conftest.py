"""Windows for the tests of the GUI."""

from __future__ import annotations

import importlib.util

import pytest

if importlib.util.find_spec("starlette") is None:
    collect_ignore_glob = ["test_*.py"]  # the window needs the extra pth2om[gui], which `make test` installs


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with nothing in it but a file outside of it to reach for."""
    folder = tmp_path_factory.mktemp("project")
    (folder.parent / "secret.txt").write_text("nothing to see")
    return folder


@pytest.fixture(scope="module")
def window(project, tmp_path_factory):
    from tests.gui.window import Window

    with Window(project, tmp_path_factory.mktemp("state")) as made:
        yield made.sign_in()
