"""From a file to its conversion in the window: what it is, every option, both lines, the same evidence as the line."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from pth2om import cli
from pth2om.cli import convert as verb
from pth2om.gui import forms
from pth2om.language import speaking
from pth2om.report import conversion
from tests.gui.window import Window, filled, text

WEIGHTS = "models/convmixer-digits/weights/convmixer_digits.pth"
NET = "models/convmixer/net.py"


@pytest.fixture(scope="module")
def window(repository_copy, tmp_path_factory):
    with Window(repository_copy, tmp_path_factory.mktemp("state")) as made:
        yield made.sign_in()


@pytest.fixture(scope="module")
def repository_copy(tmp_path_factory):
    """A project with the bundled model in it."""
    root = Path(__file__).resolve().parents[2]
    folder = tmp_path_factory.mktemp("work")
    for name in (WEIGHTS, NET):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((root / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def job(window):
    """The bundled model, in as many clicks as a visitor needs: the card of the start page, and the button."""
    start = window.get("/").text
    card = re.search(r'href="(/convert\?[^"]*)"', start)[1].replace("&amp;", "&")
    answer = window.post("/convert", filled(window.client.get(card).text) | {"output": "made"})
    assert answer.status_code == 303, text(answer.text)
    place = answer.headers["location"]
    assert window.wait(place) == "done", window.get(f"{place}/log").text
    return place


def test_the_evidence_is_that_of_the_line_which_the_page_shows(window, job, repository_copy, monkeypatch, capsys):
    line = shlex.split(window.line(job))
    assert line[:2] == ["pth2om", "convert"]
    monkeypatch.chdir(repository_copy)
    again = [word if word != "made" else "by-hand" for word in line[1:]]
    assert cli.main(again) == 0
    name = "convmixer_digits.convert.json"
    by_job, by_hand = (
        conversion.read(repository_copy / "made" / name),
        conversion.read(repository_copy / "by-hand" / name),
    )

    def said(converted):
        return [(gate.id, gate.verdict, gate.measured, gate.ground, gate.digests) for gate in converted.gates]

    assert said(by_job) == said(by_hand)
    assert by_job.gates


def test_the_result_shows_files_closeness_graph_and_the_word_emulated(window, job):
    page = window.get(job).text
    shown = text(page)
    for word in ("EMULATED", "convmixer_digits.onnx", "torch~om/scores/relative_l2", "--soc_version=Ascend310B1"):
        assert word in shown
    graph = re.search(r'src="(/picture/graph[^"]*)"', page)[1].replace("&amp;", "&")
    picture = window.client.get(graph)
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/svg+xml")
    assert "sandbox" in picture.headers["content-security-policy"]
    report = window.client.get(re.search(r'src="(/report[^"]*)"', page)[1].replace("&amp;", "&"))
    assert "<code>scores</code>" in report.text
    file = window.client.get(re.search(r'href="(/download[^"]*onnx)"', page)[1].replace("&amp;", "&"))
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


def test_the_atc_line_is_previewed_before_anything_is_exported(window, job):
    values = {"file": WEIGHTS, "template": NET, "size": "16", "soc": "Ascend310B1", "output": "made", "nonce": "ab"}
    answer = window.post("/preview/atc", values).json()
    assert answer["problem"] == ""
    done = conversion.read(window.settings.project / "made" / "convmixer_digits.convert.json")
    assert shlex.split(answer["atc"]) == list(done.atc)
    refused = window.post("/preview/atc", {**values, "soc": "Ascend310B9"}).json()
    assert "Ascend310B9" in refused["problem"]
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
