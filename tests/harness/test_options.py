"""The plugin's options: they take nobody's names, and their paths are no places of tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pth2om.release.comparing import update
from tests.release.nights import gate, write

SHORT = {"--soc", "--board", "--fail-on", "--baseline"}


def test_only_a_few_options_are_short() -> None:
    text = subprocess.run([sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, check=True).stdout
    group = re.search(r"^pth2om: .*?:\n((?:  .*\n|\n(?=  ))*)", text, re.M)
    assert group is not None
    found = set(re.findall(r"^  (--[\w-]+)", group[1], re.M))
    assert {name for name in found if not name.startswith("--om-")} == SHORT
    assert len(found) > 12
    assert "cann}" not in group[1]


def test_a_project_keeps_its_own_options(pytester: pytest.Pytester) -> None:
    names = ("models", "dataset", "weights", "batch", "threads", "dry-run", "trust", "toolchain", "precision", "subset")
    lines = "".join(f"    parser.addoption('--{name}', action='store_true')\n" for name in names)
    pytester.makeconftest(f"def pytest_addoption(parser):\n{lines}")
    pytester.makepyfile("def test_ok(pytestconfig):\n    assert pytestconfig.getoption('--models')\n")
    result = pytester.runpytest_subprocess("--models")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("option", ["--om-data-dir", "--om-reports-dir", "--om-models"])
@pytest.mark.parametrize("spelling", ["apart", "joined"])
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_path_of_an_option_is_no_place_of_tests(
    repo: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory, option: str, spelling: str, workers: str
) -> None:
    """From a sub-folder, with a path outside the root whose own pytest.ini must not be read."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "pytest.ini").write_text("[pytest]\ntestpaths = nowhere\naddopts = --collect-only\n")
    place = outside / "models" if option == "--om-models" else outside
    if option == "--om-models":
        (repo.path / "models").rename(place)
        (repo.path / "calib").rename(outside / "calib")
    (repo.path / "test_cases" / "test_count.py").write_text(
        "import pathlib\n\n\ndef test_count(request, checkpoint, accept):\n    accept.stage(checkpoint)\n"
        "    with (request.config.rootpath / 'count').open('a') as file:\n        file.write('x')\n"
    )
    where = os.path.relpath(place, repo.path / "test_cases")
    words = [option, where] if spelling == "apart" else [f"{option}={where}"]
    command = [sys.executable, "-m", "pytest", "-n", workers, "-k", "count", "-p", "no:cacheprovider", *words]
    result = subprocess.run(command, cwd=repo.path / "test_cases", capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout
    assert f"rootdir: {repo.path}\n" in result.stdout
    assert (repo.path / "count").read_text() == "x"
    reports = Path(outside if option == "--om-reports-dir" else repo.path / "reports")
    assert len(list(reports.glob("*/index.html"))) == 1


def test_a_baseline_elsewhere_is_no_place_of_tests(repo: pytest.Pytester, tmp_path_factory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    update([write(outside / "run", [gate()])], outside / "b.json")
    result = repo.runpytest_subprocess("--collect-only", "-q", "-k", "exports", "--baseline", str(outside / "b.json"))
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*[[]tiny-bs1[]]*"])


def test_a_reports_folder_that_is_not_there_yet(repo: pytest.Pytester, tmp_path_factory) -> None:
    fresh = tmp_path_factory.mktemp("outside") / "not" / "yet"
    result = repo.runpytest_subprocess("-n", "2", "-k", "checkpoint_fits", "--om-reports-dir", str(fresh))
    result.assert_outcomes(passed=1)
    assert len(list(fresh.glob("*/index.html"))) == 1
