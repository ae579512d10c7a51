"""The workflow that ``pth2om ci github`` writes: read as YAML, and its steps run here."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pth2om.ci.github import MOST_JOBS, Asked, workflow
from pth2om.cli import main
from pth2om.errors import Pth2omError
from pth2om.evidence import Joined, read

yaml = pytest.importorskip("yaml", reason="the tests read the workflow with PyYAML: pip install -e '.[dev]'")
SOC = "Ascend310B1"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "model.toml").write_text("")
    return tmp_path / "models"


def parsed(text: str) -> dict[str, Any]:
    assert not re.findall(r"@[A-Z]+@", text)  # nothing is left to fill in
    data = yaml.safe_load(text)
    assert isinstance(data, dict)
    return data


def runs(job: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    matrix = job["strategy"]["matrix"]
    for values in itertools.product(*matrix.values()):
        yield dict(zip(matrix, map(str, values), strict=True))


@pytest.mark.parametrize(("shards", "expected"), [(None, 3), (1, 1), (7, 7)])
def test_a_matrix_over_chips_and_shards(models: Path, shards: int | None, expected: int) -> None:
    data = parsed(workflow(Asked([SOC, "Ascend310P3"], shards), models))
    jobs = list(runs(data["jobs"]["accept"]))
    assert len(jobs) == 2 * expected
    assert {(one["soc"], int(one["shard"])) for one in jobs} == set(
        itertools.product((SOC, "Ascend310P3"), range(1, expected + 1))
    )
    assert data["permissions"] == {"contents": "read"}
    assert data["jobs"]["report"]["needs"] == "accept"
    # Nothing that a pull request decides is put into a script.
    for job in data["jobs"].values():
        assert not [step for step in job["steps"] if "${{" in step.get("run", "")]


@pytest.mark.parametrize(
    "asked",
    [
        Asked(["Ascend999"]),
        Asked([SOC], 0),
        Asked([SOC], MOST_JOBS + 1),
        Asked([SOC], install="x\ny"),
        Asked([SOC], install="${{ secrets.A }}"),
        Asked([SOC], install="$''{{ secrets.A }}"),
        Asked([SOC], install="'half"),
        Asked([SOC], install="  "),
    ],
)
def test_what_makes_no_workflow_is_refused(models: Path, asked: Asked) -> None:
    with pytest.raises(Pth2omError):
        workflow(asked, models)


@pytest.mark.parametrize(
    "words",
    ["pth2om>=0.3,<2", "pth2om; touch ran", "$(touch ran)", "a # b", "'pth2om[gui] @ file:x'", "@SOCS@ @COMMAND@"],
)
def test_words_behind_pip_install_stay_words(models: Path, words: str) -> None:
    tmp_path = models.parent
    steps = yaml.safe_load(workflow(Asked([SOC], install=words), models))["jobs"]["accept"]["steps"]
    script = next(one["run"] for one in steps if one.get("name") == "Install")
    ran = subprocess.run(
        ["bash", "-c", "python() { printf '%s\\n' \"$@\"; }\n" + script.splitlines()[1]],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.splitlines() == ["-m", "pip", "install", *shlex.split(words)]
    assert [one.name for one in tmp_path.iterdir()] == ["models"]


def test_a_changed_workflow_is_left_as_it_is(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(models.parent)
    command = ["ci", "github", "--soc", SOC, "--install", "-c constraints.txt -e ."]
    file = Path(".github/workflows/pth2om.yml")
    assert main(command) == 0
    first = file.read_text()
    assert "pip install -c constraints.txt -e ." in first
    assert main(command) == 0
    file.write_text(first + "# mine\n")
    assert main(command) == 1
    assert file.read_text() == first + "# mine\n"
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    assert file.read_text() == first
    shutil.rmtree("models")
    assert main([*command, "-o", "-"]) == 1


class Runner:
    """What a runner of GitHub does with the steps of a job, as far as these are scripts or move artifacts."""

    def __init__(self, workspace: Path, storage: Path, environment: Mapping[str, str]) -> None:
        self.workspace = workspace
        self.storage = storage
        self.environment = environment
        self.printed = ""

    def job(self, data: Mapping[str, Any], name: str, matrix: Mapping[str, str], skip: str = "Install") -> int:
        job = data["jobs"][name]
        environment = dict(self.environment)
        for key, value in {**data["env"], **job["env"]}.items():
            environment[key] = self._filled(str(value), matrix)
        status = 0
        for step in job["steps"]:
            always = "!cancelled()" in step.get("if", "")
            if (status and not always) or step.get("name") == skip:
                continue
            if "uses" in step:
                self._uses(step, matrix)
                continue
            bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
            result = subprocess.run(
                bash, cwd=self.workspace, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            self.printed += result.stdout
            status = status or result.returncode
        return status

    def _uses(self, step: Mapping[str, Any], matrix: Mapping[str, str]) -> None:
        action = step["uses"].partition("@")[0]
        given = {key: self._filled(str(value), matrix) for key, value in step.get("with", {}).items()}
        if action == "actions/upload-artifact":
            for path in filter(None, map(str.strip, given["path"].splitlines())):
                source = self.workspace / path
                if source.exists():
                    shutil.copytree(source, self.storage / given["name"], dirs_exist_ok=True)
        elif action == "actions/download-artifact":
            for found in self.storage.glob(given["pattern"]):
                shutil.copytree(found, self.workspace / given["path"] / found.name)
        else:
            assert action in ("actions/checkout", "actions/setup-python", "actions/cache")

    def _filled(self, text: str, matrix: Mapping[str, str]) -> str:
        known = {f"matrix.{key}": value for key, value in matrix.items()}
        known |= {"github.workspace": str(self.workspace)}
        return re.sub(r"\$\{\{ ([\w.]+) \}\}", lambda match: known.get(match[1], "1"), text)


def test_the_steps_run(repo: pytest.Pytester, tmp_path: Path) -> None:
    shutil.copytree(repo.path / "models" / "tiny", repo.path / "models" / "second")
    (repo.path / "models" / "second" / "weights" / "tiny.pth").write_bytes(b"nothing")
    data = parsed(workflow(Asked([SOC]), repo.path / "models"))
    summary = tmp_path / "summary.md"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(repo.path),
        "GITHUB_STEP_SUMMARY": str(summary),
        "PYTEST_ADDOPTS": "-k checkpoint_fits -p no:cacheprovider",
    }
    runner = Runner(repo.path, tmp_path / "storage", environment)
    statuses = []
    for number, matrix in enumerate(runs(data["jobs"]["accept"])):
        # What it installs is here already, so that pip asks nobody.
        statuses.append(runner.job(data, "accept", matrix, skip="" if number == 0 else "Install"))
        shutil.rmtree(repo.path / "shard")
    assert statuses == [1, 0]  # of the models second and tiny
    assert "::error file=models/second/model.toml,line=1,title=second checkpoint::" in runner.printed
    runner.printed = ""
    (matrix,) = runs(data["jobs"]["report"])
    assert runner.job(data, "report", matrix) == 1
    assert "2 runs" in runner.printed
    night = tmp_path / "storage" / f"report-{SOC}"
    joined = Joined().take(read(next(night.rglob("evidence.jsonl"))))
    assert sorted({gate.model for gate in joined.gates}) == ["second", "tiny"]
    assert joined.coverage.planned == []
    assert (repo.path / "reports" / "history" / "tiny.jsonl").is_file()
    assert next(night.rglob("index.html")).is_file()
    assert summary.read_text().count("# Acceptance report") == 3


@pytest.mark.parametrize("page", ["ci.md", "ci.zh.md"])
def test_the_page_shows_the_commands_of_the_workflow(models: Path, repository: Path, page: str) -> None:
    """GitLab and Jenkins are not here; what their jobs run is what the test above ran."""
    text = (repository / "docs" / page).read_text(encoding="utf-8")
    data = parsed(workflow(Asked([SOC]), models))
    blocks = {kind: re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("yaml", "groovy")}
    assert set(yaml.safe_load(blocks["yaml"][0])) == {"stages", "default", "variables", "accept", "report"}
    steps = [step for job in data["jobs"].values() for step in job["steps"] if step.get("name") in ("Accept", "Merge")]
    lines = [line.strip() for step in steps for line in step["run"].splitlines()]
    assert len(lines) == 5
    for (block,) in blocks.values():
        assert [line for line in lines if line not in block] == []
