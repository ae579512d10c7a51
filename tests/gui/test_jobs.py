"""Jobs: a process each, a journal on disk, one for each form, ended whole."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from pth2om.gui import journal
from pth2om.gui.journal import Asked
from pth2om.gui.queue import Queue
from tests.gui.window import Window

SLOW = """
import subprocess, sys, time
def test_slow():
    child = [sys.executable, "-c", "import time; time.sleep(300)"]
    one = subprocess.Popen(child)
    two = subprocess.Popen(child, start_new_session=True)   # as the tools that quantize and simplify are started
    open("children", "w").write(f"{one.pid} {two.pid}")
    time.sleep(300)
"""


def explain(log):
    return Asked("pth2om", ("explain", str(log)), "explain", log.name)


@pytest.fixture
def log(project):
    file = project / "atc.log"
    file.write_text("E10001: Value [x] for parameter [--soc_version] is invalid.\n")
    return file


def over(window, name):
    end = time.monotonic() + 30
    while not (job := journal.read(window.settings.jobs, name)).over:
        assert time.monotonic() < end
        time.sleep(0.05)
    return job


def test_a_job_prints_ends_and_is_found_again_by_another_server(project, tmp_path, log):
    with Window(project, tmp_path / "state") as window:
        window.sign_in()
        name = window.desk.queue.add(explain(log), "n")
        job = over(window, name)
        assert (job.state, job.status, job.steps) == ("done", 0, ())
        page = window.get(f"/jobs/{name}").text
        assert f"pth2om explain {log}" in page
        assert "E10001" in page
        cookies = dict(window.client.cookies)
    with Window(project, tmp_path / "state") as later:
        later.client.cookies.update(cookies)
        assert "E10001" in later.get(f"/jobs/{name}").text
        assert name in later.get("/jobs").text


def test_a_waiting_job_of_an_earlier_server_is_run(project, tmp_path, log):
    window = Window(project, tmp_path / "state")
    name = journal.create(window.settings.jobs, explain(log), "n")
    assert journal.read(window.settings.jobs, name).state == "queued"
    with window:
        assert over(window, name).state == "done"


def test_the_same_form_twice_is_one_job(project, tmp_path, log):
    window = Window(project, tmp_path / "state", at_once=0)
    queue = Queue(window.settings)
    first, again = queue.add(explain(log), "n"), queue.add(explain(log), "n")
    assert first == again
    assert queue.add(explain(log), "other") != first
    # Going back and changing the form is a wish of its own.
    assert queue.add(Asked("pth2om", ("explain", "x"), "explain", "x"), "n") != first
    assert len(journal.listed(window.settings.jobs)) == 3


def test_a_verb_that_says_no_and_one_that_is_killed_are_told_apart(window, log):
    queue = window.desk.queue
    refused = over(window, queue.add(Asked("pth2om", ("explain", "absent.log"), "explain", "x"), "r"))
    assert (refused.state, refused.status) == ("failed", 1)
    dead = journal.create(window.settings.jobs, explain(log), "dead")
    folder = window.settings.jobs / dead
    (folder / "spawned").touch()
    journal.remember(folder / "process.json", {"pid": 2**22 - 3, "started": time.time()})
    assert journal.read(window.settings.jobs, dead).state == "died"
    assert "ended without a word" in window.get(f"/jobs/{dead}").text


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes in /proc")
def test_cancel_ends_every_process_within_two_seconds(project, tmp_path):
    (project / "test_slow.py").write_text(SLOW)
    with Window(project, tmp_path / "state", at_once=1) as window:
        window.sign_in()
        queue = window.desk.queue
        words = ("-q", "-p", "no:cacheprovider", "--rootdir", ".", "test_slow.py")
        name = queue.add(Asked("pytest", words, "accept", "slow"), "n")
        waits = queue.add(Asked("pth2om", ("explain", "x"), "explain", "x"), "w")
        end = time.monotonic() + 40
        while not (children := (project / "children").read_text() if (project / "children").exists() else ""):
            assert time.monotonic() < end, journal.log(window.settings.jobs / name)
            time.sleep(0.1)
        # One at a time, and the page of the waiting one says how many are before it.
        assert journal.read(window.settings.jobs, waits).state == "queued"
        assert "waiting" in window.get(f"/jobs/{waits}").text
        window.post(f"/jobs/{waits}/cancel")
        assert journal.read(window.settings.jobs, waits).state == "cancelled"
        cookies = dict(window.client.cookies)
    # The server ends in the middle of the job, and another one takes over.
    with Window(project, tmp_path / "state", at_once=1) as window:
        window.client.cookies.update(cookies)
        queue = window.desk.queue
        assert window.state(f"/jobs/{name}") == "running"
        start = time.monotonic()
        assert window.post(f"/jobs/{name}/cancel").status_code == 303
        assert time.monotonic() - start < 2.0
        assert journal.read(window.settings.jobs, name).state == "cancelled"
        for number in map(int, children.split()):
            state = Path(f"/proc/{number}/stat")
            assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"
        assert "cancelled" in window.get("/jobs").text
        # What is over cannot be cancelled, and what never was neither.
        assert not queue.cancel(name)
        assert not queue.cancel("../../etc")


def test_a_job_that_is_over_is_deleted_when_that_is_confirmed(project, tmp_path, log):
    with Window(project, tmp_path / "state", at_once=0) as window:
        window.sign_in()
        name = window.desk.queue.add(explain(log), "n")
        window.post(f"/jobs/{name}/delete", {"confirmed": "on"})
        assert journal.read(window.settings.jobs, name).state == "queued"  # what is not over is not deleted
        with journal.FileLock(window.settings.jobs / name / "alive"):
            window.post(f"/jobs/{name}/delete", {"confirmed": "on"})
            assert journal.read(window.settings.jobs, name).state == "running"
        journal.remember(window.settings.jobs / name / "end.json", {"status": 0, "ended": time.time()})
        assert "Delete the job" in window.get(f"/jobs/{name}").text
        assert window.get(f"/jobs/{name}/delete").status_code == 405
        window.post(f"/jobs/{name}/delete")
        assert journal.read(window.settings.jobs, name) is not None
        assert window.post(f"/jobs/{name}/delete", {"confirmed": "on"}).headers["location"] == "/jobs"
        assert not (window.settings.jobs / name).exists()
        assert log.exists()
        assert not journal.delete(window.settings.jobs, "../state")


def test_events_tell_log_and_end_from_any_place(window, log):
    name = window.desk.queue.add(explain(log), "events")
    over(window, name)
    with window.client.stream("GET", f"/jobs/{name}/events") as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert [line for line in lines if line.startswith("event")] == ["event: log", "event: standing", "event: over"]
    printed = json.loads(next(line for line in lines if "E10001" in line).partition(": ")[2])
    with window.client.stream("GET", f"/jobs/{name}/events?from={len(printed.encode())}") as answer:
        assert not any("E10001" in line for line in answer.iter_lines())


def test_steps_are_those_of_the_progress_object(tmp_path):
    from pth2om.gui.runner import Steps
    from pth2om.progress import Progress

    file = tmp_path / "progress.json"
    progress = Progress(Steps(file))
    with progress.counted("outer", None), progress.counted("in<ner", 3) as seen:
        seen(2)
        time.sleep(0.12)
        seen(3)
        assert json.loads(file.read_text()) == {"steps": [["outer", 0, None], ["in<ner", 3, 3]]}
    assert json.loads(file.read_text()) == {"steps": []}


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "null", '{"created": 1}', '{"created": "x", "program": "pth2om"}', "[" * 100_000]
)
def test_a_damaged_journal_is_no_job_and_breaks_no_list(project, tmp_path, damage):
    with Window(project, tmp_path / "state") as window:
        window.sign_in()
        folder = window.settings.jobs / "0123456789abcdef"
        folder.mkdir()
        (folder / "job.json").write_text(damage)
        assert journal.listed(window.settings.jobs) == []
        assert window.get("/jobs").status_code == 200
        assert window.get("/jobs/0123456789abcdef").status_code == 404


def test_a_log_is_shown_as_text_and_only_its_end(tmp_path):
    file = tmp_path / "log.txt"
    file.write_bytes(b"first\n\x1b[31mred <b>\x00\nbar 1\rbar 2\r\nhalf")
    text, place = journal.log(tmp_path)
    assert text == "first\n\\x1b[31mred <b>\\x00\nbar 2\n"
    assert file.read_bytes()[place:] == b"half"
    file.write_bytes(b"x" * 10_000_000 + b"\nend\n")
    assert len(journal.log(tmp_path)[0]) <= 70_000
    # A log that became shorter is read from its beginning.
    file.write_bytes(b"new\n")
    assert journal.log(tmp_path, 10_000_000)[0] == "new\n"


def test_a_journal_is_for_its_user_alone(window):
    assert window.settings.jobs.stat().st_mode & 0o077 == 0
    assert (window.settings.state / "session").stat().st_mode & 0o077 == 0


def test_an_end_that_is_written_between_two_looks_is_read_whole(project, tmp_path, log, monkeypatch):
    """A job that ends while it is looked at is not "done" without a status and a time."""
    with Window(project, tmp_path / "state") as window:
        name = window.desk.queue.add(explain(log), "n")
        over(window, name)
        folder = window.settings.jobs / name
        written = (folder / "end.json").read_bytes()
        (folder / "end.json").unlink()

        def ends(folder):
            (folder / "end.json").write_bytes(written)
            return False

        monkeypatch.setattr(journal, "alive", ends)
        job = journal.read(window.settings.jobs, name)
        assert (job.state, job.status, job.ended) == ("done", 0, json.loads(written)["ended"])
