"""Each pass on a hand-made model: what it changes, and that ONNX Runtime gives the same."""

# ruff: noqa: E501, UP031 - a graph in ONNX's text form reads best on one line
from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pth2om.ascend.parser_table import missing_operators
from pth2om.errors import GraphError

X = "agraph (float[2,3,4,5] x) => (float[2,3,4,5] y)"


# --- forms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("value_float = 1.5", np.array(1.5, np.float32)),
        ("value_floats = [1.5, 2.0]", np.array([1.5, 2.0], np.float32)),
        ("value_int = 3", np.array(3)),
        ("value_ints = [3, 4]", np.array([3, 4])),
    ],
)
def test_constant_value(bench, attribute, expected):
    kind = "float" if "float" in attribute else "int64"
    model = bench.parse(f"agraph ({kind}[2] x) => ({kind}[2] y) {{ c = Constant<{attribute}>() y = Add(x, c) }}")
    after = bench.same(model, "constant-value")
    value = after.graph.node[0].attribute[0]
    assert value.name == "value"
    np.testing.assert_array_equal(numpy_helper.to_array(value.t), expected)


def test_constant_value_in_branches_and_sparse(bench):
    branch = "{ c = Constant<value_float = %s>() r = Identity(c) }"
    text = (
        "agraph (bool p) => (float y) { y = If(p) <then_branch = t () => (float r) "
        + branch % "1.0"
        + ", else_branch = e () => (float r) "
        + branch % "2.0"
        + "> }"
    )
    after = bench.same(bench.parse(text), "constant-value")
    for item in after.graph.node[0].attribute:
        assert item.g.node[0].attribute[0].name == "value"


def test_sparse_initializer_becomes_dense(bench):
    model = bench.parse("agraph (float[3] x) => (float[3] y) { y = Add(x, w) }")
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [5.0, 7.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [2], [0, 2])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))
    after = bench.same(model, "constant-value")
    assert not after.graph.sparse_initializer
    np.testing.assert_array_equal(numpy_helper.to_array(after.graph.initializer[0]), [5, 0, 7])


def test_transpose_perm_and_friends(bench):
    text = """agraph (float[2,3,8,8] x, float[2,4,4,2] g, float[4,3,3,3] w) => (float[8,8,4,2] y, float[2,3,4,4] s) {
        c = Conv<pads = [1, 1, 1, 1]>(x, w)
        y0 = Transpose(c)
        y = Identity(y0)
        s = GridSample(x, g)
    }"""
    after = bench.same(bench.parse(text), "transpose-perm")
    written = {
        node.op_type: {item.name: helper.get_attribute_value(item) for item in node.attribute}
        for node in after.graph.node
    }
    assert written["Transpose"]["perm"] == [3, 2, 1, 0]
    assert written["Conv"]["kernel_shape"] == [3, 3]
    assert written["GridSample"]["mode"] == b"bilinear"
    assert written["GridSample"]["padding_mode"] == b"zeros"


def test_transpose_of_unknown_rank_is_said(bench):
    model = bench.parse("agraph (float[a,b] x, int64[n] s) => (float[] y) { r = Reshape(x, s) y = Transpose(r) }")
    outcome = bench.apply(model, "transpose-perm")
    assert outcome.applied == ()
    assert [finding.rule for finding in outcome.findings] == ["graph.transpose-perm-left"]


def test_pad_18_axes(bench):
    text = "agraph (float[2,3,4,5] x) => (float[2,3,7,8] y) <int64[4] p = {1, 0, 2, 3}, float v = {2}, int64[2] a = {-2, 3}> { y = Pad(x, p, v, a) }"
    after = bench.same(bench.parse(text, opset=18), "split-clip-pad")
    assert len(after.graph.node[0].input) == 3
    pads = next(t for t in after.graph.initializer if t.name == after.graph.node[0].input[1])
    np.testing.assert_array_equal(numpy_helper.to_array(pads), [0, 0, 1, 0, 0, 0, 2, 3])
    assert not any(tensor.name in ("a", "p") for tensor in after.graph.initializer), "what nothing reads stays behind"


@pytest.mark.parametrize(("size", "parts", "expected"), [(6, 3, [2, 2, 2]), (7, 3, [3, 3, 1]), (7, 4, [2, 2, 2, 1])])
def test_split_18_uneven(bench, size, parts, expected):
    outputs = ", ".join(f"y{place}" for place in range(parts))
    declared = ", ".join(f"float[2,{length}] y{place}" for place, length in enumerate(expected))
    text = f"agraph (float[2,{size}] x) => ({declared}) {{ {outputs} = Split<axis = -1, num_outputs = {parts}>(x) }}"
    after = bench.same(bench.parse(text, opset=18), "split-clip-pad")
    split = next(t for t in after.graph.initializer if t.name == after.graph.node[0].input[1])
    np.testing.assert_array_equal(numpy_helper.to_array(split), expected)


def test_split_of_unknown_size_is_left(bench):
    text = "agraph (float[2,n] x) => (float[2,m] a, float[2,k] b) { a, b = Split<axis = 1, num_outputs = 2>(x) }"
    outcome = bench.apply(bench.parse(text, opset=18), "split-clip-pad")
    assert outcome.applied == ()
    assert outcome.findings[0].rule == "graph.split-clip-pad-left"


def test_clip_without_limits(bench, op_types):
    after = bench.same(bench.parse(f"{X} {{ y = Clip(x) }}"), "split-clip-pad")
    assert op_types(after) == ["Identity"]


def test_clip_6_attributes_at_opset_11_get_inputs(bench):
    model = bench.parse(f"{X} {{ y = Clip(x) }}")
    model.graph.node[0].attribute.append(helper.make_attribute("max", 6.0))
    outcome = bench.apply(model, "split-clip-pad")  # no runtime takes the file as it is: structural, not proven
    assert "graph.not-proven" in [finding.rule for finding in outcome.findings]
    x = np.linspace(-9, 9, 120, dtype=np.float32).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(bench.answer(outcome.document.model, x=x)[0], np.minimum(x, 6))


# --- names, domains, imports ----------------------------------------------------------------------------------------


def test_unique_names(bench):
    model = bench.parse(f"{X} {{ a = Relu(x) b = Abs(a) c = Neg(b) y = Exp(c) }}")
    for node, name in zip(model.graph.node, ("same", "same", "x", ""), strict=True):
        node.name = name
    outcome = bench.apply(model, "unique-names")
    names = [node.name for node in outcome.document.model.graph.node]
    assert names[0] == "same"
    assert len(set(names) | {"x", ""}) == 6
    # ONNX Runtime refuses repeated names, so there was nothing to compare with; and it takes the result.
    bench.answer(outcome.document.model)


def test_domains_and_imports(bench):
    model = bench.parse(f"{X} {{ a = Relu(x) y = Abs(a) }}", imports=', "com.microsoft" : 1, "ai.onnx.ml" : 3')
    model.graph.node[0].domain = "ai.onnx"
    after = bench.same(model, "domains", "opset-imports")
    assert [(item.domain, item.version) for item in after.opset_import] == [("", 17)]
    assert {node.domain for node in after.graph.node} == {""}


def test_foreign_domain_is_moved_only_when_asked(bench):
    model = bench.parse(f"{X} {{ y = Relu(x) }}", imports=', "mmcv" : 1')
    model.graph.node[0].domain = "mmcv"
    assert bench.apply(model, "domains").applied == ()
    outcome = bench.apply(model, "domains", asked=frozenset({"domains"}))
    assert outcome.applied == ("domains",)
    assert {"graph.domains-moved", "graph.not-proven"} <= {finding.rule for finding in outcome.findings}


def test_same_name_with_another_meaning_is_undone(bench):
    """com.microsoft::BiasGelu-like trap: a foreign Trilu-named operator that runs, and means something else."""
    model = bench.parse("agraph (float[2,4] x, float[4] b) => (float[2,4] y) { y = com.microsoft.FastGelu(x, b) }",
                        imports=', "com.microsoft" : 1')  # fmt: skip
    model.graph.node[0].op_type = "Gelu"
    del model.graph.node[0].input[1]
    model.opset_import[0].version = 20
    outcome = bench.apply(model, "domains", asked=frozenset({"domains"}))
    # Gelu of com.microsoft is the exact one: proven equal. (ATC has no Gelu, so nothing is moved at all.)
    assert outcome.applied == ()


def test_inline_functions(bench, op_types):
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    agraph (float[3] x) => (float[3] y) { a = own.twice(x) y = own.twice(a) }
    <domain: "own", opset_import: ["" : 17]> twice (v) => (w) { w = Add(v, v) }"""
    after = bench.same(onnx.parser.parse_model(text), "inline-functions", "opset-imports")
    assert op_types(after) == ["Add", "Add"]
    assert not after.functions


def test_ir_version(bench):
    model = bench.parse(f"{X} {{ y = Relu(x) }}", ir=13)
    assert bench.apply(model, "ir-version").document.model.ir_version == 8
    model.ClearField("ir_version")
    assert bench.apply(model, "ir-version").document.model.ir_version == 8
    model.ir_version = 6
    assert bench.apply(model, "ir-version").applied == ()


# --- shapes and cuts ------------------------------------------------------------------------------------------------

DYNAMIC = "agraph (float[n,3,h,w] x, float[n,1] z) => (float[n,3,h,w] y) { y0 = Relu(x) s = Shape(y0) y = Reshape(y0, s) q = Neg(z) }"


def test_static_shapes(bench):
    after = bench.same(
        bench.parse(DYNAMIC),
        "static-shapes",
        input_shapes={"x": (2, 3, 8, 8)},
        feeds={"x": np.ones((2, 3, 8, 8)), "z": np.ones((2, 1))},
    )
    sizes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in after.graph.input]
    assert sizes == [[2, 3, 8, 8], [2, 1]], "the symbol n of z follows x"
    assert [dim.dim_value for dim in after.graph.output[0].type.tensor_type.shape.dim] == [2, 3, 8, 8]


@pytest.mark.parametrize(
    ("shapes", "key"),
    [
        ({"nope": (1,)}, "graph.shape-no-input"),
        ({"x": (1, 3)}, "graph.shape-rank"),
        ({"x": (1, 4, 8, 8)}, "graph.shape-fixed"),
    ],
)
def test_static_shapes_that_do_not_fit(bench, shapes, key):
    with pytest.raises(GraphError) as caught:
        bench.apply(bench.parse(DYNAMIC), "static-shapes", input_shapes=shapes)
    assert caught.value.message.key == key


def test_static_shapes_are_asked_for(bench):
    outcome = bench.apply(bench.parse(DYNAMIC), "static-shapes")
    assert outcome.applied == ()
    assert "x:1,3,?,?" in str(outcome.findings[0].message.fix())


def test_cut_keeps_what_branches_capture(bench, op_types):
    text = """agraph (float[2] x, bool p, float[2] unused) => (float[2] y) {
        a = Relu(x)
        b = If(p) <then_branch = t () => (float[2] r) { r = Neg(a) }, else_branch = e () => (float[2] r) { r = Abs(a) }>
        d = Exp(b)
        y = Add(d, unused)
    }"""
    model = bench.parse(text)
    outcome = bench.apply(model, "cut", outputs=("b",))
    after = outcome.document.model
    assert op_types(after) == ["Relu", "If"]
    assert [value.name for value in after.graph.input] == ["x", "p"]
    assert outcome.details()[0]["proven"]
    with pytest.raises(GraphError) as caught:
        bench.apply(model, "cut", outputs=("bb",))
    assert caught.value.message.key == "graph.no-such-tensor"


# --- numbers --------------------------------------------------------------------------------------------------------


def test_clamp_masks_and_infinities(bench):
    text = """agraph (float[1,4] x, bool[1,4] m) => (float[1,4] y) <float inf = {-1}, float top = {1}> {
        z = Where(m, x, inf)
        s = Softmax<axis = -1>(z)
        y = Min(s, top)
    }"""
    model = bench.parse(text)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(-np.inf, np.float32), "inf"))
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array(3e38, np.float32), "top"))
    after = bench.same(model, "clamp", feeds={"m": np.array([[1, 0, 1, 1]])})
    values = {t.name: float(numpy_helper.to_array(t)) for t in after.graph.initializer}
    assert values == {"inf": -1e4, "top": 65504.0}


def test_clamp_that_changes_the_outputs_is_undone(bench):
    text = "agraph (float[4] x) => (float[4] y) <float big = {1000000}, float small = {0.000001}> { a = Mul(x, big) y = Mul(a, small) }"
    outcome = bench.apply(bench.parse(text), "clamp")
    assert outcome.applied == ()
    assert [finding.rule for finding in outcome.findings] == ["graph.undone"]
    assert float(numpy_helper.to_array(outcome.document.model.graph.initializer[0])) == 1e6


def test_clamp_leaves_resize_scales(bench):
    text = "agraph (float[1,1,2,2] x) => (float[1,1,4,4] y) <float[4] s = {1, 1, 2, 2}> { y = Resize(x, , s) }"
    assert bench.apply(bench.parse(text), "clamp").applied == ()


# --- operators ------------------------------------------------------------------------------------------------------

NORM = "agraph (float[2,6,4,5] x) => (float[2,6,4,5] y)"
DECOMPOSED = {
    "gelu": (20, f"{X} {{ y = Gelu(x) }}"),
    "gelu-tanh": (20, f'{X} {{ y = Gelu<approximate = "tanh">(x) }}'),
    "mish": (22, f"{X} {{ y = Mish(x) }}"),
    "hard-swish-13": (22, f"{X} {{ y = HardSwish(x) }}"),
    "group-18": (18, f"{NORM} <float[3] s = {{1, 2, 3}}, float[3] b = {{4, 5, 6}}> {{ y = GroupNormalization<num_groups = 3>(x, s, b) }}"),
    "group-21": (21, f"{NORM} <float[6] s = {{1, 2, 3, 4, 5, 6}}, float[6] b = {{6, 5, 4, 3, 2, 1}}> {{ y = GroupNormalization<num_groups = 3>(x, s, b) }}"),
    "layer": (17, f"{NORM} <float[5] s = {{1, 2, 3, 4, 5}}, float[5] b = {{6, 5, 4, 3, 2}}> {{ y = LayerNormalization(x, s, b) }}"),
    "layer-axis": (17, "agraph (float[2,3,4] x, float[3,4] s) => (float[2,3,4] y, float[2,1,1] m, float[2,1,1] d) { y, m, d = LayerNormalization<axis = 1, epsilon = 0.01>(x, s) }"),
    "rms": (23, f"{NORM} <float[5] s = {{1, 2, 3, 4, 5}}> {{ y = RMSNormalization(x, s) }}"),
    "l2-18": (18, "agraph (float[2,3,4] x) => (float[2,4] y) <int64[1] a = {1}> { y = ReduceL2<keepdims = 0>(x, a) }"),
    "l1-all": (18, "agraph (float[2,3,4] x) => (float[1,1,1] y) { y = ReduceL1(x) }"),
}  # fmt: skip


@pytest.mark.parametrize("name", DECOMPOSED)
def test_decompose(bench, name):
    opset, text = DECOMPOSED[name]
    wanted = frozenset({"LayerNormalization", "HardSwish"})
    model = bench.parse(text, opset=opset, ir=8 if opset < 21 else 10)
    before = {node.op_type for node in model.graph.node}
    after = bench.same(model, "decompose", close=2e-6, decompose=wanted)
    assert not before & {node.op_type for node in after.graph.node}


def test_registered_operators_stay(bench):
    for name in ("layer", "layer-axis"):
        assert bench.apply(bench.parse(DECOMPOSED[name][1]), "decompose").applied == ()


EQUATIONS = ["bhqd,bhkd->bhqk", "bhqk,bhkd->bqhd", "ij,jk->ik", "ij,jk", "i,j->ij", "bij,bjk->b", "abc->cb", "ab,ab->a",
             "bchw,cd->bdhw", "nhwc,hkc->nhwk", "ab,cd->abcd", "abc->"]  # fmt: skip


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum(bench, equation):
    """Against NumPy's einsum, not only against ONNX Runtime's."""
    extents = dict(
        zip(
            "abcdefghijklmnopqrstuvwxyz",
            [2, 3, 4, 5, 6, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6, 2],
            strict=True,
        )
    )
    terms = equation.partition("->")[0].split(",")
    random = np.random.default_rng(0)
    arrays = {
        f"x{place}": random.standard_normal([extents[letter] for letter in term]).astype(np.float32)
        for place, term in enumerate(terms)
    }
    expected = np.einsum(equation, *arrays.values())
    inputs = [helper.make_tensor_value_info(name, 1, array.shape) for name, array in arrays.items()]
    node = helper.make_node("Einsum", list(arrays), ["y"], equation=equation, name="e")
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", 1, expected.shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    outcome = bench.apply(model, "decompose", decompose=frozenset({"Einsum"}))
    assert outcome.applied == ("decompose",), [str(finding.message) for finding in outcome.findings]
    assert "Einsum" not in {item.op_type for item in outcome.document.model.graph.node}
    np.testing.assert_allclose(bench.answer(outcome.document.model, **arrays)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("equation", ["...ij,...jk->...ik", "ii->i", "ij,jk,kl->il"])
def test_einsum_that_is_left(bench, equation):
    terms = equation.partition("->")[0].split(",")
    inputs = [
        helper.make_tensor_value_info(f"x{place}", 1, [3] * (len(term.replace("...", "a"))))
        for place, term in enumerate(terms)
    ]
    node = helper.make_node("Einsum", [value.name for value in inputs], ["y"], equation=equation, name="e")
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", 1, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    outcome = bench.apply(model, "decompose", decompose=frozenset({"Einsum"}))
    assert outcome.applied == ()
    assert outcome.findings[0].rule == "graph.decompose-left"


def test_decompose_in_fp16_keeps_the_type(bench):
    text = "agraph (float16[2,8] x, float16[8] s) => (float16[2,8] y) { n = LayerNormalization(x, s) y = Gelu(n) }"
    after = bench.same(
        bench.parse(text, opset=20, ir=9), "decompose", close=5e-3, decompose=frozenset({"LayerNormalization"})
    )
    assert {"LayerNormalization", "Gelu"}.isdisjoint({node.op_type for node in after.graph.node})


DOWN = {
    "reduce": (18, "agraph (float[2,3,4] x) => (float[2,1,4] y) <int64[1] a = {1}> { y = ReduceMean(x, a) }"),
    "reduce-all": (20, "agraph (float[2,3,4] x) => (float y) { y = ReduceMax<keepdims = 0>(x) }"),
    "resize": (19, "agraph (float[1,2,4,4] x) => (float[1,2,8,8] y) <float[2] s = {2, 2}> { y = Resize<axes = [2, 3], mode = \"linear\">(x, , s) }"),
    "resize-sizes": (18, "agraph (float[1,2,4,4] x) => (float[1,2,8,8] y) <int64[2] s = {8, 8}> { y = Resize<axes = [-2, -1]>(x, , , s) }"),
    "grid": (20, 'agraph (float[1,2,4,4] x, float[1,3,3,2] g) => (float[1,2,3,3] y) { y = GridSample<mode = "cubic">(x, g) }'),
    "pad": (19, "agraph (float[2,3] x) => (float[2,5] y) <int64[2] p = {1, 1}, int64[1] a = {1}> { y = Pad(x, p, , a) }"),
    "split": (18, "agraph (float[2,5] x) => (float[2,3] a, float[2,2] b) { a, b = Split<axis = 1, num_outputs = 2>(x) }"),
    "cast": (19, "agraph (float[3] x) => (int64[3] y) { y = Cast<to = 7, saturate = 1>(x) }"),
    "pool": (19, "agraph (float[1,1,4,4] x) => (float[1,1,2,2] y) { y = AveragePool<kernel_shape = [2, 2], strides = [2, 2], dilations = [1, 1]>(x) }"),
    "gelu": (22, f"{X} {{ a = Gelu(x) b = Mish(a) y = HardSwish(b) }}"),
    "branch": (20, "agraph (float[2,3] x, bool p) => (float y) { y = If(p) <then_branch = t () => (float r) { r = ReduceMax<keepdims = 0>(x) }, else_branch = e () => (float r) { g = Gelu(x) r = ReduceMin<keepdims = 0>(g) }> }"),
}  # fmt: skip


@pytest.mark.parametrize("name", DOWN)
def test_downconvert(bench, name):
    opset, text = DOWN[name]
    model = bench.parse(text, opset=opset, ir=8 if opset < 19 else 9 if opset < 21 else 10)
    after = bench.same(model, "downconvert", close=2e-6)
    assert after.opset_import[0].version == 17
    assert after.ir_version == 8
    assert not missing_operators(after)


def test_downconvert_below_17(bench):
    model = bench.parse(
        "agraph (float[2,3,4] x) => (float[2,4] y) <int64[1] a = {1}> { s = ReduceMean(x, a) y = Squeeze(s, a) }",
        opset=18,
    )
    after = bench.same(model, "downconvert", opset=11, close=1e-6)
    assert after.opset_import[0].version == 11


def test_downconvert_13_to_11_writes_attributes_again(bench):
    text = """agraph (float[2,6] x) => (float[2,3,1] y, float[1,1,4,4] z) <int64[2] s = {3, 3}, int64[1] m = {-1}, float[1,1,2,2] i = {1, 2, 3, 4}, int64[4] q = {1, 1, 4, 4}> {
        a, b = Split<axis = 1>(x, s)
        c = Softmax(a)
        d = Sub(c, b)
        y = Unsqueeze(d, m)
        z = Resize<mode = "linear">(i, , , q)
    }"""
    after = bench.same(bench.parse(text, opset=13), "downconvert", opset=11, close=1e-6)
    resize = next(node for node in after.graph.node if node.op_type == "Resize")
    assert all(resize.input), "opset 11 wants roi and scales"


def test_downconvert_that_cannot(bench):
    text = "agraph (float[2,3,4] x, int64[k] a) => (float[] y) { y = ReduceMean(x, a) }"
    outcome = bench.apply(bench.parse(text, opset=18), "downconvert")
    assert outcome.applied == ()
    assert outcome.findings[0].rule == "graph.downconvert-left"
    assert outcome.document.model.opset_import[0].version == 18


def test_attention_is_inlined_where_onnx_can(bench):
    text = (
        "agraph (float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v) => (float[1,2,4,8] y) { y = Attention(q, k, v) }"
    )
    outcome = bench.apply(bench.parse(text, opset=23, ir=10), "decompose", "downconvert")
    if not outcome.applied:
        pytest.skip("this onnx cannot inline schema functions, or this ONNX Runtime not run opset 23")
    assert "Attention" not in {node.op_type for node in outcome.document.model.graph.node}


def test_conv1d_lifts_the_stretch(bench, op_types):
    text = """agraph (float[2,3,16] x) => (float[2,4,7] y, float[2,4,16] z) <float[4,3,3] w = {%s}, float[4,4,2] v = {%s}, float[4] b = {1, 2, 3, 4}, float two = {2}> {
        a = Conv<pads = [1, 1]>(x, w, b)
        z = Relu(a)
        m = MaxPool<kernel_shape = [2], strides = [2]>(z)
        n = Mul(m, two)
        y = Conv(n, v)
    }""" % (", ".join(str(i % 7) for i in range(36)), ", ".join(str(i % 5) for i in range(32)))
    after = bench.same(bench.parse(text), "conv1d", close=1e-5)
    assert op_types(after) == ["Unsqueeze", "Conv", "Relu", "Squeeze", "MaxPool", "Mul", "Conv", "Squeeze"]
    assert all(len(t.dims) != 3 for t in after.graph.initializer)


def test_conv1d_transposed_grouped_dilated(bench):
    text = """agraph (float[1,4,9] x) => (float[1,6,18] y) <float[4,1,3] w = {%s}, float[4,3,2] v = {%s}> {
        a = Conv<group = 4, dilations = [2], pads = [2, 2]>(x, w)
        c = ConvTranspose<group = 2, kernel_shape = [2], strides = [2]>(a, v)
        y = LeakyRelu(c)
    }""" % (", ".join(str(i) for i in range(12)), ", ".join(str(i) for i in range(24)))
    bench.same(bench.parse(text), "conv1d", close=1e-5)


# --- INT64 ----------------------------------------------------------------------------------------------------------


def test_int32_where_ranges_are_known(bench):
    text = """agraph (float[3,40] x, float[50] t) => (float[3] y) <int64 three = {3}, int64 two = {2}> {
        i = ArgMax<axis = 1, keepdims = 0>(x)
        a = Add(i, three)
        b = Mul(a, two)
        c = Div(b, three)
        y = Gather(t, c)
    }"""
    after = bench.same(bench.parse(text), "int32")
    typed = onnx.shape_inference.infer_shapes(after)
    kinds = {value.name: value.type.tensor_type.elem_type for value in typed.graph.value_info}
    arithmetic = [node for node in after.graph.node if node.op_type in ("Add", "Mul", "Div")]
    assert {kinds[node.output[0]] for node in arithmetic} == {TensorProto.INT32}
    gather = next(node for node in after.graph.node if node.op_type == "Gather")
    assert kinds[gather.input[1]] == TensorProto.INT32, "indices are read as they are, without a Cast back"


def test_int32_narrows_what_only_moves_when_asked(bench):
    text = """agraph (float[3,4] x) => (float[3,1] y) <int64[2] s = {3, 1}, int64[4] t = {5, 6, 7, 8}> {
        i = ArgMax<axis = 1, keepdims = 0>(x)
        g = Gather(t, i)
        r = Reshape(g, s)
        y = Cast<to = 1>(r)
    }"""
    model = bench.parse(text)
    assert bench.apply(model, "int32").applied == ()  # the NPU moves INT64 as fast
    after = bench.same(model, "int32", asked=frozenset({"int32"}))
    kinds = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(after).graph.value_info}
    moved = [node for node in after.graph.node if node.op_type in ("Gather", "Reshape")]
    assert {kinds[node.output[0]] for node in moved} == {TensorProto.INT32}


def test_int32_leaves_what_may_not_fit(bench):
    text = "agraph (int64[3] x) => (int64[3] y) <int64 three = {3}> { y = Add(x, three) }"
    outcome = bench.apply(bench.parse(text), "int32")
    assert outcome.applied == ()
    assert outcome.findings[0].rule == "graph.int32-left"


def test_int32_inputs_and_outputs_when_asked(bench):
    text = "agraph (int64[3] x) => (int64[3] y, float[3] z) <int64 three = {3}> { m = Abs(x) y = Mod(m, three) z = Cast<to = 1>(y) }"
    model = bench.parse(text)
    outcome = bench.apply(model, "int32", int32_inputs=True, asked=frozenset({"int32"}))
    after = outcome.document.model
    onnx.checker.check_model(after, full_check=True)
    assert after.graph.input[0].type.tensor_type.elem_type == TensorProto.INT32
    x = np.array([-5, 7, 9])
    before, got = bench.answer(model, x=x), bench.answer(after, x=x)
    for one, other in zip(before, got, strict=True):
        np.testing.assert_array_equal(one, other)
    assert after.graph.output[0].type.tensor_type.elem_type == TensorProto.INT32
    assert got[0].dtype == np.int32
    notes = {finding.rule for finding in outcome.findings}
    assert {"graph.int32-input", "graph.int32-output"} <= notes


def test_int32_overflow_is_foreseen(bench):
    text = "agraph (float[3,40] x) => (float[3] y) <int64 big = {100000000}> { i = ArgMax<axis = 1, keepdims = 0>(x) a = Mul(i, big) y = Cast<to = 1>(a) }"
    assert bench.apply(bench.parse(text), "int32").applied == ()


def test_static_shape_arithmetic_is_left_to_folding(bench):
    text = "agraph (float[2,6] x) => (float[3,4] y) <int64[1] k = {2}, int64[2] m = {3, 4}> { s = Shape(x) d = Mul(s, k) e = Sub(d, d) f = Add(e, m) y = Reshape(x, f) }"
    assert bench.apply(bench.parse(text), "int32").applied == ()
