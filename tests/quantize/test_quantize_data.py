"""What calibrates INT8 where a spec asks for it: datasets, bins, random numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from pth2om import spec as specs
from pth2om.conversion.pipeline import Pipeline
from pth2om.conversion.settings import RunSettings
from pth2om.errors import Absent, QuantizeError
from pth2om.store import Store
from tests.quantize.spec_models import layers, pipeline


def test_the_bundled_detector_calibrates_on_pictures_that_are_not_scored(repository, tmp_path):
    import runpy

    from pth2om.data import open_dataset

    spec = specs.load(repository / "models" / "yolov6-shapes")
    assert spec.quantize.dataset not in [entry.name for entry in spec.datasets]
    store = Store(tmp_path)
    calibration = open_dataset(spec.quantize.dataset, calib_root=repository / "calib", store=store)
    assert len(calibration) == spec.quantize.images == 64
    shapes = runpy.run_path(str(repository / "calib" / "shapes" / "make.py"))
    for index in (0, 63):
        assert np.array_equal(calibration.image(index), shapes["draw"]("train", index)[0])
        assert not np.array_equal(calibration.image(index), shapes["draw"]("held-out", index)[0])


def test_the_bundled_digits_calibrate_on_digits_that_are_not_scored(repository):
    from pth2om.data import open_dataset

    spec = specs.load(repository / "models" / "convmixer-digits")
    assert spec.quantize.dataset not in [entry.name for entry in spec.datasets]
    calibration = open_dataset(spec.quantize.dataset, calib_root=repository / "calib")
    scored = open_dataset("digits", calib_root=repository / "calib")
    assert len(calibration) == spec.quantize.images == 64
    held_out = {scored.image(index).tobytes() for index in range(len(scored))}
    assert not any(calibration.image(index).tobytes() in held_out for index in range(64))


@pytest.mark.filterwarnings("ignore")
def test_a_real_checkpoint_of_re_parameterized_blocks_carries_int8_weights(repository, tmp_path):
    import torch

    from pth2om import checkpoint
    from pth2om.quantize import QuantizeSettings
    from pth2om.quantize.checkpoint_fp32 import write_checkpoint
    from pth2om.quantize.network import open_session, run_session
    from pth2om.quantize.plan import make_plan

    spec = specs.load(repository / "models" / "yolov6-shapes")
    run = Pipeline(spec, RunSettings(repository / "models", repository / "calib"), Store(tmp_path / "store"))
    g = np.random.default_rng(0)
    images = [{"image": g.uniform(0, 1, (1, 3, 224, 224)).astype(np.float32)} for _ in range(3)]
    original = torch.load(run.weights, weights_only=True)
    before = original.get("state_dict", original.get("model", original))
    template = checkpoint.load_net(run.net)
    net = template.build(spec.source.num_classes, **spec.source.arguments).float().eval()
    net.load_state_dict(before, strict=True)
    example = torch.from_numpy(images[0]["image"])
    names = {"input_names": ["image"], "output_names": ["output"]}
    torch.onnx.export(template.deployed(net), example, tmp_path / "net.onnx", opset_version=13, dynamo=False, **names)
    plan = make_plan(onnx.load(tmp_path / "net.onnx"), images[:2], QuantizeSettings())
    written, findings = write_checkpoint(plan, run.weights, tmp_path / "int8.pth")
    kinds = {entry.kind for entry in written}
    assert {entry.layer for entry in written} == set(plan.quantized)
    assert "rep" in kinds
    assert "none" not in kinds
    assert max(entry.error for entry in written) < 2e-6
    assert "quantize.weights-only" in {finding.rule for finding in findings}

    content = torch.load(tmp_path / "int8.pth", weights_only=True)
    state = content.get("state_dict", content.get("model", content))
    assert list(state) == list(before)
    net.load_state_dict(state, strict=True)

    wanted_model = onnx.ModelProto()
    wanted_model.CopyFrom(plan.model)
    values = {}
    for layer in plan.quantized.values():
        values[layer.layer.weight] = layer.dequantized
        values[layer.layer.bias] = (layer.bias.astype(np.float64) * layer.deq_scale).astype(np.float32)
    for entry in wanted_model.graph.initializer:
        if entry.name in values:
            entry.CopyFrom(onnx.numpy_helper.from_array(values[entry.name], entry.name))
    (wanted,) = run_session(open_session(wanted_model), images[2]).values()
    (plain,) = run_session(open_session(plan.model), images[2]).values()
    with torch.no_grad():
        got = net(torch.from_numpy(images[2]["image"])).numpy()
    assert np.linalg.norm(got - wanted) <= 2e-6 * np.linalg.norm(wanted)
    assert np.linalg.norm(plain - wanted) > 1e-4 * np.linalg.norm(wanted), "the weights did change"


def test_a_spec_may_bring_bins_and_an_amct_configuration(root):
    from pth2om.quantize.bins import write_bins

    g = np.random.default_rng(1)
    batches = [{"x": g.random((1, 3, 16, 16), dtype=np.float32)} for _ in range(12)]
    write_bins(batches, root / "models" / "tiny" / "bins")
    (root / "models" / "tiny" / "q.cfg").write_text('skip_layers : "head"\ncommon_config : { hfmg_quantize : { } }')
    built = pipeline(root, bins=("bins",), config="q.cfg", images=10).quantized(1)
    details = built.record.details
    assert (details["images"], details["dataset"]) == (10, "bins")
    assert details["settings"]["activations"] == "hfmg"
    assert [name for name, layer in layers(built).items() if layer["int8"]] == ["body"]
    (root / "models" / "tiny" / "q.cfg").write_text('skip_layers : "body"')
    again = pipeline(root, bins=("bins",), config="q.cfg", images=10).quantized(1)
    assert [name for name, layer in layers(again).items() if layer["int8"]] == ["head"], "the file's content counts"
    (root / "models" / "tiny" / "q.cfg").write_text("batch_num : 3")
    assert pipeline(root, bins=("bins",), config="q.cfg", images=10).quantized(1).record.details["images"] == 10
    spec = specs.load(root / "models" / "tiny")
    table = specs.Quantize(bins=("bins",), config="q.cfg")
    run = Pipeline(spec.model_copy(update={"quantize": table}), pipeline(root).settings, Store(root / "store"))
    assert run.quantized(1).record.details["images"] == 3, "AMCT's number, where the spec has none"
    (next((root / "models" / "tiny" / "bins").glob("*.bin"))).write_bytes(b"")
    with pytest.raises(QuantizeError, match="bins"):
        pipeline(root, bins=("bins",)).quantized(1)


def test_where_a_configuration_lies_is_not_in_the_key(root):
    folder = root / "models" / "tiny"
    (folder / "q.cfg").write_text('skip_layers : "head"')
    (folder / "same.cfg").write_text('skip_layers : "head"')
    first, second = (pipeline(root, config=name).quantized(1) for name in ("q.cfg", "same.cfg"))
    assert second.record.key == first.record.key


def test_random_numbers_of_another_range_are_other_data(root):
    (root / "calib" / "dots" / "dots.npz").unlink()
    run = pipeline(root, random=True)
    inputs = tuple(entry.model_copy(update={"range": (0.0, 5.0)}) for entry in run.spec.inputs)
    wider = Pipeline(run.spec.model_copy(update={"inputs": inputs}), run.settings, run.store)
    assert wider.quantized(1).record.key != run.quantized(1).record.key


def test_random_calibration_is_forced_and_said(root):
    (root / "calib" / "dots" / "dots.npz").unlink()
    with pytest.raises(Absent):
        pipeline(root).quantized(1)
    built = pipeline(root, random=True).quantized(1)
    (found,) = [finding for finding in built.record.findings if finding.rule == "quantize.random-calibration"]
    assert found.severity == "error"
    assert built.record.details["random_calibration"]
    for path in built.artifact.path.glob("*.onnx"):
        kept = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert "random" in kept["pth2om.calibration"], path.name


def test_bins_that_calibrate_are_what_int8_is_compared_on(root):
    from pth2om.quantize.bins import write_bins

    folder = root / "models" / "tiny"
    g = np.random.default_rng(1)
    batches = [{"x": 40 * g.random((1, 3, 16, 16), dtype=np.float32)} for _ in range(12)]
    write_bins(batches, folder / "bins")
    text = (folder / "model.toml").read_text()
    start, end = text.index("[preprocess]"), text.index("[quantize]")
    (folder / "model.toml").write_text(text[:start].replace('"int8-bs1", "int8-bs1-aipp"', '"int8-bs1"') + text[end:])
    run = pipeline(root, bins=("bins",))
    samples = run.data.samples(1, run.spec.variants[0])
    assert (
        samples.names
        == tuple(f"real-{number} (bins)" for number in range(8))
        == tuple(name for sample in samples for name in sample.names)
    )
    for sample, batch in zip(samples, batches, strict=False):
        np.testing.assert_array_equal(sample.feeds["x"], batch["x"])
    before = samples.digest
    (next((folder / "bins").glob("*.bin"))).write_bytes(np.ones((1, 3, 16, 16), np.float32).tobytes())
    again = pipeline(root, bins=("bins",))
    assert again.data.samples(1, again.spec.variants[0]).digest != before


def test_images_do_not_calibrate_a_second_input(root):
    folder = root / "models" / "tiny"
    text = (folder / "model.toml").read_text()
    text = text.replace('[[datasets]]\nname = "dots"\nmetric = "top1"\n', "")
    text = text.replace("[quantize]", '[quantize]\ndataset = "dots"')
    (folder / "model.toml").write_text(
        text.replace("[preprocess]", '[[inputs]]\nname = "meta"\nshape = [4]\n\n[preprocess]')
    )
    with pytest.raises(Absent, match=r"no calibration data for meta"):
        pipeline(root).data.calibration(1)
    assert pipeline(root, random=True).data.calibration(1).random


def test_rows_that_fill_up_the_last_batch_are_no_images(root):
    folder = root / "models" / "tiny"
    net = onnx.load(folder / "net.onnx")
    for entry in (*net.graph.input, *net.graph.output):
        entry.type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.save(net, folder / "net.onnx")
    built = pipeline(root, images=6).quantized(4)
    assert built.record.details["images"] == 6
    assert "quantize.few-images" in {finding.rule for finding in built.record.findings}
