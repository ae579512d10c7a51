"""What a hostile file, address or journal must not achieve."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from pth2om.errors import DataError
from pth2om.gui import children, journal, queue
from pth2om.gui.journal import Asked
from pth2om.gui.pages import accept
from tests.gui.window import BASE, ORIGIN, Window


def test_a_module_in_the_project_is_not_run_by_looking_at_a_file(project, tmp_path):
    """``python -m`` would find it before the standard library's."""
    (project / "json.py").write_text("open('ran', 'w')\nraise SystemExit")
    (project / "atc.log").write_text("E10001: Value [x] for parameter [--soc_version] is invalid.\n")
    with Window(project, tmp_path / "state") as window:
        window.sign_in()
        assert window.get("/look", path="atc.log").json()["family"] == "log"
        name = window.desk.queue.add(Asked("pth2om", ("explain", "atc.log"), "explain", "atc.log"), "n")
        assert window.wait(f"/jobs/{name}") == "done"
    assert not (project / "ran").exists()
    (project / "json.py").unlink()


@pytest.mark.parametrize("path", ["//evil.example/x", "///evil.example/x", "/\\evil.example/x", "/%2Fevil.example/x"])
def test_the_token_leads_to_no_other_site(window, path):
    answer = window.client.request("GET", f"{BASE}{path}?token=used", follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/")
    assert answer.headers["location"][1] not in "/\\"


def test_the_token_takes_nothing_else_of_an_address(window):
    answer = window.client.get("/accept?model=a&token=used&model=b%26", follow_redirects=False)
    assert answer.headers["location"] == "/accept?model=a&model=b%26"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/jobs?page=²", 200),
        ("/jobs?page=٣", 200),
        ("/jobs?" + "a=1&" * 300, 200),
        ("/jobs/0123456789abcdef/events?from=²", 200),
        ("/view?path=%00", 400),
        ("/view?path=..%2fsecret.txt", 400),
        ("/view?path=%2e%2e%2fsecret.txt", 400),
        ("/view?path=..%5csecret.txt", 400),
        ("/download?path=~nobody-of-that-name/x", 400),
        ("/history?model=..%2f..%2f..%2fsecret", 400),
        ("/baseline?path=/etc/passwd", 400),
        ("/waivers?path=/etc/passwd", 400),
        ("/compare?old=/etc&new=.", 400),
        ("/explain?file=/etc/passwd", 400),
        ("/aipp?file=/etc/passwd", 400),
        ("/om?file=/etc/passwd", 400),
        ("/graph?file=/etc/passwd", 400),
        ("/picture/graph?path=/etc/passwd", 400),
        ("/picture/sheet?folder=/etc&recipe=x", 400),
        ("/report?path=/etc/passwd", 400),
        ("/reports?open=/etc/passwd", 400),
        ("/pick?dir=/etc", 400),
        ("/static/..%2fguard.py", 404),
    ],
)
def test_no_address_is_a_traceback_or_leads_outside(window, path, status):
    answer = window.client.get(path)
    assert answer.status_code == status, answer.text
    assert "nothing to see" not in answer.text


def test_preferences_lead_back_from_an_address_that_is_none(window):
    answer = window.client.post("/preferences", headers={**ORIGIN, "referer": "http://[evil"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_port_may_lead_here_and_not_read(window, site):
    """A cookie is sent whatever the port: a page on another one is the same site to a browser."""
    asked = {"sec-fetch-site": site}
    assert window.client.get("/jobs", headers={**asked, "sec-fetch-mode": "no-cors"}).status_code == 403
    assert window.client.get("/jobs", headers={**asked, "sec-fetch-mode": "cors"}).status_code == 403
    assert window.client.get("/jobs", headers={**asked, "sec-fetch-mode": "navigate"}).status_code == 200


def test_no_stream_without_a_session(window):
    other = TestClient(window.app, base_url=BASE)
    for path in ("/jobs/0123456789abcdef/events", "/jobs/0123456789abcdef/log", "/look?path=x", "/view?path=x"):
        assert other.get(path).status_code == 403, path


@pytest.mark.parametrize(
    "changed",
    [
        {"page": "of_a_later_version"},
        {"page": "<b>"},
        {"program": "sh"},
        {"created": 1e300},
        {"created": -1},
        {"created": "NaN"},
        {"created": float("nan")},
        {"words": 5},
        {"values": []},
    ],
)
def test_a_journal_that_was_changed_breaks_no_page(window, changed):
    asked = Asked("pth2om", ("explain", "x"), "explain", "<b>\x1b[31m")
    folder = window.settings.jobs / "00000000000000aa"
    folder.mkdir(exist_ok=True)
    (folder / "cancelled").touch()
    told = {"created": 1.0, **asdict(asked)}
    for state in (changed, {}):
        (folder / "job.json").write_text(json.dumps(told | state))
        (folder / "process.json").write_text('{"pid": 1, "started": 1e300}')
        (folder / "end.json").write_text('{"status": 0, "ended": NaN}')
        for path in ("/", "/jobs", "/jobs/00000000000000aa"):
            page = window.get(path)
            assert page.status_code == 200 or state, page.text
            assert page.status_code < 500, page.text
            assert "<b>\x1b" not in page.text
    window.settings.jobs.joinpath("00000000000000aa", "job.json").unlink()


def test_a_journal_that_cannot_be_written_leaves_no_job(project, tmp_path, monkeypatch):
    window = Window(project, tmp_path / "state")
    asked = Asked("pth2om", ("explain", "x"), "explain", "x")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(journal, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            journal.create(window.settings.jobs, asked, "n")
    assert list(window.settings.jobs.iterdir()) == []
    name = journal.create(window.settings.jobs, asked, "n")
    assert journal.create(window.settings.jobs, asked, "n") == name
    assert journal.read(window.settings.jobs, name).state == "queued"


@pytest.mark.parametrize("where", ["shutil.copyfileobj", "starlette.datastructures.UploadFile.write"])
def test_an_upload_that_finds_no_room_leaves_nothing(window, monkeypatch, where):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    before = list(window.settings.uploads.iterdir())
    monkeypatch.setattr(where, full)
    answer = window.client.post("/upload", files={"file": ("a.pth", b"x")}, headers=ORIGIN)
    assert (answer.status_code, "No space left" in answer.text) == (500, True)
    assert list(window.settings.uploads.iterdir()) == before


@pytest.mark.parametrize(
    "first", ["[" * 200_000, "5", '{"command": 5}', '{"started": [[]], "command": {}}', "\x00", ""]
)
def test_evidence_that_is_none_breaks_no_list(project, tmp_path, first):
    folder = project / "reports" / "20260101-000000-<b>"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evidence.jsonl").write_text(first + "\n")
    with Window(project, tmp_path / "state") as window:
        window.sign_in()
        page = window.get("/reports")
        assert (page.status_code, "-<b>" in page.text) == (200, False)
        job = journal.Job("a" * 16, tmp_path, Asked("pytest", (), "accept", "x"), 1.0, "done", 0, 1.0, 1e10, ())
        assert accept.run_of(window.desk, job) is None
        live = accept.Live(folder / "evidence.jsonl")
        live.look()
        assert live.gates == 0
        assert window.post("/history/add", {"run": str(folder), "nonce": "n"}).status_code == 303


def test_a_name_like_an_option_is_a_name(window, project):
    name = "--output=x.onnx"
    (project / name).write_bytes(b"x")
    job = window.post("/fix", {"file": name, "nonce": "dash"}).headers["location"]
    assert window.line(job) == f"pth2om fix ./{name}"
    window.post(f"{job}/cancel")


def test_a_pipe_in_the_project_keeps_nobody_waiting(window, project):
    os.mkfifo(project / "pipe")
    for path in (
        "/waivers?path=pipe",
        "/view?path=pipe",
        "/download?path=pipe",
        "/baseline?path=pipe",
        "/aipp?file=pipe",
    ):
        assert window.client.get(path).status_code in (200, 400)


def test_a_folder_that_others_write_into_holds_no_session(project, tmp_path):
    state = tmp_path / "shared"
    state.mkdir()
    state.chmod(0o777)
    with pytest.raises(DataError, match="Other users"):
        Window(project, state)


def test_names_of_classes_are_asked_about_as_they_are(window, project, monkeypatch):
    (project / "m.pth").write_bytes(b"x")
    told = json.dumps({"family": "foreign-module", "foreign": "evil.Net\u202e\n"})
    monkeypatch.setattr("pth2om.gui.children.Asker.about", lambda *_: children.Answer(0, told, ""))
    assert window.get("/look", path="m.pth").json()["foreign"] == "evil.Net\\u202e\\n"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes in /proc")
def test_a_number_that_somebody_else_has_now_is_left_alone():
    """A job ended, and its process number was given to another program before it was cancelled."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as other:
        time.sleep(0.2)  # until it runs its own program: before, its environment is this one's
        assert queue._family(other.pid, "0123456789abcdef") == []
        other.communicate(b"\n")
