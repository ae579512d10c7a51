"""``pth2om evaluate``: the score of an acceptance run, in files that other tools read, also after a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pth2om import accuracy
from pth2om.cli import main
from pth2om.conversion.pipeline import Pipeline, RunSettings
from pth2om.data import Preprocessor, open_dataset
from pth2om.errors import DataError
from pth2om.offline import evaluate, evaluating, read_sources
from pth2om.offline.results import read_result
from pth2om.spec import load
from pth2om.store import Store
from pth2om.toolchain.choosing import register
from pth2om.toolchain.fake import FakeToolchain

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "models" / "convmixer-digits"
IMAGES = 37  # neither 4 nor 8 divides it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset as ImageNet lies on a disk: image files and val_label.txt, but of digits."""
    place = tmp_path_factory.mktemp("digits-images")
    source = open_dataset("digits", calib_root=ROOT / "calib")
    with (place / "val_label.txt").open("w", encoding="utf-8") as labels:
        for k in range(IMAGES):
            Image.fromarray(source.image(k)).save(place / f"ILSVRC2012_val_{k + 1:08d}.png")
            labels.write(f"ILSVRC2012_val_{k + 1:08d}.png {source.label(k)}\n")
    calib = place / "calib" / "digits"
    calib.mkdir(parents=True)
    (calib / "dataset.toml").write_text(f'kind = "images"\nclasses = 10\ncontent = "{"0" * 64}"\n', encoding="utf-8")
    return place


@pytest.fixture
def pipeline(folder: Path) -> Iterator[Pipeline]:
    made = piped(folder)
    yield made
    made.close()


def piped(folder: Path, soc: str | None = None, toolchain: str = "emulator") -> Pipeline:
    settings = RunSettings(
        DIGITS.parent, folder / "calib", soc=soc, toolchain=toolchain, datasets={"digits": folder}, threads=1
    )
    return Pipeline(load(DIGITS), settings, Store())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_score_is_that_of_the_acceptance_run(pipeline: Pipeline, folder: Path, tmp_path: Path) -> None:
    done = evaluate(pipeline, tmp_path / "out", [4, 1], inputs=True)
    labelled = pipeline.data.dataset("digits")
    prepare = Preprocessor(pipeline.data.preprocess())
    for result, batch in zip(done.results, (1, 4), strict=True):
        session = pipeline.onnx_session(batch)
        wanted = accuracy.measure(session, labelled, prepare, pipeline.spec.postprocess, batch=batch)["metrics"]
        assert (result.batch, result.images, result.absent, result.not_finite) == (batch, IMAGES, 0, 0)
        assert (result.top1, result.top5) == (wanted["top1"], wanted["top5"])
        # What a board's msame is fed, and what it would write, are these files.
        for k, path in enumerate(sorted((tmp_path / "out" / f"prep_image_bs{batch}").iterdir())):
            feeds = {"image": np.fromfile(path, np.float32).reshape(batch, 1, 16, 16)}
            written = tmp_path / "out" / f"outputs_bs{batch}_onnx" / f"input_{k:05d}_output_0.bin"
            assert written.read_bytes() == session.run(feeds)["logits"].tobytes()
    assert done.status == 0
    assert "ONNX Runtime on this machine" in done.table
    assert " fps |" not in done.table
    assert (tmp_path / "out" / "table.md").read_text(encoding="utf-8") == done.table + "\n"
    # The spec's 99.33 belongs to 597 images, not to these.
    assert any("not compared" in remark.render("en") for remark in done.remarks)
    # `pth2om parse` finds the same figures in the files.
    (again,) = read_sources([tmp_path / "out" / "outputs_bs4_onnx"], labels=tmp_path / "out" / "val_label.txt")
    assert (again.top1, again.interval) == (done.results[1].top1, done.results[1].interval)


def test_an_emulated_om_is_called_so_and_has_no_fps(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(DIGITS), "--calib", str(folder / "calib"), "--datasets-path", str(folder)]
    asked = [*words, "--soc", "Ascend310P3", "--batch-size", "8", "--images", "11", "--outfmt", "TXT"]
    assert main([*asked, "-o", str(tmp_path / "out")]) == 0
    printed, told = capsys.readouterr()
    (row,) = (line for line in printed.splitlines() if line.startswith("| Ascend310P3 | 8 | digits |"))
    assert row.endswith("; emulated | not measured (emulated) |")
    assert "(emulated)" in told
    assert "atc --model=" in told
    kept = read_result(tmp_path / "out" / "result_bs8.json")
    assert (kept.ground, kept.fps, kept.tool, kept.images) == ("emulated", None, None, 11)
    # Nothing in this net is fused, so both bands compute the same, and one folder holds it.
    bands = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert bands == {"outputs_bs8_fused"}
    assert (kept.band, kept.soc, kept.dataset) == ("fused", "Ascend310P3", "digits")
    # A board's log beside it gives the table its speed, and its source.
    log = tmp_path / "msame_bs8.txt"
    log.write_text("Inference average time : 20.0 ms\n", encoding="utf-8")
    assert main(["parse", str(log), str(tmp_path / "out" / "result_bs8.json")]) == 0
    joined = capsys.readouterr().out
    (row,) = (line for line in joined.splitlines() if line.endswith("; emulated | 400.00 fps |"))
    assert row.startswith("| Ascend310P3 | 8 | digits | Top1 ")
    assert "not measured by pth2om" in joined
    for option, other in (("--soc", "Ascend310B1"), ("--dataset", "imagenet")):
        assert main(["parse", str(tmp_path / "out" / "result_bs8.json"), option, other]) == 1
        assert f" and {other}." in capsys.readouterr().err
    assert main([*asked, "-o", str(tmp_path / "out"), "--batch-size", "0"]) == 1


def test_a_killed_run_goes_on_where_it_was(pipeline: Pipeline, folder: Path, tmp_path: Path) -> None:
    whole, place = tmp_path / "whole", tmp_path / "killed"
    told = evaluate(pipeline, whole, [4]).table
    code = f"""
import os, signal
from pathlib import Path
from pth2om.files import replacing
import pth2om.offline.running as running, contextlib
count = 0
@contextlib.contextmanager
def dying(path):
    global count
    with replacing(path) as scratch:
        yield scratch
        count += 1
        if count == 5:  # written, not renamed
            os.kill(os.getpid(), signal.SIGKILL)
running.replacing = dying
from tests.offline.test_evaluate import piped
from pth2om.offline import evaluate
evaluate(piped(Path({str(folder)!r})), Path({str(place)!r}), [4])
"""
    died = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=120)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    outputs = place / "outputs_bs4_onnx"
    left = contents(outputs)
    assert sum(name.startswith("input_") for name in left) == 4
    assert len(left) == 5  # and the one that was being written
    assert not (place / "result_bs4.json").exists()
    before = {path.name: path.stat().st_mtime_ns for path in outputs.glob("input_*")}
    heard: list[str] = []
    assert evaluate(pipeline, place, [4], told=lambda message: heard.append(message.render("en"))).table == told
    assert any("4 of 10 inferences are done already" in line for line in heard)
    assert {name: (outputs / name).stat().st_mtime_ns for name in before} == before
    assert contents(outputs) == contents(whole / "outputs_bs4_onnx")
    assert (place / "result_bs4.json").read_bytes() == (whole / "result_bs4.json").read_bytes()


def test_outputs_of_something_else_are_not_taken_for_these(pipeline: Pipeline, folder: Path, tmp_path: Path) -> None:
    evaluate(pipeline, tmp_path / "out", [8])
    fewer = Pipeline(
        pipeline.spec, RunSettings(DIGITS.parent, folder / "calib", datasets={"digits": folder}, subset=9), Store()
    )
    with pytest.raises(DataError) as caught:
        evaluate(fewer, tmp_path / "out", [8])
    assert caught.value.message.key == "offline.other-making"
    assert "dataset, images" in caught.value.message.render("en")
    (tmp_path / "out" / "outputs_bs8_onnx.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        evaluate(pipeline, tmp_path / "out", [8])
    assert caught.value.message.key == "offline.foreign-folder"
    fewer.close()


def test_too_low_an_accuracy_is_the_verbs_no(pipeline: Pipeline, folder: Path, tmp_path: Path) -> None:
    (entry,) = pipeline.spec.datasets
    strict = pipeline.spec.model_copy(update={"datasets": (entry.model_copy(update={"min_score": 100.1}),)})
    settings = RunSettings(DIGITS.parent, folder / "calib", datasets={"digits": folder})
    with_limit = Pipeline(strict, settings, Store())
    done = evaluate(with_limit, tmp_path / "out", [8])
    with_limit.close()
    assert done.status == 1
    assert any("below the 100.1 %" in remark.render("en") for remark in done.remarks)


def test_a_double_is_no_device(folder: Path, tmp_path: Path) -> None:
    undo = register("fake", FakeToolchain.maker())
    try:
        made = piped(folder, "Ascend310P3", "fake")
        done = evaluate(made, tmp_path / "out", [8])
        made.close()
    finally:
        undo()
    (result,) = done.results
    assert (result.ground, result.fps) == ("double", None)
    assert "; test double | not measured (test double) |" in done.table
    assert json.loads((tmp_path / "out" / "result_bs8.json").read_text(encoding="utf-8"))["origin"].count("no NPU")


def test_seeded_weights_have_no_accuracy(folder: Path, tmp_path: Path) -> None:
    text = (DIGITS / "model.toml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith(("sha256", "variants"))]
    spec = tmp_path / "models" / "convmixer-digits" / "model.toml"
    spec.parent.mkdir(parents=True)
    net = (ROOT / "models" / "convmixer" / "net.py").as_posix()
    spec.write_text(
        "\n".join(lines).replace('"../convmixer/net.py"', f'"{net}"\nseeded = true').replace("depth = 4", "depth = 1")
        + '\n[variants]\nprecision = ["fp16"]\nbatch = [8]\n',
        encoding="utf-8",
    )
    made = Pipeline(
        load(spec.parent),
        RunSettings(spec.parent.parent, folder / "calib", datasets={"digits": folder}, threads=1),
        Store(),
    )
    done = evaluate(made, tmp_path / "out", [8])
    made.close()
    assert done.status == 1
    assert done.results[0].top1 is None
    assert "| not measured | not measured (ONNX Runtime on this machine) |" in done.table
    assert "--weights" in (done.remarks[0].fix() or "")
    source = made.spec.source.model_copy(update={"fetch": "convmixer"})
    named = SimpleNamespace(spec=made.spec.model_copy(update={"source": source}), seeded=True)
    assert "pth2om fetch convmixer" in evaluating._seeded(named).with_fix("en")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["yolov6-shapes"], ["(task detection)", "pytest -k yolov6-shapes"]),
        (["nnunet3d", "--soc", "Ascend310P3"], ["(task segmentation)", "pytest -k nnunet3d --soc Ascend310P3"]),
        (["bert-tiny", "--soc", "Ascend310P3"], ["no [preprocess]", "pytest -k bert-tiny --soc Ascend310P3"]),
        (["convmixer-digits", "--dataset", "imagenet"], ["no dataset imagenet", "with it: digits", "--dataset"]),
        (["convmixer-digits", "--soc", "Ascend9"], ["no SoC named Ascend9"]),
        (["convmixer-digits", "--weights", "absent.pth"], ["--weights names this file", "--weights FILE"]),
        (["convmixer-digits", "--board", "ssh://a@b", "--toolchain", "emulator"], ["--board", "Leave out"]),
    ],
)
def test_a_refusal_names_what_to_do(
    words: list[str], says: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, *options = words
    assert main(["evaluate", str(ROOT / "models" / model), *options, "-o", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert [part for part in says if part not in said] == []
    assert "  → " in said
    assert "--om-" not in said
    assert not (tmp_path / "out").exists()


def test_a_board_is_reached_by_the_toolchain_of_cann(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(DIGITS), "--soc", "Ascend310P3", "--images", "2", "--batch-size", "2"]
    assert main([*words, "-o", str(tmp_path / "out"), "--board", "ssh://nobody@127.0.0.1:1"]) == 1
    said = capsys.readouterr().err
    assert "127.0.0.1:1" in said
    assert "  → " in said
    assert "--om-" not in said


def test_wrong_batch_sizes_end_in_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", str(DIGITS), "--batch-size", "1,x"])
    assert caught.value.code == 2
    assert "'1,x'" in capsys.readouterr().err
