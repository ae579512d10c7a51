"""``pth2om convert`` as typed: exit status, and a next command after every refusal that can itself be read."""

from __future__ import annotations

import itertools
import json
import shlex
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from pth2om.cli import main
from pth2om.cli.convert import options_of
from pth2om.errors import ConvertError
from pth2om.onefile import Options


def _chain() -> bytes:
    """An ONNX file of twenty nodes, its batch fixed to 1."""
    from onnx import TensorProto, helper

    names = ["x", *(f"t{number}" for number in range(19)), "y"]
    nodes = [helper.make_node("Relu", [a], [b], name=f"relu_{b}") for a, b in itertools.pairwise(names)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    opset = helper.make_opsetid("", 17)
    whole: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    return whole


CHAIN = _chain()
CUT = CHAIN[: len(CHAIN) // 2]


def parsed(words: list[str]) -> Options:
    import argparse

    from pth2om.cli import convert

    parser = argparse.ArgumentParser()
    convert.configure(parser)
    return options_of(parser.parse_args(words))


def test_a_file_as_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)), "a b'$(x).pt")
    assert main(["convert", "a b'$(x).pt", "--soc", "Ascend310P3", "--size", "8", "--", "--log=info"]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("atc ")]
    words = shlex.split(line)
    assert {"--soc_version=Ascend310P3", "--input_shape=image:1,3,8,8", "--log=info"} <= set(words)
    assert "EMULATED" in out
    assert not list(tmp_path.glob("**/*.om"))
    (again,) = [line for line in out.splitlines() if line.startswith("Next: pth2om convert")]
    assert parsed(shlex.split(again)[3:]).save_spec == Path("models")


@pytest.mark.parametrize(
    "name", ["empty.pth", "text.pt", "noise.onnx", "cut.onnx", "folder", "some.zip", "absent.pth", "\x1b[2J\n.pth"]
)
def test_what_is_no_model_ends_with_the_next_command(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {
        "empty.pth": b"",
        "text.pt": b"hello\n",
        "noise.onnx": bytes(range(256)) * 8,
        "cut.onnx": CUT,
        "\x1b[2J\n.pth": b"x",
    }
    if name in contents:
        Path(name).write_bytes(contents[name])
    elif name == "folder":
        Path(name).mkdir()
    elif name == "some.zip":
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr("a.txt", "x")
    assert main(["convert", name, "--soc", "Ascend310B1"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "\x1b" not in said
    assert said.strip().splitlines()[-1].startswith("Next: ")
    assert "--help" not in said
    assert not list(tmp_path.glob("*-converted"))


def test_the_options_write_themselves_and_read_back() -> None:
    options = Options(
        name="n", output=Path("out"), force=True, template="t", templates=Path("nets"), num_classes=3, trust=True,
        task="tensor", batch=2, channels=4, size=(8, 9), opset=13, fallback=False, exporter="dynamo",
        dynamic_batch=True, precision="mixed", output_type="FP16", precheck=False, validate_onnx=False,
        validate_om=False, aipp_config=Path("a.cfg"), aipp_format="YUV420SP_U8", color="BGR", mean=(1.0, 2.0, 3.5),
        std=(1.0, 2.0, 3.0), scale=2.0, resize="letterbox", recipe=Path("p.json"), atc=("--log=info", "--x y"),
        int8=True, calib=(Path("a"), Path("b c")), images=4, random_calibration=True, calibration_config=Path("c.cfg"),
        quantized=Path("q.onnx"), quantizer="amct_onnx", save_spec=Path("models"), dtypes={"ids": "int64"},
        torchscript="trace", dynamic_batch_size=(1, 4), dynamic_image_size=((8, 9), (4, 4)),
        dynamic_dims=((1, 2, 3), (4, 5, 6)), toolchain="cann", boards=("ssh://a@b", "ssh://c"),
        dataset=Path("pictures"),
    )  # fmt: skip
    import dataclasses

    read = parsed(["f.pth", *options.words()])
    assert dataclasses.replace(read, data_roots=()) == options
    assert parsed(["f.pth", "--aipp", "--mixed", "--atc", "--log=info"]).aipp is True
    assert parsed(["f.pth", "--real"]).toolchain == "cann"
    assert parsed(["f.pth", "--torchscript"]).torchscript == "auto"
    assert parsed(["f.pth", "--dynamic-image-size", "8x9; 4,4;"]).dynamic_image_size == ((8, 9), (4, 4))


def test_a_board_needs_no_other_word() -> None:
    assert parsed(["f.pth"]).chosen_toolchain == "emulator"
    named = parsed(["f.pth", "--board", "ssh://root@192.0.2.7"])
    assert named.chosen_toolchain == "cann"
    named.check()
    with pytest.raises(ConvertError) as caught:
        parsed(["f.pth", "--board", "ssh://root@192.0.2.7", "--toolchain", "emulator"]).check()
    assert caught.value.message.key == "convert.needs"


@pytest.mark.parametrize(
    ("typed", "following"),
    [
        (["--board", "192.0.2.7"], "pth2om convert m.onnx --soc Ascend310B1 --board ssh://USER@HOST"),
        (["--board", "ssh://nobody@127.0.0.1:1"], "pth2om doctor --board ssh://nobody@127.0.0.1:1"),
    ],
)
def test_a_board_that_is_not_there_has_a_next_command(
    typed: list[str],
    following: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(CHAIN)
    assert main(["convert", "m.onnx", "--soc", "Ascend310B1", *typed]) == 2
    said = capsys.readouterr().err
    assert "  → " in said
    assert said.strip().splitlines()[-1] == f"Next: {following}"
    assert not list(tmp_path.glob("*-converted"))


@pytest.mark.parametrize("asked", [["--batch", "4"], ["--dynamic-batch-size", "1,4"]])
def test_an_onnx_file_of_another_shape_is_to_be_taken_as_it_is(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(CHAIN)
    assert main(["convert", "m.onnx", "--soc", "Ascend310B1", *asked]) == 1
    assert capsys.readouterr().out.strip().splitlines()[-1] == "Next: pth2om convert m.onnx --soc Ascend310B1"


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3)), tmp_path / "m.pt")
    words = ["convert", str(tmp_path / "m.pt"), "--size", "8", "-o", str(tmp_path / "out"), "--json"]
    assert main(words) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["files"]["onnx"] == str(tmp_path / "out" / "m.onnx")
    assert read["ground"] is None
