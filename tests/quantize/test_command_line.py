"""``pth2om quantize`` as typed: what contradicts itself is refused before anything is read, the rest does something."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from pth2om import cli
from pth2om.errors import QuantizeError
from pth2om.quantize.request import Request, check, percent_points
from tests.quantize.quantize_nets import model, tensor

RECIPE = '{"det_pre_params": {"des_height": 16, "des_width": 16, "stds": [255, 255, 255], "img_root": "images"%s}}'


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A classifier, ten images that it labels itself, and a recipe; the current folder."""
    import onnxruntime

    monkeypatch.setenv("PTH2OM_LANG", "en")
    monkeypatch.delenv("PTH2OM_DATA", raising=False)
    g = np.random.default_rng(0)
    nodes = [
        onnx.helper.make_node("Conv", ["x", "stem"], ["a"], name="stem"),
        onnx.helper.make_node("Relu", ["a"], ["b"], name="relu"),
        onnx.helper.make_node("Conv", ["b", "w"], ["c"], name="body"),
        onnx.helper.make_node("GlobalAveragePool", ["c"], ["d"], name="gap"),
        onnx.helper.make_node("Flatten", ["d"], ["y"], name="flat"),
    ]
    weights = [
        tensor("stem", g.standard_normal((20, 3, 3, 3)).astype(np.float32)),
        tensor("w", g.standard_normal((5, 20, 3, 3)).astype(np.float32)),
    ]
    net = model(nodes, weights, [("x", ["n", 3, 16, 16])], [("y", ["n", 5])])
    onnx.save(net, tmp_path / "net.onnx")
    (tmp_path / "images").mkdir()
    session = onnxruntime.InferenceSession(net.SerializeToString(), providers=["CPUExecutionProvider"])
    lines = []
    for number in range(10):
        pixels = np.clip(g.integers(0, 256, (1, 1, 3)) + g.integers(-40, 40, (16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"im {number}.png")
        answer = session.run(None, {"x": pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255})[0].argmax()
        lines.append(f"im {number}.png, {answer}\n")
    (tmp_path / "labels.csv").write_text("".join(lines))
    (tmp_path / "pre.json").write_text(RECIPE % "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "points"),
    [("0", 0), ("0.01", 1), ("0.07", 7), ("1%", 1), (" 0.5 %", 0.5), ("100%", 100), ("0.999", 99.9), ("1％", 1)],
)
def test_a_drop_is_a_share_or_a_percentage(text, points):
    assert percent_points(text) == points


@pytest.mark.parametrize("text", ["1", "1.0", "5", "-0.1", "101%", "nan", "inf", "", "%", "one"])
def test_what_could_mean_either_is_asked_about(text):
    with pytest.raises(QuantizeError, match=r"0\.01"):
        percent_points(text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--convert --calib images", "--calib has no effect together with --convert"),
        ("--convert --max-drop 1%", "--max-drop has no effect"),
        ("--labels labels.csv --calib bins", "--labels has no effect without --max-drop"),
        ("--calib bins --preview", "--preview has no effect without --amct / --command"),
        ("--calib bins --evaluator e.py", "--evaluator has no effect without --amct"),
        ("--calib bins --batch 4", "--batch has no effect without --preprocess"),
        ("--amct --calib bins --checkpoint n.pth --symmetric", "--checkpoint, --symmetric has no effect"),
        ("--amct --calib images --preprocess pre.json", "pth2om bins IMAGES"),
        ("--amct --calib bins --evaluator e.py", "--calib, --evaluator: give only one"),
        ("--amct --command t", "--command has no effect together with --amct"),
        ("--command t --convert", "has no effect together with"),
        ("--amct --convert --calib bins", "--calib has no effect together with --amct --convert"),
        ("--calib bins --random-calibration", "--calib, --random-calibration: give only one"),
        ("--calib bins --images 0", "--images 0"),
        ("--calib bins --images -3", "--images -3"),
        ("--calib images --preprocess pre.json --batch 0", "--batch 0"),
        ("--calib bins --prefix ../x", "--prefix ../x"),
        ("--calib bins --max-drop 2", "percentage with its sign"),
        ("--calib bins -o labels.csv", "not a folder"),
        ("--calib bins -o /proc/nowhere/x", "cannot be written"),
        ("--amct", "--evaluator"),
        ("--amct --evaluator e.py", "e.py: This file does not exist"),
        ("--amct --calib images", "contains images"),
        ("--calib images", "contains images"),
        ("--calib images --calib images --preprocess pre.json", "2 folders"),
        ("--calib images --preprocess pre.json --only relu", "none of a kind that is quantized"),
        ("--calib images --preprocess pre.json --skip g*", "--skip g* matches nodes (GlobalAveragePool)"),
        ("--calib images --preprocess pre.json --checkpoint n.pth", "n.pth: This file does not exist"),
        ("--preprocess pre.json --random-calibration", "give only one of them"),
        ("--command t{onnx_out} --calib images --calib images", "takes only one folder"),
    ],
)
def test_contradictions_are_refused_and_leave_nothing(root, capsys, words, said):
    before = sorted(path.name for path in root.rglob("*"))
    assert cli.main(["quantize", "net.onnx", *words.split()]) == 1
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in root.rglob("*")) == before


def test_every_argument_of_the_verb_is_one_of_the_request():
    import argparse
    from dataclasses import fields

    from pth2om.cli.quantize import configure

    parser = argparse.ArgumentParser()
    configure(parser)
    typed = vars(parser.parse_args(["m.onnx"]))
    assert set(typed) == {entry.name for entry in fields(Request)}
    request = Request(**typed)
    assert not request.given - {"model"}
    check(request)


def test_a_batch_the_model_does_not_take_is_refused(root, capsys):
    net = onnx.load("net.onnx")
    net.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(net, "fixed.onnx")
    words = ["--calib", "images", "--preprocess", "pre.json", "-o", "out"]
    assert cli.main(["quantize", "fixed.onnx", *words, "--batch", "4"]) == 1
    assert "fixed to 2" in capsys.readouterr().err
    assert cli.main(["quantize", "fixed.onnx", *words, "--batch", "2"]) == 0


def test_images_of_the_recipe_its_batch_and_labels_of_a_batch_that_is_not_full(root, capsys):
    (root / "pre.json").write_text(RECIPE % ', "batch_size": 4')
    words = ["quantize", "net.onnx", "--preprocess", "pre.json", "-o", "out", "--max-drop", "60%"]
    assert cli.main([*words, "--labels", "labels.csv"]) == 0
    shown = capsys.readouterr().out
    assert "10 labelled images; the float model is right on 100.0 %" in shown, (
        "the filling of the third batch counts nowhere"
    )
    assert "accepted: 60 points" in shown
    assert cli.main(words) == 0
    assert "agreement" in capsys.readouterr().out
    assert cli.main(["bins", "--preprocess", "pre.json", "-o", "bins"]) == 0
    words = ["quantize", "net.onnx", "--calib", "bins", "-o", "out", "--max-drop", "0.6", "--labels", "labels.csv"]
    assert cli.main(words) == 0
    assert "10 labelled images; the float model is right on 100.0 %" in capsys.readouterr().out, (
        "the record names the images"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("im 3.png", "im x.png"), "im 3.png"),
        (lambda text: text + "what\n", "labels.csv:11"),
        (lambda text: text.splitlines()[0][:-1] + "7\n" + text.split("\n", 1)[1], "5 classes"),
        (lambda text: "".join(f"{line[:-1]}{(int(line[-1]) + 1) % 5}\n" for line in text.splitlines()), "wrong on all"),
    ],
)
def test_labels_that_cannot_be_right_are_named(root, capsys, change, said):
    text = (root / "labels.csv").read_text()
    (root / "labels.csv").write_text(change(text))
    words = ["--preprocess", "pre.json", "--max-drop", "60%", "--labels", "labels.csv", "-o", "out"]
    assert cli.main(["quantize", "net.onnx", *words]) == 1
    assert said in capsys.readouterr().err


def test_a_specs_own_metric_judges(root, capsys):
    folder, dots = root / "models" / "tiny", root / "calib" / "dots"
    folder.mkdir(parents=True)
    dots.mkdir(parents=True)
    (folder / "model.toml").write_text(
        'task = "classification"\nvariants = ["int8-bs1"]\n[source]\nonnx = "net.onnx"\n[[inputs]]\nname = "x"\n'
        'shape = [3, 16, 16]\n[preprocess]\nsize = [16, 16]\n[[datasets]]\nname = "dots"\nmetric = "top1"\n'
    )
    (dots / "dataset.toml").write_text('kind = "npz"\nnames = ["0","1","2","3","4"]\n')
    words = ["quantize", "net.onnx", "--calib", "images", "--preprocess", "tiny", "--max-drop", "0.5", "-o", "out"]
    assert cli.main(words) == 1
    said = capsys.readouterr().err
    assert "dots" in said
    assert "PTH2OM_DATA" in said
    assert not (root / "out").exists(), "told before the calibration"
    pixels = np.stack([np.asarray(Image.open(root / "images" / f"im {number}.png")) for number in range(10)])
    labels = [int(line.split(",")[1]) for line in (root / "labels.csv").read_text().splitlines()]
    np.savez(dots / "dots.npz", x=pixels, y=np.asarray(labels))
    assert cli.main(words) == 0
    assert "Judged by top1 on the 10 images of dots" in capsys.readouterr().out


def test_a_detector_without_a_spec_is_told_what_to_do(root, capsys):
    net = onnx.load("net.onnx")
    net.graph.output.append(onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, ["n", 5, 12, 12]))
    onnx.save(net, "two.onnx")
    assert cli.main(["quantize", "two.onnx", "--preprocess", "pre.json", "--max-drop", "1%", "-o", "out"]) == 1
    assert "--preprocess models/NAME" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="a script with a shebang stands in for the tool")
def test_amct_converts_and_calibrates_with_the_documented_arguments(root, capsys, monkeypatch):
    from pth2om.quantize import QuantizeSettings, quantize
    from pth2om.quantize.bins import write_bins

    batches = [{"x": np.full((1, 3, 16, 16), n / 9, np.float32)} for n in range(3)]
    made = quantize(root / "net.onnx", batches, QuantizeSettings(), root / "ours").files
    (root / "bin").mkdir()
    tool = root / "bin" / "amct_onnx"
    tool.write_text(
        f"#!{sys.executable}\nimport json, shutil, sys\njson.dump(sys.argv[1:], open('{root}/typed.json', 'w'))\n"
        f"shutil.copy('{made['deploy']}', sys.argv[sys.argv.index('--save_path') + 1] + '_deploy_model.onnx')\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}")
    words = ["quantize", "net.onnx", "--amct", "--convert", "-o", "out"]
    assert cli.main([*words, "--preview"]) == 0
    assert "amct_onnx convert --model net.onnx --save_path out/net" in capsys.readouterr().out
    assert not (root / "out").exists()
    assert cli.main(words) == 0
    assert json.loads((root / "typed.json").read_text()) == ["convert", "--model", "net.onnx", "--save_path", "out/net"]
    assert "amct_onnx convert" in capsys.readouterr().err, "shown before it runs"
    assert (root / "out" / "net_fake_quant_model.onnx").is_file()

    write_bins(batches, root / "b")
    (root / "a.cfg").write_text("batch_num : 5\n")
    words = ["quantize", "net.onnx", "--amct", "--calib", "b", "--images", "2", "--cfg", "a.cfg", "-o", "out2"]
    assert cli.main(words) == 0
    assert "requires 5 batches" in capsys.readouterr().err
    typed = json.loads((root / "typed.json").read_text())
    assert typed[typed.index("--input_shape") + 1] == "x:1,3,16,16"
    assert typed[typed.index("--batch_num") + 1] == "2"

    tool.write_text("#!/bin/sh\nexit 3\n")
    assert cli.main(["quantize", "net.onnx", "--amct", "--convert", "-o", "out3"]) == 1
    assert not (root / "out3").exists()


def test_a_spec_goes_from_its_checkpoint_to_the_files(tmp_path, monkeypatch, capsys, repository):
    monkeypatch.setenv("PTH2OM_LANG", "en")
    monkeypatch.setenv("PTH2OM_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("PTH2OM_DATA", raising=False)
    monkeypatch.chdir(repository)
    out = tmp_path / "out"
    assert cli.main(["quantize", "convmixer-digits", "-o", str(out), "--skip", "*module.0/Conv", "--images", "8"]) == 0
    written = capsys.readouterr().out
    assert "(8 images)" in written
    names = {path.name for path in out.iterdir()}
    expected = {"onnx", "deploy_model.onnx", "fake_quant_model.onnx", "qdq_model.onnx", "quant.json", "record.txt"}
    assert {f"convmixer-digits{'.' if end == 'onnx' else '_'}{end}" for end in expected} <= names
    assert "convmixer_digits_int8_as_fp32.pth" in names
    table = json.loads((out / "convmixer-digits_quantize.json").read_text())
    assert [layer["name"] for layer in table["layers"] if layer["reason"] == "quantize.skipped"]
    for words, said in (
        (["--calib", "x"], "--calib has no effect"),
        (["--amct", "--max-drop", "1%"], "max_drop searches among layers"),
        (["--images", "0"], "--images"),
    ):
        assert cli.main(["quantize", "models/convmixer-digits", "-o", str(tmp_path / "other"), *words]) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    assert cli.main(["quantize", "no-such-model"]) == 1
    assert "no spec of that name" in capsys.readouterr().err


def test_the_batches_that_a_cfg_asks_for(root, capsys):
    (root / "a.cfg").write_text("batch_num : 3\n")
    words = ["quantize", "net.onnx", "--preprocess", "pre.json", "--cfg", "a.cfg", "-o", "out"]
    assert cli.main(words) == 0
    assert "(3 images)" in capsys.readouterr().out
    assert cli.main([*words, "--images", "5"]) == 0
    assert "(5 images)" in capsys.readouterr().out


def test_a_spec_is_found_from_its_own_folder(tmp_path, monkeypatch):
    from pth2om.conversion.int8_delivery import spec_folder

    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text("")
    for place, name in ((folder, "."), (folder, "model.toml"), (folder.parent, "tiny"), (tmp_path, "tiny")):
        monkeypatch.chdir(place)
        assert spec_folder(Path(name)) == folder


def test_an_option_of_int8_is_declared_once():
    """The spec's table, the settings and the verb's arguments agree in words and defaults."""
    from dataclasses import fields
    from typing import get_type_hints

    from pth2om.quantize import QuantizeSettings
    from pth2om.quantize.request import Request
    from pth2om.spec import Quantize

    own = {entry.name: entry.default for entry in fields(QuantizeSettings)}
    shared = (own.keys() & Quantize.model_fields.keys()) - {"bins"}
    assert {"activations", "weights", "asymmetric", "skip", "only", "balance", "equalize"} <= shared
    assert {name: own[name] for name in shared} == {name: Quantize.model_fields[name].default for name in shared}
    assert QuantizeSettings.from_spec(Quantize()) == QuantizeSettings()
    hints, typed = get_type_hints(QuantizeSettings), get_type_hints(Request)
    for name in ("activations", "weights", "balance"):
        assert typed[name] == hints[name] | None
        assert hints[name] == get_type_hints(Quantize)[name]
