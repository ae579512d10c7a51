"""What a hostile file, address or journal must not achieve."""

from __future__ import annotations

import pytest

from pth2om.gui.journal import Asked
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
