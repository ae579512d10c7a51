"""`pth2om.convert`: one file to checked files, by the stages and questions of an acceptance run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import pth2om
from pth2om import spec as specs
from pth2om.errors import CheckpointError, ConvertError, ToolchainError
from pth2om.onefile import Options, templates
from pth2om.onefile.conversion import Conversion
from pth2om.progress import Cancelled, Progress, Step
from pth2om.toolchain import choosing
from pth2om.toolchain.fake import FakeToolchain

TEMPLATE = """
from torch import nn
TEMPLATE_NAME = "{title}"
def build(num_classes=5, pretrained=False):
    return nn.Sequential(nn.Conv2d({channels}, 20, 3), nn.ReLU(), nn.Conv2d(20, 4, 3), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(4, num_classes))
"""


def classifier(channels: int = 3, classes: int = 5) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(channels, 20, 3),
        nn.ReLU(),
        nn.Conv2d(20, 4, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    ).eval()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save({"model_state_dict": classifier().state_dict()}, tmp_path / "best.pt")
    return tmp_path / "best.pt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of templates, two of which do not fit."""
    place = tmp_path / "nets"
    place.mkdir()
    for title, channels in (("colour", 3), ("grey", 1)):
        (place / f"{title}.py").write_text(TEMPLATE.format(title=title, channels=channels))
    (place / "broken.py").write_text("TEMPLATE_NAME = 'broken'\nraise SystemError('no')\n")
    (place / "notes.py").write_text("nothing = 1\n")
    return place


def verdicts(done: Conversion) -> dict[str, str]:
    """Question and first part of each check -> the worst verdict."""
    found: dict[str, str] = {}
    for gate in done.gates:
        name = f"{gate.question}/{gate.check.split('/')[0]}"
        found[name] = gate.verdict if found.get(name, "passed") == "passed" else found[name]
    return found


def test_a_state_dict_finds_its_template_and_is_checked(tmp_path: Path, weights: Path, folder: Path) -> None:
    options = Options(size=(12,), templates=folder, output=tmp_path / "out")
    done = pth2om.convert(weights, "Ascend310B1", options)
    assert (done.status, done.ground) == (0, "emulated")
    assert set(verdicts(done).values()) == {"passed"}
    assert (
        verdicts(done).items()
        >= {
            "checkpoint/checkpoint": "passed",
            "export/onnx": "passed",
            "closeness/torch~onnx": "passed",
            "preflight/preflight": "passed",
            "preflight/om": "passed",
            "closeness/onnx~om": "passed",
            "closeness/torch~om": "passed",
        }.items()
    )
    assert any("colour" in message.render() for message in done.said)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"best.onnx", "best.emulated", "best.convert.json"}
    assert "--input_shape=input:1,3,12,12" in done.command
    record = json.loads(done.files["conversion"].read_text())
    assert record["files"]["best.onnx"] == hashlib.sha256(done.files["onnx"].read_bytes()).hexdigest()
    assert record["ground"] == "emulated"
    assert record["toolchain"]["ground"] == "emulated"
    assert len(record["gates"]) == len(done.gates)


def test_the_delivered_onnx_computes_what_pytorch_does(tmp_path: Path, weights: Path, folder: Path) -> None:
    import onnxruntime as ort

    options = Options(size=(12,), template="colour", templates=folder, output=tmp_path / "out", batch=2)
    done = pth2om.convert(weights, None, options)
    assert done.ground is None
    assert done.command == ()
    assert set(done.files) == {"onnx", "conversion"}
    values = np.random.default_rng(0).random((2, 3, 12, 12), dtype=np.float32)
    session = ort.InferenceSession(str(done.files["onnx"]))
    (got,) = session.run(None, {"input": values})
    with torch.no_grad():
        wanted = classifier()(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_which_opset_worked_and_which_did_not(tmp_path: Path, weights: Path, folder: Path) -> None:
    from pth2om.onefile import wording

    options = Options(size=(12,), templates=folder, output=tmp_path / "out", opset=14, validate_onnx=False)
    done = pth2om.convert(weights, None, options)
    assert onnx.load(done.files["onnx"]).opset_import[0].version == 14
    text = "\n".join(wording.lines(done))
    assert "opset 14: taken" in text
    assert "switched off" in text
    assert Options(opset=15).opsets[:3] == (15, 14, 13)
    assert Options(opset=15, fallback=False).opsets == (15,)


def test_int8_by_images_or_bins(tmp_path: Path, weights: Path, folder: Path) -> None:
    from PIL import Image

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.png")
    plain = Options(size=(12,), templates=folder, output=tmp_path / "out", int8=True, calib=(pictures,))
    with pytest.raises(ConvertError, match="--mean"):
        pth2om.convert(weights, "Ascend310B1", plain)
    options = dataclasses.replace(plain, mean=(0.5,) * 3, std=(0.25,) * 3)
    done = pth2om.convert(weights, "Ascend310B1", options)
    assert done.status == 0, done.failed
    assert {"deploy", "fake_quant", "emulated", "calibration"} <= set(done.files)
    assert done.files["emulated"].name == "best_int8.emulated"
    assert "--model=" + str(tmp_path / "out" / "best_deploy_model.onnx") in done.command
    assert {"AscendQuant", "AscendDequant"} <= {node.op_type for node in onnx.load(done.files["deploy"]).graph.node}
    bins = dataclasses.replace(options, calib=(done.files["calibration"],), output=tmp_path / "again")
    again = pth2om.convert(weights, "Ascend310B1", bins)
    assert again.files["deploy"].read_bytes() == done.files["deploy"].read_bytes()


def test_a_saved_spec_passes_in_pytest(tmp_path: Path, weights: Path, folder: Path) -> None:
    from pth2om.harness.accepting import accept_models

    options = Options(
        name="mine", size=(12,), template="colour", templates=folder, output=tmp_path / "out",
        aipp=True, mean=(123.5, 116.0, 103.0), std=(58.0, 57.0, 57.0), atc=("--log=info",),
        save_spec=tmp_path / "repo" / "models",
    )  # fmt: skip
    done = pth2om.convert(weights, "Ascend310B1", options)
    assert done.status == 0, done.failed
    spec = specs.load(tmp_path / "repo" / "models" / "mine")
    assert spec.variants[0].name == "fp16-bs1-aipp"
    assert spec.preprocess is not None
    assert spec.preprocess.scale == 1.0
    assert (spec.folder / "net.py").read_text() == (folder / "colour.py").read_text()
    accepted = accept_models(tmp_path / "repo", match="mine and not latency", soc="Ascend310B1", quiet=True)
    assert accepted.exit_status == 0
    same = {gate.check for gate in done.gates if gate.verdict == "passed"}
    assert same <= {gate.check for gate in accepted.gates if gate.verdict == "passed"}
    with pytest.raises(CheckpointError, match="already exists"):
        pth2om.convert(weights, "Ascend310B1", options)


def test_torchscript_and_whole_modules_bring_their_architecture(tmp_path: Path) -> None:
    example = torch.zeros(1, 3, 12, 12)
    torch.jit.trace(classifier(), example).save(tmp_path / "traced.bin")
    torch.save(classifier(), tmp_path / "whole.onnx")  # the suffix lies
    written = {}
    for file, through in (("traced.bin", None), ("whole.onnx", "trace")):
        options = Options(size=(12,), output=tmp_path / f"{file}-out", template="ignored", torchscript=through)
        done = pth2om.convert(tmp_path / file, "Ascend310P3" if through is None else None, options)
        assert done.status == 0, done.failed
        assert any("ignored" in message.render() for message in done.said)
        assert verdicts(done)["closeness/torchscript~onnx"] == "passed"
        written[file] = done.files
    # The program itself is delivered where it was made, not where it was given.
    assert "torchscript" not in written["traced.bin"]
    assert written["traced.bin"]["emulated"].is_dir()
    program = torch.jit.load(written["whole.onnx"]["torchscript"])
    torch.testing.assert_close(program(example + 1), classifier()(example + 1))
    for options in (Options(exporter="dynamo"), Options(torchscript="script", exporter="dynamo")):
        with pytest.raises(ConvertError, match="torchscript exporter only"):
            pth2om.convert(tmp_path / "traced.bin", None, options)


def test_gears_are_one_file_and_a_spec_of_all(tmp_path: Path, weights: Path, folder: Path) -> None:
    options = Options(
        name="geared", size=(12,), template="colour", templates=folder, output=tmp_path / "out",
        dynamic_batch_size=(1, 3), save_spec=tmp_path / "models",
    )  # fmt: skip
    done = pth2om.convert(weights, "Ascend310P3", options)
    assert done.status == 0, done.failed
    assert {"--input_shape=input:-1,3,12,12", "--dynamic_batch_size=1,3"} <= set(done.command)
    twins = {gate.variant for gate in done.gates if gate.check.startswith("static~om") and gate.verdict == "passed"}
    assert twins == {"fp16-gears1_3-bs1", "fp16-gears1_3-bs3"}
    assert [variant.name for variant in specs.load(tmp_path / "models" / "geared").variants] == sorted(twins)
    assert onnx.load(done.files["onnx"]).graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert len(list(done.files["emulated"].glob("gear-*"))) == 2


def test_scores_are_printed_where_labelled_images_are_given(tmp_path: Path, weights: Path, folder: Path) -> None:
    from PIL import Image

    from pth2om.onefile import wording

    for number in range(6):
        place = tmp_path / "labelled" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    options = Options(size=(12,), template="colour", templates=folder, output=tmp_path / "out")
    torch.save(classifier(classes=2).state_dict(), weights)
    scored = dataclasses.replace(options, dataset=tmp_path / "labelled", mean=(0.5,) * 3, std=(0.25,) * 3)
    with pytest.raises(ConvertError, match="--mean"):
        pth2om.convert(weights, None, dataclasses.replace(options, dataset=tmp_path / "labelled"))
    with pytest.raises(ConvertError, match="neither one folder"):
        pth2om.convert(weights, None, dataclasses.replace(scored, dataset=tmp_path / "nets"))
    with pytest.raises(ConvertError, match="--task is tensor"):
        pth2om.convert(weights, None, dataclasses.replace(scored, task="tensor"))
    done = pth2om.convert(weights, None, scored)
    lines = list(wording.lines(done))
    assert [line for line in lines if line.startswith("bs1 top1 on 6 images: reference ")]
    (drop,) = [gate for gate in done.gates if gate.check == "onnx/top1/drop"]
    assert drop.details["reference"] == drop.details["candidate"]
    assert all("--om-" not in line for line in lines)


def test_onnx_is_its_own_reference(tmp_path: Path) -> None:
    torch.onnx.export(
        classifier(),
        (torch.zeros(1, 3, 12, 12),),
        tmp_path / "m.onnx",
        dynamo=False,
        input_names=["x"],
        opset_version=17,
    )
    done = pth2om.convert(tmp_path / "m.onnx", "Ascend310B1", Options(output=tmp_path / "out", output_type="FP16"))
    assert verdicts(done)["closeness/onnx~om"] == "passed"
    assert not any("torch" in gate.check for gate in done.gates)
    assert [word for word in done.command if "output_type" in word] == ["--output_type=FP16"]
    with pytest.raises(ConvertError, match="would replace the file"):
        pth2om.convert(tmp_path / "m.onnx", None, Options(output=tmp_path, force=True))


def test_what_fails_is_a_gate_and_what_is_behind_it_not_reached(tmp_path: Path) -> None:
    class Wrong(nn.Module):
        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return value.reshape(7, 7)

    torch.jit.script(Wrong()).save(tmp_path / "wrong.pt")
    options = Options(input_shape="x:1,3,4,4", output=tmp_path / "out")
    done = pth2om.convert(tmp_path / "wrong.pt", "Ascend310B1", options)
    assert done.status == 1
    assert {gate.verdict for gate in done.gates} == {"passed", "failed", "not_reached"}
    assert set(done.files) == {"conversion"}
    assert json.loads(done.files["conversion"].read_text())["status"] == 1
    again = pth2om.convert(tmp_path / "wrong.pt", "Ascend310B1", options)  # its own record is not in the way
    assert again.status == 1


def test_without_its_int8_file_no_atc_line_is_printed(
    tmp_path: Path, weights: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pth2om.onefile.advice import after

    monkeypatch.setenv("PATH", str(tmp_path))  # no amct_onnx
    options = Options(
        size=(12,), templates=folder, output=tmp_path / "out", int8=True, random_calibration=True, quantizer="amct_onnx"
    )
    done = pth2om.convert(weights, "Ascend310B1", options)
    assert done.status == 1
    assert (done.command, done.atc) == ((), "")
    assert set(done.files) == {"onnx", "conversion"}
    (command,) = after(done)
    assert "--int8" in command
    assert "amct_onnx" not in command


def test_a_real_toolchain_gives_an_om_file(tmp_path: Path, weights: Path, folder: Path) -> None:
    undo = choosing.register("double", FakeToolchain.maker())
    try:
        options = Options(size=(12,), templates=folder, output=tmp_path / "out", toolchain="double")
        done = pth2om.convert(weights, "Ascend310B1", options)
    finally:
        undo()
    assert done.ground == "double"
    assert done.files["om"].name == "best.om"


def test_files_of_others_stay(tmp_path: Path, weights: Path, folder: Path) -> None:
    options = Options(size=(12,), templates=folder, output=tmp_path / "out")
    first = pth2om.convert(weights, None, options)
    pth2om.convert(weights, "Ascend310B1", options)  # its own files are replaced
    assert (tmp_path / "out" / "best.emulated").is_dir()
    first.files["onnx"].write_bytes(b"mine now")
    with pytest.raises(ConvertError, match="not replaced"):
        pth2om.convert(weights, None, options)
    assert first.files["onnx"].read_bytes() == b"mine now"
    pth2om.convert(weights, None, dataclasses.replace(options, force=True))
    assert first.files["onnx"].read_bytes() != b"mine now"
    other = Options(size=(12,), templates=folder, output=tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "best.convert.json").write_text("{}")
    with pytest.raises(ConvertError, match="not replaced"):
        pth2om.convert(weights, None, other)


def test_cancelled_from_another_thread_it_leaves_no_file(tmp_path: Path, weights: Path, folder: Path) -> None:
    progress = Progress()
    seen: list[str] = []

    def stop(step: Step) -> None:
        seen.append(step.title)
        if step.title.endswith(": export") and not step.ended:
            thread = threading.Thread(target=progress.cancel)
            thread.start()
            thread.join()

    progress.subscribe(stop)
    options = Options(size=(12,), templates=folder, output=tmp_path / "out")
    with pytest.raises(Cancelled):
        pth2om.convert(weights, None, options, progress=progress)
    assert seen[-1].endswith(": export")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(batch=0), "at least 1"),
        (Options(mean=(0.5,)), "one value per channel"),
        (Options(input_shape="x:1,3,4,4", batch=2), "already"),
        (Options(images=4), "--int8"),
        (Options(int8=True), "calibration data"),
        (Options(atc=("--model=other.onnx",)), "FILE"),
        (Options(opset=99), "between"),
        (Options(name="../x"), "not a valid name"),
        (Options(save_spec=Path("models"), name="a b"), "not a valid name"),
        (Options(batch=2, dynamic_batch_size=(1, 2)), "contradict"),
        (Options(size=(8,), dynamic_image_size=((8, 8), (4, 4))), "contradict"),
        (Options(dynamic_dims=((8,), (4,)), dynamic_batch_size=(1, 2)), "contradict"),
        (Options(torchscript="trace", dynamic_batch_size=(1, 2)), "contradict"),
        (Options(atc=("--dynamic_dims=1;2",)), "--dynamic-dims"),
    ],
)
def test_options_without_meaning_are_refused_before_the_file_is_read(options: Options, says: str) -> None:
    with pytest.raises(ConvertError, match=says):
        pth2om.convert(Path("absent.pth"), None, options)


def test_an_unknown_soc_is_refused_first() -> None:
    with pytest.raises(ToolchainError, match="Ascend310B4"):
        pth2om.convert(Path("absent.pth"), "Ascend310B9")


def test_templates_are_listed_without_running_them(folder: Path) -> None:
    assert [template.name for template in templates.listed(folder)] == ["broken", "colour", "grey"]


def test_templates_that_fit_are_named(tmp_path: Path, weights: Path, folder: Path) -> None:
    (folder / "twin.py").write_text(TEMPLATE.format(title="twin", channels=3))
    with pytest.raises(CheckpointError, match="colour, twin"):
        pth2om.convert(weights, None, Options(templates=folder, output=tmp_path / "out"))
    (folder / "colour.py").unlink()
    (folder / "twin.py").unlink()
    with pytest.raises(CheckpointError, match=r"grey: .*channel"):
        pth2om.convert(weights, None, Options(templates=folder, output=tmp_path / "out"))
    with pytest.raises(ConvertError, match="there are: broken, grey"):
        pth2om.convert(weights, None, Options(template="absent", templates=folder, output=tmp_path / "out"))
