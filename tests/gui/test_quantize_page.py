"""Quantize: six ways, each the line of a verb; layers and files of what comes out."""

from __future__ import annotations

import io
import json
import re
import shlex

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pth2om import cli
from pth2om.errors import DataError, QuantizeError
from pth2om.gui.pages.quantize import WAYS
from pth2om.quantize.sheet import pixels, write_sheet
from pth2om.report import quantized
from pth2om.spec import Preprocess
from tests.gui.window import Window, filled, link, text

pytestmark = pytest.mark.usefixtures("asked_here")


@pytest.fixture(scope="module")
def window(project, tmp_path_factory):
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.normal(0, 0.2, (16, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    shape = [1, 3, 16, 16]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 16, 16, 16])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, project / "net.onnx")
    (project / "photos").mkdir()
    for number in range(8):
        pixel = random.integers(0, 255, (20, 30, 3), np.uint8)
        Image.fromarray(pixel).save(project / "photos" / f"{number}.png")
    size = {"des_channels": 3, "des_height": 16, "des_width": 16, "batch_size": 1, "fixed_scale": 1}
    colour = {"is_BGR2RGB": 1, "means": [0, 0, 0], "stds": [255, 255, 255]}
    recipe = {"det_pre_params": {"img_root": "photos", **size, **colour}}
    (project / "recipe.json").write_text(json.dumps(recipe))
    with Window(project, tmp_path_factory.mktemp("state")) as made:
        yield made.sign_in()


@pytest.fixture(scope="module")
def job(window):
    given = {
        "model": "net.onnx",
        "calib": "photos",
        "preprocess": "recipe.json",
        "output": "q",
        "small_channels": "on",
    }
    place = window.ask("/quantize", way="onnx", **given)
    assert window.wait(place) == "done", window.get(f"{place}/log").text
    return place


def test_the_files_are_those_of_the_line(window, job, project, monkeypatch, capsys):
    line = shlex.split(window.line(job))
    assert line[:2] == ["pth2om", "quantize"]
    monkeypatch.chdir(project)
    assert cli.main([word if word != "q" else "by-hand" for word in line[1:]]) == 0
    for file in (project / "q").iterdir():
        assert file.read_bytes() == (project / "by-hand" / file.name).read_bytes(), file.name


def test_the_result_shows_layers_files_and_histograms(window, job):
    page = window.get(job).text
    shown = text(page)
    for word in ("conv", "INT8", "net_deploy_model.onnx", "Output SQNR"):
        assert word in shown
    assert "<svg" in page
    report = window.client.get(re.search(r'href="(/report[^"]*)"', page)[1].replace("&amp;", "&"))
    assert report.status_code == 200


def test_every_way_has_a_form_in_both_languages(window):
    for language in ("zh", "en"):
        window.post("/preferences", {"lang": language})
        for way in WAYS:
            page = window.get("/quantize", way=way)
            assert page.status_code == 200
            assert page.text.count('name="nonce"') == 1
    assert 'value="net.onnx"' in window.get("/quantize", file="net.onnx").text


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"way": "checkpoint", "file": "net.onnx", "random_calibration": "on"},
         "convert net.onnx --int8 --random-calibration"),
        ({"way": "checkpoint", "file": "net.onnx", "random_calibration": "on", "validate_onnx": "off",
          "validate_om": ["off", "on"]}, "convert net.onnx --no-validate-onnx --int8 --random-calibration"),
        ({"way": "onnx", "model": "net.onnx", "calib": "photos"}, "quantize net.onnx --calib photos --sensitivity"),
        ({"way": "amct", "model": "net.onnx", "calib": "photos", "activations": "mse"},
         "quantize net.onnx --calib photos --amct"),
        ({"way": "amct", "model": "net.onnx"}, "quantize net.onnx --amct"),
        ({"way": "command", "model": "net.onnx", "command": "tool {onnx_in} {onnx_out}"},
         "quantize net.onnx --command 'tool {onnx_in} {onnx_out}'"),
        ({"way": "have", "file": "net.onnx", "quantized": "net.onnx", "soc": "Ascend310B1"},
         "convert net.onnx --soc Ascend310B1 --quantized net.onnx"),
        ({"way": "qat", "model": "net.onnx"}, "quantize net.onnx --convert"),
    ],
)  # fmt: skip
def test_each_way_is_the_line_that_one_would_type(window, given, line):
    assert window.post("/preview/quantize", given).json() == {"line": f"pth2om {line}", "problem": ""}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"way": "onnx", "model": "net.onnx", "random_calibration": "on"}, None),
        ({"way": "qat", "model": "net.onnx"}, None),
        ({"way": "command", "model": "net.onnx", "calib": "photos", "command": "tool {onnx_in} {onnx_out} {calib_dir}"},
         "tool net.onnx net_deploy_model.onnx photos"),
        ({"way": "have", "file": "net.onnx", "quantized": "net.onnx", "soc": ""}, "Without a SoC nothing is compiled."),
    ],
)  # fmt: skip
def test_the_line_of_somebody_elses_program_is_previewed_as_it_will_run(window, given, line):
    expected = {} if line is None else {"atc": line, "problem": ""}
    assert window.post("/preview/quantizer", {"nonce": "p", **given}).json() == expected
    assert ('data-later="/preview/quantizer"' in window.get("/quantize", way=given["way"]).text) is (line is not None)


def test_what_keeps_a_quantizer_from_running_is_said_before_it_is_asked_to(window):
    answer = window.post("/preview/quantizer", {"way": "amct", "model": "net.onnx", "calib": "photos", "nonce": "p"})
    assert "no .bin batches" in answer.json()["problem"]


def test_a_quantized_onnx_leads_to_its_om(window, job):
    """The form behind the button is filled in: the float model, and what was made of it."""
    values = filled(window.client.get(link(window.get(job).text, "/quantize?way=have")).text)
    line = window.post("/preview/quantize", values).json()
    expected = "pth2om convert net.onnx --soc Ascend310B1 --quantized q/net_deploy_model.onnx"
    assert line == {"line": expected, "problem": ""}
    atc = shlex.split(window.post("/preview/quantizer", values).json()["atc"])
    assert {"--model=net-converted/net_deploy_model.onnx", "--soc_version=Ascend310B1"} <= set(atc)


@pytest.mark.parametrize("model", ["digits", "models/digits", "models/digits/model.toml"])
def test_a_spec_says_itself_what_is_measured(window, project, model):
    """``--sensitivity`` has no effect beside a spec, and the verb refuses it."""
    (project / "models" / "digits").mkdir(parents=True, exist_ok=True)
    (project / "models" / "digits" / "model.toml").touch()
    given = {"way": "onnx", "model": model, "max_drop": "1%"}
    line = window.post("/preview/quantize", given).json()
    assert (line["line"], line["problem"]) == (f"pth2om quantize {model} --max-drop 1%", "")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"way": "onnx"}, "Choose a file"),
        ({"way": "have", "file": "net.onnx"}, "Choose a file"),
        ({"way": "command", "model": "net.onnx"}, "command"),
        ({"way": "checkpoint", "file": "net.onnx"}, "calib"),
        ({"way": "onnx", "model": "net.onnx", "calib": "photos", "random_calibration": "on"}, "random"),
        ({"way": "onnx", "model": "net.onnx", "labels": "recipe.json", "calib": "photos"}, "max-drop"),
        ({"way": "onnx", "model": "../net.onnx"}, "outside"),
        ({"way": "onnx", "model": "net.onnx", "images": "0", "calib": "photos"}, "images"),
    ],
)
def test_what_the_verb_would_refuse_is_said_and_starts_nothing(window, given, words):
    assert words in window.post("/preview/quantize", given).json()["problem"]
    assert window.post("/quantize", {**given, "nonce": "1"}).status_code == 400


def test_calibration_images_are_shown_as_the_net_sees_them(window, project):
    answer = window.get("/picture/sheet", folder="photos", recipe="recipe.json")
    assert answer.headers["content-type"] == "image/png"
    absent = window.get("/picture/sheet", folder="photos", recipe="absent.json")
    assert (absent.status_code, "absent.json" in absent.text) == (422, True)
    assert window.get("/picture/sheet", folder="..", recipe="recipe.json").status_code == 400
    assert window.get("/picture/sheet", folder="photos", recipe="../recipe.json").status_code == 400


@pytest.mark.parametrize(
    "values",
    [
        {"mean": "123.675,116.28,103.53", "std": "58.395,57.12,57.375", "size": "16"},
        {"mean": "0,0,0", "std": "1,1,1", "size": "16,16"},
        {"color": "RGB", "scale": "255", "resize": "stretch", "size": "16"},
        {"recipe": "recipe.json", "color": "RGB", "resize": "stretch"},
    ],
)
def test_calibration_images_are_shown_by_single_values_as_by_a_recipe_of_the_same(window, project, values):
    """Stretched to 16 x 16, and the normalization is undone: all these are one picture."""
    recipe = json.loads((project / "recipe.json").read_text())
    recipe["det_pre_params"]["fixed_scale"] = 0
    (project / "stretched.json").write_text(json.dumps(recipe))
    whole = window.get("/picture/sheet", folder="photos", recipe="stretched.json").content
    drawn = window.get("/picture/sheet", loose="on", folder="photos", **values)
    assert drawn.headers["content-type"] == "image/png", drawn.text
    assert np.array_equal(*(np.asarray(Image.open(io.BytesIO(one))) for one in (drawn.content, whole)))
    swapped = window.get("/picture/sheet", loose="on", folder="photos", **{**values, "color": "BGR"}).content
    assert not np.array_equal(*(np.asarray(Image.open(io.BytesIO(one))) for one in (swapped, whole)))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"recipe": "recipe.json"}, "Choose a folder of images"),
        ({"folder": "photos"}, "under Preprocessing"),
        ({"folder": "photos", "loose": "on"}, "mean and deviation"),
        ({"folder": "photos", "loose": "on", "mean": "0,0,0"}, "fill in the input size"),
        ({"folder": "photos", "loose": "on", "mean": "x", "size": "16"}, "--mean"),
        ({"folder": "photos", "loose": "on", "mean": "1,2", "std": "1", "size": "16"}, "contradict"),
    ],
)
def test_what_a_preview_of_calibration_images_lacks_is_said_with_where_to_give_it(window, values, words):
    answer = window.get("/picture/sheet", **values)
    assert (answer.status_code in (400, 422), words in text(answer.text)) == (True, True), text(answer.text)


@pytest.mark.parametrize(
    ("settings", "channel"),
    [
        ({"color": "RGB"}, 0),
        ({"color": "BGR"}, 2),
        ({"color": "RGB", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, 0),
        ({"color": "RGB", "scale": 1.0, "mean": (123.0, 117.0, 104.0), "std": (58.0, 57.0, 57.0)}, 0),
        ({"color": "BGR", "extra": "sobel"}, 2),
    ],
)
def test_a_red_picture_is_red_in_the_channel_that_the_net_gets_it_in(tmp_path, settings, channel):
    Image.new("RGB", (10, 10), (200, 10, 30)).save(tmp_path / "red.png")
    from pth2om.data.image import decode
    from pth2om.data.preprocess import Preprocessor

    preprocess = Preprocess(size=(8, 8), resize="stretch", **settings)
    array, _ = Preprocessor(preprocess)(decode(tmp_path / "red.png"), where="")
    seen = pixels(array, preprocess)
    assert seen[4, 4, channel] == 200
    assert seen[4, 4, 2 - channel] == 30
    assert write_sheet(tmp_path, preprocess, tmp_path / "sheet.png", 1) == 1
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert tuple(picture[80, 80])[channel] == 200


def test_a_sheet_needs_images(tmp_path):
    with pytest.raises(QuantizeError):
        write_sheet(tmp_path, Preprocess(size=(8, 8)), tmp_path / "sheet.png")


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"layers": 1, "findings": 2, "details": 3}', "[" * 100_000])
def test_a_damaged_report_of_a_quantization_is_a_sentence(tmp_path, damage):
    file = tmp_path / "x_quantize.json"
    file.write_text(damage)
    with pytest.raises(DataError):
        quantized.read(file)
