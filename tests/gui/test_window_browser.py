"""The window in a real browser that can reach nothing but this server: three clicks, keyboard, phone, accessibility."""

from __future__ import annotations

import importlib.util
import io
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pth2om.gui.children import Answer
from tests.gui.conftest import WEIGHTS
from tests.release.nights import gate, write

PAGES = ("/", "/convert", "/quantize?way=onnx", "/quantize?way=command", "/accept", "/explain?file=a.log", "/aipp",
         "/reports", "/board", "/jobs", "/waivers", "/file?path=a.log", "/compare?old=reports/a&new=reports/a",
         "/nowhere", "JOB")  # fmt: skip
TASTES = (
    ("zh", "dark"),
    ("en", "light"),
    pytest.param("zh", "light", marks=pytest.mark.nightly),
    pytest.param("en", "dark", marks=pytest.mark.nightly),
)


@pytest.fixture
def job(converted):
    return converted.place


def test_a_visitor_reaches_a_rehearsed_om(browser, converted, served):
    browser.open(f"{served[1]}{converted.place}")
    shown = browser.run("document.querySelector('main').innerText")
    assert "EMULATED" in shown
    assert "convmixer_digits.onnx" in shown
    assert converted.jobs == 1  # the button was pressed twice
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
    browser.open(f"{served[1]}/convert?file={WEIGHTS}")
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


def test_a_line_of_an_earlier_form_does_not_stay_while_the_new_one_is_asked_for(browser, served, monkeypatch):
    """Copied in between, it would compile something else; and a field that is only left asks nothing again."""
    go_on, asked = threading.Event(), []

    def ask(_self, words, _place=""):
        asked.append(words)
        if "--batch" in words:
            go_on.wait(60)
        return Answer(0, f"atc of {len(asked)}", "")

    monkeypatch.setattr("pth2om.gui.children.Asker.ask", ask)
    shown = "document.getElementById('atc').firstChild.textContent"
    browser.open(f"{served[1]}/convert?file={WEIGHTS}&soc=Ascend310B1")
    browser.until(f"{shown}.startsWith('atc of')")
    batch = "document.getElementById('f-batch')"
    browser.run(f"{batch}.value = '2'; {batch}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    browser.until(f"{shown} === 'The file is being read …'")
    go_on.set()
    browser.until(f"{shown}.startsWith('atc of')")
    before = len(asked)
    browser.run(f"{batch}.dispatchEvent(new Event('change', {{bubbles: true}}))")
    time.sleep(1.2)
    assert len(asked) == before


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


def test_the_file_that_opens_a_browser_signs_it_in(browser, served, tmp_path):
    settings, base = served
    page = tmp_path / "open.html"
    page.write_text(f'<meta http-equiv="refresh" content="0; url={base}/jobs?token={settings.tokens.current}">')
    browser._call("Network.clearBrowserCookies")
    browser.open(page)
    browser.until(f"location.href === '{base}/jobs' && document.querySelector('nav')")


@pytest.fixture(scope="module")
def axe():
    place = importlib.util.find_spec("axe_core_python")
    if place is None:
        return ""
    return (Path(place.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize(("language", "theme"), TASTES)
def test_every_page_fits_a_phone_speaks_one_language_and_has_no_serious_obstacle(
    browser, served, job, axe, language, theme
):
    """Of each page: its width, its language, its theme, what axe-core finds, and that it asks nothing outside."""
    browser._call("Network.setCookie", name="pth2om-lang", value=language, url=served[1])
    browser._call("Network.setCookie", name="pth2om-theme", value=theme, url=served[1])
    told = "one => [one.impact, one.id, one.nodes[0].html]"
    script = f"axe.run({{resultTypes: ['violations']}}).then(found => found.violations.map({told}))"
    serious = {}
    if not (served[0].project / "reports/a").exists():
        write(served[0].project / "reports/a", [gate()])
    try:
        browser.picture(390, 844)
        for page in PAGES:
            browser.open(f"{served[1]}{job if page == 'JOB' else page}")
            assert browser.run("document.documentElement.scrollWidth <= 390"), page
            light = np.asarray(Image.open(io.BytesIO(browser.picture(390, 844))).convert("L"))[-60:, :8].mean()
            assert (float(light) < 60) == (theme == "dark"), page
            assert browser.run("document.documentElement.lang") == language
            heading = browser.run("document.querySelector('nav a[href=\"/convert\"]').textContent.trim()")
            assert heading == {"zh": "转换", "en": "Convert"}[language]
            asked = browser.run("performance.getEntriesByType('resource').map(one => new URL(one.name).host)")
            assert set(asked) <= {f"127.0.0.1:{served[0].port}"}
            if axe:
                browser._call("Runtime.evaluate", expression=axe)
                found = [one for one in browser.run(script) if one[0] in ("serious", "critical")]
                serious |= {page: found} if found else {}
    finally:
        browser.picture(1180, 900)
        browser._call("Network.setCookie", name="pth2om-lang", value="en", url=served[1])
        browser._call("Network.setCookie", name="pth2om-theme", value="light", url=served[1])
    if not axe:
        pytest.skip("the rest holds, but axe-core-python is not installed")
    assert serious == {}, json.dumps(serious, indent=1)
