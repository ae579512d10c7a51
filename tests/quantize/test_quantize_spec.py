"""INT8 as a spec asks for it: which layers, how much drop, and what the evidence says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from pth2om import spec as specs
from pth2om.errors import QuantizeError, SpecError
from tests.quantize.spec_models import layers, pipeline


def test_max_drop_keeps_the_fewest_layers_in_floating_point(root):
    plain = pipeline(root).quantized(1)
    assert [name for name, layer in layers(plain).items() if layer["int8"]] == ["body", "head"]

    built = pipeline(root, max_drop=3.0).quantized(1)
    search = built.record.details["search"]
    assert search["floating"] == ["body"]
    assert [name for name, layer in layers(built).items() if layer["int8"]] == ["head"]
    assert search["trials"][0]["drop"]["drop"] > 3, "all INT8 is beyond the limit, so there is something to search"
    assert search["proven"]
    assert search["drop"]["high"] <= 3
    floated = [finding for finding in built.record.findings if finding.rule == "quantize.floated"]
    assert [finding.node for finding in floated] == ["body"]
    deploy = onnx.load(built.file)
    assert sum(node.op_type == "AscendQuant" for node in deploy.graph.node) == 1

    again = pipeline(root, max_drop=3.0).quantized(1)
    assert again.record.cached
    assert again.record.key == built.record.key
    assert plain.record.key != built.record.key


def test_what_the_search_judges_by_is_in_the_key(root):
    built = pipeline(root, max_drop=3.0).quantized(1)
    labels = np.load(root / "calib" / "dots" / "dots.npz")
    np.savez(root / "calib" / "dots" / "dots.npz", x=labels["x"], y=(labels["y"] + 1) % 10)
    other = pipeline(root, max_drop=100.0).quantized(1)
    assert other.record.key != built.record.key
    assert not other.record.details["search"]["floating"]


def test_a_limit_nothing_keeps_is_said_and_leaves_no_file(root):
    with pytest.raises(QuantizeError, match=r"No choice of INT8 layers"):
        pipeline(root, max_drop=0.0, only=("body",)).quantized(1)
    assert not list((root / "store").rglob("deploy.onnx"))


def test_only_and_skip_of_a_spec(root):
    built = pipeline(root, only=("b*", "head"), skip=("he*",)).quantized(1)
    found = layers(built)
    assert [name for name, layer in found.items() if layer["int8"]] == ["body"]
    assert {name: layer["reason"] for name, layer in found.items() if not layer["int8"]} == {
        "stem": "quantize.outside-only",
        "head": "quantize.skipped",
    }
    deploy = onnx.load(built.file)
    floats = {tensor.name for tensor in deploy.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    assert {"stem", "head"} <= floats
    assert "body" not in floats


def test_the_command_of_int8_with_aipp_names_its_configuration(root):
    run = pipeline(root)
    plain, pixels = run.spec.variants
    command = run.om(pixels).record.command
    (option,) = [word for word in command if word.startswith("--insert_op_conf=")]
    assert "input_format" in Path(option.split("=", 1)[1]).read_text()
    assert any(word.startswith("--model=") and word.endswith("deploy.onnx") for word in command)
    assert not [word for word in run.om(plain).record.command if "insert_op_conf" in word]


def test_layers_that_atc_would_roll_back_are_reported(root):
    built = pipeline(root).quantized(1)
    stem = layers(built)["stem"]
    assert stem["rolls_back"], "three input channels: ATC runs it in FP16 even when quantized"
    assert not stem["int8"]
    (found,) = [finding for finding in built.record.findings if finding.node == "stem"]
    assert found.rule == "quantize.left-float"
    assert "3" in str(found.message)


@pytest.mark.parametrize(
    "table",
    ['tool = "amct_onnx"\nonnx = "a.onnx"', 'onnx = "a.onnx"\nmax_drop = 1.0', 'bins = ["b"]\ndataset = "dots"'],
)
def test_contradictions_in_a_spec_are_told(root, table):
    path = root / "models" / "tiny" / "model.toml"
    path.write_text(path.read_text() + table)
    with pytest.raises(SpecError, match=r"model\.toml"):
        specs.load(path.parent)


def test_each_batch_size_of_a_file_with_a_symbolic_batch_is_quantized_for_itself(root):
    folder = root / "models" / "tiny"
    net = onnx.load(folder / "net.onnx")
    for entry in (*net.graph.input, *net.graph.output):
        entry.type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.save(net, folder / "net.onnx")
    run = pipeline(root)
    built = {batch: run.quantized(batch) for batch in (1, 4)}
    assert built[1].record.key != built[4].record.key
    for batch, one in built.items():
        assert onnx.load(one.file).graph.input[0].type.tensor_type.shape.dim[0].dim_value in (0, batch)
        run.fake_quant_session(batch).run({"x": np.zeros((batch, 3, 16, 16), np.float32)})


def test_what_int8_costs_is_measured_against_the_onnx_file_a_spec_starts_from(root):
    from pth2om.questions.accuracy import accuracy
    from pth2om.questions.candidate import Candidate
    from pth2om.questions.subject import Subject

    run = pipeline(root)
    variant, dataset = run.spec.variants[0], run.spec.datasets[0]
    labelled = run.data.dataset(dataset.name, 60)
    reference, om = (Candidate.of(each) for each in (run.reference_session(), run.om_sessions(variant)))
    gates = accuracy(Subject(run, variant), reference, om, labelled, dataset)
    (drop,) = [gate for gate in gates if gate.check == "om/top1/drop"]
    assert (drop.ground, drop.details["images"], drop.details["reference"]) == ("emulated", 60, 100.0)
    assert drop.details["original"] == "onnx"
    assert drop.measured > 3, "INT8 ruins this model"
    captions = " ".join(str(picture["caption"]) for picture in drop.details["pictures"])
    assert "ONNX" in captions
    assert "PyTorch" not in captions
