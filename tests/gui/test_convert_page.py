"""From a file to its conversion in the window: what it is, every option, both lines, the same evidence as the line."""

from __future__ import annotations

import argparse
import os
import shlex

import pytest

from pth2om import cli
from pth2om.cli import convert as verb
from pth2om.gui import forms
from pth2om.language import speaking
from pth2om.report import conversion
from tests.gui import canonical
from tests.gui.conftest import NET, WEIGHTS
from tests.gui.window import Window, link, text

pytestmark = pytest.mark.usefixtures("asked_here")
RECORD = "convmixer_digits-converted/convmixer_digits.convert.json"


@pytest.fixture(scope="module")
def window(served):
    """Another window on the project of the served one, which runs the jobs."""
    settings, _ = served
    with Window(settings.project, settings.state, at_once=0) as made:
        yield made.sign_in()


@pytest.fixture(scope="module")
def job(window, converted):
    assert window.wait(converted.place) == "done", window.get(f"{converted.place}/log").text
    return converted.place


def test_the_evidence_is_that_of_the_line_which_the_page_shows(window, job, tmp_path, monkeypatch):
    line = shlex.split(window.line(job))
    assert line[:2] == ["pth2om", "convert"]
    folder = window.settings.project
    made = {file.name: file.read_bytes() for file in (folder / RECORD).parent.glob("*.onnx")}
    stores = (os.environ["PTH2OM_STORE"], tmp_path)
    by_job = canonical.whole(folder / RECORD, stores)
    monkeypatch.setenv("PTH2OM_STORE", str(tmp_path))  # nothing of what the job measured is at hand
    monkeypatch.chdir(folder)
    assert cli.main(line[1:]) == 0
    assert canonical.whole(folder / RECORD, stores) == by_job
    assert {one["verdict"] for one in by_job["gates"]} >= {"passed"}
    assert made
    for name, content in made.items():
        assert (folder / RECORD).with_name(name).read_bytes() == content, name


def test_the_result_shows_files_closeness_graph_and_the_word_emulated(window, job):
    page = window.get(job).text
    shown = text(page)
    for word in ("EMULATED", "convmixer_digits.onnx", "torch~om/scores/relative_l2", "--soc_version=Ascend310B1"):
        assert word in shown
    picture = window.client.get(link(page, "/picture/graph", "src"))
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/svg+xml")
    assert "sandbox" in picture.headers["content-security-policy"]
    report = window.client.get(link(page, "/report", "src"))
    assert "<code>scores</code>" in report.text
    file = window.client.get(link(page[page.index("convmixer_digits.onnx") :], "/download"))
    assert file.headers["content-disposition"].startswith("attachment")
    assert len(file.content) > 200_000


def test_every_option_of_the_line_is_a_field_and_comes_back_as_typed(window):
    parser = argparse.ArgumentParser()
    verb.configure(parser)
    known = {one.dest for one in parser._actions} - forms.HIDDEN
    assert {one.name for one in forms.fields("convert")} == known
    page = window.get("/convert").text
    assert {name for name in known if f'name="{name}"' not in page} == set()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, ""),
        ({"soc": "Ascend310B4", "precision": "mixed"}, "--soc Ascend310B4 --precision mixed"),
        ({"validate_om": ["off"], "validate_onnx": ["off", "on"]}, "--no-validate-om"),
        ({"precheck": ["off"], "fallback": ["off"]}, "--no-fallback --no-precheck"),
        ({"dynamic_batch": ["off", "on"], "force": ["off"]}, "--dynamic-axes"),
        ({"atc": "--log=info"}, "--atc=--log=info"),
        ({"calib": "made\n\nmodels", "int8": "on"}, "--int8 --calib made --calib models"),
        ({"aipp-alone": "on", "mean": "0,0,0", "std": "1,1,1"}, "--aipp --mean 0,0,0 --std 1,1,1"),
        ({"batch": " 4 ", "in-channels": "9", "size": "384"}, "--batch 4 --size 384"),
        ({"channels": "4"}, "--channels 4"),
    ],
)
def test_a_form_is_the_line_that_one_would_type(window, given, line):
    answer = window.post("/preview/convert", {"file": WEIGHTS, **given}).json()
    assert answer == {"line": f"pth2om convert {WEIGHTS} {line}".strip(), "problem": ""}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"file": ""}, "Choose a file"),
        ({"batch": "many"}, "--batch"),
        ({"batch": "0"}, "--batch"),
        ({"size": "x"}, "--size"),
        ({"soc": "x", "mean": "1", "std": ""}, "mean"),
        ({"file": "/etc/passwd"}, "outside"),
        ({"output": "../elsewhere"}, "outside"),
        ({"template": "../net.py"}, "outside"),
        ({"file": "a\0b"}, "no such path"),
        ({"file": "--help"}, "dash"),
        ({"atc": "--soc_version=Ascend310"}, "--soc"),
        ({"calib": "made"}, "--int8"),
    ],
)
def test_what_the_line_would_refuse_is_said_as_one_types_and_starts_nothing(window, given, words):
    before = len(list(window.settings.jobs.iterdir()))
    values = {"file": WEIGHTS, "nonce": "1", **given}
    answer = window.post("/preview/convert", values).json()
    assert words in answer["problem"]
    refused = window.post("/convert", values)
    assert (refused.status_code, words in text(refused.text)) == (400, True)
    assert len(list(window.settings.jobs.iterdir())) == before


def test_the_atc_line_is_previewed_before_anything_is_exported(window, converted):
    done = conversion.read(window.settings.project / RECORD)
    assert shlex.split(converted.atc) == list(done.atc)
    values = {"file": WEIGHTS, "template": NET, "size": "16", "soc": "Ascend310B9", "nonce": "ab"}
    assert "Ascend310B9" in window.post("/preview/atc", values).json()["problem"]
    assert "SoC" in window.post("/preview/atc", {**values, "soc": ""}).json()["atc"]


def test_forms_remember_but_neither_the_file_nor_trust(window, job):
    window.post("/convert", {"file": WEIGHTS, "opset": "16", "soc": "Ascend310B4", "trust": "off", "nonce": "r"})
    page = window.get("/convert").text
    assert 'name="opset" value="16"' in page
    assert 'name="soc" value="Ascend310B4"' in page
    assert WEIGHTS not in page
    # What an address says counts more than what is remembered.
    assert 'name="soc" value="Ascend910B2"' in window.get("/convert", soc="Ascend910B2").text


def test_new_templates_appear_without_a_restart(window):
    folder = window.settings.project / "nets"
    folder.mkdir()
    (folder / "a.py").write_text("TEMPLATE_NAME = 'first <one>'\nraise SystemError('is never run')\n")
    assert "first &lt;one&gt;" in window.get("/convert", templates="nets").text
    (folder / "b.py").write_text("TEMPLATE_NAME = 'second'\n")
    assert "second" in window.get("/convert", templates="nets").text


def test_trust_is_asked_with_the_names_and_holds_for_them_alone(window, monkeypatch):
    seen = {"foreign": "evil.Net, evil.Head", "said": [], "doors": []}
    asker = next(one for one in window.app.routes if getattr(one, "path", "") == "/convert")
    assert asker
    monkeypatch.setattr("pth2om.gui.children.Asker.look", lambda *_: seen)
    values = {"file": WEIGHTS, "trust": "on", "nonce": "t"}
    for agreed in ("", "evil.Net", "other.Net"):
        refused = window.post("/convert", {**values, "trusted": agreed})
        assert (refused.status_code, "evil.Head" in refused.text) == (400, True)
    accepted = window.post("/convert", {**values, "trusted": "evil.Net, evil.Head"})
    assert accepted.status_code == 303
    window.post(accepted.headers["location"] + "/cancel")


def test_labels_are_in_both_languages_and_differ_where_words_do():
    with speaking("zh"):
        chinese = {one.name: one.label for one in forms.fields("convert")}
    english = {one.name: one.label for one in forms.fields("convert")}
    assert chinese.keys() == english.keys()
    assert chinese["size"] == "输入尺寸"
    assert "读取" in next(one.help for one in in_chinese() if one.name == "channels")


def in_chinese():
    with speaking("zh"):
        return forms.fields("convert")


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"kind": "conversion"}', "\xff", "[" * 200_000])
def test_a_damaged_record_is_a_sentence(window, damage):
    file = window.settings.project / "x.convert.json"
    file.write_bytes(damage.encode("latin-1"))
    page = window.get("/report", path="x.convert.json")
    assert page.status_code == 400
    assert "no record" in page.text


def test_a_job_that_is_cancelled_leaves_no_half_written_file(window):
    job = window.ask("/convert", file=WEIGHTS, template=NET, size="32", output="never", soc="Ascend310B1")
    window.post(f"{job}/cancel")
    assert window.state(job) in ("cancelled", "done")
    if window.state(job) == "cancelled":
        made = window.settings.project / "never"
        assert [one.name for one in made.iterdir()] == [] if made.exists() else True
