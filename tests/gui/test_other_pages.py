"""Explain, AIPP and Board."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from pth2om.aipp import parse_config
from pth2om.aipp.csc import STANDARDS, YUV_TO_RGB, settings
from pth2om.aipp.preview import frame, write_preview
from pth2om.errors import AippError, DataError
from pth2om.gui.children import Answer
from pth2om.gui.journal import Asked
from pth2om.toolchain.cann import diagnosis
from tests.gui.window import Window, text

pytestmark = pytest.mark.usefixtures("asked_here")

PLAIN = """aipp_op {{
 aipp_mode: static
 input_format: {format}
 src_image_size_w: 16
 src_image_size_h: 16
{more}
}}
"""


def config(form="RGB888_U8", more=""):
    return parse_config(PLAIN.format(format=form, more=more))


# --- explain ----------------------------------------------------------------------------------------------------------


def test_a_pasted_log_has_an_address_and_is_explained_in_the_readers_language(window):
    log = "E10001: Value [<b>x</b>] for parameter [--soc_version] is invalid. Reason: no such SoC.\n"
    answer = window.post("/explain", {"text": log})
    place = answer.headers["location"]
    page = window.client.get(place).text
    assert "E10001" in page
    assert "<b>x</b>" not in page
    assert "line 1" in page
    window.post("/preferences", {"lang": "zh"})
    assert "第 1 行" in window.client.get(place).text
    window.post("/preferences", {"lang": "en"})
    assert window.post("/explain", {"text": "  "}).headers["location"] == "/explain"


def test_a_log_without_a_known_error_says_so(window, project):
    (project / "quiet.log").write_text("all is well\n")
    assert "Nothing in it" in window.get("/explain", file="quiet.log").text
    assert window.get("/explain", file="../secret.txt").status_code == 400


# --- AIPP -------------------------------------------------------------------------------------------------------------


def test_a_configuration_is_checked_edited_and_previewed(window, project):
    (project / "a.cfg").write_text(PLAIN.format(format="RGB888_U8", more=" mean_chn_0: 128"))
    Image.new("RGB", (40, 30), (250, 0, 0)).save(project / "red.png")
    page = window.get("/aipp", file="a.cfg", image="red.png").text
    assert "mean_chn_0: 128" in page
    picture = window.client.get(re.search(r'src="(/picture/aipp[^"]*)"', page)[1].replace("&amp;", "&"))
    assert picture.headers["content-type"] == "image/png"
    edited = window.post("/aipp", {"file": "a.cfg", "text": "aipp_op { aipp_mode: nonsense }", "image": "red.png"})
    refused = window.client.get(edited.headers["location"]).text
    assert "nonsense" in text(refused)
    assert (project / "a.cfg").read_text().count("128") == 1  # the original stays
    trouble = window.get("/picture/aipp", file="a.cfg", image="a.cfg")
    assert trouble.status_code == 422


def test_a_configuration_is_derived_from_a_spec_of_the_project(window, project, repository):
    place = project / "models" / "digits"
    place.mkdir(parents=True)
    spec = (repository / "models/convmixer-digits/model.toml").read_text()
    (place / "model.toml").write_text(spec)
    (project / "models" / "convmixer").mkdir()
    (project / "models/convmixer/net.py").write_bytes((repository / "models/convmixer/net.py").read_bytes())
    answer = window.post("/aipp/derive", {"model": "digits"})
    assert answer.status_code == 303, text(answer.text)
    assert "aipp_op" in window.client.get(answer.headers["location"]).text
    assert window.post("/aipp/derive", {"model": "../digits"}).status_code == 400


def test_the_preview_stretches_what_the_model_gets(tmp_path):
    Image.new("RGB", (16, 16), (200, 100, 50)).save(tmp_path / "one.png")
    seen = write_preview(config(), tmp_path / "one.png", tmp_path / "out.png")
    assert (seen.low, seen.high, seen.shape, seen.standard) == (50.0, 200.0, (3, 16, 16), "")
    right = np.asarray(Image.open(tmp_path / "out.png"))[8, -8]
    assert tuple(right) == (255, 85, 0)
    swapped = write_preview(config(more=" rbuv_swap_switch: true"), tmp_path / "one.png", tmp_path / "out.png")
    assert swapped.shape == seen.shape
    assert tuple(np.asarray(Image.open(tmp_path / "out.png"))[8, -8]) == (0, 85, 255)
    with pytest.raises(AippError):
        write_preview(
            parse_config("aipp_op { aipp_mode: static input_format: RGB888_U8 }"), tmp_path / "one.png", tmp_path / "x"
        )
    with pytest.raises(DataError):
        write_preview(config(), tmp_path / "absent.png", tmp_path / "x.png")


@pytest.mark.parametrize("standard", STANDARDS)
@pytest.mark.parametrize("swap", [False, True])
def test_yuv_comes_back_as_the_rgb_that_it_was_made_of(tmp_path, standard, swap):
    """The frame by one matrix, AIPP by its inverse: within the roundings of 8-bit chroma."""
    matrix, bias = YUV_TO_RGB[standard].matrix, YUV_TO_RGB[standard].bias
    lines = ["csc_switch: true", f"rbuv_swap_switch: {str(swap).lower()}"]
    lines += [f"matrix_r{row}c{column}: {matrix[row][column]}" for row in range(3) for column in range(3)]
    lines += [f"input_bias_{index}: {value}" for index, value in enumerate(bias)]
    made = config("YUV420SP_U8", "\n".join(lines))
    wanted = settings(made.op(0), (16, 16))
    rgb = np.full((16, 16, 3), (180, 90, 40), np.uint8)
    assert frame(rgb, wanted, standard).size == wanted.frame_bytes()
    Image.fromarray(rgb).save(tmp_path / "one.png")
    seen = write_preview(made, tmp_path / "one.png", tmp_path / "out.png")
    assert seen.standard == standard
    assert abs(seen.high - 180) <= 4
    assert abs(seen.low - 40) <= 4


@pytest.mark.parametrize("form", ["RGB888_U8", "XRGB8888_U8", "YUV420SP_U8", "YUV400_U8"])
def test_a_frame_has_the_bytes_of_its_format(form):
    wanted = settings(config(form).op(0), (16, 16))
    assert frame(np.zeros((16, 16, 3), np.uint8), wanted, "601-narrow").size == wanted.frame_bytes()


# --- board ------------------------------------------------------------------------------------------------------------


def test_the_board_page_shows_what_doctor_says(window, monkeypatch):
    said = (
        '[{"place": "", "status": 1, "findings": [{"severity": "error", "message": {"key": "gui.no-jobs"}}, '
        '{"severity": "info", "message": {"key": "no.such"}}], "facts": {"machine": {"cores": "<2>"}}, '
        '"shown": [["lease", "held by <me>@pc since 10:00:00"]]}]'
    )
    asked = []
    monkeypatch.setattr(
        "pth2om.gui.children.Asker.ask", lambda _, words, place="": asked.append(words) or Answer(1, said, "")
    )
    page = window.get("/board/seen", board="ssh://root@192.0.2.7:22").text
    assert asked == [("doctor", "--json", "--board=ssh://root@192.0.2.7:22")]
    for word in ("No jobs yet", "no.such", "&lt;2&gt;", "held by &lt;me&gt;@pc since 10:00:00"):
        assert word in page
    monkeypatch.setattr("pth2om.gui.children.Asker.ask", lambda *_, **__: Answer(1, "", "broken <pipe>"))
    assert "broken &lt;pipe&gt;" in window.get("/board/seen").text


@pytest.mark.parametrize(
    ("lease", "words"),
    [
        ({"held": True, "who": "ann", "host": "pc<1>", "seconds": 60}, ("held by ann@pc&lt;1&gt; since", "占用")),
        ({"held": False}, ("free", "空闲")),
        ({"held": None, "reason": "no permission"}, ("unknown: no permission", "未知")),
    ],
)
def test_the_board_page_shows_who_holds_the_npu(window, monkeypatch, lease, words):
    """What a real board's agent collects, as the doctor prints it, in both languages."""
    facts = diagnosis.doctor.collect("/")
    facts["lease"], facts["machine"] = lease, {**facts["machine"], "nodes": ["davinci0"]}
    seen = diagnosis.Diagnosis("ssh://root@192.0.2.7", facts, ())
    monkeypatch.setattr("pth2om.gui.children.Asker.ask", lambda *_, **__: Answer(0, json.dumps([seen.to_json()]), ""))
    for language, wanted in zip(("en", "zh"), words, strict=True):
        window.post("/preferences", {"lang": language})
        assert wanted in window.get("/board/seen", board="ssh://root@192.0.2.7").text
    window.post("/preferences", {"lang": "en"})


def test_the_board_page_shows_which_board_a_job_waits_for(project, tmp_path):
    with Window(project, tmp_path / "state", at_once=0) as window:
        window.sign_in()
        for board in ("ssh://root@192.0.2.7", ""):
            window.desk.queue.add(Asked("pytest", (board,), "accept", f"x{board}", board=board), "n")
        page = text(window.get("/board").text)
        assert "waiting · ssh://root@192.0.2.7" in page


@pytest.mark.parametrize(
    "address", ["--help", "root@host", "ssh://a b", "ssh://-oX", "ssh://u@-oX", "file:///etc", "ssh://a/$(x)"]
)
def test_an_address_that_is_none_reaches_no_command(window, address):
    assert window.get("/board/seen", board=address).status_code == 400
    assert window.post("/board", {"board": address}).status_code == 400


def test_boards_are_remembered_and_forgotten(window):
    window.post("/board", {"board": "ssh://root@192.0.2.7"})
    assert "ssh://root@192.0.2.7" in window.get("/board").text
    window.post("/board", {"forget": "ssh://root@192.0.2.7"})
    assert 'value="ssh://root@192.0.2.7"' not in window.get("/board").text
