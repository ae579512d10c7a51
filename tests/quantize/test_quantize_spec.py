"""INT8 as a spec asks for it: which layers, how much drop, and what the evidence says of it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from pth2om import spec as specs
from pth2om.conversion.pipeline import Pipeline
from pth2om.conversion.settings import RunSettings
from pth2om.errors import Absent, QuantizeError, SpecError
from pth2om.store import Store
from tests.quantize.quantize_nets import model, tensor

SPEC = """\
task = "classification"
variants = ["int8-bs1", "int8-bs1-aipp"]

[source]
onnx = "net.onnx"

[[inputs]]
name = "x"
shape = [3, 16, 16]

[preprocess]
size = [16, 16]

[[datasets]]
name = "dots"
metric = "top1"

[quantize]
images = 8
"""


@pytest.fixture
def root(tmp_path):
    """A classifier of three convolutions, the second of which INT8 ruins, and images it labels itself."""
    import onnxruntime

    g = np.random.default_rng(0)

    def w(*shape):
        return (g.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    # Channels that differ by a factor of 3000 share one range: the small ones, which decide, are rounded off.
    spread = np.where(np.arange(32) % 2, 1.0, 1 / 3000.0).astype(np.float32)
    body = w(32, 32, 3, 3)
    body[:, 1::2] = 0
    body[:, ::2] *= 3000
    nodes = [
        onnx.helper.make_node("Conv", ["x", "stem"], ["a"], name="stem", strides=[2, 2]),
        onnx.helper.make_node("Tanh", ["a"], ["b"], name="tanh"),
        onnx.helper.make_node("Mul", ["b", "spread"], ["c"], name="spread_out"),
        onnx.helper.make_node("Conv", ["c", "body"], ["d"], name="body"),
        onnx.helper.make_node("Tanh", ["d"], ["e"], name="tanh2"),
        onnx.helper.make_node("Conv", ["e", "head"], ["f"], name="head"),
        onnx.helper.make_node("GlobalAveragePool", ["f"], ["h"], name="gap"),
        onnx.helper.make_node("Flatten", ["h"], ["y"], name="flat"),
    ]
    weights = [
        tensor("stem", w(32, 3, 3, 3)),
        tensor("spread", spread.reshape(1, 32, 1, 1)),
        tensor("body", body),
        tensor("head", w(10, 32, 1, 1)),
    ]
    net = model(nodes, weights, [("x", [1, 3, 16, 16])], [("y", [1, 10])])
    folder, dots = tmp_path / "models" / "tiny", tmp_path / "calib" / "dots"
    folder.mkdir(parents=True)
    dots.mkdir(parents=True)
    (folder / "model.toml").write_text(SPEC)
    onnx.save(net, folder / "net.onnx")
    # Each picture a colour of its own: of mere noise the means are alike, and so would be all labels.
    pixels = np.clip(g.integers(0, 256, (300, 1, 1, 3)) + g.integers(-40, 40, (300, 16, 16, 3)), 0, 255).astype(
        np.uint8
    )
    session = onnxruntime.InferenceSession(net.SerializeToString(), providers=["CPUExecutionProvider"])
    labels = [
        int(session.run(None, {"x": picture.transpose(2, 0, 1)[None].astype(np.float32) / 255})[0].argmax())
        for picture in pixels
    ]
    assert len(set(labels)) > 3
    (dots / "dataset.toml").write_text('kind = "npz"\nnames = ["0","1","2","3","4","5","6","7","8","9"]\n')
    np.savez(dots / "dots.npz", x=pixels, y=np.asarray(labels))
    return tmp_path


def pipeline(root: Path, **quantize):
    spec = specs.load(root / "models" / "tiny")
    table = spec.quantize.model_copy(update=quantize)
    settings = RunSettings(root / "models", root / "calib", soc="Ascend310P3")
    return Pipeline(spec.model_copy(update={"quantize": table}), settings, Store(root / "store"))


def layers(built):
    return {layer["name"]: layer for layer in built.record.details["layers"]}


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


AMCT = '''#!{python}
"""A stand-in for amct_onnx: takes the options of its calibration command, and reads the data as it does."""
import argparse, sys
from pathlib import Path
import numpy as np
from pth2om.quantize import quantize
from pth2om.quantize.amct_config import read_config

parser = argparse.ArgumentParser(allow_abbrev=True)
parser.add_argument("verb", choices=["calibration"])
for name in ("model", "save_path", "input_shape", "data_dir", "data_types", "calibration_config"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--batch_num", type=int, default=1)
a = parser.parse_args()
entries = [entry.rsplit(":", 1) for entry in a.input_shape.split(";")]
names, shapes = [name for name, _ in entries], [[int(size) for size in shape.split(",")] for _, shape in entries]
folders, dtypes = a.data_dir.split(";"), a.data_types.split(";")
assert len(names) == len(folders) == len(dtypes)
def batches():
    files = [sorted(Path(f).iterdir(), key=lambda p: p.name) for f in folders]
    assert all(len(f) >= a.batch_num for f in files), "fewer files than batch_num"
    for row in list(zip(*files))[: a.batch_num]:
        yield {{n: np.fromfile(p, d).reshape(s) for n, p, d, s in zip(names, row, dtypes, shapes)}}
settings, _ = read_config(Path(a.calibration_config)).settings()
out = Path(a.save_path)
quantize(Path(a.model), batches(), settings, out.parent, prefix=out.name)
print("amct_onnx was here")
'''


@pytest.fixture
def amct_onnx(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "amct_onnx").write_text(AMCT.format(python=sys.executable))
    (folder / "amct_onnx").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script with a first line that names Python")
def test_amct_onnx_quantizes_where_a_spec_says_so(root, amct_onnx):
    built = pipeline(root, tool="amct_onnx", images=6, skip=("head",)).quantized(1)
    details = built.record.details
    assert details["quantized_by"] == "amct_onnx"
    assert "--batch_num 6" in details["command"]
    assert "settings" not in details, "none of ours made it"
    assert {name: layer["int8"] for name, layer in layers(built).items()} == {
        "stem": False,
        "body": True,
        "head": False,
    }
    assert [error["layer"] for error in details["errors"]] == ["body"], "errors are measured against the float model"
    assert [proof["layer"] for proof in details["proof"]] == ["body"]
    assert (details["images"], details["calibration_digest"] != "") == (6, True)
    assert sorted(path.name for path in built.artifact.path.iterdir() if path.suffix == ".onnx") == [
        "deploy.onnx",
        "fake_quant.onnx",
    ]
    run = pipeline(root, tool="amct_onnx", images=6, skip=("head",))
    assert run.om(run.spec.variants[0]).record.provenance.ground == "emulated"


def test_without_amct_onnx_its_row_is_not_measured(root, monkeypatch):
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(Absent, match="amct_onnx"):
        pipeline(root, tool="amct_onnx").quantized(1)


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


@pytest.mark.parametrize("role", ["deploy", "qdq"])
def test_a_model_that_is_quantized_already_goes_straight_on(root, role):
    from pth2om.quantize import QuantizeSettings, quantize

    folder = root / "models" / "tiny"
    g = np.random.default_rng(1)
    feeds = [{"x": g.random((1, 3, 16, 16), dtype=np.float32)} for _ in range(4)]
    source = pipeline(root).onnx(1).file
    made = quantize(source, feeds, QuantizeSettings(skip=("head",)), root / "made").files[role]
    made.rename(folder / "int8.onnx")
    run = pipeline(root, onnx="int8.onnx")
    built = run.quantized(1)
    assert [name for name, layer in layers(built).items() if layer["int8"]] == ["body"]
    assert built.record.details["dataset"] == "", "nothing is calibrated"
    assert run.om(run.spec.variants[0]).record.provenance.ground == "emulated"
    with pytest.raises(Absent, match=r"other\.onnx"):
        pipeline(root, onnx="other.onnx").quantized(1)


OWN = """\
import sys
from pathlib import Path
from pth2om.quantize import QuantizeSettings, quantize
source, target = Path(sys.argv[1]), Path(sys.argv[2])
made = quantize(source, None, QuantizeSettings(skip=("SKIPPED",)), target.parent, prefix="made", random=True)
made.files["deploy"].rename(target)
"""


def test_a_command_may_name_a_script_beside_the_spec_whose_content_counts(root, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    script, words = root / "models" / "tiny" / "own.py", (sys.executable, "own.py", "{onnx_in}", "{onnx_out}")
    for skipped, left in (("head", "body"), ("body", "head")):
        script.write_text(OWN.replace("SKIPPED", skipped))
        built = pipeline(root, command=words, weights="arq", images=2).quantized(1)
        assert [name for name, layer in layers(built).items() if layer["int8"]] == [left]
    (found,) = [finding for finding in built.record.findings if finding.rule == "quantize.keys-unread"]
    assert found.message.values["names"] == "weights", "images are read: they are what calibrates"
    assert pipeline(root, command=words, weights="arq", images=2).quantized(1).record.cached


TWO = """\
task = "tensor"
variants = ["int8-bs1"]
[source]
onnx = "net.onnx"
[[inputs]]
name = "x"
shape = [20, 8, 8]
[[inputs]]
name = "mask"
shape = [1, 8, 8]
[quantize]
bins = ["bins"]
"""


def test_a_model_of_two_inputs_hands_both_to_whoever_quantizes(tmp_path, amct_onnx):
    from pth2om.quantize.bins import write_bins

    g = np.random.default_rng(0)
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        onnx.helper.make_node("Mul", ["a", "mask"], ["y"], name="masked"),
    ]
    weight = tensor("w", g.standard_normal((4, 20, 1, 1)).astype(np.float32))
    shapes = {"x": [1, 20, 8, 8], "mask": [1, 1, 8, 8]}
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    onnx.save(model(nodes, [weight], list(shapes.items()), [("y", [1, 4, 8, 8])]), folder / "net.onnx")
    (folder / "model.toml").write_text(TWO)
    batches = [{name: g.random(shape, dtype=np.float32) for name, shape in shapes.items()} for _ in range(11)]
    write_bins(batches, folder / "bins")
    for place in ("x", "mask"):
        for number, path in enumerate(sorted((folder / "bins" / place).iterdir())):
            path.rename(path.with_name(f"b{number}.bin"))
    for change in ({}, {"tool": "amct_onnx"}, {"tool": "amct_onnx", "bins": ("bins/x", "bins/mask")}):
        built = pipeline(tmp_path, **change).quantized(1)
        assert layers(built)["conv"]["int8"], change
        assert "bins.text-order" in {finding.rule for finding in built.record.findings}
    words = (sys.executable, "{onnx_in}", "{onnx_out}", "{calib_dir}")
    with pytest.raises(QuantizeError, match="one folder"):
        pipeline(tmp_path, command=words, bins=("bins/x", "bins/mask")).quantized(1)


def test_weights_beside_a_large_model_are_copied_with_it(root, monkeypatch):
    from pth2om.conversion import int8_delivery
    from pth2om.onnxfile import writing
    from pth2om.quantize import network

    monkeypatch.setattr(writing, "INLINE_LIMIT", 100)
    run = pipeline(root)
    files = int8_delivery._copied(run.onnx(1), run.quantized(1), root / "out", "p", "s")
    monkeypatch.undo()
    assert [path.name for path in (root / "out").glob("*.external")]
    for role in ("deploy", "fake_quant", "qdq"):
        assert network.read_model(files[role]).graph.node


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


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script with a first line that names Python")
def test_random_calibration_of_another_tool_is_said_too(root, amct_onnx):
    (root / "calib" / "dots" / "dots.npz").unlink()
    built = pipeline(root, tool="amct_onnx", random=True).quantized(1)
    assert "quantize.random-calibration" in {finding.rule for finding in built.record.findings}
    for path in built.artifact.path.glob("*.onnx"):
        assert "pth2om.calibration" in {entry.key for entry in onnx.load(path).metadata_props}, path.name


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


TOOL = """\
import shutil, sys
from pathlib import Path

here = Path(__file__).parent
with (here.parents[1] / "runs.txt").open("a") as runs:
    runs.write("x")
if not (here / "int8.onnx").exists():
    sys.exit("no licence")
shutil.copy(here / "int8.onnx", sys.argv[1])
"""


def command(root, role):
    """A user's script beside the spec that leaves an INT8 model of that form; the spec's ``command``."""
    from pth2om.quantize import QuantizeSettings, quantize

    folder = root / "models" / "tiny"
    feeds = [{"x": np.random.default_rng(1).random((1, 3, 16, 16), dtype=np.float32)}]
    files = quantize(pipeline(root).onnx(1).file, feeds, QuantizeSettings(skip=("head",)), root / "made").files
    files[role].rename(folder / "int8.onnx")
    (folder / "tool.py").write_text(TOOL)
    return (sys.executable, "tool.py", "{onnx_out}")


@pytest.mark.parametrize("role", ["deploy", "qdq"])
def test_a_command_may_name_a_script_beside_the_spec_and_leave_qdq(root, role):
    asked = command(root, role)
    built = pipeline(root, command=asked).quantized(1)
    assert [name for name, layer in layers(built).items() if layer["int8"]] == ["body"]
    assert pipeline(root, command=asked).quantized(1).record.cached
    script = root / "models" / "tiny" / "tool.py"
    script.write_text(TOOL + "# another")
    assert pipeline(root, command=asked).quantized(1).record.key != built.record.key, "what the script says counts"


def test_a_tool_that_failed_is_not_run_again_by_every_question(root):
    asked = command(root, "deploy")
    folder = root / "models" / "tiny"
    (folder / "int8.onnx").rename(folder / "kept.onnx")
    run, told = pipeline(root, command=asked), set()
    for _ in range(3):
        with pytest.raises(QuantizeError, match="no licence") as caught:
            run.quantized(1)
        told.add(str(caught.value))
    assert len(told) == 1
    assert (root / "runs.txt").read_text() == "x"
    (folder / "kept.onnx").rename(folder / "int8.onnx")
    assert not pipeline(root, command=asked).quantized(1).record.cached, "the next run tries again"


def test_a_command_that_is_not_there_is_not_taken_for_amct_onnx(root):
    with pytest.raises(Absent, match=r"program 'no-such-tool' was not found"):
        pipeline(root, command=("no-such-tool", "{onnx_out}")).quantized(1)


def test_the_deploy_model_of_another_model_is_refused(root):
    folder = root / "models" / "tiny"
    command(root, "deploy")
    net = onnx.load(folder / "int8.onnx")
    for node in net.graph.node:
        node.input[:] = ["other" if name == "x" else name for name in node.input]
    net.graph.input[0].name = "other"
    onnx.save(net, folder / "int8.onnx")
    with pytest.raises(QuantizeError, match=r"inputs are other, those of the float model are x"):
        pipeline(root, onnx="int8.onnx").quantized(1)


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
