"""QDQ models as torch, ONNX Runtime and others write them: converted to the same integers, or refused with a reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pth2om.errors import QuantizeError
from pth2om.quantize.network import open_session, run_session
from pth2om.quantize.qdq_convert import convert_qdq
from pth2om.quantize.twins import fake_quant

RNG = np.random.default_rng(0)
X = RNG.standard_normal((1, 24, 6, 6)).astype(np.float32)
WEIGHT = RNG.integers(-127, 128, (8, 24, 3, 3)).astype(np.int8)
STEPS = RNG.uniform(0.001, 0.003, 8).astype(np.float32)


def node(kind, inputs, output, **values):
    return helper.make_node(kind, inputs, [output], name=f"{output}.{kind}", **values)


def pair(source, output, *, scale="s", zero="z", **values):
    """QuantizeLinear and DequantizeLinear of ``source``."""
    return [
        node("QuantizeLinear", [source, scale, zero], f"{output}.q", **values),
        node("DequantizeLinear", [f"{output}.q", scale, zero], output, **values),
    ]


def net(nodes, constants, *, shape=(1, 24, 6, 6), output=TensorProto.FLOAT, inputs=TensorProto.FLOAT, opset=17):
    usual = {"s": np.float32(0.03), "z": np.int8(-5), "wi": WEIGHT, "ws": STEPS, "wz": np.zeros(8, np.int8)}
    used = {name for one in nodes for name in one.input}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", inputs, shape)],
        [helper.make_tensor_value_info("y", output, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (usual | constants).items() if k in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def dequantized_weight(output="w", **values):
    return node("DequantizeLinear", ["wi", "ws", "wz"], output, **({"axis": 0} | values))


def converted(model, x=X, decibel=60):
    """The deploy model and findings' rules; its twin computes what the QDQ model does."""
    deploy, findings = convert_qdq(model)
    wanted = run_session(open_session(model, exact=True), {"x": x})["y"]
    got = run_session(open_session(fake_quant(deploy), exact=True), {"x": x})["y"]
    noise = np.sum((wanted.astype(np.float64) - got) ** 2)
    assert 10 * np.log10(np.sum(wanted.astype(np.float64) ** 2) / max(noise, 1e-30)) > decibel
    return deploy, {finding.rule for finding in findings}


def integers_of(deploy):
    values = {entry.name: numpy_helper.to_array(entry) for entry in deploy.graph.initializer}
    return [values[one.input[1]] for one in deploy.graph.node if one.op_type in ("Conv", "Gemm", "MatMul")]


def test_a_folded_batchnorm_scales_the_weights_scale_and_turns_its_sign():
    gamma = RNG.uniform(0.5, 1.5, 8).astype(np.float32) * np.where(np.arange(8) % 2, 1, -1).astype(np.float32)
    constants = {
        "gamma": gamma,
        "beta": RNG.standard_normal(8).astype(np.float32),
        "mean": RNG.standard_normal(8).astype(np.float32),
        "var": RNG.uniform(0.5, 2, 8).astype(np.float32),
    }
    nodes = [
        *pair("x", "a"),
        dequantized_weight(),
        node("Conv", ["a", "w"], "c"),
        node("BatchNormalization", ["c", *constants], "y"),
    ]
    deploy, rules = converted(net(nodes, constants))
    assert np.array_equal(integers_of(deploy)[0], WEIGHT * np.sign(gamma).astype(np.int8).reshape(-1, 1, 1, 1))
    assert rules == {"quantize.folded"}


def test_a_weight_keeps_its_integers_behind_operators_that_move_it():
    whole = RNG.integers(-127, 128, (5, 24)).astype(np.int8)
    constants = {"wi": whole, "ws": np.float32(0.002), "wz": np.int8(0), "shape": np.asarray([5, 24, 1], np.int64)}
    nodes = [
        *pair("x", "a"),
        node("DequantizeLinear", ["wi", "ws", "wz"], "w0"),
        node("Reshape", ["w0", "shape"], "w1"),
        node("Transpose", ["w1"], "w2", perm=[2, 1, 0]),
        node("Squeeze", ["w2", "wz64"], "w3"),
        node("MatMul", ["a", "w3"], "y"),
    ]
    constants["wz64"] = np.asarray([0], np.int64)
    x = RNG.standard_normal((3, 24)).astype(np.float32)
    deploy, rules = converted(net(nodes, constants, shape=(3, 24)), x)
    assert np.array_equal(integers_of(deploy)[0], whole.T)
    assert not rules


def test_a_weight_that_the_graph_quantizes_itself():
    """QAT: the float weight, QuantizeLinear, a Clip to -127, DequantizeLinear; the zero point is computed, too."""
    weight = RNG.standard_normal((8, 24, 3, 3)).astype(np.float32)
    scale = np.abs(weight).max(axis=(1, 2, 3)) / np.float32(100)
    constants = {"wf": weight, "ws": scale, "wz32": np.zeros(8, np.int32)}
    constants |= {"low": np.int8(-127), "high": np.int8(127)}
    nodes = [
        *pair("x", "a"),
        node("Cast", ["wz32"], "wz0", to=TensorProto.INT8),
        node("QuantizeLinear", ["wf", "ws", "wz0"], "wq", axis=0),
        node("Clip", ["wq", "low", "high"], "wc"),
        node("DequantizeLinear", ["wc", "ws", "wz0"], "w", axis=0),
        node("Conv", ["a", "w"], "y"),
    ]
    deploy, rules = converted(net(nodes, constants))
    wanted = np.clip(np.rint(weight / scale.reshape(-1, 1, 1, 1)), -127, 127).astype(np.int8)
    assert np.array_equal(integers_of(deploy)[0], wanted)
    assert not rules


def test_a_narrow_activation_is_converted_and_told():
    """torch's reduce_range: levels 0..127 of UINT8."""
    constants = {"s": np.float32(0.08), "z": np.uint8(64), "low": np.uint8(0), "high": np.uint8(127)}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], "q"),
        node("Clip", ["q", "low", "high"], "qc"),
        node("DequantizeLinear", ["qc", "s", "z"], "a"),
        dequantized_weight(),
        node("Conv", ["a", "w"], "y"),
    ]
    deploy, rules = converted(net(nodes, constants))
    assert [one.op_type for one in deploy.graph.node] == ["AscendQuant", "Conv", "AscendDequant"]
    assert rules == {"quantize.qdq-narrow"}


def test_operators_on_the_integers_become_float_operators():
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], "q"),
        node("MaxPool", ["q"], "qm", kernel_shape=[2, 2]),
        node("DequantizeLinear", ["qm", "s", "z"], "a"),
        dequantized_weight(),
        node("Conv", ["a", "w"], "y"),
    ]
    model = onnx.shape_inference.infer_shapes(net(nodes, {}))
    deploy, _ = converted(model)
    assert [one.op_type for one in deploy.graph.node] == ["MaxPool", "AscendQuant", "Conv", "AscendDequant"]


@pytest.mark.parametrize("kind", ["matmul", "axis"])
def test_scales_that_ascend_cannot_hold_are_made_anew_and_told(kind):
    if kind == "matmul":
        constants = {"wi": WEIGHT[:, :, 0, 0].T.copy()}
        nodes = [*pair("x", "a"), dequantized_weight(axis=1), node("MatMul", ["a", "w"], "y")]
        shape, x = (3, 24), RNG.standard_normal((3, 24)).astype(np.float32)
    else:
        steps = RNG.uniform(0.001, 0.003, 24).astype(np.float32)
        constants = {"ws": steps, "wz": np.zeros(24, np.int8)}
        nodes = [*pair("x", "a"), dequantized_weight(axis=1), node("Conv", ["a", "w"], "y")]
        shape, x = (1, 24, 6, 6), X
    _, rules = converted(net(nodes, constants, shape=shape), x, decibel=35)
    assert rules == {"quantize.qdq-requantized"}


def test_a_pair_that_feeds_no_layer_may_be_anything():
    """INT16, which Ascend has no counterpart of, does not spoil the model where no layer reads it."""
    nodes = [
        *pair("x", "a"),
        dequantized_weight(),
        node("Conv", ["a", "w"], "c"),
        *pair("c", "d", scale="s16", zero="z16"),
        node("Relu", ["d"], "y"),
    ]
    model = net(nodes, {"s16": np.float32(1e-4), "z16": np.int16(3)}, opset=21)
    model.ir_version = 10
    deploy, findings = convert_qdq(model)
    assert [one.op_type for one in deploy.graph.node] == ["AscendQuant", "Conv", "AscendDequant", "Relu"]
    assert {finding.rule for finding in findings} == {"quantize.qdq-dropped"}


def test_a_pair_on_an_output_is_taken_out_and_told():
    nodes = [*pair("x", "a"), dequantized_weight(), node("Conv", ["a", "w"], "c"), *pair("c", "y", scale="s2")]
    _, rules = converted(net(nodes, {"s2": np.float32(0.2)}), decibel=25)
    assert rules == {"quantize.qdq-dropped"}


def test_a_layer_left_in_floating_point_is_named():
    nodes = [
        *pair("x", "a"),
        dequantized_weight(),
        node("Conv", ["a", "w"], "c"),
        *pair("c", "d"),
        node("Conv", ["d", "float"], "y"),
    ]
    model = net(nodes, {"float": RNG.standard_normal((4, 8, 1, 1)).astype(np.float32), "s": np.float32(0.03)})
    _, findings = convert_qdq(model)
    assert [(one.rule, one.node) for one in findings if one.rule == "quantize.qdq-weight-missing"] == [
        ("quantize.qdq-weight-missing", "y.Conv")
    ]


def test_a_branch_reads_past_the_pair_that_was_taken_out():
    branches = [
        helper.make_graph([node(kind, ["a"], kind)], kind, [], [helper.make_tensor_value_info(kind, 1, None)])
        for kind in ("Relu", "Neg")
    ]
    nodes = [
        *pair("x", "a"),
        dequantized_weight(),
        node("Conv", ["a", "w"], "c"),
        helper.make_node("If", ["flag"], ["i"], name="if", then_branch=branches[0], else_branch=branches[1]),
        node("ReduceMean", ["i"], "m", keepdims=0),
        node("Add", ["c", "m"], "y"),
    ]
    _, rules = converted(net(nodes, {"flag": np.asarray(True)}), decibel=30)
    assert rules == {"quantize.qdq-dropped"}


def test_a_bias_beyond_fp32s_whole_numbers_keeps_its_integers():
    bias = RNG.integers(1 << 25, 1 << 28, 8).astype(np.int32)
    nodes = [
        *pair("x", "a"),
        dequantized_weight(),
        node("DequantizeLinear", ["bi", "bs"], "b", axis=0),
        node("Conv", ["a", "w", "b"], "y"),
    ]
    constants = {"bi": bias, "bs": np.float32(0.03) * STEPS}
    deploy, _ = convert_qdq(net(nodes, constants))
    values = {entry.name: numpy_helper.to_array(entry) for entry in deploy.graph.initializer}
    layer = next(one for one in deploy.graph.node if one.op_type == "Conv")
    assert np.array_equal(values[layer.input[2]], bias)


def test_integer_inputs_and_outputs_of_the_graph_are_refused():
    layer = [dequantized_weight(), node("Conv", ["a", "w"], "c")]
    last = net([*pair("x", "a"), *layer, node("QuantizeLinear", ["c", "s", "z"], "y")], {}, output=TensorProto.INT8)
    first = net([node("DequantizeLinear", ["x", "s", "z"], "a"), *layer, node("Relu", ["c"], "y")], {})
    first.graph.input[0].type.tensor_type.elem_type = TensorProto.INT8
    for model in (first, last):
        with pytest.raises(QuantizeError) as caught:
            convert_qdq(model)
        assert caught.value.message.key == "quantize.qdq-interface"


def test_integer_operators_are_refused_with_the_format_to_choose():
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], "q"),
        node("QLinearConv", ["q", "s", "z", "wi", "ws", "wz", "s", "z"], "c"),
        node("DequantizeLinear", ["c", "s", "z"], "y"),
    ]
    with pytest.raises(QuantizeError, match="QLinearConv") as caught:
        convert_qdq(net(nodes, {}))
    assert caught.value.message.key == "quantize.qoperator"
