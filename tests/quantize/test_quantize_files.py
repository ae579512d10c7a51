"""From an ONNX file to the files on disk, the command line, and other people's formats."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pth2om import cli
from pth2om.errors import QuantizeError
from pth2om.quantize import QuantizeSettings, convert, emulation_rewrite, fake_quant, quantize
from pth2om.quantize.accuracy_aware import keep_fewest, leave_floating
from pth2om.quantize.amct import calibration_command, existing, run_command, template_command
from pth2om.quantize.amct_config import config_text, read_config
from pth2om.quantize.bins import InputShape
from pth2om.quantize.checkpoint_fp32 import int8_as_fp32, write_checkpoint
from pth2om.quantize.effects import Drop
from pth2om.quantize.network import open_session, run_session
from pth2om.quantize.plan import make_plan
from pth2om.quantize.record import parse, read_records, render, render_records
from pth2om.quantize.sensitivity import layer_errors, own_effects, range_picture
from tests.quantize.quantize_nets import every_kind, feeds, model, tensor


@pytest.fixture
def onnx_file(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(every_kind(), path)
    return path


def test_quantize_writes_every_file_and_they_agree(onnx_file, tmp_path):
    result = quantize(onnx_file, feeds(8), QuantizeSettings(small_channels=True), tmp_path / "out")
    assert set(result.files) == {"deploy", "fake_quant", "qdq", "quant_json", "record", "report"}
    assert result.files["deploy"].name == "net_deploy_model.onnx"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        path.name for path in result.files.values()
    ), "nothing else is left"
    batch = feeds(1, seed=5)[0]
    twin = run_session(open_session(onnx.load(result.files["fake_quant"]), exact=True), batch)["y"]
    qdq = onnx.load(result.files["qdq"])
    onnx.checker.check_model(qdq, full_check=True)
    other = run_session(open_session(qdq, exact=True), batch)["y"]
    assert np.abs(twin - other).max() < 0.02 * np.abs(twin).max(), "QDQ divides where the deploy model multiplies"
    records = read_records(result.files["record"])
    assert set(records) == {layer.name for layer in result.layers if layer.int8}
    assert len(records["conv1"].scale_w) == 24
    assert len(records["fc"].scale_w) == 1
    table = json.loads(result.files["quant_json"].read_text())
    ops = {op["name"]: op for op in table["graph"][0]["op"]}
    assert ops["conv1.quant"]["attr"][0]["value"]["list"]["s"] == []
    assert ops["conv1"]["attr"][0]["value"]["list"]["s"][0] == "conv1"
    assert ops["conv1"]["input"][0] == "conv1.quant:0"
    report = json.loads(result.files["report"].read_text())
    proofs = report["details"]["proof"]
    assert {proof["layer"] for proof in proofs} == {layer.name for layer in result.layers if layer.int8}
    assert all(proof["differing"] == 0 for proof in proofs)


def test_without_data_it_is_refused_or_flagged_everywhere(onnx_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PTH2OM_LANG", "en")
    with pytest.raises(QuantizeError) as caught:
        quantize(onnx_file, None, destination=tmp_path / "out")
    assert caught.value.message.key == "quantize.no-calibration-data"
    assert cli.main(["quantize", str(onnx_file), "-o", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()
    assert cli.main(["quantize", str(onnx_file), "-o", str(tmp_path / "out"), "--random-calibration"]) == 0
    assert "RANDOM" in capsys.readouterr().out
    for name in ("deploy", "fake_quant"):
        made = onnx.load(tmp_path / "out" / f"net_{name}_model.onnx")
        assert any("random" in entry.value for entry in made.metadata_props)
    report = json.loads((tmp_path / "out" / "net_quantize.json").read_text())
    assert report["details"]["random_calibration"]
    assert report["findings"][0]["rule"] == "quantize.random-calibration"


def test_command_line_with_bins(onnx_file, tmp_path, capsys):
    from pth2om.quantize.bins import write_bins

    write_bins(feeds(4), tmp_path / "bins")
    words = ["quantize", str(onnx_file), "--calib", str(tmp_path / "bins"), "-o", str(tmp_path / "out"), "--skip", "f*"]
    assert cli.main([*words, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    state = {layer["name"]: layer["int8"] for layer in shown["layers"]}
    assert state["conv1"]
    assert not state["fc"]
    assert cli.main(["quantize", str(onnx_file), "--calib", str(tmp_path / "bins"), "--skip", "nothing_like_it"]) == 1
    assert cli.main(["quantize", str(tmp_path / "absent.onnx"), "--calib", str(tmp_path / "bins")]) == 1


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x07", bytes(range(256))])
def test_what_is_no_onnx_gives_one_sentence(tmp_path, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(QuantizeError):
        quantize(path, feeds(1), destination=tmp_path / "out")


def test_a_quantized_model_is_not_quantized_again(onnx_file, tmp_path):
    result = quantize(onnx_file, feeds(4), QuantizeSettings(small_channels=True), tmp_path / "out")
    for role, key in (("deploy", "quantize.already-quantized"), ("qdq", "quantize.already-qdq")):
        with pytest.raises(QuantizeError) as caught:
            quantize(result.files[role], feeds(1), destination=tmp_path / "again")
        assert caught.value.message.key == key


def test_reasons_for_staying_in_floating_point():
    g = np.random.default_rng(0)

    def w(*shape):
        return g.standard_normal(shape).astype(np.float32)

    net = model(
        [
            onnx.helper.make_node("Conv", ["x", "stem"], ["a"], name="stem"),
            onnx.helper.make_node("Conv", ["a", "shared"], ["b"], name="left"),
            onnx.helper.make_node("Conv", ["b", "shared"], ["c"], name="right"),
            onnx.helper.make_node("Conv", ["c", "zero"], ["d"], name="zero"),
            onnx.helper.make_node("Conv", ["c", "good"], ["e"], name="good"),
            onnx.helper.make_node("Add", ["d", "e"], ["y"], name="sum"),
        ],
        [
            tensor("stem", w(20, 3, 1, 1)), tensor("shared", w(20, 20, 1, 1)),
            tensor("zero", np.zeros((20, 20, 1, 1), np.float32)), tensor("good", w(20, 20, 1, 1)),
        ],
        [("x", [1, 3, 4, 4])],
        [("y", [1, 20, 4, 4])],
    )  # fmt: skip
    plan = make_plan(net, feeds(2, channels=3, batch=1, size=4), QuantizeSettings())
    reasons = {layer.name: layer.reason and layer.reason.key for layer in plan.selection.layers}
    assert reasons == {
        "stem": "quantize.left-float", "left": "quantize.shared-weight", "right": "quantize.shared-weight",
        "zero": "quantize.zero-weight", "good": None,
    }  # fmt: skip


@pytest.mark.parametrize("per_channel", [True, False])
def test_onnx_runtimes_qdq_model_converts_to_deploy_form(tmp_path, per_channel):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.data = iter(feeds(4))

        def get_next(self):
            return next(self.data, None)

    source = tmp_path / "net.onnx"
    plan = make_plan(every_kind(), feeds(4), QuantizeSettings(small_channels=True))
    onnx.save(plan.model, source)
    quantize_static(
        source, tmp_path / "qdq.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=per_channel,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"], weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
    )  # fmt: skip
    result = convert(tmp_path / "qdq.onnx", tmp_path / "out")
    deploy = onnx.load(result.files["deploy"])
    assert [node.op_type for node in deploy.graph.node].count("AscendDequant") >= 5
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in deploy.graph.node}
    batch = feeds(1, seed=3)[0]
    float_y = run_session(open_session(plan.model), batch)["y"]
    ours = run_session(open_session(onnx.load(result.files["fake_quant"]), exact=True), batch)["y"]
    theirs = run_session(open_session(onnx.load(tmp_path / "qdq.onnx"), exact=True), batch)["y"]
    assert np.linalg.norm(ours - float_y) < 1.5 * np.linalg.norm(theirs - float_y) + 1e-3


def test_emulator_computes_the_deploy_model_as_the_npu_level_does(tmp_path):
    from pth2om.quantize import join_int8
    from pth2om.toolchain.emulator.numerics.compiling import compile_numerics

    deploy = make_plan(every_kind(), feeds(), QuantizeSettings(small_channels=True)).deploy()
    onnx.save(deploy, tmp_path / "d.onnx")
    out, soc = tmp_path / "out", "Ascend310B1"
    compile_numerics(tmp_path / "d.onnx", out, precision_mode="force_fp16", soc=soc, join=join_int8)
    batch = feeds(1, seed=9)[0]
    wanted = run_session(open_session(emulation_rewrite(deploy, "npu", "Ascend310B1")), batch)["y"]
    got = run_session(open_session(onnx.load(tmp_path / "out" / "fused.onnx")), batch)["y"]
    assert np.abs(got - wanted).max() <= 2e-3 * np.abs(wanted).max()


# --------------------------------------------------------------------------------------------------- FP32 checkpoint


class Rep(torch.nn.Module):
    def __init__(self, cin, cout, stride=1):
        super().__init__()

        def branch(k):
            block = torch.nn.Sequential()
            block.add_module("conv", torch.nn.Conv2d(cin, cout, k, stride, k // 2, bias=False))
            block.add_module("bn", torch.nn.BatchNorm2d(cout, eps=1e-3))
            return block

        self.rbr_dense, self.rbr_1x1 = branch(3), branch(1)
        self.rbr_identity = torch.nn.BatchNorm2d(cin, eps=1e-3) if cin == cout and stride == 1 else None
        self.deployed = None

    def forward(self, x):
        if self.deployed is not None:
            return torch.relu(torch.nn.functional.conv2d(x, *self.deployed, padding=1))
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        return torch.relu(y if self.rbr_identity is None else y + self.rbr_identity(x))

    def fuse(self):
        weight, bias = 0.0, 0.0
        for conv, bn in (
            (self.rbr_dense.conv.weight, self.rbr_dense.bn),
            (torch.nn.functional.pad(self.rbr_1x1.conv.weight, (1, 1, 1, 1)), self.rbr_1x1.bn),
            *([] if self.rbr_identity is None else [(self._one(), self.rbr_identity)]),
        ):
            scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
            weight = weight + conv * scale.reshape(-1, 1, 1, 1)
            bias = bias + bn.bias - bn.running_mean * scale
        self.deployed = (weight.detach(), bias.detach())

    def _one(self):
        c = self.rbr_dense.conv.weight.shape[0]
        one = torch.zeros(c, c, 3, 3)
        one[range(c), range(c), 1, 1] = 1
        return one


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(24, 32, 3, padding=1, bias=False), torch.nn.BatchNorm2d(32))
        self.dw = torch.nn.Sequential(
            torch.nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=True), torch.nn.BatchNorm2d(32, eps=1e-4)
        )
        self.rep = Rep(32, 32)
        self.up = torch.nn.ConvTranspose2d(32, 20, 2, 2)
        self.fc = torch.nn.Linear(20, 7)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.nn.functional.silu(self.dw(x))
        return self.fc(torch.relu(self.up(self.rep(x))).mean((2, 3)))


def random_net():
    torch.manual_seed(0)
    net = Net().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(-1.5, 1.5)
            module.weight.data[0] = 0.0
            module.bias.data.normal_()
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        net.stem[1].weight[:8] *= 30  # channels of the depth-wise convolution that differ: it will be balanced
    return net


def export(net, path):
    example = torch.randn(2, 24, 8, 8)
    torch.onnx.export(net, example, path, opset_version=13, dynamo=False, input_names=["x"], output_names=["y"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("balance", ["insert", "off"])
def test_fp32_checkpoint_runs_the_int8_weights_in_the_unchanged_net(tmp_path, fused, balance):
    net = random_net()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    if fused:
        net.rep.fuse()
    export(net, tmp_path / "net.onnx")
    plan = make_plan(onnx.load(tmp_path / "net.onnx"), feeds(8), QuantizeSettings(balance=balance))
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "net.pth")
    written, findings = write_checkpoint(plan, tmp_path / "net.pth", tmp_path / "net_int8_as_fp32.pth")
    kinds = [entry.kind for entry in written]
    assert kinds
    assert "none" not in kinds
    assert ("rep" in kinds) == fused
    assert all(entry.error < 2e-6 for entry in written)
    assert "quantize.weights-only" in {finding.rule for finding in findings}
    content = torch.load(tmp_path / "net_int8_as_fp32.pth", weights_only=True)
    assert content["epoch"] == 3
    fresh = Net().eval()
    fresh.load_state_dict(content["state_dict"], strict=True)
    weights_only = onnx.ModelProto()
    weights_only.CopyFrom(plan.model)
    for entry in weights_only.graph.initializer:
        for quantized in plan.quantized.values():
            if entry.name == quantized.layer.weight:
                entry.CopyFrom(onnx.numpy_helper.from_array(quantized.dequantized, entry.name))
            if entry.name == quantized.layer.bias:
                value = (quantized.bias.astype(np.float64) * quantized.deq_scale).astype(np.float32)
                entry.CopyFrom(onnx.numpy_helper.from_array(value, entry.name))
    batch = feeds(1, seed=8)[0]
    wanted = run_session(open_session(weights_only), batch)["y"]
    got = fresh(torch.from_numpy(batch["x"])).detach().numpy()
    plain = random_net()(torch.from_numpy(batch["x"])).detach().numpy()
    assert np.linalg.norm(got - wanted) <= 2e-6 * np.linalg.norm(wanted)
    assert np.linalg.norm(plain - wanted) > 1e-4 * np.linalg.norm(wanted), "the weights did change"


def test_a_foreign_checkpoint_is_told():
    plan = make_plan(every_kind(), feeds(), QuantizeSettings(small_channels=True))
    _, written, findings = int8_as_fp32(plan, {"weight": np.ones((3, 3), np.float32)})
    assert {entry.kind for entry in written} == {"none"}
    assert len([one for one in findings if one.rule == "quantize.not-in-checkpoint"]) == len(written)


# ------------------------------------------------------------------------------------------------- sensitivity, search


def test_sensitivity_names_the_layer_that_was_spoiled():
    plan = make_plan(every_kind(), feeds(8), QuantizeSettings(small_channels=True))
    worst = plan.quantized["grouped"]
    worst.weight = (worst.weight // 32 * 32).astype(np.int8)
    effects = own_effects(plan, feeds(2))
    assert effects[0].layer == "grouped"
    errors = {error.layer: error for error in layer_errors(plan, feeds(2))}
    assert set(errors) == set(plan.quantized)
    assert errors["conv1"].sqnr_db > errors["grouped"].sqnr_db
    picture = range_picture(plan, "conv1")
    assert sum(picture["counts"]) == plan.calibration.histograms["x"].total


def test_search_keeps_the_fewest_layers_in_fp16():
    plan = make_plan(every_kind(), feeds(8), QuantizeSettings(small_channels=True))
    for name in ("grouped", "up"):
        plan.quantized[name].weight = (plan.quantized[name].weight // 64 * 64).astype(np.int8)
    data = feeds(2)
    wanted = [run_session(open_session(plan.model), batch)["y"] for batch in data]

    def evaluate(net, level=0.95):
        session = open_session(net)
        gap = sum(np.linalg.norm(run_session(session, batch)["y"] - y) for batch, y in zip(data, wanted, strict=True))
        loss = 100 * gap / sum(np.linalg.norm(y) for y in wanted)
        return Drop(loss, loss - 1, loss + 1, 500, level)

    alone = evaluate(fake_quant(plan.deploy(set(plan.quantized) - {"grouped", "up"})))
    found = keep_fewest(plan, data, evaluate, alone.high + 0.5)
    assert set(found.floating) == {"grouped", "up"}
    assert found.drop.high <= alone.high + 0.5
    with pytest.raises(QuantizeError):
        keep_fewest(plan, data, lambda _, level: Drop(50, 40, 60, 500, level), 1.0)


def test_few_images_prove_nothing_but_are_judged_by_what_was_measured():
    plan = make_plan(every_kind(), feeds(8), QuantizeSettings(small_channels=True))
    found = keep_fewest(plan, feeds(1), lambda _, level: Drop(0.5, -3, 4, 100, level), 1.0)
    assert not found.proven
    assert not found.floating
    leave_floating(plan, found, 1.0)
    assert "quantize.search-unproven" in {finding.rule for finding in plan.findings}


def test_a_specs_metric_scores_the_search(data_root):
    from pth2om.data import Labelled, Preprocessor, open_dataset
    from pth2om.quantize.metric_search import ScoredDrop
    from pth2om.spec import Postprocess, Preprocess

    g = np.random.default_rng(0)
    net = model(
        [
            onnx.helper.make_node("Conv", ["x", "stem"], ["a"], name="stem", strides=[4, 4]),
            onnx.helper.make_node("Relu", ["a"], ["b"], name="relu"),
            onnx.helper.make_node("Conv", ["b", "w"], ["c"], name="body"),
            onnx.helper.make_node("GlobalAveragePool", ["c"], ["d"], name="gap"),
            onnx.helper.make_node("Flatten", ["d"], ["y"], name="flat"),
        ],
        [
            tensor("stem", g.standard_normal((20, 3, 4, 4)).astype(np.float32)),
            tensor("w", g.standard_normal((10, 20, 3, 3)).astype(np.float32)),
        ],
        [("x", [10, 3, 32, 32])],
        [("y", [10, 10])],
    )
    calib = Path(__file__).parents[2] / "calib"
    dataset: Labelled = open_dataset("cifar10_249", calib_root=calib, data_roots=[data_root], subset=60)
    preprocessor = Preprocessor(Preprocess(size=(32, 32)))
    drop = ScoredDrop(net, dataset, preprocessor, Postprocess(), batch=10)
    same = drop(net)
    assert same.drop == 0
    assert 0 < same.high < 10, "60 equal answers still leave a few points open"


# ---------------------------------------------------------------------------------------------- other people's formats


def test_real_records_and_configurations_come_back(data_root):
    folder = data_root / "amct"
    for path in sorted(folder.iterdir()):
        text = path.read_text()
        if path.suffix == ".txt":
            assert as_fp32(parse(render(parse(text)))) == as_fp32(parse(text)), path.name
        if path.suffix in (".cfg", ".json"):
            config = read_config(path)
            copy = read_config_text(config.render(), path)
            assert as_fp32(copy.data) == as_fp32(config.data), path.name
            assert (copy.skip, copy.batch_num) == (config.skip, config.batch_num)
    records = read_records(folder / "amct_caffe__resnet50__model__record.txt")
    assert records["conv1"].offset_d == -14
    assert len(records["conv1"].scale_w) == 64
    assert len(records) > 50
    cfg = read_config(folder / "amct_onnx__resnet-101__src__nuq_conf__nuq_quant.cfg")
    settings, findings = cfg.settings()
    assert settings.asymmetric
    assert settings.activations == "ifmr"
    assert [finding.message.values["name"] for finding in findings] == ["nuq_config"]


def as_fp32(message):
    """Floats of the schema are FP32; a file may spell them with more digits."""
    if isinstance(message, list):
        return [(name, as_fp32(value)) for name, value in message]
    return float(np.float32(message)) if isinstance(message, float) else message


def read_config_text(text, path):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_text(text)
        return read_config(copy)


def test_our_records_and_configurations_are_amcts(tmp_path):
    text = 'record { key: "a/b" value { scale_d: 0.5 offset_d: -128 scale_w: [1e-3, 0x1, 2.f] '
    text += "offset_w: 0 offset_w:0;offset_w : 0 } } # end"
    path = tmp_path / "r.txt"
    path.write_text(text)
    records = read_records(path)
    assert records["a/b"].scale_w == (1e-3, 1.0, 2.0)
    path.write_text(render_records(records))
    assert read_records(path) == records
    path.write_text(
        config_text(
            QuantizeSettings(skip=("a*",), only=("*1", "*3")), 4, [("a1", "Conv"), ("b2", "Conv"), ("b3", "Gemm")]
        )
    )
    config = read_config(path)
    assert (config.batch_num, config.skip) == (4, ("a1", "b2")), "AMCT knows names, not patterns"
    assert config.settings()[0].ifmr == QuantizeSettings().ifmr
    path.write_text(config_text(QuantizeSettings(activations="hfmg", bins=2048), 1))
    again, _ = read_config(path).settings()
    assert (again.activations, again.bins) == ("hfmg", 2048)


@pytest.mark.parametrize(
    "body",
    [
        "scale_d: 0",
        "scale_d: 1 offset_d: 128",
        "scale_w: -1",
        "scale_w: 1 offset_w: 3",
        "shift_bit: 17",
        'scale_d: "x"',
    ],
)
def test_records_that_break_amcts_rules_are_refused(tmp_path, body):
    (tmp_path / "r.txt").write_text(f'record {{ key: "a" value {{ {body} }} }}')
    with pytest.raises(QuantizeError, match="a"):
        read_records(tmp_path / "r.txt")


@given(st.text(max_size=80))
def test_no_text_makes_the_parser_fail_otherwise(text):
    try:
        message = parse(text, "x")
    except QuantizeError:
        return
    assert parse(render(message)) is not None


def test_amct_commands(tmp_path):
    command = calibration_command(
        Path("m.onnx"), Path("out/m"), inputs=[InputShape("a:0", (2, 3)), InputShape("b", (2, 1), "int32")],
        bins=[Path("x"), Path("y z")], batches=4,
    )  # fmt: skip
    words = list(command.arguments)
    assert words[words.index("--input_shape") + 1] == "a:0:2,3;b:2,1"
    assert words[words.index("--data_types") + 1] == "float32;int32"
    assert words[words.index("--data_dir") + 1] == "x;y z"
    assert command.produces == Path("out/m_deploy_model.onnx")
    with pytest.raises(QuantizeError):
        calibration_command(Path("m"), Path("o"), inputs=[InputShape("a", (None, 3))], bins=[Path("x")])


def test_a_command_of_ones_own(onnx_file, tmp_path):
    made = quantize(onnx_file, feeds(4), QuantizeSettings(small_channels=True), tmp_path / "ours").files["deploy"]
    script = tmp_path / "tool.py"
    script.write_text("import shutil, sys\nprint('hello')\nshutil.copy(sys.argv[1], sys.argv[2])\n")
    out = tmp_path / "a b_deploy_model.onnx"
    template = f"{sys.executable} {script} {{onnx_in_q}} {{onnx_out_q}}"
    command = template_command(template, {"onnx_in": made, "onnx_out": out})
    assert command.arguments[-1] == str(out), "one argument, though it holds a space"
    assert f"'{out}'" in command.preview()
    result = run_command(command)
    assert result.details["output"] == "hello\n"
    assert result.files["fake_quant"].is_file()
    failing = template_command([sys.executable, "-c", "raise SystemExit(3)", "{onnx_out}"], {"onnx_out": out})
    for bad in (failing, template_command([sys.executable, "-c", "", "{onnx_out}"], {"onnx_out": out})):
        with pytest.raises(QuantizeError):
            run_command(bad)
    slow = template_command([sys.executable, "-c", "import time; time.sleep(60)", "{onnx_out}"], {"onnx_out": out})
    with pytest.raises(QuantizeError) as caught:
        run_command(slow, timeout=1)
    assert caught.value.message.key == "quantize.tool-too-slow"
    with pytest.raises(QuantizeError):
        existing(onnx_file)


@pytest.mark.parametrize(
    "template", ["", "tool {onnx_in", "tool {nonsense} {onnx_out}", "a {onnx_out} | b", "tool {onnx_in}", "tool 'x"]
)
def test_bad_templates_are_refused(template):
    with pytest.raises(QuantizeError):
        template_command(template, {"onnx_in": Path("a"), "onnx_out": Path("b")})


def test_max_drop_and_labels_on_the_command_line(tmp_path, capsys, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("PTH2OM_LANG", "en")
    g = np.random.default_rng(0)
    net = model(
        [
            onnx.helper.make_node("Conv", ["x", "stem"], ["a"], name="stem"),
            onnx.helper.make_node("Relu", ["a"], ["b"], name="relu"),
            onnx.helper.make_node("Conv", ["b", "w"], ["c"], name="body"),
            onnx.helper.make_node("GlobalAveragePool", ["c"], ["d"], name="gap"),
            onnx.helper.make_node("Flatten", ["d"], ["y"], name="flat"),
        ],
        [
            tensor("stem", g.standard_normal((20, 3, 3, 3)).astype(np.float32)),
            tensor("w", g.standard_normal((5, 20, 3, 3)).astype(np.float32)),
        ],
        [("x", ["n", 3, 16, 16])],
        [("y", ["n", 5])],
    )
    onnx.save(net, tmp_path / "net.onnx")
    (tmp_path / "images").mkdir()
    for number in range(12):
        Image.fromarray(g.integers(0, 255, (16, 16, 3), np.uint8)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "labels.txt").write_text("".join(f"{number}.png {number % 5}\n" for number in range(12)))
    (tmp_path / "pre.json").write_text(
        '{"det_pre_params": {"des_height": 16, "des_width": 16, "stds": [255, 255, 255]}}'
    )
    words = ["quantize", str(tmp_path / "net.onnx"), "--calib", str(tmp_path / "images"), "-o", str(tmp_path / "out")]
    assert cli.main([*words]) == 1, "images need --preprocess"
    words += ["--preprocess", str(tmp_path / "pre.json"), "--batch", "4", "--labels", str(tmp_path / "labels.txt")]
    assert cli.main([*words, "--max-drop", "60%"]) == 0
    shown = capsys.readouterr().out
    assert "0 layers stay in FP16" in shown
    assert cli.main([*words, "--max-drop", "0.01%"]) == 0
    assert "too few" in capsys.readouterr().err, "twelve images cannot prove a hundredth of a point"
    (tmp_path / "labels.txt").write_text("0.png x\n")
    assert cli.main([*words, "--max-drop", "60%"]) == 1


def test_equalization_changes_no_float_output_and_keeps_checkpoints_right():
    net = every_kind(seed=4)
    plain = run_session(open_session(net), feeds(1)[0])["y"]
    plan = make_plan(net, feeds(4), QuantizeSettings(small_channels=True, equalize=True))
    assert plan.balances
    again = run_session(open_session(plan.model), feeds(1)[0])["y"]
    assert np.allclose(again, plain, rtol=1e-4, atol=1e-5)
