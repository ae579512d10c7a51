"""A window for tests: its server in this process, a browser that is signed in, and helpers to fill in forms."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser

from starlette.testclient import TestClient

from pth2om.gui.app import build
from pth2om.gui.settings import Settings

BASE = "http://127.0.0.1:8765"
ORIGIN = {"origin": BASE}


class Window:
    def __init__(self, project, state, **options):
        self.settings = Settings(project=project, state=state, **{"at_once": 2, **options})
        self.settings.prepare()
        self.printed = []
        self.app = build(self.settings, self.printed.append)
        self.desk = self.app.state.desk
        self.client = TestClient(self.app, base_url=BASE)

    def __enter__(self):
        self.client.__enter__()
        return self

    def __exit__(self, *problem):
        self.client.__exit__(*problem)

    def sign_in(self):
        assert self.client.get(f"/jobs?token={self.settings.tokens.current}").status_code == 200
        return self

    def get(self, target, /, **query):
        return self.client.get(target, params=query)

    def post(self, path, data=None, **options):
        return self.client.post(path, data=data or {}, headers=ORIGIN, follow_redirects=False, **options)

    def nonce(self, path, **query):
        return re.search(r'name="nonce" value="(\w+)"', self.get(path, **query).text)[1]

    def ask(self, path, **data):
        """Send a form; the path of the job's page."""
        answer = self.post(path, {"nonce": self.nonce(path), **data})
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    def state(self, job):
        return re.search(r'class="state (\w+)"', self.get(job).text)[1]

    def wait(self, job, seconds=60.0):
        """The page of a job that is over."""
        end = time.monotonic() + seconds
        while (state := self.state(job)) in ("queued", "running"):
            assert time.monotonic() < end, self.get(f"{job}/log").text
            time.sleep(0.1)
        return state

    def line(self, job):
        return text(re.search(r'<pre class="cmd" id="same"[^>]*>(.*?)</pre>', self.get(job).text, re.DOTALL)[1])


class _Form(HTMLParser):
    """What a browser would send of the page's first form that has a nonce."""

    def __init__(self):
        super().__init__()
        self.values = {}
        self._area = self._choice = None

    def handle_starttag(self, tag, attrs):
        held = dict(attrs)
        name = held.get("name")
        if "disabled" in held or "formaction" in held:
            return
        if tag == "input" and name and (held.get("type") not in ("checkbox", "radio") or "checked" in held):
            self.values.setdefault(name, []).append(held.get("value", "on"))
        elif tag == "textarea":
            self._area = name
            self.values.setdefault(name, []).append("")
        elif tag == "select":
            self._choice = name
            self.values.setdefault(name, []).append("")
        elif tag == "option" and "selected" in held and self._choice:
            self.values[self._choice] = [held.get("value", "")]

    def handle_endtag(self, tag):
        if tag in ("textarea", "select"):
            self._area = self._choice = None

    def handle_data(self, data):
        if self._area:
            self.values[self._area][-1] += data


def filled(html):
    form = _Form()
    form.feed(next(part for part in re.findall(r"<form.*?</form>", html, re.DOTALL) if 'name="nonce"' in part))
    return form.values


def link(html, begin, attribute="href"):
    """The first address on a page that begins so."""
    return text(re.search(rf'{attribute}="({re.escape(begin)}[^"]*)"', html)[1])


def text(html):
    return (
        re.sub(r"<[^>]*>", "", html)
        .replace("&#39;", "'")
        .replace("&#34;", '"')
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
    )
