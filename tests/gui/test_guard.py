"""Who may ask, from where, and how much."""

from __future__ import annotations

import pytest
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from pth2om.gui.serving import Door
from tests.gui.window import BASE, ORIGIN, Window


def test_a_page_needs_the_printed_address_which_works_once(project, tmp_path):
    with Window(project, tmp_path / "state") as window:
        assert window.get("/jobs").status_code == 403
        assert window.get("/jobs", token="guessed").status_code == 403
        first = window.settings.tokens.current
        answer = window.client.get(f"/jobs?token={first}&page=1", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/jobs?page=1")
        assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
        assert window.get("/jobs").status_code == 200
        other = TestClient(window.app, base_url=BASE)
        assert other.get(f"/jobs?token={first}").status_code == 403
        # The server printed the address for another browser.
        assert window.printed == [window.settings.tokens.current]
        assert other.get(f"/jobs?token={window.printed[0]}").status_code == 200


def test_a_signed_in_browser_may_use_an_old_address(window):
    assert window.get("/jobs", token="used").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8765", "[::2]:8765", ""])
def test_a_rebound_name_is_refused(window, host):
    assert window.client.get("/jobs", headers={"host": host}).status_code == 403
    assert window.client.get("/static/gui.js", headers={"host": host}).status_code == 403


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1", "[::1]:8765", "LOCALHOST:1"])
def test_a_tunnel_may_have_another_port(window, host):
    assert window.client.get("/static/gui.js", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "null"},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:8766"},
        {**ORIGIN, "sec-fetch-site": "cross-site"},
    ],
)
def test_a_form_of_another_page_changes_nothing(window, headers):
    answer = window.client.post("/preferences", data={"lang": "zh"}, headers=headers, follow_redirects=False)
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)


def test_a_read_of_another_page_is_refused(window):
    assert window.client.get("/jobs", headers={"origin": "https://evil.example"}).status_code == 403


def test_what_changes_something_is_never_a_get(window):
    changing = [route for route in window.app.routes if isinstance(route, Route) and "POST" in route.methods]
    assert changing
    for route in changing:
        assert route.methods == {"POST"}, route.path
    assert window.get("/jobs/0123456789abcdef/cancel").status_code == 405


def test_every_answer_carries_a_policy_without_inline_script(window):
    for path in ("/jobs", "/nowhere", "/static/gui.js"):
        headers = window.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.usefixtures("asked_here")
def test_no_page_has_inline_script_or_style(window):
    for path in [route.path for route in window.app.routes if isinstance(route, Route) and "GET" in route.methods]:
        if "{" in path:
            continue
        page = window.get(path).text
        for forbidden in ("<style", " style=", " onclick", "javascript:"):
            assert forbidden not in page, path


@pytest.mark.parametrize("length", ["999999999999", "-1", "many"])
def test_a_large_body_is_refused_before_it_is_read(window, length):
    answer = window.client.post("/preferences", content=b"x", headers={**ORIGIN, "content-length": length})
    assert answer.status_code == 413


def test_a_body_without_a_length_is_counted(window):
    pieces = (b"x" * (1 << 18) for _ in range(8))
    answer = window.client.post(
        "/preferences", content=pieces, headers={**ORIGIN, "content-type": "application/x-www-form-urlencoded"}
    )
    assert answer.status_code == 413


def test_language_and_theme_are_kept_and_lead_back(project, tmp_path):
    with Window(project, tmp_path / "state") as window:
        window.sign_in()
        assert '<html lang="en">' in window.get("/jobs").text
        back = {**ORIGIN, "referer": f"{BASE}/jobs?page=1"}
        answer = window.client.post("/preferences", data={"lang": "zh"}, headers=back, follow_redirects=False)
        assert answer.headers["location"] == "/jobs?page=1"
        window.post("/preferences", {"theme": "dark"})
        page = window.get("/jobs").text
        assert '<html lang="zh" data-theme="dark">' in page
        assert "还没有任务" in page
        # A word that is no language changes nothing.
        window.post("/preferences", {"lang": "<b>"})
        assert '<html lang="zh"' in window.get("/jobs").text


def test_preferences_lead_to_no_other_site(window):
    back = {**ORIGIN, "referer": "https://evil.example/jobs"}
    answer = window.client.post("/preferences", data={"theme": "auto"}, headers=back, follow_redirects=False)
    assert answer.headers["location"] == "/jobs"
    back = {**ORIGIN, "referer": "https://evil.example//evil.example/x"}
    answer = window.client.post("/preferences", data={"theme": "auto"}, headers=back, follow_redirects=False)
    assert answer.headers["location"] == "/evil.example/x"


def failing(_request):
    raise RuntimeError("<b>not for the page</b>")


@pytest.mark.parametrize(("language", "back"), [("zh", "回到开始页"), ("en", "To the start page")])
@pytest.mark.parametrize(
    ("method", "path", "status", "more"),
    [
        ("GET", "/nowhere", 404, {}),
        ("GET", "/jobs/0123456789abcdef/cancel", 405, {}),
        ("POST", "/preferences", 413, {"content-length": "999999999"}),
        ("POST", "/preferences", 400, {"content-type": "multipart/form-data; boundary=b"}),
        ("GET", "/fails", 500, {}),
    ],
)
def test_what_is_wrong_with_a_request_is_a_page_with_a_way_back(window, language, back, method, path, status, more):
    if not any(getattr(route, "path", "") == "/fails" for route in window.app.routes):
        window.app.routes.append(Route("/fails", failing))
    cookies = {**window.client.cookies, "pth2om-lang": language}
    cookie = "; ".join(f"{name}={text}" for name, text in cookies.items())
    answer = window.client.request(method, path, content=b"x", headers={**ORIGIN, **more, "cookie": cookie})
    assert answer.status_code == status
    for words in (f'<html lang="{language}"', f'<a href="/">{back}</a>', 'class="problem"', 'href="/convert"'):
        assert words in answer.text
    assert "not for the page" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_what_began_to_be_sent_is_cut_off_and_no_page_is_put_behind_it(window):
    def pieces():
        yield "half"
        raise RuntimeError("in the middle")

    window.app.routes.append(Route("/half", lambda _: StreamingResponse(pieces())))
    with pytest.raises(RuntimeError, match="in the middle"):
        window.get("/half")


def test_a_refusal_is_in_the_readers_language_and_shows_nothing_of_the_project(window):
    other = TestClient(window.app, base_url=BASE, cookies={"pth2om-lang": "zh"})
    answer = other.get("/jobs")
    assert (answer.status_code, "此浏览器尚未登录" in answer.text) == (403, True)
    assert window.settings.project.name not in answer.text


def test_a_link_from_elsewhere_is_led_on_by_a_page_of_this_server(project, tmp_path):
    """A browser sends the strict cookie of the answer along only when this server's own page leads on."""
    with Window(project, tmp_path / "state") as window:
        address = f"/jobs?token={window.settings.tokens.current}&page=%22%3E1"
        headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        answer = window.client.get(address, headers=headers, follow_redirects=False)
        assert (answer.status_code, answer.headers["refresh"]) == (200, "0; url=/jobs?page=%22%3E1")
        assert 'href="/jobs?page=%22%3E1"' in answer.text
        assert window.get("/jobs").status_code == 200


def test_the_browser_is_started_without_the_token_among_its_arguments(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    door = Door(tmp_path)
    door.open("http://127.0.0.1:8765/?token=a&b")
    (file,) = tmp_path.iterdir()
    assert opened == [file.as_uri()]
    assert "token" not in opened[0]
    assert file.stat().st_mode & 0o777 == 0o600
    assert "url=http://127.0.0.1:8765/?token=a&amp;b" in file.read_text()
    door.open("http://127.0.0.1:8765/?token=later")
    assert "token=a" not in file.read_text()
    door.close()
    assert not file.exists()
    door.close()


def test_a_browser_that_asks_for_an_icon_finds_no_fault(window):
    assert window.client.get("/favicon.ico").status_code == 204
