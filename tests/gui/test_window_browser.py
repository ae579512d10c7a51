"""The window in a real browser that can reach nothing but this server: three clicks, keyboard, phone, accessibility."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image

from pth2om.gui.app import build
from pth2om.gui.settings import Settings
from tests.report import chromium as browsers

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = ("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",)
PAGES = ("/", "/convert", "/quantize?way=onnx", "/quantize?way=command", "/accept", "/explain?file=a.log", "/aipp",
         "/reports", "/board", "/jobs", "/waivers", "/file?path=a.log")  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server on a port of its own, and the address that signs a browser in."""
    project = tmp_path_factory.mktemp("served")
    for name in ("models/convmixer-digits/weights/convmixer_digits.pth", "models/convmixer/net.py",
                 "models/convmixer-digits/model.toml"):  # fmt: skip
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    (project / "a.log").write_text("E10001: Value [x] for parameter [--soc_version] is invalid. Reason: none\n")
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    settings = Settings(project, tmp_path_factory.mktemp("state"), port=listening.getsockname()[1], at_once=2)
    settings.prepare()
    server = uvicorn.Server(uvicorn.Config(build(settings), log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield settings, f"http://127.0.0.1:{settings.port}"
    server.should_exit = True
    thread.join(timeout=10)


@pytest.fixture(scope="module")
def browser(served):
    if browsers.found() is None:
        pytest.skip(f"no browser: none of {', '.join(browsers.NAMES)} is on PATH")
    settings, base = served
    with browsers.Chromium(flags=NOWHERE) as one:
        end = time.monotonic() + 10
        while not settings.jobs.is_dir() and time.monotonic() < end:
            time.sleep(0.05)
        one.open(f"{base}/?token={settings.tokens.current}")
        yield one
        own = [text for text in one.complaints if "postMessage" not in text]  # axe-core knocks at the report's frame
        assert own == []


@pytest.fixture(scope="module")
def job(browser, served):
    """Three clicks of a first-time visitor: the card, the button; the third is not needed."""
    _, base = served
    browser.open(f"{base}/")
    browser.follow("document.querySelector('a.cardlink').click()")
    browser.until("document.getElementById('line').textContent.includes('--soc Ascend310B1')")
    browser.until("document.getElementById('f-channels').placeholder.includes('1')", 60)
    browser.until("document.getElementById('atc').textContent.includes('--soc_version=Ascend310B1')", 60)
    browser.follow("document.querySelector('button.go').click(); document.querySelector('button.go').click()")
    place = browser.run("location.pathname")
    # It reports by itself until it is over, and then shows the result without being asked.
    over = "document.readyState === 'complete' && !document.querySelector('[data-events]')"
    browser.until(over, 120)
    assert browser.run("!!document.querySelector('.notice')"), browser.run("document.body.innerText")
    return place


def test_a_visitor_reaches_a_rehearsed_om(browser, job, served):
    settings, _ = served
    shown = browser.run("document.querySelector('main').innerText")
    assert "EMULATED" in shown
    assert "convmixer_digits.onnx" in shown
    assert len(list(settings.jobs.iterdir())) == 1  # the button was pressed twice
    browser.run("document.getElementById('graph').open = true")
    browser.until("document.querySelector('#graph img').naturalWidth > 50", 30)


def test_tables_sort_by_the_press_of_a_head(browser, job, served):
    browser.open(f"{served[1]}{job}")
    column = "[...document.querySelector('table.sortable').tBodies[0].rows].map(row => row.cells[1].textContent)"
    before = browser.run(column)
    browser.run("document.querySelectorAll('th .sort')[1].click()")
    once = browser.run(column)
    browser.run("document.querySelectorAll('th .sort')[1].click()")
    assert once != before
    assert browser.run(column) == once[::-1]
    assert browser.run("document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "descending"


def test_the_report_inside_has_an_origin_of_its_own(browser, job, served):
    browser.open(f"{served[1]}{job}")
    assert browser.run("document.querySelector('iframe.report').sandbox.value") == "allow-scripts allow-popups"
    browser.run("document.querySelector('iframe.report').closest('details').open = true")
    time.sleep(0.5)
    assert browser.run("document.querySelector('iframe.report').contentDocument") is None


def test_the_picker_fills_a_field_and_gives_the_focus_back(browser, served):
    browser.open(f"{served[1]}/convert")
    browser.run("document.querySelector('button.pick').click()")
    browser.until("document.querySelector('#picker [data-dir$=models]')")
    browser.run("document.querySelector('#picker [data-dir$=models]').click()")
    browser.until("document.querySelector('#picker [data-dir$=convmixer]')")
    browser.run("document.querySelector('#picker [data-dir$=convmixer]').click()")
    browser.until("document.querySelector('#picker [data-path$=\"net.py\"]')")
    browser.run("document.querySelector('#picker [data-path$=\"net.py\"]').click()")
    assert browser.run("document.getElementById('f-file').value").endswith("models/convmixer/net.py")
    assert browser.run("document.activeElement.id") == "f-file"
    assert browser.run("document.getElementById('picker').open") is False
    browser.until("document.getElementById('seen').textContent.includes('template')", 60)


@pytest.mark.parametrize("family", ["module", "foreign-module", "state-dict"])
def test_a_form_follows_what_the_file_is(browser, served, monkeypatch, family):
    """A whole module needs no template; classes that are not torch's are asked about by name; shapes fill the gaps."""
    seen = {"family": family, "said": ["<b>words</b>"], "doors": [], "classes": 7, "problem": None,
            "inputs": [{"name": "x", "shape": [4, 96, 64], "dtype": "float32"}],
            "foreign": "my.Net" if family == "foreign-module" else ""}  # fmt: skip
    monkeypatch.setattr("pth2om.gui.children.Asker.look", lambda *_: seen)
    browser.open(f"{served[1]}/convert?file=models/convmixer-digits/weights/convmixer_digits.pth")
    browser.until("!document.getElementById('seen').hidden")
    assert browser.run("document.getElementById('seen').innerText.trim()") == "<b>words</b>"
    hints = [
        browser.run(f"document.getElementById('f-{name}').placeholder") for name in ("channels", "size", "num_classes")
    ]
    assert [hint.rsplit(": ", 1)[1] for hint in hints] == ["4", "96,64", "7"]
    assert browser.run("document.getElementById('f-template').disabled") is (family == "module")
    assert browser.run("document.getElementById('trust').hidden") is (family != "foreign-module")
    if family == "foreign-module":
        assert "my.Net" in browser.run("document.getElementById('trust').innerText")
        assert browser.run("document.querySelector('[name=trust]').checked") is False
        assert "--trust" not in browser.run("document.getElementById('line').innerText")


def test_a_form_can_be_filled_in_and_sent_by_keyboard_alone(browser, served):
    browser.open(f"{served[1]}/explain")
    seen = []
    for _ in range(40):
        browser.press("Tab")
        seen.append(browser.run("document.activeElement.id || document.activeElement.textContent.trim().slice(0, 20)"))
        if seen[-1] == "text":
            break
    assert seen[0] == "To the content"
    assert {"Start", "Convert", "Jobs"} <= set(seen)
    browser.type("E10001: Value [x] for parameter [--soc_version] is invalid. Reason: none")
    browser.press("Tab")
    browser.press("Tab")
    assert browser.run("document.activeElement.textContent") == "Explain"
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.leave(lambda: browser.press("Enter"))
    browser.until("document.querySelector('main').innerText.includes('line 1')")


@pytest.mark.parametrize("page", PAGES)
def test_every_page_fits_a_phone_and_speaks_one_language(browser, served, page):
    try:
        for language, theme in (("zh", "dark"), ("en", "light")):
            browser._call("Network.setCookie", name="pth2om-lang", value=language, url=served[1])
            browser._call("Network.setCookie", name="pth2om-theme", value=theme, url=served[1])
            picture = browser.picture(390, 844)
            browser.open(f"{served[1]}{page}")
            assert browser.run("document.documentElement.scrollWidth <= 390"), page
            picture = browser.picture(390, 844)
            light = float(np.asarray(Image.open(io.BytesIO(picture)).convert("L"))[-60:, :8].mean())
            assert (light < 60) == (theme == "dark")
            assert browser.run("document.documentElement.lang") == language
            heading = browser.run("document.querySelector('nav a[href=\"/convert\"]').textContent.trim()")
            assert heading == {"zh": "转换", "en": "Convert"}[language]
    finally:
        browser.picture(1180, 900)


def test_nothing_on_a_page_is_a_serious_obstacle(browser, job, served):
    """axe-core, with the pages of PAGES and of a finished job, in both themes."""
    place = importlib.util.find_spec("axe_core_python")
    if place is None:
        pytest.skip("axe-core-python is not installed")
    axe = (Path(place.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")
    found = {}
    for number, page in enumerate((*PAGES, job)):
        browser._call("Network.setCookie", name="pth2om-theme", value=("dark", "light")[number % 2], url=served[1])
        browser.open(f"{served[1]}{page}")
        browser._call("Runtime.evaluate", expression=axe)
        told = "one => [one.impact, one.id, one.nodes[0].html]"
        script = f"axe.run({{resultTypes: ['violations']}}).then(found => found.violations.map({told}))"
        serious = [one for one in browser.run(script) if one[0] in ("serious", "critical")]
        found |= {page: serious} if serious else {}
    assert found == {}, json.dumps(found, indent=1)


def test_pages_ask_nothing_outside(browser, job, served):
    """The browser resolves no other name; here that no page even tries."""
    for page in (*PAGES, job):
        browser.open(f"{served[1]}{page}")
        asked = browser.run("performance.getEntriesByType('resource').map(one => new URL(one.name).host)")
        assert set(asked) <= {f"127.0.0.1:{served[0].port}"}
