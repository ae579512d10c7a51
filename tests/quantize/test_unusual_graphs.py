"""Graphs that are legal but unlike what an exporter usually writes: quantized right, or refused with a reason."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pth2om.errors import QuantizeError
from pth2om.quantize.api import convert, quantize
from pth2om.quantize.network import open_session, run_session
from pth2om.quantize.plan import make_plan
from pth2om.quantize.qdq import build_qdq
from pth2om.quantize.random_data import random_feeds
from pth2om.quantize.settings import QuantizeSettings
from pth2om.quantize.twins import fake_quant, integer
from tests.quantize.quantize_nets import feeds, tensor

DATA = feeds(3, batch=1, size=6)


def weight(*shape, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def conv(name="c", x="x", w="w", y="y", **values):
    return helper.make_node("Conv", [x, w], [y], name=name, **values)


def net(nodes, constants, *, inputs=None, outputs=("y",), opset=17, ir=8, extra=(), functions=()):
    """A model whose output shapes are inferred; nothing is checked, so that it may be odd."""
    values = inputs or [("x", [1, 24, 6, 6])]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [tensor(name, value) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in extra)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir, functions=list(functions))


def planned(model, data=DATA, **values):
    return make_plan(model, data, QuantizeSettings(small_channels=True, **values))


def close(model, plan, data=DATA, decibel=25):
    """The fake-quant twin is near the float model, and equal to the integers."""
    deploy = plan.deploy()
    wanted = run_session(open_session(model), data[0])
    got = run_session(open_session(fake_quant(deploy), exact=True), data[0])
    whole = run_session(open_session(integer(deploy), exact=True), data[0])
    for name, value in wanted.items():
        noise = np.sum((value.astype(np.float64) - got[name]) ** 2)
        assert 10 * np.log10(np.sum(value.astype(np.float64) ** 2) / max(noise, 1e-30)) > decibel
        assert np.array_equal(got[name], whole[name])


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([helper.make_node("Transpose", ["v"], ["w"], perm=[1, 0, 2, 3])], {"v": weight(24, 8, 3, 3)}),
        ([helper.make_node("Cast", ["v"], ["w"], to=1)], {"v": weight(8, 24, 3, 3).astype(np.float16)}),
        (
            [
                helper.make_node("ReduceL2", ["v"], ["n"], axes=[1, 2, 3]),
                helper.make_node("Div", ["v", "n"], ["u"]),
                helper.make_node("Mul", ["u", "g"], ["w"]),
            ],
            {"v": weight(8, 24, 3, 3), "g": np.ones((8, 1, 1, 1), np.float32)},
        ),
    ],
    ids=["transpose", "cast", "weight-norm"],
)
def test_a_weight_that_constants_alone_make_is_a_constant(nodes, constants):
    model = net([*nodes, conv()], constants)
    plan = planned(model)
    assert set(plan.quantized) == {"c"}
    assert {node.op_type for node in plan.deploy().graph.node} == {"AscendQuant", "Conv", "AscendDequant"}
    close(model, plan)


def test_a_weight_made_of_random_numbers_is_none():
    model = net([helper.make_node("RandomNormal", [], ["w"], shape=[8, 24, 3, 3]), conv()], {})
    with pytest.raises(QuantizeError, match="computed in the graph"):
        planned(model)


def test_gemms_that_share_a_transposed_weight_stay_in_floating_point():
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], name="first", transB=1),
        helper.make_node("Gemm", ["a", "w"], ["b"], name="second", transB=1),
        helper.make_node("MatMul", ["b", "v"], ["y"], name="third"),
    ]
    model = net(nodes, {"w": weight(24, 24), "v": weight(24, 5)}, inputs=[("x", [3, 24])])
    data = [{"x": weight(3, 24, seed=seed)} for seed in range(3)]
    plan = planned(model, data)
    assert set(plan.quantized) == {"third"}
    assert {layer.reason.key for layer in plan.selection.layers if layer.reason} == {"quantize.shared-weight"}


def test_local_functions_are_written_out():
    function = helper.make_function(
        "blocks",
        "Block",
        ["a", "b"],
        ["c"],
        [conv("inside", "a", "b", "m"), helper.make_node("Relu", ["m"], ["c"], name="relu")],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node("Block", ["x", "w"], ["h"], name="one", domain="blocks"),
        helper.make_node("Block", ["h", "v"], ["y"], name="two", domain="blocks"),
    ]
    constants = {"w": weight(24, 24, 3, 3), "v": weight(8, 24, 3, 3)}
    model = net(nodes, constants, extra=["blocks"], functions=[function])
    plan = planned(model)
    deploy = plan.deploy()
    assert len(plan.quantized) == 2
    assert [entry.domain for entry in deploy.opset_import] == [""]
    assert not deploy.functions
    close(model, plan)


def test_a_custom_operator_named_conv_is_no_conv():
    nodes = [
        helper.make_node("FusedConv", ["x", "w"], ["h"], name="fused", domain="com.microsoft", activation="Relu"),
        conv("plain", "h", "v"),
    ]
    model = net(nodes, {"w": weight(24, 24, 3, 3), "v": weight(8, 24, 3, 3)}, extra=["com.microsoft"])
    model.graph.node[0].op_type = "Conv"
    selection = make_selection(model)
    assert [layer.name for layer in selection.layers] == ["plain"]


def make_selection(model):
    from pth2om.quantize.layers import select
    from pth2om.quantize.prepare import prepare

    return select(prepare(model, "", known=True)[0])


def test_a_domain_used_inside_a_branch_only_stays_imported():
    branches = [
        helper.make_graph(
            [helper.make_node(kind, ["t"], [kind.lower()], name=kind, domain=domain)],
            kind,
            [],
            [helper.make_tensor_value_info(kind.lower(), 1, None)],
        )
        for kind, domain in (("Gelu", "com.microsoft"), ("Neg", ""))
    ]
    nodes = [
        conv(y="t"),
        helper.make_node("If", ["flag"], ["y"], name="if", then_branch=branches[0], else_branch=branches[1]),
    ]
    model = net(nodes, {"w": weight(8, 24, 3, 3), "flag": np.asarray(True)}, extra=["com.microsoft"])
    close(model, planned(model))


def test_a_bias_with_one_value_per_row_is_none_per_channel():
    """As many rows as channels: only the shape tells."""
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="g")]
    model = net(nodes, {"w": weight(24, 5), "b": weight(5, 1)}, inputs=[("x", [5, 24])])
    with pytest.raises(QuantizeError, match="one value per channel"):
        planned(model, [{"x": weight(5, 24, seed=seed)} for seed in range(3)])


@pytest.mark.parametrize("swapped", [False, True])
def test_a_matrix_products_bias_may_be_one_row(swapped):
    inputs = ["b", "m"] if swapped else ["m", "b"]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="mm"),
        helper.make_node("Add", inputs, ["y"], name="add"),
    ]
    model = net(nodes, {"w": weight(24, 5), "b": weight(1, 5)}, inputs=[("x", [3, 24])])
    data = [{"x": weight(3, 24, seed=seed)} for seed in range(3)]
    plan = planned(model, data)
    assert [node.op_type for node in plan.deploy().graph.node] == ["AscendQuant", "MatMul", "Add", "AscendDequant"]
    close(model, plan, data)


def test_a_wider_addend_is_no_bias():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="mm"),
        helper.make_node("Add", ["m", "b"], ["y"], name="add"),
    ]
    model = net(nodes, {"w": weight(24, 5), "b": weight(1, 1, 1, 5)}, inputs=[("x", [3, 24])])
    data = [{"x": weight(3, 24, seed=seed)} for seed in range(3)]
    plan = planned(model, data, bias_correction=False)
    assert plan.deploy().graph.node[-1].op_type == "Add"
    close(model, plan, data)


def test_average_pooling_of_another_type_stays_as_it_is():
    nodes = [
        conv(y="a"),
        helper.make_node("Cast", ["a"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("AveragePool", ["h"], ["p"], name="pool", kernel_shape=[2, 2]),
        helper.make_node("Cast", ["p"], ["y"], to=TensorProto.FLOAT),
    ]
    model = net(nodes, {"w": weight(8, 24, 3, 3)})
    plan = planned(model)
    assert set(plan.quantized) == {"c"}
    close(model, plan)


@pytest.mark.parametrize(
    ("constants", "key"),
    [
        ({"b": np.full(8, np.nan, np.float32)}, "quantize.bias-not-finite"),
        ({"w": weight(8, 24, 3, 3) * np.float32(1e-32)}, "quantize.tiny-weight"),
    ],
)
def test_constants_that_int8_cannot_hold_leave_the_layer_in_floating_point(constants, key):
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="odd"), conv("good", "x", "v", "z")]
    usual = {"w": weight(8, 24, 3, 3), "b": np.zeros(8, np.float32), "v": weight(8, 24, 3, 3, seed=1)}
    plan = planned(net(nodes, usual | constants, outputs=("y", "z")))
    assert set(plan.quantized) == {"good"}
    assert plan.selection.layers[0].reason.key == key


def test_activations_too_small_for_a_scale_are_refused_with_the_reason():
    """AMCT's rule would take scale 1 for them, so that every value became zero."""
    model = net([conv()], {"w": weight(8, 24, 3, 3)})
    with pytest.raises(QuantizeError, match="too small for an INT8 scale"):
        planned(model, [{"x": batch["x"] * np.float32(1e-8)} for batch in DATA])


def test_small_weights_keep_their_integers():
    model = net([conv()], {"w": weight(8, 24, 3, 3) * np.float32(1e-9)})
    close(model, planned(model))


def test_constants_listed_as_inputs_of_an_old_file(tmp_path):
    """Format version 3 demands that; the files written must be legal all the same."""
    constants = {"w": weight(8, 24, 3, 3)}
    model = net([conv()], constants, inputs=[("x", [1, 24, 6, 6]), ("w", [8, 24, 3, 3])], opset=11, ir=3)
    onnx.save(model, str(tmp_path / "old.onnx"))
    result = quantize(tmp_path / "old.onnx", DATA, QuantizeSettings(), tmp_path)
    for role in ("fake_quant", "qdq"):
        written = onnx.load(str(result.files[role]))
        onnx.checker.check_model(onnx.shape_inference.infer_shapes(written), full_check=True)
        assert [value.name for value in written.graph.input] == ["x"]


def test_a_format_newer_than_the_runtimes_is_no_hindrance():
    model = net([conv()], {"w": weight(8, 24, 3, 3)}, ir=99)
    assert planned(model).deploy().ir_version == 10


@pytest.mark.parametrize(
    "spoil",
    [
        lambda model: model.graph.initializer[0].dims.__setitem__(0, 7),
        lambda model: model.graph.initializer[0].__setattr__("data_type", 99),
        lambda model: model.graph.node[0].input.pop(),
        lambda model: model.graph.node[0].__setattr__("op_type", "BatchNormalization"),
        lambda model: model.graph.node[0].attribute.append(helper.make_attribute("group", [1, 2])),
    ],
    ids=["size", "type", "input", "operator", "attribute"],
)
def test_what_is_no_legal_model_gives_the_runtimes_reason(spoil):
    model = net([conv()], {"w": weight(8, 24, 3, 3)})
    spoil(model)
    with pytest.raises(QuantizeError) as caught:
        planned(model)
    assert caught.value.message.key == "quantize.not-runnable"


def test_bytes_that_are_no_text_are_no_model(tmp_path):
    data = net([conv("convolution")], {"w": weight(8, 24, 3, 3)}).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data.replace(b"convolution", b"\xff\xfe\xfdvolution"))
    with pytest.raises(QuantizeError) as caught:
        convert(tmp_path / "m.onnx")
    assert caught.value.message.key == "quantize.not-onnx"


def test_nodes_that_share_a_name_are_told_apart():
    nodes = [conv("c", y="a"), helper.make_node("Relu", ["a"], ["r"], name="c"), conv("c", "r", "v")]
    plan = planned(net(nodes, {"w": weight(24, 24, 3, 3), "v": weight(8, 24, 3, 3)}))
    assert set(plan.quantized) == {"c", "c_2"}


def test_names_that_the_deploy_model_would_give_may_be_taken():
    nodes = [
        conv("c", y="c.output0"),
        helper.make_node("Relu", ["c.output0"], ["c.quant.output0"], name="c.quant"),
        helper.make_node("Neg", ["c.quant.output0"], ["w.int8"], name="c.dequant"),
        conv("d", "w.int8", "c.dequant.param"),
    ]
    model = net(nodes, {"w": weight(24, 24, 3, 3), "c.dequant.param": weight(8, 24, 3, 3)})
    plan = planned(model)
    names = [node.name for node in plan.deploy().graph.node]
    assert len(set(names)) == len(names)
    close(model, plan)


def test_a_new_constant_takes_no_name_of_a_branch():
    branches = [
        helper.make_graph(
            [helper.make_node(kind, ["t"], ["w.int8"], name=kind)],
            kind,
            [],
            [helper.make_tensor_value_info("w.int8", 1, None)],
        )
        for kind in ("Relu", "Neg")
    ]
    nodes = [
        conv(y="t"),
        helper.make_node("If", ["flag"], ["y"], name="if", then_branch=branches[0], else_branch=branches[1]),
    ]
    model = net(nodes, {"w": weight(8, 24, 3, 3), "flag": np.asarray(True)})
    deploy = planned(model).deploy()
    assert "w.int8" not in {entry.name for entry in deploy.graph.initializer}


def test_an_empty_attribute_is_its_default():
    nodes = [helper.make_node("Softmax", ["t"], ["y"], name="softmax"), conv(y="t")]
    model = net(nodes, {"w": weight(8, 24, 3, 3)})
    model.graph.node[1].attribute.append(
        onnx.AttributeProto(name="strides", type=onnx.AttributeProto.INTS),
    )
    from pth2om.quantize.network import attributes

    assert "strides" not in attributes(model.graph.node[1])


def test_atc_takes_a_convolution_whose_kernel_shape_was_left_to_the_weight(tmp_path):
    from pth2om.cli import main

    model = onnx.shape_inference.infer_shapes(net([conv()], {"w": weight(8, 24, 3, 3)}))
    onnx.save(model, str(tmp_path / "m.onnx"))
    result = quantize(tmp_path / "m.onnx", DATA, QuantizeSettings(), tmp_path)
    options = ["--framework=5", f"--model={result.files['deploy']}", "--soc_version=Ascend310P3"]
    assert main(["atc", "--", *options, f"--output={tmp_path / 'm'}", "--input_shape=x:1,24,6,6"]) == 0


def test_a_wide_transposed_convolution_has_exact_integers():
    """Four bits of the weight at a time would exceed FP32's whole numbers; two do not."""
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="t", kernel_shape=[3, 3])]
    model = net(nodes, {"w": np.abs(weight(2048, 2, 3, 3))}, inputs=[("x", [1, 2048, 2, 2])])
    data = [{"x": np.abs(weight(1, 2048, 2, 2, seed=seed))} for seed in range(3)]
    plan = planned(model, data)
    twin = integer(plan.deploy())
    assert [node.op_type for node in twin.graph.node].count("ConvTranspose") == 4
    got = run_session(open_session(twin, exact=True), data[0])["y"]
    quantized = plan.quantized["t"]
    scale, offset = np.float32(1) / quantized.activation.scale, quantized.activation.offset
    q = np.clip(np.rint(data[0]["x"] * scale + np.float32(offset)), -128, 127).astype(np.int64) - offset
    sums = np.zeros((1, 2, 4, 4), np.int64)
    for i in range(3):
        for j in range(3):
            taps = quantized.weight[:, :, i, j].astype(np.int64)
            sums[:, :, i : i + 2, j : j + 2] += np.einsum("nchw,co->nohw", q, taps)
    sums += quantized.bias.astype(np.int64).reshape(1, -1, 1, 1)
    assert np.array_equal(got, sums.astype(np.float32) * quantized.deq_scale.reshape(1, -1, 1, 1))


@pytest.mark.parametrize("opset", [8, 10, 23, 24])
def test_versions_outside_what_atc_registers_are_converted(opset):
    nodes = [
        conv(y="a", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("Dropout", ["r"], ["d"], name="dropout"),
        helper.make_node("AveragePool", ["d"], ["y"], name="pool", kernel_shape=[2, 2]),
    ]
    model = net(nodes, {"w": weight(24, 24, 3, 3)}, opset=opset, ir=10 if opset > 20 else 4)
    plan = planned(model)
    version = next(entry.version for entry in plan.deploy().opset_import if entry.domain == "")
    # The inputs of a Dropout, or operators newer than 18, are what ATC has no parser for.
    assert version == (17 if opset > 20 else 11)
    close(model, plan)


def test_the_qdq_twin_of_a_new_opset_opens_in_onnx_runtime():
    """QuantizeLinear's output_dtype, from 21 on, breaks the fusion of a 3-D MatMul and Add for INT8."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="mm"),
        helper.make_node("Add", ["m", "b"], ["y"], name="add"),
    ]
    model = net(nodes, {"w": weight(24, 5), "b": weight(5)}, inputs=[("x", [2, 3, 24])], opset=21, ir=10)
    data = [{"x": weight(2, 3, 24, seed=seed)} for seed in range(3)]
    plan = planned(model, data)
    twin = build_qdq(plan.network, list(plan.quantized.values()))
    got = run_session(open_session(twin), data[0])["y"]
    assert np.allclose(got, run_session(open_session(fake_quant(plan.deploy())), data[0])["y"], atol=1e-3)


def test_a_grouped_transposed_convolutions_twin_holds_its_integers(tmp_path):
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="t", group=4, kernel_shape=[3, 3])]
    onnx.save(net(nodes, {"w": weight(24, 2, 3, 3)}), str(tmp_path / "m.onnx"))
    result = quantize(tmp_path / "m.onnx", DATA, QuantizeSettings(), tmp_path)
    again = convert(result.files["qdq"], tmp_path / "again")
    first, second = (constants(onnx.load(str(one.files["deploy"]))) for one in (result, again))
    for name in ("weight", "bias", "scale"):
        assert np.array_equal(first[name], second[name])


def constants(deploy):
    values = {entry.name: numpy_helper.to_array(entry) for entry in deploy.graph.initializer}
    layer = next(node for node in deploy.graph.node if not node.op_type.startswith("Ascend"))
    dequant = next(node for node in deploy.graph.node if node.op_type == "AscendDequant")
    return {"weight": values[layer.input[1]], "bias": values[layer.input[2]], "scale": values[dequant.input[1]]}


@pytest.mark.parametrize(
    "batch",
    [
        {},
        {"z": DATA[0]["x"]},
        {"x": DATA[0]["x"][0]},
        {"x": DATA[0]["x"][:, :20]},
        {"x": DATA[0]["x"].astype(np.float64)},
        {"x": DATA[0]["x"].tolist()},
        DATA[0]["x"],
    ],
    ids=["nothing", "other-name", "rank", "shape", "dtype", "list", "array"],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_batch_that_does_not_fit_is_named(batch, first):
    model = net([conv()], {"w": weight(8, 24, 3, 3)})
    with pytest.raises(QuantizeError, match=f"batch {0 if first else 1} ") as caught:
        planned(model, [batch] if first else [DATA[0], batch])
    assert caught.value.message.key == "quantize.does-not-fit"


def test_an_axis_of_minus_one_is_symbolic():
    model = net([conv()], {"w": weight(8, 24, 3, 3)}, inputs=[("x", [-1, 24, -1, -1])])
    close(model, planned(model))


def test_random_indices_lie_within_their_table():
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"], name="embed"),
        helper.make_node("MatMul", ["e", "w"], ["y"], name="mm"),
    ]
    model = net(nodes, {"table": weight(50, 24), "w": weight(24, 5)}, inputs=[("ids", [2, 40])])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    drawn = random_feeds(model, "")
    values = np.concatenate([batch["ids"].reshape(-1) for batch in drawn])
    assert values.min() >= 0
    assert values.max() < 50
    assert len(np.unique(values)) > 10
    assert set(planned(model, drawn).quantized) == {"mm"}


def test_amcts_pad_before_a_pool_reaches_the_emulator():
    """Quant -> Pad -> AveragePool -> Dequant keeps its Pad when it is computed as the chip does."""
    from pth2om.quantize.emulate import on_chip

    nodes = [
        helper.make_node("AscendQuant", ["x"], ["q"], name="p.quant", scale=10.0, offset=-3.0, dst_type="INT8"),
        helper.make_node("Pad", ["q", "pads"], ["padded"], name="pad"),
        helper.make_node("AveragePool", ["padded"], ["s"], name="p", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("AscendDequant", ["s", "deq"], ["y"], name="p.dequant"),
    ]
    deq = np.asarray([0.1], np.float32).view(np.uint32).astype(np.uint64)
    pads = np.asarray([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    made = on_chip(net(nodes, {"pads": pads, "deq": deq}, opset=13), "Ascend310P3")
    assert [node.op_type for node in made.graph.node] == ["Pad", "QuantizedLayer"]
    assert made.graph.node[1].input[0] == made.graph.node[0].output[0]
