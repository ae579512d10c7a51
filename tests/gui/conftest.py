"""Windows for the tests of the GUI."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import shutil
import socket
import threading
from dataclasses import dataclass

import pytest

from tests.harness.conftest import prototype  # noqa: F401 - a fixture
from tests.report import chromium as browsers

if importlib.util.find_spec("starlette") is None:
    collect_ignore_glob = ["test_*.py"]  # the window needs the extra pth2om[gui], which `make test` installs

NOWHERE = ("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",)
WEIGHTS = "models/convmixer-digits/weights/convmixer_digits.pth"
NET = "models/convmixer/net.py"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with nothing in it but a file outside of it to reach for."""
    folder = tmp_path_factory.mktemp("project")
    (folder.parent / "secret.txt").write_text("nothing to see")
    return folder


@pytest.fixture(scope="module")
def window(project, tmp_path_factory):
    from tests.gui.window import Window

    with Window(project, tmp_path_factory.mktemp("state")) as made:
        yield made.sign_in()


@pytest.fixture
def asked_here(monkeypatch):
    """The verbs that pages ask run in this process: the same function, without a Python that starts for each."""
    from pth2om import cli
    from pth2om.gui.children import Answer, Asker

    def ask(self, words, place=""):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(self._settings.project), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = cli.main(list(words))
            except SystemExit as end:
                status = int(end.code or 0)
        return Answer(status, out.getvalue(), err.getvalue())

    monkeypatch.setattr(Asker, "ask", ask)


# --- one real server, one browser and one conversion, for all modules -------------------------------------------------


@pytest.fixture(scope="session")
def bundled_project(tmp_path_factory, repository):
    """A project with the bundled model in it."""
    folder = tmp_path_factory.mktemp("served")
    for name in (WEIGHTS, NET, "models/convmixer-digits/model.toml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / name, folder / name)
    (folder / "a.log").write_text("E10001: Value [x] for parameter [--soc_version] is invalid. Reason: none\n")
    return folder


@pytest.fixture(scope="session")
def served(bundled_project, tmp_path_factory):
    """A server on a port of its own: its settings, and its address."""
    import uvicorn

    from pth2om.gui.app import build
    from pth2om.gui.settings import Settings

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    state = tmp_path_factory.mktemp("state")
    settings = Settings(bundled_project, state, port=listening.getsockname()[1], at_once=2)
    settings.prepare()
    server = uvicorn.Server(uvicorn.Config(build(settings), log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield settings, f"http://127.0.0.1:{settings.port}"
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture(scope="session")
def chromium(served):
    """A browser that is signed in; None where there is none."""
    if browsers.found() is None:
        yield None
        return
    settings, base = served
    with browsers.Chromium(flags=NOWHERE) as one:
        one.open(f"{base}/?token={settings.tokens.current}")
        yield one


@pytest.fixture
def browser(chromium):
    if chromium is None:
        pytest.skip(f"no browser: none of {', '.join(browsers.NAMES)} is on PATH")
    chromium.complaints.clear()
    yield chromium
    # axe-core knocks at the report's frame; and one page is asked for that there is not.
    own = [text for text in chromium.complaints if "postMessage" not in text and not text.endswith("/nowhere")]
    assert own == []


@dataclass(frozen=True)
class Converted:
    """The bundled model's conversion: path of the job's page, the `atc` line that the form showed before, and how many
    jobs two presses of the button made.
    """

    place: str
    atc: str
    jobs: int


@pytest.fixture(scope="session")
def converted(served, chromium):
    """As a first-time visitor does it: the card, and the button; in the browser where there is one."""
    settings, base = served
    if chromium is None:
        return _by_form(settings)
    chromium.open(f"{base}/")
    chromium.follow("document.querySelector('a.cardlink').click()")
    chromium.until("document.getElementById('line').textContent.includes('--soc Ascend310B1')")
    chromium.until("document.getElementById('f-channels').placeholder.includes('1')", 60)
    chromium.until("document.getElementById('atc').textContent.includes('--soc_version=Ascend310B1')", 60)
    atc = chromium.run("document.getElementById('atc').firstChild.textContent")
    chromium.follow("document.querySelector('button.go').click(); document.querySelector('button.go').click()")
    place = chromium.run("location.pathname")
    # It reports by itself until it is over, and then shows the result without being asked.
    chromium.until("document.readyState === 'complete' && !document.querySelector('[data-events]')", 120)
    assert chromium.run("!!document.querySelector('.notice')"), chromium.run("document.body.innerText")
    return Converted(place, atc, len(list(settings.jobs.iterdir())))


def _by_form(settings):
    from tests.gui.window import Window, filled, link

    with Window(settings.project, settings.state, at_once=0) as window:
        window.sign_in()
        form = filled(window.client.get(link(window.get("/").text, "/convert")).text)
        atc = window.post("/preview/atc", form).json()["atc"]
        place, again = (window.post("/convert", form).headers["location"] for _ in range(2))
        assert window.wait(place, 120) == "done", window.get(f"{place}/log").text
        return Converted(place, atc, len({place, again}))
