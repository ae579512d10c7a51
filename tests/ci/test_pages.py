"""The jobs that the page shows for GitLab and Jenkins: their shell steps are taken from the page and run here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pth2om.evidence import Joined, read

yaml = pytest.importorskip("yaml", reason="the tests read the jobs with PyYAML: pip install -e '.[dev]'")
SOC = "Ascend310B1"
SHARDS = ("1/2", "2/2")
# What the jobs install is here already, so that pip asks nobody; all else is the real command.
_PYTHON = """#!/bin/sh
case "$1 $2" in "-m pip" | "-m venv") exit 0 ;; esac
exec "{python}" "$@"
"""


class Steps:
    """The steps of one CI.

    Attributes:
        shard: what a job of a shard runs, one text a shell.
        always: what it runs in any case behind that.
        report: what the last job runs.
    """

    def __init__(self, shard: list[str], always: list[str], report: list[str]) -> None:
        self.shard, self.always, self.report = shard, always, report


def gitlab(page: str) -> Steps:
    """GitLab joins the commands of a list in one shell; ``after_script`` has its own."""
    data = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[0])
    before = data["default"]["before_script"]
    jobs = data["accept"], data["report"]
    assert {"shards"} == set(jobs[0]["artifacts"]["paths"])
    shells = ["\n".join([*before, *job["script"]]) for job in jobs]
    return Steps(shells[:1], ["\n".join(jobs[0]["after_script"])], shells[1:])


def jenkins(page: str) -> Steps:
    """Each ``sh`` is a shell; the first of them is the shard's, the last the report's."""
    (block,) = re.findall(r"```groovy\n(.*?)```", page, re.DOTALL)
    shells = re.findall(r"\bsh '''(.*?)'''|\bsh '([^'\n]*)'", block, re.DOTALL)
    texts = [textwrap.dedent(long.partition("\n")[2]) if long else short for long, short in shells]
    accept, always, report = texts
    assert block.count("unstash 'shard-") == len(SHARDS)
    return Steps([accept], [always], [report])


def shell(text: str, folder: Path, environment: dict[str, str]) -> int:
    """A step as both CIs run it: bash, which ends at the first command that fails."""
    return subprocess.run(["bash", "-eo", "pipefail", "-c", text], cwd=folder, env=environment, check=False).returncode


@pytest.fixture(scope="module")
def shims(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shims")
    for name in ("python", "python3"):
        (folder / name).write_text(_PYTHON.format(python=sys.executable))
        (folder / name).chmod(0o755)
    (folder / "pth2om").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pth2om "$@"\n')
    (folder / "pth2om").chmod(0o755)
    return folder


@pytest.mark.nightly
@pytest.mark.skipif(os.name != "posix", reason="the jobs are shell scripts")
@pytest.mark.parametrize(("page", "kind"), [("ci.md", gitlab), ("ci.zh.md", jenkins)])
def test_the_jobs_of_the_page_run(
    repo: pytest.Pytester, repository: Path, tmp_path: Path, shims: Path, page: str, kind: object
) -> None:
    """Both pages hold the same jobs (see below), so that each CI is run from one of them."""
    steps = kind((repository / "docs" / page).read_text(encoding="utf-8"))
    shutil.copytree(repo.path / "models" / "tiny", repo.path / "models" / "second")
    (repo.path / "models" / "second" / "weights" / "tiny.pth").write_bytes(b"nothing")
    statuses, stored = [], tmp_path / "stored"
    own = {
        "PATH": f"{shims}{os.pathsep}{os.environ['PATH']}", "SOC": SOC, "PTH2OM_STORE": str(tmp_path / "store"),
        "HOME": str(tmp_path), "PYTEST_ADDOPTS": "-k checkpoint_fits -p no:cacheprovider",
    }  # fmt: skip
    for number, shard in enumerate(SHARDS, 1):
        clone = tmp_path / f"clone{number}"
        shutil.copytree(repo.path, clone)
        (clone / ".venv" / "bin").mkdir(parents=True)
        (clone / ".venv" / "bin" / "activate").touch()
        environment = {**os.environ, **own, "SHARD": shard, "CI_NODE_INDEX": str(number)}
        statuses.append([shell(text, clone, environment) for text in steps.shard])
        assert not any(shell(text, clone, environment) for text in steps.always)
        shutil.copytree(clone / "shards", stored, dirs_exist_ok=True)
    assert sorted(statuses) == [[0], [1]]  # of the models tiny and second
    last = tmp_path / "last"
    shutil.copytree(repo.path, last)
    (last / ".venv" / "bin").mkdir(parents=True)
    (last / ".venv" / "bin" / "activate").touch()
    shutil.copytree(stored, last / "shards")
    assert [shell(text, last, {**os.environ, **own}) for text in steps.report] == [1]
    night = last / "reports" / f"night-{SOC}"
    joined = Joined().take(read(night / "evidence.jsonl"))
    assert sorted({gate.model for gate in joined.gates}) == ["second", "tiny"]
    assert joined.coverage.planned == []
    assert (night / "index.html").is_file()


def test_both_pages_hold_the_same_jobs(repository: Path) -> None:
    pages = [(repository / "docs" / page).read_text(encoding="utf-8") for page in ("ci.md", "ci.zh.md")]
    first, second = ([vars(kind(page)) for kind in (gitlab, jenkins)] for page in pages)
    assert first == second
