"""The deploy model, its fake-quant twin, its integer twin and an independent NumPy evaluation agree bit for bit."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from pth2om.ascend import families
from pth2om.quantize.network import open_session, run_session
from pth2om.quantize.plan import make_plan
from pth2om.quantize.settings import QuantizeSettings
from pth2om.quantize.twin_proof import prove
from pth2om.quantize.twins import emulation_rewrite, fake_quant, integer
from tests.quantize.quantize_nets import every_kind, feeds, model, tensor


def attributes(node):
    values = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def conv_integer(x, w, group, strides, pads):
    """int64 convolution by plain loops over the kernel; x is q - offset, so padding is zero."""
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    n, _, h, wd = x.shape
    co, cg, kh, kw = w.shape
    oh, ow = (h - kh) // strides[0] + 1, (wd - kw) // strides[1] + 1
    out = np.zeros((n, co, oh, ow), np.int64)
    for g in range(group):
        xs = x[:, g * cg : (g + 1) * cg]
        ws = w[g * co // group : (g + 1) * co // group]
        for i in range(kh):
            for j in range(kw):
                patch = xs[:, :, i : i + oh * strides[0] : strides[0], j : j + ow * strides[1] : strides[1]]
                out[:, g * co // group : (g + 1) * co // group] += np.einsum("nchw,oc->nohw", patch, ws[:, :, i, j])
    return out


def conv_transpose_integer(x, w, group, strides, pads):
    n, c, h, wd = x.shape
    cg, og, kh, kw = c // group, w.shape[1], w.shape[2], w.shape[3]
    out = np.zeros((n, og * group, (h - 1) * strides[0] + kh, (wd - 1) * strides[1] + kw), np.int64)
    for g in range(group):
        for i in range(kh):
            for j in range(kw):
                add = np.einsum("nchw,co->nohw", x[:, g * cg : (g + 1) * cg], w[g * cg : (g + 1) * cg, :, i, j])
                rows = slice(i, i + h * strides[0], strides[0])
                columns = slice(j, j + wd * strides[1], strides[1])
                out[:, g * og : (g + 1) * og, rows, columns] += add
    return out[:, :, pads[0] : out.shape[2] - pads[2], pads[1] : out.shape[3] - pads[3]]


def numpy_deploy(deploy, inputs):
    """Evaluate a deploy model node by node: our own reading of AscendQuant and AscendDequant, int64 sums."""
    values = {entry.name: numpy_helper.to_array(entry) for entry in deploy.graph.initializer}
    values.update(inputs)
    offsets = {}
    for node in deploy.graph.node:
        a = attributes(node)
        x = [values[name] for name in node.input]
        if node.op_type == "AscendQuant":
            assert isinstance(a["offset"], float), "ATC ignores an offset that is no FLOAT attribute"
            moved = x[0].astype(np.float32) * np.float32(a["scale"]) + np.float32(a["offset"])
            y = np.clip(np.rint(moved), -128, 127).astype(np.int64) - int(a["offset"])
            offsets[node.output[0]] = int(a["offset"])
        elif node.op_type == "AscendDequant":
            assert x[1].dtype == np.uint64
            assert x[1].ndim == 1
            deq = x[1].astype(np.uint32).view(np.float32)
            shape = (1, -1) + (1,) * (x[0].ndim - 2) if deq.size > 1 else (1,) * x[0].ndim
            y = x[0].astype(np.float32) * deq.reshape(shape)
        elif node.op_type in ("Conv", "ConvTranspose") and node.input[0] in offsets:
            assert x[1].dtype == np.int8
            compute = conv_integer if node.op_type == "Conv" else conv_transpose_integer
            y = compute(
                x[0], x[1].astype(np.int64), a.get("group", 1), a.get("strides", [1, 1]), a.get("pads", [0] * 4)
            )
            if len(x) > 2:
                assert x[2].dtype == np.int32
                y = y + x[2].astype(np.int64).reshape(1, -1, 1, 1)
        elif node.op_type == "Gemm" and node.input[0] in offsets:
            y = x[0] @ x[1].astype(np.int64) + x[2]
        elif node.op_type == "MatMul" and node.input[0] in offsets:
            y = x[0] @ x[1].astype(np.int64)
        elif node.op_type == "AveragePool" and node.input[0] in offsets:
            y = torch.nn.functional.avg_pool2d(
                torch.from_numpy(x[0].astype(np.float64)),
                3,
                2,
                1,
                count_include_pad=bool(a.get("count_include_pad", 0)),
            ).numpy()
        elif node.op_type == "Relu":
            y = np.maximum(x[0], 0)
        elif node.op_type == "Tanh":
            session = onnxruntime.InferenceSession(_one(node, x[0].shape), providers=["CPUExecutionProvider"])
            y = session.run(None, {node.input[0]: x[0]})[0]
        elif node.op_type == "GlobalAveragePool":
            session = onnxruntime.InferenceSession(_one(node, x[0].shape), providers=["CPUExecutionProvider"])
            y = session.run(None, {node.input[0]: x[0].astype(np.float32)})[0]
        elif node.op_type == "Reshape":
            y = x[0].reshape(x[0].shape[0], -1)
        elif node.op_type == "Add":
            assert x[1].dtype == np.int32
            y = x[0] + x[1]
        else:
            raise AssertionError(node.op_type)
        values[node.output[0]] = y
    return values


def _one(node, shape):
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [onnx.helper.make_tensor_value_info(node.input[0], 1, shape)],
        [onnx.helper.make_tensor_value_info(node.output[0], 1, None)],
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    made.ir_version = 8
    return made.SerializeToString()


@pytest.fixture(scope="module")
def plan():
    return make_plan(every_kind(), feeds(), QuantizeSettings(small_channels=True))


@pytest.fixture(scope="module")
def deploy(plan):
    return plan.deploy()


def test_every_layer_kind_is_quantized(plan):
    kinds = {name: layer.layer.kind for name, layer in plan.quantized.items()}
    assert kinds == {
        "conv1": "Conv", "dw": "Conv", "grouped": "Conv", "up": "ConvTranspose", "up_grouped": "ConvTranspose",
        "pool": "AveragePool", "fc": "Gemm", "matmul": "MatMul",
    }  # fmt: skip


def test_deploy_is_as_atc_registers_it(deploy):
    assert [entry.domain for entry in deploy.opset_import] == [""]
    names = [node.name for node in deploy.graph.node]
    assert len(set(names)) == len(names)
    assert "conv1.quant" in names
    assert "conv1.dequant" in names
    made = {entry.name for entry in deploy.graph.initializer} | {"x"}
    for node in deploy.graph.node:
        assert set(node.input) <= made, "topological order"
        made |= set(node.output)
        for entry in node.attribute:
            if node.op_type == "AscendQuant" and entry.name in ("scale", "offset"):
                assert entry.type == onnx.AttributeProto.FLOAT
    assert deploy.graph.output[0].name == "y"
    assert next(node for node in deploy.graph.node if "y" in node.output).op_type == "AscendDequant"


def test_twin_equals_integers_equals_numpy_bit_for_bit(deploy):
    twin, whole = open_session(fake_quant(deploy), exact=True), open_session(integer(deploy), exact=True)
    for batch in feeds(3, seed=7):
        ours = run_session(twin, batch)["y"]
        assert np.array_equal(ours, run_session(whole, batch)["y"])
        reference = numpy_deploy(deploy, batch)["y"]
        # AveragePool's mean is a division: NumPy divides in double precision, so one rounding may differ there.
        assert np.allclose(ours, reference, rtol=1e-6, atol=1e-7)


def test_without_pooling_numpy_agrees_to_the_last_bit():
    net = every_kind(seed=3)
    plan = make_plan(
        net, feeds(seed=5), QuantizeSettings(small_channels=True, skip_types=("AveragePool",), bias_correction=False)
    )
    names = ["conv1", "dw", "grouped", "up", "up_grouped"]
    deploy = plan.deploy(names)
    del deploy.graph.output[:]
    deploy.graph.output.append(onnx.ValueInfoProto(name="t9"))
    while deploy.graph.node[-1].output[0] != "t9":
        deploy.graph.node.pop()
    batch = feeds(1, seed=11)[0]
    ours = run_session(open_session(fake_quant(deploy), exact=True), batch)["t9"]
    assert np.array_equal(ours, numpy_deploy(deploy, batch)["t9"])


def test_proof_covers_every_layer_and_finds_no_difference(plan, deploy):
    proofs = prove(deploy, feeds(2, seed=9))
    assert {proof.layer for proof in proofs} == set(plan.quantized)
    for proof in proofs:
        assert proof.compared > 0
        assert proof.exact
        assert proof.differing == 0


def test_twin_of_a_sum_beyond_2_to_24_is_said_not_to_be_exact():
    c = 2048
    g = np.random.default_rng(0)
    net = model(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="wide")],
        [tensor("w", np.abs(g.standard_normal((4, c, 3, 3))).astype(np.float32))],
        [("x", [1, c, 3, 3])],
        [("y", [1, 4, 1, 1])],
    )
    data = [{"x": np.abs(g.standard_normal((1, c, 3, 3))).astype(np.float32)} for _ in range(4)]
    deploy = make_plan(net, data, QuantizeSettings()).deploy()
    proof = prove(deploy, data)[0]
    assert not proof.exact
    assert proof.largest_sum > 1 << 24
    whole = run_session(open_session(integer(deploy), exact=True), data[0])["y"]
    reference = numpy_deploy(deploy, data[0])["y"]
    assert np.array_equal(whole, reference), "integers stay exact where FP32 does not"


def test_the_twin_is_close_to_the_float_model(plan, deploy):
    batch = feeds(1, seed=21)[0]
    wanted = run_session(open_session(every_kind()), batch)["y"]
    got = run_session(open_session(fake_quant(deploy), exact=True), batch)["y"]
    noise = 10 * np.log10(np.sum(wanted**2) / np.sum((wanted - got) ** 2))
    assert noise > 20


def test_rounding_is_torchs(deploy):
    """AscendQuant and its way back equal torch.fake_quantize_per_tensor_affine."""
    quant = next(node for node in deploy.graph.node if node.op_type == "AscendQuant")
    a = attributes(quant)
    scale = np.float32(1) / np.float32(a["scale"])
    x = np.random.default_rng(0).standard_normal(200_000).astype(np.float32) * 3
    ours = (np.clip(np.rint(x * np.float32(a["scale"]) + np.float32(a["offset"])), -128, 127) - a["offset"]) * scale
    theirs = torch.fake_quantize_per_tensor_affine(torch.from_numpy(x), float(scale), int(a["offset"]), -128, 127)
    # One step apart only where x * scale lies on a tie to within FP32 rounding.
    differing = np.abs(ours - theirs.numpy()) > 1e-6
    assert differing.mean() < 1e-4


def test_layers_that_read_one_tensor_share_their_quant():
    g = np.random.default_rng(0)
    net = model(
        [
            onnx.helper.make_node("Conv", ["x", "w1"], ["a"], name="left"),
            onnx.helper.make_node("Conv", ["x", "w2"], ["b"], name="right"),
            onnx.helper.make_node("Add", ["a", "b"], ["y"], name="sum"),
        ],
        [tensor(name, g.standard_normal((20, 24, 1, 1)).astype(np.float32)) for name in ("w1", "w2")],
        [("x", [1, 24, 4, 4])],
        [("y", [1, 20, 4, 4])],
    )
    deploy = make_plan(net, feeds(2, batch=1, size=4), QuantizeSettings()).deploy()
    assert [node.op_type for node in deploy.graph.node].count("AscendQuant") == 1
    assert [node.op_type for node in deploy.graph.node].count("AscendDequant") == 2


def test_branches_of_an_if_read_the_dequantized_tensor():
    """AMCT leaves them on the INT32 tensor, which makes the model invalid."""
    g = np.random.default_rng(0)
    branch = [
        onnx.helper.make_graph(
            [onnx.helper.make_node(kind, ["t"], [kind.lower()], name=kind)],
            kind,
            [],
            [onnx.helper.make_tensor_value_info(kind.lower(), 1, None)],
        )
        for kind in ("Relu", "Neg")
    ]
    net = model(
        [
            onnx.helper.make_node("Conv", ["x", "w"], ["t"], name="conv"),
            onnx.helper.make_node("If", ["flag"], ["y"], name="if", then_branch=branch[0], else_branch=branch[1]),
        ],
        [tensor("w", g.standard_normal((8, 24, 1, 1)).astype(np.float32)), tensor("flag", np.asarray(True))],
        [("x", [1, 24, 4, 4])],
        [("y", [1, 8, 4, 4])],
    )
    data = feeds(2, batch=1, size=4)
    deploy = make_plan(net, data, QuantizeSettings()).deploy()
    got = run_session(open_session(fake_quant(deploy)), data[0])["y"]
    wanted = run_session(open_session(net), data[0])["y"]
    assert np.abs(got - wanted).max() < 0.1 * np.abs(wanted).max()


def test_npu_level_rounds_as_the_chip_does(deploy):
    batch = feeds(1, seed=2)[0]
    exact = run_session(open_session(integer(deploy)), batch)["y"]
    chips = {
        soc: run_session(open_session(emulation_rewrite(deploy, "npu", soc)), batch)["y"]
        for soc in ("Ascend310P3", "Ascend310B1", "Ascend910B3", "Ascend310")
    }
    for soc, value in chips.items():
        assert np.array_equal(value, value.astype(np.float16).astype(np.float32)), soc
        assert 0 < np.abs(value - exact).max() < 0.1 * np.abs(exact).max(), soc
    assert np.array_equal(chips["Ascend310B1"], chips["Ascend910B3"])
    assert not np.array_equal(chips["Ascend310B1"], chips["Ascend310P3"])


def test_nineteen_bit_scale_is_truncated():
    scale = np.asarray([1.0009765, 3.1415927e-4], np.float32)
    kept = families.family("Ascend310B4").kept_scale(scale)
    assert np.all(kept <= scale)
    assert np.all(kept.view(np.uint32) & np.uint32(0x1FFF) == 0)
    assert np.all((scale - kept) / scale < 2.0**-10)
    assert np.array_equal(families.family("Ascend310P3").kept_scale(scale), scale)


def test_small_channels_roll_back_at_npu_level():
    g = np.random.default_rng(0)
    net = model(
        [onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"], name="stem", pads=[1, 1, 1, 1])],
        [
            tensor("w", g.standard_normal((8, 3, 3, 3)).astype(np.float32)),
            tensor("b", g.standard_normal(8).astype(np.float32)),
        ],
        [("x", [1, 3, 6, 6])],
        [("y", [1, 8, 6, 6])],
    )
    data = feeds(3, channels=3, batch=1, size=6)
    plan = make_plan(net, data, QuantizeSettings(small_channels=True, bias_correction=False))
    assert any(finding.rule == "quantize.rolls-back" for finding in plan.findings)
    rolled = emulation_rewrite(plan.deploy(), "npu", "Ascend310P3")
    assert [node.op_type for node in rolled.graph.node] == ["Conv"]
    weight = next(numpy_helper.to_array(entry) for entry in rolled.graph.initializer if entry.dims == [8, 3, 3, 3])
    assert np.allclose(weight, plan.quantized["stem"].dequantized, rtol=1e-6)
    got = run_session(open_session(rolled), data[0])["y"]
    wanted = run_session(open_session(net), data[0])["y"]
    assert np.abs(got - wanted).max() < 0.02 * np.abs(wanted).max()


@pytest.mark.parametrize("level", ["fake", "math", "npu"])
def test_amct_puts_the_quant_before_a_pad(level):
    """Quant -> Pad -> AveragePool -> Dequant, as AMCT writes it."""
    quant = onnx.helper.make_node("AscendQuant", ["x"], ["q"], name="p.quant", scale=10.0, offset=-3.0, dst_type="INT8")
    nodes = [
        quant,
        onnx.helper.make_node("Pad", ["q", "pads"], ["padded"], name="pad"),
        onnx.helper.make_node("AveragePool", ["padded"], ["s"], name="p", kernel_shape=[2, 2], strides=[2, 2]),
        onnx.helper.make_node("AscendDequant", ["s", "deq"], ["y"], name="p.dequant"),
    ]
    pads = np.asarray([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    deq = np.asarray([0.1], np.float32).view(np.uint32).astype(np.uint64)
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [1, 24, 4, 4])],
        [onnx.helper.make_tensor_value_info("y", 1, [1, 24, 3, 3])],
        [tensor("pads", pads), tensor("deq", deq)],
    )
    deploy = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    x = np.random.default_rng(0).standard_normal((1, 24, 4, 4)).astype(np.float32)
    made = fake_quant(deploy) if level == "fake" else emulation_rewrite(deploy, level, "Ascend310P3")
    got = run_session(open_session(made), {"x": x})["y"]
    q = np.clip(np.rint(x * 10 - 3), -128, 127) + 3
    padded = np.pad(q, ((0, 0), (0, 0), (1, 1), (1, 1)))
    wanted = padded.reshape(1, 24, 3, 2, 3, 2).mean(axis=(3, 5)) * 0.1
    assert np.allclose(got, wanted, atol=1e-6 if level != "npu" else 0.06)


@pytest.mark.parametrize("opset", [9, 11, 18, 22])
def test_every_opset_gives_a_deploy_model_of_a_registered_one(opset):
    g = np.random.default_rng(0)
    net = model(
        [
            onnx.helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
            onnx.helper.make_node("Flatten", ["a"], ["b"], name="flat"),
            onnx.helper.make_node("MatMul", ["b", "v"], ["y"], name="matmul"),
        ],
        [
            tensor("w", g.standard_normal((20, 24, 3, 3)).astype(np.float32)),
            tensor("v", g.standard_normal((80, 7)).astype(np.float32)),
        ],
        [("x", [1, 24, 4, 4])],
        [("y", [1, 7])],
        opset=opset,
    )
    data = feeds(3, batch=1, size=4)
    plan = make_plan(net, data, QuantizeSettings())
    deploy = plan.deploy()
    assert 11 <= max(entry.version for entry in deploy.opset_import) <= 22
    assert set(plan.quantized) == {"conv", "matmul"}
    got = run_session(open_session(fake_quant(deploy)), data[0])["y"]
    wanted = run_session(open_session(net), data[0])["y"]
    assert np.linalg.norm(got - wanted) < 0.1 * np.linalg.norm(wanted)
    assert any(finding.rule == "quantize.opset-converted" for finding in plan.findings) == (opset == 9)


def test_tiny_activations_use_the_square_root_twice():
    """A scale beyond FP16 is applied as its root, twice, as ATC's sqrt_mode does."""
    g = np.random.default_rng(0)
    net = model(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="conv")],
        [tensor("w", g.standard_normal((8, 24, 1, 1)).astype(np.float32))],
        [("x", [1, 24, 4, 4])],
        [("y", [1, 8, 4, 4])],
    )
    data = [{"x": batch["x"] * 1e-4} for batch in feeds(3, batch=1, size=4)]
    deploy = make_plan(net, data, QuantizeSettings()).deploy()
    quant = attributes(deploy.graph.node[0])
    assert quant["sqrt_mode"] == 1
    assert 2.0**-14 <= quant["scale"] <= 65504
    wanted = run_session(open_session(net), data[0])["y"]
    for made in (fake_quant(deploy), integer(deploy)):
        got = run_session(open_session(made, exact=True), data[0])["y"]
        assert np.linalg.norm(got - wanted) < 0.05 * np.linalg.norm(wanted)
