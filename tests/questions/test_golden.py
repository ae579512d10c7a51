"""Outputs that were computed elsewhere: ONNX Runtime plays the board, and files go out and come back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pth2om import spec as specs
from pth2om.cli import main
from pth2om.conversion.pipeline import Pipeline, RunSettings
from pth2om.errors import DataError
from pth2om.evidence import GateRecord, StageRecord
from pth2om.evidence.file import read
from pth2om.quantize.bins import InputShape, open_bins
from pth2om.questions.golden import chosen, compare_outputs, hand_out
from pth2om.session import TensorSpec
from pth2om.sessions.golden import GoldenSession, digest_of, read_output
from pth2om.store import Store

SPEC = """\
task = "tensor"
variants = ["origin-bs2"]

[source]
onnx = "net.onnx"

[[inputs]]
name = "x"
shape = [4]
range = [-2, 2]

[[inputs]]
name = "table"
shape = [4]
dtype = "int32"
batched = false
range = [1, 9]
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    """A net of two inputs and two outputs."""
    folder = tmp_path / "models" / "two"
    folder.mkdir(parents=True)
    nodes = [
        helper.make_node("Cast", ["table"], ["t"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "t"], ["product"]),
        helper.make_node("ReduceSum", ["product"], ["total"], keepdims=1),
    ]
    value = helper.make_tensor_value_info
    inputs = [value("x", TensorProto.FLOAT, [2, 4]), value("table", TensorProto.INT32, [4])]
    outputs = [value("product", TensorProto.FLOAT, [2, 4]), value("total", TensorProto.FLOAT, [1, 1])]
    graph = helper.make_graph(nodes, "two", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "net.onnx")
    (folder / "model.toml").write_text(SPEC)
    made = Pipeline(specs.load(folder), RunSettings(folder.parent, tmp_path / "calib"), Store(tmp_path / "store"))
    yield made
    made.close()


def play(
    pipeline: Pipeline, inputs: Path, outputs: Path, batch: int = 2, name: str = "{stem}_output_{number}.bin"
) -> None:
    """ONNX Runtime as the board: reads the folders as msame does, writes what it writes."""
    outputs.mkdir(parents=True)
    given = [InputShape(entry.name, entry.shape_of(batch), entry.dtype) for entry in pipeline.spec.inputs]
    bins = open_bins([inputs], given)
    stems = [path.stem for path in bins.files[given[0].name]]
    for stem, feeds in zip(stems, bins, strict=True):
        for number, array in enumerate(pipeline.onnx_session(batch).run(feeds).values()):
            path = outputs / name.format(stem=stem, number=number)
            if path.suffix == ".npy":
                np.save(path, array)
            else:
                array.tofile(path)


def verdicts(pipeline: Pipeline, root: Path) -> dict[str, str]:
    return {gate.check: gate.verdict for gate in compare_outputs(pipeline, root / "in", root / "out").gates}


@pytest.mark.parametrize("name", ["{stem}_output_{number}.bin", "{stem}_{number}.bin", "{stem}_{number}.npy"])
def test_what_goes_out_comes_back(pipeline: Pipeline, tmp_path: Path, name: str) -> None:
    handed = hand_out(chosen(pipeline, None, 2), tmp_path / "in")
    assert [folder.name for folder in handed.folders] == ["x", "table"]
    record = json.loads(handed.record.read_text(encoding="utf-8"))
    assert [(entry["name"], entry["dtype"], entry["shape"]) for entry in record["inputs"]] == [
        ("x", "float32", [2, 4]),
        ("table", "int32", [4]),
    ]
    assert record["seed"] == 0
    assert len(record["samples"]) == handed.batches
    joined = ",".join(str(folder) for folder in handed.folders)
    assert handed.commands
    assert all(f"--input {joined} " in command for command in handed.commands)
    play(pipeline, tmp_path / "in", tmp_path / "out" / "20260101", name=name)
    gates = compare_outputs(pipeline, tmp_path / "in", tmp_path / "out").gates
    assert {gate.check.split("/")[1] for gate in gates} == {"product", "total"}
    assert {gate.verdict for gate in gates} == {"passed"}
    # No file proves a device.
    assert {gate.ground for gate in gates} == {"double"}


def test_a_perturbed_output_fails(pipeline: Pipeline, tmp_path: Path) -> None:
    hand_out(chosen(pipeline, None, 2), tmp_path / "in")
    play(pipeline, tmp_path / "in", tmp_path / "out")
    path = tmp_path / "out" / "batch_0000_output_0.bin"
    values = np.fromfile(path, np.float32)
    (values * np.float32(1.2) + np.float32(0.1)).tofile(path)
    found = verdicts(pipeline, tmp_path)
    assert found["onnx~golden/product/relative_l2"] == "failed"
    assert found["onnx~golden/total/relative_l2"] == "passed"


def test_what_is_missing_is_not_measured(pipeline: Pipeline, tmp_path: Path) -> None:
    hand_out(chosen(pipeline, None, 2), tmp_path / "in")
    play(pipeline, tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / "batch_0001_output_1.bin").unlink()
    found = verdicts(pipeline, tmp_path)
    assert found["golden/outputs"] == "not_measured"
    assert found["onnx~golden/product/relative_l2"] == "passed"
    for path in (tmp_path / "out").iterdir():
        path.unlink()
    assert verdicts(pipeline, tmp_path) == {"golden/outputs": "not_measured"}


def _cut(root: Path) -> None:
    path = root / "out" / "batch_0000_output_0.bin"
    path.write_bytes(path.read_bytes()[:-2])


def _changed(root: Path) -> None:
    path = root / "in" / "x" / "batch_0000.bin"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def _twice(root: Path) -> None:
    shutil.copy(root / "out" / "batch_0000_output_0.bin", root / "out" / "batch_0000_0.bin")


@pytest.mark.parametrize(
    ("spoil", "key"),
    [
        (_cut, "golden.wrong-size"),
        (_changed, "golden.changed-inputs"),
        (_twice, "outputs.two-files"),
        (lambda root: (root / "in.json").unlink(), "golden.no-record"),
        (lambda root: shutil.rmtree(root / "out"), "outputs.no-folder"),
    ],
)
def test_wrong_files_are_a_sentence(
    pipeline: Pipeline, tmp_path: Path, spoil: Callable[[Path], object], key: str
) -> None:
    hand_out(chosen(pipeline, None, 2), tmp_path / "in")
    play(pipeline, tmp_path / "in", tmp_path / "out")
    spoil(tmp_path)
    with pytest.raises(DataError) as caught:
        compare_outputs(pipeline, tmp_path / "in", tmp_path / "out")
    assert caught.value.message.key == key


def test_only_known_feeds_are_answered() -> None:
    output = TensorSpec("y", (2,), np.dtype("float32"))
    with pytest.raises(DataError) as caught:
        GoldenSession((), (output,), {}).run({"x": np.zeros(2, np.float32)})
    assert caught.value.message.key == "golden.unknown-feeds"
    assert digest_of({"x": np.zeros(2, np.float32)}) != digest_of({"x": np.zeros((1, 2), np.float32)})


def test_an_npy_of_another_form_is_refused(tmp_path: Path) -> None:
    output = TensorSpec("y", (2, None), np.dtype("float32"))
    np.save(tmp_path / "half.npy", np.ones((2, 3), np.float16))
    assert read_output(tmp_path / "half.npy", output).dtype == np.float32
    np.save(tmp_path / "flat.npy", np.ones(6, np.float32))
    with pytest.raises(DataError) as caught:
        read_output(tmp_path / "flat.npy", output)
    assert caught.value.message.key == "golden.wrong-form"
    (tmp_path / "text.npy").write_text("1 2 3")
    with pytest.raises(DataError) as caught:
        read_output(tmp_path / "text.npy", output)
    assert caught.value.message.key == "golden.unreadable"


def test_the_custom_operator_by_the_command_line(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = repository / "models" / "msda"
    asked = ["golden", str(model), "--inputs", str(tmp_path / "in"), "--reports", str(tmp_path / "reports")]
    assert main(asked) == 0
    names = ("value", "value_spatial_shapes", "value_level_start_index", "sampling_locations", "attention_weights")
    assert f"--input {','.join(str(tmp_path / 'in' / name) for name in names)} " in capsys.readouterr().out
    pipeline = Pipeline(specs.load(model), RunSettings(model.parent, repository / "calib"), Store())
    play(pipeline, tmp_path / "in", tmp_path / "out")
    pipeline.close()
    assert main([*asked, "--outputs", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "torch~golden/output/relative_l2" in printed
    assert "not measured by pth2om" in printed
    # Evidence and report as of an acceptance run; no figure stands on a device's ground.
    (run,) = (tmp_path / "reports").iterdir()
    records = list(read(run / "evidence.jsonl"))
    gates = [record for record in records if isinstance(record, GateRecord)]
    assert {gate.ground for gate in gates} == {"double"}
    assert {gate.provenance.name for gate in gates if gate.provenance} == {"golden"}
    assert {"checkpoint", "onnx"} <= {record.stage for record in records if isinstance(record, StageRecord)}
    assert records[-1].kind == "end"
    page = (run / "index.html").read_text(encoding="utf-8")
    assert "outputs computed elsewhere" in page
    assert "unproven" in page
    next((tmp_path / "out").iterdir()).unlink()
    assert main([*asked, "--outputs", str(tmp_path / "out")]) == 1


def test_a_gear_goes_out_in_its_own_shape(repository: Path, tmp_path: Path) -> None:
    folder = repository / "models" / "bert-tiny"
    spec = specs.load(folder)
    name = next(entry.name for entry in spec.variants if entry.name.endswith("seq16"))
    made = Pipeline(spec, RunSettings(folder.parent, repository / "calib", threads=1), Store())
    subject = chosen(made, name, None)
    handed = hand_out(subject, tmp_path / "in")
    assert handed.commands
    assert all("--dymDims 'input_ids:1,16;attention_mask:1,16;token_type_ids:1,16'" in one for one in handed.commands)
    given = [InputShape(entry.name, (1, 16), "int64") for entry in spec.inputs]
    bins = open_bins([tmp_path / "in"], given)
    (tmp_path / "out").mkdir()
    for number, feeds in enumerate(bins):
        (logits,) = made.torch_session().run(feeds).values()
        logits.tofile(tmp_path / "out" / f"batch_{number:04d}_0.bin")
    found = compare_outputs(made, tmp_path / "in", tmp_path / "out")
    made.close()
    assert (found.subject.case, {gate.variant for gate in found.gates}) == (name, {name})
    assert {gate.verdict for gate in found.gates} <= {"passed", "shown"}
    assert any(gate.check == "torch~golden/scores/relative_l2" for gate in found.gates)


def test_int8_outputs_are_judged_as_int8(repository: Path, tmp_path: Path) -> None:
    """The fake-quant twin plays an INT8 OM: too far for fp16, and as near as INT8 may be."""
    folder = repository / "models" / "convmixer-digits"
    made = Pipeline(specs.load(folder), RunSettings(folder.parent, repository / "calib", threads=1), Store())
    hand_out(chosen(made, "int8-bs1", None), tmp_path / "in")
    board = made.fake_quant_session(1)
    (tmp_path / "out").mkdir()
    given = [InputShape("image", (1, 1, 16, 16), "float32")]
    for number, feeds in enumerate(open_bins([tmp_path / "in"], given)):
        board.run(feeds)["logits"].tofile(tmp_path / "out" / f"batch_{number:04d}_output_0.bin")
    found = compare_outputs(made, tmp_path / "in", tmp_path / "out")
    gates = {gate.check: gate for gate in found.gates}
    as_int8 = gates["onnx~golden/scores/relative_l2"]
    assert as_int8.verdict == "passed"
    assert as_int8.limit is not None
    record = json.loads((tmp_path / "in.json").read_text(encoding="utf-8"))
    (tmp_path / "in.json").write_text(json.dumps({**record, "variant": None}), encoding="utf-8")
    plain = {gate.check: gate for gate in compare_outputs(made, tmp_path / "in", tmp_path / "out").gates}
    as_fp16 = plain["onnx~golden/scores/relative_l2"]
    assert as_fp16.limit is not None
    assert as_fp16.limit.value < as_int8.limit.value
    made.close()


@pytest.mark.parametrize(
    ("model", "variant", "batch", "key"),
    [
        ("convmixer-digits", "fp16-bs2", None, "golden.no-variant"),
        ("convmixer-digits", "fp16-bs4", 1, "golden.variant-batch"),
        ("convmixer-digits", None, 0, "golden.wrong-batch"),
        ("yolov6-shapes", "*aipp", None, "golden.aipp"),
    ],
)
def test_what_cannot_be_handed_out_is_refused(
    repository: Path, model: str, variant: str | None, batch: int | None, key: str
) -> None:
    spec = specs.load(repository / "models" / model)
    if variant == "*aipp":
        variant = next(entry.name for entry in spec.variants if entry.aipp)
    made = Pipeline(spec, RunSettings(spec.folder.parent, repository / "calib"), Store())
    with pytest.raises(DataError) as caught:
        chosen(made, variant, batch)
    assert caught.value.message.key == key
    assert caught.value.message.render("zh")
