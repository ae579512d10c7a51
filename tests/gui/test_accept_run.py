"""A real acceptance run from the page: it reports while it runs, and its evidence is that of the line that it shows."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from pth2om.gui import journal
from pth2om.gui.pages import accept
from tests.gui import canonical
from tests.gui.window import text

FORM = {"model": "tiny", "soc": "Ascend310B1", "precision": "fp16", "batch": "1", "subset": "16"}


@pytest.fixture(scope="module")
def project(prototype, tmp_path_factory):
    folder = tmp_path_factory.mktemp("accepting") / "project"
    shutil.copytree(prototype, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTH2OM_STORE", str(tmp_path_factory.getbasetemp() / "plugin-store"))  # of tests/harness
        yield folder


@pytest.fixture(scope="module")
def run(window):
    """The page of a job that is over, its events, and the folder of its evidence."""
    place = window.ask("/accept", **FORM)
    with window.client.stream("GET", f"{place}/events") as answer:
        told = [line for line in answer.iter_lines() if line]
    events = [
        (name.removeprefix("event: "), data.removeprefix("data: "))
        for name, data in itertools.pairwise(told)
        if name.startswith("event: ")
    ]
    job = journal.read(window.settings.jobs, place.rsplit("/", 1)[1])
    folder = accept.run_of(window.desk, job)
    assert folder is not None, window.get(f"{place}/log").text
    return place, events, folder


@pytest.fixture(scope="module")
def typed(window, run, project):
    """The same in a shell: the shown line, as it stands there."""
    line = window.line(run[0])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=project, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=300
    )
    folder = next(one.parent for one in (project / "reports").glob("*/evidence.jsonl") if one.parent != run[2])
    return done, folder


def test_the_evidence_is_that_of_the_line_which_the_page_shows(window, run, typed):
    place, _, folder = run
    done, by_hand = typed
    assert window.line(place).startswith("python -m pth2om.harness ")
    job = journal.read(window.settings.jobs, place.rsplit("/", 1)[1])
    assert job.status == done.returncode == 0, done.stdout
    first, second = (canonical.lines(one / "evidence.jsonl", (folder.name, by_hand.name)) for one in (folder, by_hand))
    assert first == second
    gates = [one for one in first if one["kind"] == "gate"]
    assert {"accuracy", "closeness", "latency"} <= {one["question"] for one in gates}
    assert {one["ground"] for one in gates} == {"host", "emulated"}


@pytest.mark.nightly
def test_nothing_that_the_page_measured_came_from_the_store(window, run, project, tmp_path):
    """As above, with a store of its own: everything is built and measured a second time."""
    folder = tmp_path / "again"
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("reports"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    surroundings = {**os.environ, "PATH": path, "PTH2OM_STORE": str(tmp_path / "store")}
    subprocess.run(["bash", "-c", window.line(run[0])], cwd=folder, env=surroundings, check=True, timeout=300)
    (evidence,) = (folder / "reports").glob("*/evidence.jsonl")
    assert "PLACE" not in evidence.read_text()
    places = (os.environ["PTH2OM_STORE"], tmp_path / "store", project, folder)
    assert canonical.lines(evidence, places) == canonical.lines(run[2] / "evidence.jsonl", places)


def test_gates_arrive_while_they_are_measured_and_the_report_at_the_end(window, run):
    place, events, folder = run
    bars = re.compile(r'<progress max="(\d+)" value="(\d+)" aria-label="Gates">')
    standing = [json.loads(data) for name, data in events if name == "standing"]
    seen = [int(found[2]) for one in standing if (found := bars.search(one))]
    assert seen == sorted(seen)
    assert len(set(seen)) > 3  # one after the other, not all at the end
    gates = sum(one["kind"] == "gate" for one in canonical.lines(folder / "evidence.jsonl"))
    assert (seen[-1], int(bars.search(standing[-1])[1])) == (gates, gates)
    assert 'class="state passed"' in standing[-1]
    assert events[-1] == ("over", "done")
    page = window.get(place).text
    inside = window.client.get(re.search(r'<iframe[^>]* src="(/report[^"]*)"', page)[1].replace("&amp;", "&"))
    assert (inside.status_code, "EMULATED" in inside.text.upper()) == (200, True)


def test_two_runs_are_compared(window, run, typed):
    page = window.get("/compare", old=str(run[2]), new=str(typed[1])).text
    assert 'class="state passed"' in page
    assert f"pth2om compare {run[2]} {typed[1]}" in text(page)
    shown = window.get(run[0]).text
    assert f'<option value="{typed[1]}">' in shown  # the page of the job offers the other run


@pytest.fixture
def _a_test_that_waits(project):
    """Among the project's own tests, so that the run is not over before it is cancelled."""
    file = project / "test_cases" / "test_own.py"
    file.write_text("import time\n\n\ndef test_tiny_waits():\n    time.sleep(60)\n")
    yield
    file.unlink()


@pytest.mark.usefixtures("_a_test_that_waits")
def test_a_run_is_cancelled_within_two_seconds(window):
    place = window.ask("/accept", **FORM)
    name = place.rsplit("/", 1)[1]
    end = time.monotonic() + 60
    while not window.get(f"{place}/log").text.count("test_cases"):
        assert time.monotonic() < end, window.get(f"{place}/log").text
        time.sleep(0.05)
    start = time.monotonic()
    window.post(f"{place}/cancel")
    assert time.monotonic() - start < 2.0
    job = journal.read(window.settings.jobs, name)
    assert job.state == "cancelled"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"{journal.MARK}={name}".encode() in (process / "environ").read_bytes().split(b"\0")
            assert not marked or (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
    # What it had measured until then is evidence of a run that was interrupted, or has no end: on a busy machine it is
    # killed before it can write one.
    last = canonical.lines(accept.run_of(window.desk, job) / "evidence.jsonl")[-1]
    assert last["kind"] != "end" or last["interrupted"]


@pytest.mark.parametrize("others", [(), ("before",), ("after",), ("before", "after")])
def test_the_run_of_a_job_is_not_one_typed_just_before_or_after(tmp_path, others):
    now = float(int(time.time())) - 10  # files of a run are younger than its start
    began = {"before": now, "b": now + 1, "after": now + 4}
    for name in ("b", *others):
        folder = tmp_path / "reports" / name
        folder.mkdir(parents=True)
        started = datetime.fromtimestamp(began[name], UTC).isoformat(timespec="seconds")
        line = {"kind": "run", "started": started, "command": ["pytest", "-k", "tiny"]}
        (folder / "evidence.jsonl").write_text(json.dumps(line) + "\n")
    desk = SimpleNamespace(settings=SimpleNamespace(project=tmp_path))
    job = SimpleNamespace(started=now + 1.3, ended=now + 4.2, asked=SimpleNamespace(words=["-k", "tiny"]))
    assert accept.run_of(desk, job) == tmp_path / "reports" / "b"
    job.started = None
    assert accept.run_of(desk, job) is None
