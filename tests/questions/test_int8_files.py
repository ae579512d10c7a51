"""Every gate on the files of an INT8 variant can fail: they are broken in one place each, and its gate fails."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pth2om import spec as specs
from pth2om.conversion.pipeline import Pipeline
from pth2om.conversion.settings import RunSettings
from pth2om.errors import Absent
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.questions import int8_files
from pth2om.questions.accuracy import accuracy
from pth2om.questions.candidate import Candidate
from pth2om.questions.closeness import closeness
from pth2om.questions.subject import Subject
from pth2om.store import Store

SPEC = """\
task = "classification"
variants = ["int8-bs1"]

[source]
checkpoint = "net.pth"
num_classes = 5

[[inputs]]
name = "x"
shape = [3, 12, 12]

[export]
outputs = ["y"]

[preprocess]
size = [12, 12]

[[slices]]
name = "scores"
kind = "scores"

[[datasets]]
name = "dots"
metric = "top1"

[quantize]
images = 16
"""

NET = """\
import torch
from torch import nn

TEMPLATE_NAME = "three"


def block(before, after):
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


def build(num_classes, pretrained=False):
    body = [block(3, 24), block(24, 24), block(24, 24)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, num_classes))
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A small net of convolutions with BatchNorm, quantized on pictures that it labels itself."""
    import torch

    root = tmp_path_factory.mktemp("int8-files")
    folder, dots = root / "models" / "three", root / "calib" / "dots"
    folder.mkdir(parents=True)
    dots.mkdir(parents=True)
    (folder / "model.toml").write_text(SPEC)
    (folder / "net.py").write_text(NET)
    names: dict[str, object] = {}
    exec(NET, names)
    torch.manual_seed(2)
    module = names["build"](5)
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (320, 1, 1, 3))
    pixels = np.clip(colours + generator.integers(-60, 60, (320, 12, 12, 3)), 0, 255).astype(np.uint8)
    images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    with torch.no_grad():
        module.train()(images)  # gives every BatchNorm its statistics
        head = module.eval()[-1]
        head.weight *= 40
        head.bias -= module(images).mean(0)
        labels = module(images).argmax(1).numpy()
    assert len(set(labels)) == 5
    torch.save(module.state_dict(), folder / "net.pth")
    (dots / "dataset.toml").write_text('kind = "npz"\nnames = ["a", "b", "c", "d", "e"]\n')
    np.savez(dots / "dots.npz", x=pixels, y=labels)
    settings = RunSettings(root / "models", root / "calib", soc="Ascend310P3")
    pipeline = Pipeline(specs.load(folder), settings, Store(root / "store"))
    pipeline.quantized(1)
    return pipeline


class Copy:
    """The files of the variant, free to be broken."""

    def __init__(self, pipeline: Pipeline, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        built = pipeline.quantized(1)
        shutil.copytree(built.artifact.path, folder)
        artifact = replace(built.artifact, path=folder)
        self.built = replace(built, artifact=artifact, file=folder / "deploy.onnx")
        self.deploy, self.twin, self.checkpoint = (
            folder / name for name in ("deploy.onnx", "fake_quant.onnx", "int8_as_fp32.pth")
        )
        monkeypatch.setattr(pipeline, "quantized", lambda batch: self.built)
        monkeypatch.setattr(pipeline.sessions, "_open", {})
        (variant,) = pipeline.spec.variants
        self.pipeline = pipeline
        self.subject = Subject(pipeline, variant)
        self.samples = pipeline.data.samples(1, variant)

    def failed(self) -> set[str]:
        gates = int8_files.files(self.subject, self.built, self.samples)
        return {gate.check for gate in gates if gate.verdict != "passed"}

    def failed_checkpoint(self) -> set[str]:
        gates = int8_files.fp32_checkpoint(self.subject, self.built, self.samples)
        return {gate.check for gate in gates if gate.verdict != "passed"}

    def edit(self, change, *paths: Path) -> None:
        for path in paths or (self.deploy,):
            model = onnx.load(path)
            change(model)
            onnx.save(model, path)

    def twin_again(self) -> None:
        """The twin of the deploy model as it is now: both are wrong in the same way."""
        from pth2om.quantize.twins import fake_quant

        onnx.save(fake_quant(onnx.load(self.deploy)), self.twin)
        record = replace(self.built.record, digest=self.pipeline.store.digest(self.deploy))
        self.built = replace(self.built, record=record)

    def closeness(self) -> set[str]:
        reference, session = self.pipeline.onnx_session(1), self.pipeline.fake_quant_session(1)
        gates = closeness(self.subject, Candidate.of(reference), Candidate.of(session), self.samples)
        return {gate.check for gate in gates if gate.verdict != "passed"}


@pytest.fixture
def files(original, tmp_path, monkeypatch):
    return Copy(original, tmp_path / "files", monkeypatch)


def quants(model):
    return [node for node in model.graph.node if node.op_type == "AscendQuant"]


def constant(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def put(model, name, array):
    constant(model, name).CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))


def attribute(node, name):
    return next(entry for entry in node.attribute if entry.name == name)


def scaled(factor, every):
    """All dequantization scales of the second layer (or one channel of it) too large."""

    def change(model):
        name = [node.input[1] for node in model.graph.node if node.op_type == "AscendDequant"][1]
        bits = numpy_helper.to_array(constant(model, name)).astype(np.uint32)
        scales = bits.view(np.float32).copy()
        scales[slice(None) if every else 0] *= factor
        put(model, name, scales.view(np.uint32).astype(np.uint64))

    return change


def test_whole_files_pass(files):
    assert files.failed() == set()
    assert files.failed_checkpoint() == set()
    assert files.closeness() == set()
    gates = int8_files.files(files.subject, files.built, files.samples)
    (form,) = [gate for gate in gates if gate.check == "quantized/form"]
    assert form.cached


def int_offset(model):
    offset = attribute(quants(model)[0], "offset")
    value = int(offset.f)
    assert value != 0
    offset.Clear()
    offset.name, offset.type, offset.i = "offset", onnx.AttributeProto.INT, value


def no_offset(model):
    node = quants(model)[0]
    node.attribute.remove(attribute(node, "offset"))


def offset_outside(model):
    attribute(quants(model)[0], "offset").f = 200.0


def scale_of_zero(model):
    attribute(quants(model)[0], "scale").f = 0.0


def unsorted(model):
    nodes = list(model.graph.node)
    model.graph.ClearField("node")
    model.graph.node.extend([*nodes[:-3], nodes[-1], nodes[-2], nodes[-3]])


def float_weight(model):
    name = next(node.input[1] for node in model.graph.node if node.op_type == "Conv" and "int8" in node.input[1])
    put(model, name, numpy_helper.to_array(constant(model, name)).astype(np.float32))


def float_bias(model):
    name = next(node.input[2] for node in model.graph.node if len(node.input) > 2 and "int32" in node.input[2])
    put(model, name, numpy_helper.to_array(constant(model, name)).astype(np.float32))


def short_scale(model):
    name = next(node.input[1] for node in model.graph.node if node.op_type == "AscendDequant")
    put(model, name, numpy_helper.to_array(constant(model, name))[:-1])


def signed_scale(model):
    name = next(node.input[1] for node in model.graph.node if node.op_type == "AscendDequant")
    put(model, name, numpy_helper.to_array(constant(model, name)).astype(np.int64))


@pytest.mark.parametrize(
    "change",
    [
        int_offset,
        no_offset,
        offset_outside,
        scale_of_zero,
        unsorted,
        float_weight,
        float_bias,
        short_scale,
        signed_scale,
    ],
)
def test_a_malformed_deploy_model_fails_its_form(files, change):
    files.edit(change)
    assert "quantized/form" in files.failed()


def test_an_operator_that_no_parser_has_is_refused(files):
    def change(model):
        model.graph.node[-1].op_type = "AscendWeightQuant"

    files.edit(change)
    assert "quantized/refused-by-parser" in files.failed()


def test_a_twin_of_foreign_operators_fails(files):
    def change(model):
        model.graph.node[0].domain = "amct.customop"

    files.edit(change, files.twin)
    assert files.failed() == {"quantized/form"}


def swapped_weights(model):
    (first, second) = [
        node.input[1] for node in model.graph.node if node.op_type == "Conv" and "int8" in node.input[1]
    ][:2]
    one, other = (numpy_helper.to_array(constant(model, name)) for name in (first, second))
    assert one.shape == other.shape
    put(model, first, other)
    put(model, second, one)


@pytest.mark.parametrize("change", [scaled(1.01, every=False), swapped_weights], ids=["deq_scale", "weights"])
def test_a_deploy_model_that_is_not_its_twin_fails(files, change):
    files.edit(change)
    assert "quantized/twin-differing" in files.failed()


@pytest.mark.parametrize("change", [scaled(1.5, every=True), swapped_weights], ids=["deq_scale", "weights"])
def test_files_that_agree_on_something_wrong_fail_against_onnx(files, change):
    files.edit(change)
    files.twin_again()
    assert files.failed() == set(), "they are twins, and well formed"
    assert {"onnx~fake-quant/scores/relative_l2"} <= files.closeness()


def test_wrong_weights_fail_the_metric(files):
    files.edit(swapped_weights)
    files.twin_again()
    pipeline = files.pipeline
    labelled, (dataset,) = pipeline.data.dataset("dots"), pipeline.spec.datasets
    reference, candidate = Candidate.of(pipeline.torch_session()), Candidate.of(pipeline.fake_quant_session(1))
    gates = accuracy(files.subject, reference, candidate, labelled, dataset)
    verdicts = {gate.check: gate.verdict for gate in gates}
    assert verdicts == {"fake-quant/top1/drop": "failed", "fake-quant/unreadable": "passed"}


@pytest.mark.parametrize(("int8", "reason"), [(False, ""), (False, "quantize.skipped")])
def test_a_table_of_layers_that_is_not_the_models_fails(files, int8, reason):
    rows = [dict(row) for row in files.built.record.details["layers"]]
    row = next(row for row in rows if row["int8"])
    row |= {"int8": int8, "reason": reason}
    record = replace(files.built.record, details={**files.built.record.details, "layers": rows})
    files.built = replace(files.built, record=record)
    assert files.failed() == {"quantized/layers-unexplained"}


def test_a_layer_left_float_without_a_reason_fails(files):
    rows = [dict(row) for row in files.built.record.details["layers"]]
    row = next(row for row in rows if not row["int8"])
    row["reason"] = ""
    record = replace(files.built.record, details={**files.built.record.details, "layers": rows})
    files.built = replace(files.built, record=record)
    assert files.failed() == {"quantized/layers-unexplained"}


@pytest.mark.parametrize("damage", ["missing", "unexpected", "reshaped"])
def test_a_checkpoint_with_other_keys_fails(files, damage):
    import torch

    state = torch.load(files.checkpoint, weights_only=True)
    name = next(name for name in state if name.endswith("0.weight"))
    if damage == "missing":
        del state[name]
    elif damage == "unexpected":
        state["extra.weight"] = torch.zeros(3)
    else:
        state[name] = state[name].reshape(-1)
    torch.save(state, files.checkpoint)
    assert files.failed_checkpoint() == {"fp32-checkpoint/keys-changed"}
    (gate,) = int8_files.fp32_checkpoint(files.subject, files.built, files.samples)
    assert gate.message is not None
    assert "strict=True" in gate.message.render("en")


def test_a_checkpoint_with_an_unquantized_weight_fails(files):
    import torch

    state = torch.load(files.checkpoint, weights_only=True)
    float_state = torch.load(files.pipeline.weights, weights_only=True)
    name = "1.0.weight"
    assert not torch.equal(state[name], float_state[name])
    for key in (name, "1.1.weight", "1.1.bias", "1.1.running_mean", "1.1.running_var"):
        state[key] = float_state[key]
    torch.save(state, files.checkpoint)
    assert files.failed_checkpoint() == {"fp32-checkpoint/relative_l2"}


def test_a_layer_that_could_not_be_written_back_leaves_nothing_to_compare_with(files):
    message = say("quantize.not-in-checkpoint")
    left = Finding("quantize.not-in-checkpoint", "warning", message, node="/0/0/Conv")
    record = replace(files.built.record, findings=(*files.built.record.findings, left))
    files.built = replace(files.built, record=record)
    gates = {gate.check: gate for gate in int8_files.fp32_checkpoint(files.subject, files.built, files.samples)}
    assert gates["fp32-checkpoint/keys-changed"].verdict == "passed"
    partly = gates["fp32-checkpoint/relative_l2"]
    assert (partly.verdict, partly.measured) == ("not_measured", None)
    assert "/0/0/Conv" in str(partly.message)


def test_the_score_of_int8_weights_alone_is_shown_not_judged(files):
    pipeline = files.pipeline
    labelled, (dataset,) = pipeline.data.dataset("dots"), pipeline.spec.datasets
    session = pipeline.int8_weights_session(files.built)
    reference = Candidate.of(pipeline.torch_session())
    gate, _ = accuracy(files.subject, reference, Candidate.of(session), labelled, dataset)
    assert (gate.check, gate.limit, gate.verdict, gate.ground) == ("int8-weights/top1/drop", None, "shown", "host")
    assert gate.interval is not None


def test_absent_weights_are_what_is_absent(files, monkeypatch):
    files.checkpoint.unlink()
    with pytest.raises(Absent) as told:
        files.failed_checkpoint()
    assert told.value.message.key == "pipeline.no-fp32-checkpoint"
    monkeypatch.setitem(files.pipeline.source.__dict__, "weights", None)
    with pytest.raises(Absent) as told:
        files.failed_checkpoint()
    assert told.value.message.key == "pipeline.weights-absent"
