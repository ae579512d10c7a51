"""Each rule fires on the graph it is about, names the node, has a remedy in both languages, or keeps still."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pth2om.ascend.atc_options import AtcOptions
from pth2om.errors import GraphError
from pth2om.language import catalogue
from pth2om.onnxfile.spans import float_range
from pth2om.onnxfile.types import tensor_types
from pth2om.preflight import check

F = TensorProto.FLOAT


def const(name, values, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def write(path, nodes, inputs=(("x", F, (1, 3, 8, 8)),), outputs=(("y", F),), initializers=(), opset=13, **rest):
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
        list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **rest)
    path.write_bytes(model.SerializeToString())
    return path


def node(kind, inputs, outputs=("y",), name="n", **attributes):
    return helper.make_node(kind, list(inputs), list(outputs), name, **attributes)


def rules(path, **options):
    return {finding.rule.removeprefix("preflight."): finding for finding in check(path, **options)}


# name of the rule: (nodes, what else `write` wants)
GRAPHS = {
    "opset-too-new": ([node("Relu", "x")], {"opset": 19}),
    "operator-not-yet": ([node("ReduceL2", "x")], {"opset": 18}),
    "decompose": (
        [node("GroupNormalization", "xsb", num_groups=1)],
        {"opset": 18, "initializers": [const("s", [1.0]), const("b", [1.0])]},
    ),
    "never-registered": ([node("STFT", "xs")], {"opset": 17, "initializers": [const("s", 1, np.int64)]}),
    "unknown-operator": ([node("Nonsense", "x")], {}),
    "foreign-domain": ([node("FusedConv", "x", domain="com.microsoft")], {"imports": "com.microsoft"}),
    "foreign-domain-known": ([node("Relu", "x", domain="mmcv")], {"imports": "mmcv"}),
    "quantized-operator": ([node("QuantizeLinear", "xs")], {"initializers": [const("s", 0.1)]}),
    "control-flow": ([node("Scan", "x", num_scan_inputs=1)], {}),
    "domain-not-imported": ([node("Relu", "x", domain="other")], {}),
    "names-repeated": ([node("Relu", "x", "a"), node("Relu", "a")], {}),
    "names-shared": ([node("Relu", "x", name="x")], {}),
    "no-inputs": ([node("Relu", "w")], {"inputs": (), "initializers": [const("w", [1.0])]}),
    "no-outputs": ([node("Relu", "x")], {"outputs": ()}),
    "output-unmade": ([node("Relu", "x", "z")], {}),
    "input-type": ([node("Abs", "x")], {"inputs": (("x", TensorProto.INT64, (1,)),), "outputs": (("y", 7),)}),
    "input-no-shape": ([node("Relu", "x")], {"inputs": (("x", F, None),)}),
    "attribute-missing": ([node("Transpose", "x")], {}),
    "attribute-value": ([node("LRN", "x", size=4)], {}),
    "maxpool-indices": ([node("MaxPool", "x", ("y", "i"), kernel_shape=[2, 2])], {}),
    "clip-open": ([node("Clip", "x")], {}),
    "resize-inputs": ([node("Resize", ("x", ""))], {}),
    "split-outputs": ([node("Split", "x", ("y", "z"), split=[1, 1, 1], axis=1)], {"opset": 11}),
    "pad-axes": (
        [node("Pad", ("x", "p", "", "a"))],
        {"opset": 18, "initializers": [const("p", [1, 1], np.int64), const("a", [3], np.int64)]},
    ),
    "dropout-ratio": ([node("Dropout", "xr")], {"initializers": [const("r", 0.5)]}),
    "unsorted": ([node("Relu", "a", name="late"), node("Relu", "x", "a", "early")], {}),
    "input-unmade": ([node("Add", "xz")], {}),
    "constant-form": ([node("Constant", "", "c", "k", value_float=1.0), node("Add", "xc")], {}),
    "double": ([node("Abs", "x")], {"inputs": (("x", TensorProto.DOUBLE, (1,)),), "outputs": (("y", 11),)}),
    "int64-arithmetic": ([node("Add", "xx")], {"inputs": (("x", TensorProto.INT64, (1,)),), "outputs": (("y", 7),)}),
    "int64-output": ([node("ArgMax", "x", axis=1)], {"outputs": (("y", 7),)}),
    "bool-output": ([node("Greater", "xx")], {"outputs": (("y", 9),)}),
    "resize-nearest-mode": (
        [node("Resize", ("x", "", "s"), coordinate_transformation_mode="asymmetric", nearest_mode="ceil")],
        {"initializers": [const("s", [1, 1, 2, 2])]},
    ),
    "resize-coordinates": (
        [node("Resize", ("x", "", "s"), coordinate_transformation_mode="tf_crop_and_resize")],
        {"initializers": [const("s", [1, 1, 2, 2])]},
    ),
    "resize-half-pixel": (
        [node("Resize", ("x", "", "s"), mode="linear")],
        {"initializers": [const("s", [1, 1, 2, 2])]},
    ),
    "resize-dropped": (
        [node("Resize", ("x", "", "s"), mode="cubic", exclude_outside=1)],
        {"initializers": [const("s", [1, 1, 2, 2])]},
    ),
    "resize-dynamic": (
        [node("Resize", ("x", "", "s"), mode="linear")],
        {"inputs": (("x", F, (1, 3, 8, 8)), ("s", F, (4,)))},
    ),
    "resize-rank": (
        [
            node(
                "Resize",
                ("x", "", "s"),
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        {"inputs": (("x", F, (1, 3, 8)),), "initializers": [const("s", [1, 1, 2])]},
    ),
    "gridsample-strings": (
        [node("GridSample", "xg")],
        {"opset": 16, "inputs": (("x", F, (1, 3, 8, 8)), ("g", F, (1, 4, 4, 2)))},
    ),
    "pad-mode": ([node("Pad", "xp", mode="wrap")], {"initializers": [const("p", [0] * 8, np.int64)]}),
    "split-uneven": ([node("Split", "x", "yzw", axis=3, num_outputs=3)], {"opset": 18}),
    "nms": (
        [node("NonMaxSuppression", "bs")],
        {"inputs": (("b", F, (1, 9, 4)), ("s", F, (1, 2, 9))), "outputs": (("y", 7),)},
    ),
    "topk-k": ([node("TopK", "xk", "yi")], {"inputs": (("x", F, (1, 9)), ("k", 7, (1,)))}),
    "data-dependent": ([node("NonZero", "x")], {"outputs": (("y", 7),)}),
    "einsum": ([node("Einsum", "xx", equation="nchw,nchw->n")], {}),
    "softmax-axis": ([node("LogSoftmax", "x")], {"opset": 11}),
    "recurrent-ignored": (
        [node("LSTM", "xwr", ("y",), hidden_size=2, clip=3.0)],
        {
            "inputs": (("x", F, (4, 1, 3)),),
            "initializers": [const("w", np.ones((1, 8, 3))), const("r", np.ones((1, 8, 2)))],
        },
    ),
    "gru-reset": (
        [node("GRU", "xwr", ("y",), hidden_size=2)],
        {
            "inputs": (("x", F, (4, 1, 3)),),
            "initializers": [const("w", np.ones((1, 6, 3))), const("r", np.ones((1, 6, 2)))],
        },
    ),
    "same-lower": ([node("MaxPool", "x", kernel_shape=[2, 2], auto_pad="SAME_LOWER")], {}),
    "pool-dilations": ([node("MaxPool", "x", kernel_shape=[2, 2], dilations=[2, 2])], {}),
    "pool-large": ([node("AveragePool", "x", kernel_shape=[32, 32])], {"inputs": (("x", F, (1, 3, 64, 64)),)}),
    "conv-limits": (
        [node("Conv", "xw", strides=[64, 64], kernel_shape=[1, 1])],
        {"initializers": [const("w", np.ones((3, 3, 1, 1)))]},
    ),
    "conv-1d": (
        [node("Conv", "xw", kernel_shape=[1])],
        {"inputs": (("x", F, (1, 3, 8)),), "initializers": [const("w", np.ones((3, 3, 1)))]},
    ),
    "globalmaxpool-rank": ([node("GlobalMaxPool", "x")], {"inputs": (("x", F, (1, 3, 4, 4, 4)),)}),
    "roialign-max": (
        [node("RoiAlign", "xrb", mode="max")],
        {"inputs": (("x", F, (1, 3, 8, 8)), ("r", F, (2, 4)), ("b", 7, (2,)))},
    ),
    "scatter-mul": (
        [node("ScatterND", "xiu", reduction="mul")],
        {"opset": 16, "inputs": (("x", F, (8,)), ("i", 7, (1, 1)), ("u", F, (1,)))},
    ),
    "gemm-alpha": (
        [node("Gemm", "xw", alpha=0.5)],
        {"inputs": (("x", F, (2, 3)),), "initializers": [const("w", np.ones((3, 4)))]},
    ),
    "shape-range": ([node("Shape", "x", start=1)], {"opset": 15, "outputs": (("y", 7),)}),
    "mod-fmod": ([node("Mod", "xx", fmod=1)], {}),
    "layernorm": ([node("LayerNormalization", "xs")], {"opset": 17, "initializers": [const("s", np.ones(8))]}),
    "dynamic-input": ([node("Relu", "x")], {"inputs": (("x", F, ("n", 3, 8, 8)),)}),
    "zero-size": ([node("Relu", "x")], {"inputs": (("x", F, (1, 0)),)}),
    "three-dimensional": ([node("MaxPool", "x", kernel_shape=[2, 2, 2])], {"inputs": (("x", F, (1, 3, 8, 8, 8)),)}),
    "constant-large": ([node("Add", "xc")], {"initializers": [const("c", -1e9)]}),
    "constant-infinite": ([node("Add", "xc")], {"initializers": [const("c", -np.inf)]}),
    "constant-nan": ([node("Add", "xc")], {"initializers": [const("c", np.nan)]}),
    "epsilon-zero": ([node("Add", "xc")], {"initializers": [const("c", 1e-12)]}),
    "epsilon-subnormal": ([node("Add", "xc")], {"initializers": [const("c", 1e-6)]}),
    "whole-numbers": (
        [node("Add", "xc")],
        {"initializers": [const("c", np.arange(3001.0))], "inputs": (("x", F, (3001,)),)},
    ),
    "int64-wide": ([node("Gather", "xc")], {"initializers": [const("c", [2**40], np.int64)]}),
    "no-kernel": ([node("AveragePool", "x", kernel_shape=[2, 2, 2])], {"inputs": (("x", F, (1, 3, 8, 8, 8)),)}),
    "bfloat16": (
        [node("Relu", "x")],
        {"inputs": (("x", TensorProto.BFLOAT16, (4,)),), "outputs": (("y", 16),), "soc": "Ascend310P3"},
    ),
}


@pytest.mark.parametrize("rule", sorted(GRAPHS))
def test_rule_fires_and_names_its_node(rule, tmp_path):
    nodes, rest = GRAPHS[rule]
    rest = dict(rest)
    domain, soc = rest.pop("imports", None), rest.pop("soc", "Ascend310B1")
    path = write(tmp_path / "m.onnx", nodes, **rest)
    if domain:
        model = onnx.load(str(path))
        model.opset_import.append(helper.make_opsetid(domain, 1))
        path.write_bytes(model.SerializeToString())
    found = rules(path, soc=soc)
    assert rule in found, sorted(found)
    finding = found[rule]
    assert "{" not in finding.message.render("en") + finding.message.render("zh")
    assert any("\u4e00" <= letter <= "\u9fff" for letter in finding.message.render("zh"))
    if finding.severity in ("error", "warning"):
        assert finding.message.fix("en")
        assert finding.message.fix("zh")
        assert "{" not in (finding.message.fix("en") or "") + (finding.message.fix("zh") or "")
    assert json.dumps(finding.to_json())


def test_a_plain_network_is_clean(tmp_path):
    weight = const("w", np.full((4, 3, 3, 3), 0.1))
    nodes = [node("Conv", "xw", "c", "conv", kernel_shape=[3, 3]), node("Relu", "c", "y", "relu")]
    findings = check(write(tmp_path / "m.onnx", nodes, initializers=[weight]), soc="Ascend310B1")
    assert [finding.rule for finding in findings if finding.severity != "info"] == []


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("GRU", {"linear_before_reset": 1}),
        ("GRU", {"linear_before_reset": 1, "activations": ["Sigmoid", "Tanh"], "clip": 0.0, "layout": 0}),
        ("LSTM", {"activations": ["Sigmoid", "Tanh", "Tanh"]}),
    ],
    ids=["torch", "written-out", "lstm"],
)
def test_a_recurrent_cell_in_the_form_of_the_kernel_is_clean(op, attributes, tmp_path):
    """torch.nn.GRU exports linear_before_reset=1, which is what DynamicGRUV2 computes; defaults may be spelled out."""
    gates = 3 if op == "GRU" else 4
    weights = [const("w", np.ones((1, gates * 2, 3))), const("r", np.ones((1, gates * 2, 2)))]
    model = {"inputs": (("x", F, (4, 1, 3)),), "initializers": weights}
    path = write(tmp_path / "cell.onnx", [node(op, "xwr", hidden_size=2, **attributes)], opset=14, **model)
    assert not {"recurrent-ignored", "gru-reset"} & rules(path, soc="Ascend310P3").keys()


@pytest.mark.parametrize("fixed", [True, False])
def test_a_slice_with_constant_indices_is_not_left_to_the_cpu(fixed, tmp_path):
    """The compiler has StridedSliceD for it; indices known only when the model runs stay with StridedSliceV2."""
    ends = {"initializers": [const("e", [2], np.int64)]} if fixed else {"inputs": (("x", F, (1, 8)), ("e", 7, (1,)))}
    rest = {"inputs": (("x", F, (1, 8)),), **ends}
    rest["initializers"] = [const("s", [0], np.int64), const("a", [1], np.int64), *rest.get("initializers", [])]
    path = write(tmp_path / "slice.onnx", [node("Slice", "xsea")], **rest)
    assert ("cpu-kernel" in rules(path, soc="Ascend910B3")) is not fixed


def test_every_sentence_is_in_both_languages():
    for room in ("preflight", "atc"):
        for name, entry in catalogue(room).items():
            assert entry["en"], name
            assert entry["zh"], name
            if "fix" in entry:
                assert set(entry["fix"]) == {"en", "zh"}, name


def test_every_pass_that_is_named_exists():
    """The remedies name passes of ``pth2om fix``: those that are agreed upon."""
    agreed = {
        "simplify",
        "domains",
        "int32",
        "inline-functions",
        "opset-imports",
        "unique-names",
        "constant-value",
        "clamp",
        "transpose-perm",
        "split-clip-pad",
        "conv1d",
        "decompose",
        "downconvert",
        "ir-version",
        "static-shapes",
        "cut",
        "custom-types",
        "custom-domains",
    }
    named = set()
    for room in ("preflight", "atc"):
        for entry in catalogue(room).values():
            for text in entry.get("fix", {}).values():
                named.update(re.findall(r"--pass ([a-z0-9-]+)", text))
    assert named <= agreed
    assert len(named) > 10


@pytest.mark.parametrize(
    ("soc", "cann", "rule"),
    [
        ("Ascend310B1", "7.0", "dynamic-range-early"),
        ("Ascend310B4", "8.0.RC1", "dynamic-range-early"),
        ("Ascend310B1", "9.1.0", "dynamic-range-early"),
        ("Ascend310B1", "9.x", "dynamic-range-early"),
        ("Ascend310B1", "9.2.0", "dynamic-range-untested"),
        ("Ascend310B1", "9.10", "dynamic-range-untested"),
        ("Ascend310", "9.2", "dynamic-range-never"),
        ("Ascend310P3", "7.0", "dynamic-range"),
    ],
)
def test_a_range_by_chip_and_cann(tmp_path, soc, cann, rule):
    path = write(tmp_path / "m.onnx", [node("Relu", "x")], inputs=(("x", F, ("n", 4)),))
    asked = AtcOptions(model=str(path), output="o", soc_version=soc, input_shape="x:1~8,4")
    found = rules(path, options=asked, cann=cann)
    assert [name for name in found if name.startswith("dynamic-range")] == [rule]
    assert found[rule].severity == ("error" if rule.endswith(("early", "never")) else "warning")


def test_shapes_of_the_options(tmp_path):
    path = write(tmp_path / "m.onnx", [node("Relu", "x")], inputs=(("x", F, ("n", 3, 8, 8)),))

    def options(**more):
        return AtcOptions(model=str(path), output="o", soc_version="Ascend310B1", **more)

    assert rules(path, options=options())["dynamic-input"].severity == "error"
    assert "dynamic-input" not in rules(path, options=options(input_shape="x:1,3,8,8"))
    assert rules(path, options=options(input_shape="x:-1,3,8,8"))["dynamic-range-early"].severity == "error"
    geared = options(input_shape="x:-1,3,8,8", dynamic_batch_size="1,2")
    assert not {"dynamic-range-early", "dynamic-input"} & set(rules(path, options=geared))
    assert "shape-unknown-input" in rules(path, options=options(input_shape="images:1,3,8,8"))
    assert "shape-rank" in rules(path, options=options(input_shape="x:1,3,8"))
    assert "shape-other" in rules(path, options=options(input_shape="x:1,4,8,8"))


@pytest.mark.parametrize(("scale", "told"), [(1e-3, False), (7e-5, False), (1e-7, True), (1e-9, True), (1e-12, True)])
def test_a_dequantization_scale_that_fp16_cannot_hold(tmp_path, scale, told):
    packed = np.asarray([0.5, scale], np.float32).view(np.uint32).astype(np.uint64)
    nodes = [node("AscendDequant", "xs")]
    inputs = (("x", TensorProto.INT32, (1, 2, 4, 4)),)
    path = write(tmp_path / "m.onnx", nodes, inputs=inputs, initializers=[const("s", packed, np.uint64)])
    assert ("dequant-scale" in rules(path, soc="Ascend310")) == told
    assert "dequant-scale" not in rules(path, soc="Ascend310P3"), "there the scale is FP32"


def test_precision_modes_that_keep_fp32(tmp_path):
    path = write(tmp_path / "m.onnx", [node("Add", "xc")], initializers=[const("c", -1e9)])
    options = AtcOptions(model=str(path), soc_version="Ascend310B1", precision_mode_v2="origin")
    assert "constant-large" not in rules(path, options=options)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_ranges_of_constants(kind):
    def span(*values):
        return float_range(numpy_helper.from_array(np.asarray(values, kind)))

    assert span(1.0, -3.0).top == 3.0
    assert span(np.inf, 1.0).infinite
    assert span(np.nan, 1.0).nan
    assert span(0.5).scalar == 0.5
    if kind is not np.float16:
        assert span(2048.0, 2049.0).rounded
        assert not span(2048.0, 2050.0).rounded
        assert not span(2048.5, 2049.0).rounded
    typed = helper.make_tensor("t", helper.np_dtype_to_tensor_dtype(np.dtype(kind)), [2], np.array([1.5, -2.5], kind))
    assert float_range(typed).top == 2.5


def test_latency_that_no_chip_meets(tmp_path):
    weight = const("w", np.full((64, 64, 3, 3), 0.1))
    nodes = [node("Conv", "xw", kernel_shape=[3, 3])]
    path = write(tmp_path / "m.onnx", nodes, inputs=(("x", F, (1, 64, 512, 512)),), initializers=[weight])
    found = rules(path, soc="Ascend310B1", latency_ms=0.01)["latency-impossible"]
    # 2 x 64 x 510 x 510 outputs x (64 x 3 x 3) products, at 10.03 TFLOPS.
    operations = 2 * 64 * 510 * 510 * 64 * 9
    assert found.details["operations"] == operations
    assert found.details["bound_ms"] == pytest.approx(operations / 10.03e12 * 1e3)
    assert "roofline" in rules(path, soc="Ascend310B1", latency_ms=1e3)


def test_memory(tmp_path):
    shape = (1, 1024, 4096, 4096)
    path = write(tmp_path / "m.onnx", [node("Relu", "x")], inputs=(("x", F, shape),))
    found = rules(path, soc="Ascend310B1")["memory-over"]
    # Input and output of 2^34 elements, two bytes each.
    assert found.message.values["activations"] == 2 * 2 * 2**34 / 2**20


def test_external_data_stays_in_its_folder(tmp_path):
    weight = const("w", np.ones(8))
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for place, rule in (
        ("../secret", "external-outside"),
        ("/etc/passwd", "external-outside"),
        ("C:\\x", "external-outside"),
        ("a/../../b", "external-outside"),
        ("absent.bin", "external-missing"),
    ):
        del weight.external_data[:]
        weight.external_data.add(key="location", value=place)
        path = write(tmp_path / "m.onnx", [node("Add", "xw")], initializers=[weight])
        assert rule in rules(path), place


def test_old_parser_takes_one_domain(tmp_path):
    path = write(tmp_path / "m.onnx", [node("Relu", "x")])
    model = onnx.load(str(path))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    path.write_bytes(model.SerializeToString())
    assert rules(path, cann="7.0")["several-domains"].severity == "error"
    assert rules(path, cann="9.x")["unused-domains"].severity == "info"


def test_shapes_that_exporters_compute_are_folded(tmp_path):
    """Upsampling to the size of the input, doubled in the graph: Shape, Slice, Cast, Mul, Concat feed the Resize."""
    nodes = [
        node("Shape", ["x"], ["shape"], "shape"),
        node("Slice", ["shape", "two", "four", "zero"], ["hw"], "slice"),
        node("Mul", ["hw", "twos"], ["doubled"], "mul"),
        node("Slice", ["shape", "zero", "two", "zero"], ["nc"], "head"),
        node("Concat", ["nc", "doubled"], ["sizes"], "concat", axis=0),
        node(
            "Resize",
            ["x", "", "", "sizes"],
            ["y"],
            "resize",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        ),
    ]
    numbers = [const(name, [value], np.int64) for name, value in (("zero", 0), ("two", 2), ("four", 4))]
    path = write(tmp_path / "m.onnx", nodes, initializers=[*numbers, const("twos", [2, 2], np.int64)])
    types = tensor_types(onnx.load(str(path)), {})
    assert types["y"] == (F, (1, 3, 16, 16))
    assert not {"resize-dynamic", "int64-arithmetic"} & set(rules(path, soc="Ascend310B1"))
    assert tensor_types(onnx.load(str(path)), {"x": (2, 3, 5, 7)})["y"] == (F, (2, 3, 10, 14))


def test_nothing_large_is_computed(tmp_path):
    nodes = [node("ConstantOfShape", ["huge"], ["c"], "fill"), node("Mul", ["c", "c"], ["y"], "mul")]
    path = write(tmp_path / "m.onnx", nodes, initializers=[const("huge", [2**20, 2**20], np.int64)])
    assert check(path, soc="Ascend310B1")


def test_unreadable_files(tmp_path):
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", b"\x08\x08"):
        (tmp_path / "m.onnx").write_bytes(content)
        try:
            found = {finding.rule for finding in check(tmp_path / "m.onnx")}
        except GraphError as error:
            found = {error.message.key}
        assert found <= {"preflight.no-graph", "onnxfile.not-onnx"}
    with pytest.raises(GraphError):
        check(tmp_path / "absent.onnx")


# -------------------------------------------------------------------------------------------- awkward real files

HARD = {
    "Lanenet_my_improve_4_batch_8.onnx": "dynamic-input",
    "aasist_bs1_ori.onnx": "topk-int32",
    "ascend_parser_onnx_const_type.onnx": "double",
    "ascend_parser_onnx_if_const_intput.onnx": "constant-form",
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": "dynamic-input",
    "finn_tfc_w2a2_model.onnx": "domain-not-imported-foreign",
    "gs_lstm.onnx": "opset-undocumented",
    "mtcnn_pnet.onnx": "dynamic-input",
    "ncnn_3d_net.pnnx.onnx": "no-inputs",
    "ortext_custom_op_string_split.onnx": "foreign-domain",
    "ortext_test_bert_tokenizer_scalar.onnx": "foreign-domain",
    "ortext_triton_addf.onnx": "foreign-domain",
    "polygraphy_bad_graph_with_duplicate_node_names.onnx": "names-repeated",
    "polygraphy_debug_model.onnx": None,
    "polygraphy_ext_weights.onnx": "external-missing",
    "polygraphy_loop.onnx": "control-flow",
    "polygraphy_multi_attention.onnx": "input-no-shape",
    "polygraphy_qdq_conv.onnx": "quantized-operator",
    "polygraphy_roialign.onnx": "input-type",
    "polygraphy_sparse.conv.onnx": None,
    "polygraphy_toy_plugin_subgraph.onnx": "unknown-operator",
    "polygraphy_unsorted.onnx": "unsorted",
    "rknn_dual_residual_customop.onnx": "foreign-domain",
    "silero_vad.onnx": "if-node",
    "silero_vad_half.onnx": "conv-limits",
    "superres.onnx": "foreign-domain",
    "tfc_w1_a1_after_conv_to_hls.onnx": "domain-not-imported-foreign",
    "tract_gather_block_quantized.onnx": "foreign-domain",
    "tract_matmulnbits_2bit.onnx": "foreign-domain",
    "tract_qtanh_1.onnx": "quantized-operator",
    "ultraface_RFB-320.onnx": "opset-undocumented",
}


@pytest.mark.parametrize("name", sorted(HARD))
def test_awkward_real_file(name, data_root):
    path = data_root / "onnx_hard" / name
    for soc in ("Ascend310B1", "Ascend310P3"):
        found = rules(path, soc=soc)
        if HARD[name] is None:
            # Ordinary fp32 graphs that only other tools stumble over: nothing to say but notes.
            assert all(finding.severity == "info" for finding in found.values())
        else:
            assert HARD[name] in found, sorted(found)


def test_the_table_names_every_awkward_file(data_root):
    assert set(HARD) == {path.name for path in (data_root / "onnx_hard").glob("*.onnx")}


# --------------------------------------------------------------------------------------------------- never a traceback


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(sorted(set(GRAPHS) - {"foreign-domain"})), st.data())
def test_no_bytes_make_it_fall_over(tmp_path, rule, data):
    nodes, rest = GRAPHS[rule]
    rest = {name: value for name, value in rest.items() if name not in ("soc", "imports")}
    path = write(tmp_path / "m.onnx", nodes, **rest)
    changed = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 5))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(changed[: data.draw(st.integers(1, len(changed)))]))
    try:
        texts = [finding.message.render() for finding in check(path, soc="Ascend310P3")]
    except GraphError as error:
        texts = [str(error)]
    assert all(texts)


# ----------------------------------------------------------------------------------------------------- the command


def test_command(tmp_path):
    path = write(tmp_path / "m.onnx", [node("Gelu", "x", name="g")], opset=20)

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "pth2om", "check", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    done = run("m.onnx", "--soc", "Ascend310B1")
    assert done.returncode == 1
    assert "preflight.decompose" in done.stdout
    assert "pth2om fix" in done.stdout
    read = json.loads(run("m.onnx", "--json").stdout)
    assert read["findings"][0]["node"] == "g"
    write(path, [node("Relu", "x")])
    assert run("m.onnx", "--soc", "Ascend310B1").returncode == 0
    write(path, [node("Relu", "x")], inputs=(("x", F, ("n", 3, 8, 8)),))
    assert run("m.onnx").returncode == 0
    assert run("m.onnx", "--strict").returncode == 1
    assert run("m.onnx", "--strict", "--input-shape", "x:1,3,8,8").returncode == 0
    gone = run("absent.onnx")
    assert gone.returncode == 1
    assert "Traceback" not in gone.stderr
    assert Path(tmp_path / "m.onnx").is_file()
