"""What goes wrong around a window: full disks, folders that are gone, cut-off uploads, clocks, ports, names."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time

import pytest
from filelock import FileLock

from pth2om.errors import DataError
from pth2om.gui import journal, queue, serving
from pth2om.gui.journal import Asked
from pth2om.gui.runner import Steps
from pth2om.progress import Progress
from tests.gui.window import Window, text

EXPLAIN = Asked("pth2om", ("explain", "x"), "explain", "x")


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_job_that_finds_no_room_to_start_waits_until_there_is(project, tmp_path, monkeypatch):
    window = Window(project, tmp_path / "state", at_once=1)
    name = journal.create(window.settings.jobs, EXPLAIN, "n")
    waiting = queue.Queue(window.settings)
    with monkeypatch.context() as broken:
        broken.setattr("subprocess.Popen", full)
        with pytest.raises(OSError, match="No space"):
            waiting.look()
    assert journal.read(window.settings.jobs, name).state == "queued"
    begun = []
    monkeypatch.setattr(waiting, "_spawn", lambda job: begun.append(job.id))
    waiting.look()
    assert begun == [name]


def test_a_full_disk_does_not_end_a_verb_by_way_of_its_bar(tmp_path, monkeypatch):
    monkeypatch.setattr("pth2om.gui.runner.write_text", full)
    with Progress(Steps(tmp_path / "progress.json")).counted("step", 2) as seen:
        seen(1)
    assert not (tmp_path / "progress.json").exists()


def test_a_project_that_is_gone_is_said_on_every_page(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    with Window(project, tmp_path / "state", at_once=1) as window:
        window.sign_in()
        shutil.rmtree(project)
        for path in ("/", "/convert", "/accept", "/reports", "/board/seen", "/jobs", "/look?path=x"):
            answer = window.client.get(path)
            assert (answer.status_code, "is gone" in text(answer.text)) == (503, True), path
        assert "is gone" in window.post("/preview/convert", {"file": "x"}).json()["problem"]
        name = window.desk.queue.add(EXPLAIN, "n")
        time.sleep(0.7)
        assert journal.read(window.settings.jobs, name).state == "queued"
        project.mkdir()
        assert window.get("/").status_code == 200
        assert window.wait(f"/jobs/{name}") == "failed"  # it ran: there is no such log


def request(window, head, body=b""):
    cookie = f"{window.settings.cookie}={window.settings.session()}"
    lines = [*head, f"Host: 127.0.0.1:{window.settings.port}", f"Cookie: {cookie}",
             f"Origin: http://127.0.0.1:{window.settings.port}", "", ""]  # fmt: skip
    link = socket.create_connection(("127.0.0.1", window.settings.port), timeout=20)
    link.sendall("\r\n".join(lines).encode() + body)
    return link


class Served:
    def __init__(self, settings):
        self.settings = settings


def test_a_large_upload_that_is_cut_off_leaves_nothing(served, caplog):
    window = Served(served[0])
    before = set(window.settings.uploads.iterdir())
    begin = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.pth"\r\n\r\n' + b"x" * (3 << 20)
    head = ("POST /upload HTTP/1.1", "Content-Length: 2147483648", "Content-Type: multipart/form-data; boundary=b")
    request(window, head, begin).close()
    with request(window, ("GET /jobs HTTP/1.1", "Connection: close")) as link:
        assert link.recv(100).startswith(b"HTTP/1.1 200")
    time.sleep(0.3)
    assert set(window.settings.uploads.iterdir()) == before
    assert "Traceback" not in caplog.text


def test_a_reader_of_events_that_never_reads_holds_nobody_up(served):
    window = Served(served[0])
    name = journal.create(window.settings.jobs, EXPLAIN, "never reads")
    folder = window.settings.jobs / name
    with FileLock(folder / "alive"):  # it lives, for the journal
        (folder / "log.txt").write_text("a line of the log\n" * 300_000)
        stuck = [request(window, (f"GET /jobs/{name}/events HTTP/1.1",)) for _ in range(8)]
        start = time.monotonic()
        for _ in range(3):
            with request(window, ("GET /jobs HTTP/1.1", "Connection: close")) as link:
                assert link.recv(100).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - start < 10
        for link in stuck:
            link.close()
        (folder / "cancelled").touch()


def test_a_hundred_jobs_come_in_pages_the_newest_first(project, tmp_path):
    with Window(project, tmp_path / "state", at_once=0) as window:
        window.sign_in()
        for number in range(120):
            name = journal.create(
                window.settings.jobs, Asked("pth2om", (str(number),), "explain", f"job {number:03}"), "n"
            )
            file = window.settings.jobs / name / "job.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), "created": 1e9 + number}))
            journal.remember(window.settings.jobs / name / "end.json", {"status": 0, "ended": 1e9 + number + 2})
        pages = [re.findall(r"job \d{3}", window.get("/jobs", page=str(page)).text) for page in (1, 2, 3)]
        assert [len(page) for page in pages] == [50, 50, 20]
        assert (pages[0][0], pages[2][-1]) == ("job 119", "job 000")


def test_a_clock_that_was_put_back_makes_no_job_run_for_ever(project, tmp_path):
    window = Window(project, tmp_path / "state")
    name = journal.create(window.settings.jobs, EXPLAIN, "n")
    folder = window.settings.jobs / name
    (folder / "spawned").write_text(str(2**22 - 3))  # there is no such process
    later = time.time() + 3600
    os.utime(folder / "spawned", (later, later))
    assert journal.read(window.settings.jobs, name).state == "died"
    journal.remember(folder / "process.json", {"pid": 1, "started": later})
    journal.remember(folder / "end.json", {"status": 0, "ended": later - 1800})
    assert journal.read(window.settings.jobs, name).seconds == 0.0


NAMES = (
    "a'b\"c.log",
    "<img src=x onerror=alert(1)>.log",
    "two\nlines.log",
    "\u202egol.exe.log",
    "x" * 200 + ".log",
    "权重 一.log",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("asked_here")
def test_a_file_of_any_name_is_shown_looked_at_and_explained(window, project, name):
    (project / name).write_text("E10001: Value [x] for parameter [--soc_version] is invalid. Reason: none\n")
    shown = window.get("/", dir=".").text
    assert "<img" not in shown
    assert "\u202e" not in shown
    for page, key in (("/file", "path"), ("/explain", "file")):
        answer = window.get(page, **{key: name})
        assert answer.status_code == 200
        assert ("<img" in answer.text, "\u202e" in answer.text.split("<input")[0]) == (False, False)
    assert "E10001" in window.get("/explain", file=name).text
    assert window.get("/look", path=name).json()["family"] == "log"
    got = window.get("/download", path=name)
    assert (got.status_code, got.headers["content-disposition"].startswith("attachment")) == (200, True)
    (project / name).unlink()


def test_a_taken_port_is_said_and_the_next_free_one_is_used(monkeypatch):
    with serving._listen("127.0.0.1", None) as first, serving._listen("127.0.0.1", None) as second:
        taken = first.getsockname()[1]
        assert second.getsockname()[1] != taken
        with pytest.raises(DataError, match=str(taken)):
            serving._listen("127.0.0.1", taken)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_the_loopback_of_ipv6_is_served(project, tmp_path):
    try:
        listening = serving._listen("::1", 0)
    except DataError:
        pytest.skip("no IPv6 loopback here")
    listening.close()
    with Window(project, tmp_path / "state", host="::1") as window:
        window.client.headers["host"] = "[::1]:8765"
        window.sign_in()
        assert window.get("/jobs").status_code == 200


def test_two_servers_on_one_project_are_one_too_many(project, tmp_path):
    state = tmp_path / "state"
    window = Window(project, state)
    with FileLock(window.settings.state / "server"), pytest.raises(DataError, match="open already"):
        serving.serve(project, port=0, state=state)
