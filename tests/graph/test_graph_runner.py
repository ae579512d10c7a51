"""Proof, undoing, files: what holds whatever the pass."""

# ruff: noqa: E501, UP031 - a graph in ONNX's text form reads best on one line
from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pth2om import graph
from pth2om.errors import GraphError
from pth2om.graph import passes, proof, simplifier
from pth2om.graph.contract import EQUAL, ROUNDING, Applied, PassSettings
from pth2om.graph.document import Document
from pth2om.graph.passes import simplify
from pth2om.graph.runner import run, run_passes
from pth2om.onnxfile import writing

X = "agraph (float[2,3] x) => (float[2,3] y)"


def make_pass(name, change, *, bound=EQUAL, structural=False):
    module = types.SimpleNamespace(NAME=name, BOUND=bound, STRUCTURAL=structural)

    def apply(document, _settings):
        change(document)
        return Applied(1)

    module.apply = apply
    return module


def wrong(document):
    document.graph.node[0].op_type = "Neg"


def good(document):
    document.graph.node[0].name = "renamed"


# --- proof ----------------------------------------------------------------------------------------------------------


def test_a_wrong_pass_is_undone_and_the_others_stay(bench):
    model = bench.parse(f"{X} {{ a = Relu(x) y = Exp(a) }}")
    messages = {"transpose-perm": wrong, "unique-names": good}
    made = [make_pass(name, change) for name, change in messages.items()]
    outcome = run_passes(Document.of(model), made, PassSettings())
    assert outcome.applied == ("unique-names",)
    rules = [finding.rule for finding in outcome.findings]
    assert rules.count("graph.undone") == 1
    node = outcome.document.graph.node[0]
    assert (node.op_type, node.name) == ("Relu", "renamed")
    undone = next(finding for finding in outcome.findings if finding.rule == "graph.undone")
    assert undone.details["pass"] == "transpose-perm"
    assert "relative L2" in str(undone.message)


def test_a_pass_that_breaks_the_graph_is_undone(bench):
    def broken(document):
        document.graph.node[0].input[0] = "nobody"

    model = bench.parse(f"{X} {{ y = Relu(x) }}")
    outcome = run_passes(Document.of(model), [make_pass("conv1d", broken, bound=ROUNDING)], PassSettings())
    assert outcome.applied == ()
    assert outcome.document.graph.node[0].input[0] == "x"


def test_a_pass_that_raises_changes_nothing(bench):
    def stumble(document):
        document.graph.node[0].op_type = "Neg"
        raise KeyError("oops")

    model = bench.parse(f"{X} {{ y = Relu(x) }}")
    outcome = run_passes(Document.of(model), [make_pass("conv1d", stumble)], PassSettings())
    assert [finding.rule for finding in outcome.findings] == ["graph.failed"]
    assert outcome.document.graph.node[0].op_type == "Relu"


def test_rounding_beyond_the_bound_is_undone(bench):
    def scaled(document):
        name = document.add_initializer("factor", np.array(1.001, np.float32))
        document.graph.node[0].input[1] = name

    model = bench.parse(f"{X} <float one = {{1}}> {{ y = Mul(x, one) }}")
    assert run_passes(Document.of(model), [make_pass("simplify", scaled, bound=1e-2)], PassSettings()).applied
    assert not run_passes(Document.of(model), [make_pass("conv1d", scaled, bound=1e-4)], PassSettings()).applied


def test_a_model_that_does_not_run_keeps_structural_changes_only(bench):
    model = bench.parse(f"{X} {{ a = own.Thing(x) y = Relu(a) }}", imports=', "own" : 1')
    passes_ = [make_pass("unique-names", good, structural=True), make_pass("conv1d", lambda d: wrong(d))]
    outcome = run_passes(Document.of(model), passes_, PassSettings())
    assert outcome.applied == ("unique-names",)
    assert {"graph.not-proven", "graph.unproven"} <= {finding.rule for finding in outcome.findings}
    assert not outcome.details()[0]["proven"]
    kept = run_passes(Document.of(model), passes_, PassSettings(keep_unproven=True))
    assert kept.applied == ("unique-names", "conv1d")


def test_random_operators_prove_nothing(bench):
    model = bench.parse("agraph (float[2,3] x) => (float[2,3] y) { r = RandomNormalLike(x) y = Add(x, r) }")
    outcome = run_passes(Document.of(model), [make_pass("conv1d", good)], PassSettings())
    assert outcome.applied == ()


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, np.nan], [1.0, np.nan], 0.0),
        ([1.0, np.nan], [1.0, 2.0], float("inf")),
        ([1.0, np.inf], [1.0, -np.inf], float("inf")),
        ([3.0, 4.0], [3.0, 4.5], 0.1),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
    ],
)
def test_difference(a, b, expected):
    assert proof.difference(np.array(a), np.array(b), 1e-5) == pytest.approx(expected)


def test_difference_of_whole_numbers_and_sequences():
    a = np.arange(100_000)
    b = a.copy()
    b[0] = 7
    assert proof.difference(a, b, EQUAL) == float("inf")
    assert proof.difference(a, b, 1e-5) <= 1e-5
    assert proof.difference(a, a + 1, 1e-5) == float("inf")
    assert proof.difference([a, a], [a, a], EQUAL) == 0.0
    assert proof.difference([a], [a, a], EQUAL) == float("inf")
    assert proof.difference(np.zeros((2, 3)), np.zeros((3, 2)), 1.0) == float("inf")


def test_clipped_difference_is_fp16s():
    a = np.array([1e9, -np.inf, np.nan, 1.0])
    b = np.array([65504.0, -65504.0, 5.0, 1.0])
    assert proof.difference(a, b, 1e-5, clipped=True) == 0.0
    assert proof.difference(a, b, 1e-5) == float("inf")


def test_open_dimensions_and_indices_are_tried(bench):
    text = """agraph (float[n,3,h,w] x, int64[n] i, float[5,2] table) => (float[] y, float[] z) <float[4,3,3,3] k = {%s}> {
        c = Conv<strides = [2, 2]>(x, k)
        y = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(c)
        z = Gather(table, i)
    }""" % ", ".join("1" for _ in range(108))
    reference = proof.Reference(Document.of(bench.parse(text)), PassSettings())
    feeds, outputs = reference.answers()[0]
    assert feeds["x"].shape[2] >= 8
    assert outputs["y"].size


# --- the pipeline's door --------------------------------------------------------------------------------------------


def test_clean_copies_what_is_fine_byte_for_byte(bench, tmp_path):
    model = bench.parse(f"{X} {{ [n0] a = Relu(x) [n1] y = Exp(a) }}")
    source, made = tmp_path / "a.onnx", tmp_path / "b.onnx"
    source.write_bytes(model.SerializeToString())
    cleaned = graph.clean(source, made, simplify=False)
    assert cleaned == graph.Cleaned()
    assert made.read_bytes() == source.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_clean_mends_and_says_so_in_both_languages(bench, tmp_path):
    model = bench.parse("agraph (float[2,3] x) => (float[2] y) { c = Constant<value_float = 2.0>() a = Mul(x, c) y = ReduceL2<keepdims = 0, axes = [1]>(a) }", opset=17)  # fmt: skip
    source, made = tmp_path / "a.onnx", tmp_path / "b.onnx"
    source.write_bytes(model.SerializeToString())
    cleaned = graph.clean(source, made, simplify=False)
    assert cleaned.applied == ("constant-value", "unique-names")
    assert cleaned.findings
    for finding in cleaned.findings:
        assert finding.message.render("en")
        assert any("一" <= letter <= "鿿" for letter in finding.message.render("zh"))
    assert [entry["proven"] for entry in cleaned.details] == [True] * len(cleaned.applied)
    assert cleaned.to_json()["applied"] == ["constant-value", "unique-names"]


def test_every_pass_keeps_its_contract():
    for name in passes.ORDER:
        module = passes.load(name)
        assert name == module.NAME
        assert module.BOUND in (EQUAL, ROUNDING)
    assert set(passes.CLEAN) <= set(passes.ORDER)


def test_every_sentence_of_the_passes_is_there():
    from pth2om.language import catalogue

    entries = catalogue("graph")
    for name in passes.ORDER:
        assert name in entries
        assert f"about-{name}" in entries


# --- simplify -------------------------------------------------------------------------------------------------------


def foldable(bench, nodes=3):
    body = " ".join(f"a{place + 1} = Identity(a{place})" for place in range(nodes))
    return bench.parse(f"agraph (float[2,3] x) => (float[2,3] y) <float[1] c = {{2}}> {{ s = Mul(c, c) a0 = Add(x, s) {body} y = Relu(a{nodes}) }}")  # fmt: skip


def test_simplify_folds(bench, op_types):
    outcome = bench.apply(foldable(bench), "simplify")
    assert outcome.applied == ("simplify",)
    assert op_types(outcome.document.model) == ["Add", "Relu"]
    assert outcome.findings[0].message.values["before"] == 6


def test_simplify_crash_hang_and_absence_are_findings(bench, monkeypatch):
    model = foldable(bench)
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    hang = "import time; time.sleep(60)"
    real = subprocess.Popen

    def popen(code):
        return lambda command, **options: real([sys.executable, "-c", code], **options)

    monkeypatch.setattr(simplifier.subprocess, "Popen", popen(crash))
    outcome = bench.apply(model, "simplify", simplifier="onnxslim")
    assert outcome.applied == ()
    if os.name == "posix":
        assert "SIGSEGV" in str(outcome.findings[0].message)
    monkeypatch.setattr(simplifier.subprocess, "Popen", popen(hang))
    outcome = bench.apply(model, "simplify", simplifier="onnxslim", time_limit=0.3)
    assert [finding.rule for finding in outcome.findings] == ["graph.simplify-slow"]
    monkeypatch.setattr(simplifier.subprocess, "Popen", popen("raise SystemExit(3)"))
    outcome = bench.apply(model, "simplify", simplifier="onnxsim")
    assert [finding.rule for finding in outcome.findings] == ["graph.simplify-absent"]


def test_a_child_that_waits_is_taken_and_one_that_nobody_takes_is_ended(bench, monkeypatch):
    children = []
    real = subprocess.Popen

    def noted(*words, **options):
        children.append(real(*words, **options))
        return children[-1]

    monkeypatch.setattr(simplifier.subprocess, "Popen", noted)
    with simplifier.started():
        assert bench.apply(foldable(bench), "simplify").applied == ("simplify",)
        assert len(children) == 1
    with simplifier.started():
        children[-1].kill()  # as a system without memory does
        children[-1].wait()
        assert bench.apply(foldable(bench), "simplify").applied == ("simplify",)
    with pytest.raises(ValueError, match="export"), simplifier.started():
        raise ValueError("export")
    with simplifier.started(wanted=False):
        pass
    assert len(children) == 4
    assert all(child.poll() is not None for child in children)
    assert not simplifier._waiting


def test_simplify_chooses_by_size(bench, monkeypatch):
    monkeypatch.setattr(simplify, "_MANY_NODES", 4)
    assert simplify.order(Document.of(foldable(bench, 1)), PassSettings())[0] == "onnxslim"
    assert simplify.order(Document.of(foldable(bench, 9)), PassSettings())[0] == "onnxsim"
    assert simplify.order(Document.of(foldable(bench)), PassSettings(simplifier="onnxslim")) == ["onnxslim"]


def test_simplify_takes_the_other_tool_when_one_fails(bench, monkeypatch):
    tried = []
    real = simplifier.simplified

    def first_fails(tool, source, made, limit):
        tried.append(tool)
        return (
            real(tool, source, made, limit)
            if len(tried) > 1
            else simplify.say("graph.simplify-crashed", tool=tool, reason="x")
        )

    monkeypatch.setattr(simplifier, "simplified", first_fails)
    monkeypatch.setattr(simplify, "order", lambda _document, _settings: ["onnxsim", "onnxslim"])
    outcome = bench.apply(foldable(bench), "simplify")
    assert tried == ["onnxsim", "onnxslim"]
    assert outcome.applied == ("simplify",)
    assert "graph.simplify-crashed" in [finding.rule for finding in outcome.findings]


# --- files ----------------------------------------------------------------------------------------------------------


def weighty(folder: Path, *, external: bool = True) -> Path:
    weight = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) / 4096
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    values = [helper.make_tensor_value_info(name, 1, [2, 64]) for name in ("x", "y")]
    made = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "model.onnx"
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0} if external else {}
    onnx.save(model, str(path), **options)
    return path


def test_external_data_is_read_and_goes_inline(bench, tmp_path):
    source = weighty(tmp_path)
    made = tmp_path / "out" / "clean.onnx"
    made.parent.mkdir()
    graph.clean(source, made, simplify=False)
    assert [path.name for path in made.parent.iterdir()] == ["clean.onnx"]
    x = np.ones((2, 64))
    np.testing.assert_array_equal(bench.answer(onnx.load(made), x=x)[0], bench.answer(onnx.load(source), x=x)[0])


def test_above_the_limit_weights_go_outside(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "INLINE_LIMIT", 1000)
    source = weighty(tmp_path, external=False)
    expected = bench.answer(onnx.load(source), x=np.ones((2, 64)))[0]
    made = tmp_path / "clean.onnx"
    graph.clean(source, made, simplify=False)
    data = tmp_path / "clean.onnx.data"
    assert data.stat().st_size == 64 * 64 * 4
    keys = {entry.key for entry in onnx.load(made, load_external_data=False).graph.initializer[0].external_data}
    assert keys == {"location", "offset", "length"}, "any other key becomes the length in ATC"
    np.testing.assert_array_equal(bench.answer(onnx.load(made), x=np.ones((2, 64)))[0], expected)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda folder: (folder / "weights.bin").unlink(), "onnxfile.external-missing"),
        (lambda folder: (folder / "weights.bin").write_bytes(b"short"), "onnxfile.external-short"),
    ],
)
def test_external_data_that_is_wrong(tmp_path, change, key):
    source = weighty(tmp_path)
    change(tmp_path)
    with pytest.raises(GraphError) as caught:
        graph.clean(source, tmp_path / "out.onnx", simplify=False)
    assert caught.value.message.key == key
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", ""])
def test_external_data_stays_in_the_folder(tmp_path, location):
    source = weighty(tmp_path)
    model = onnx.load(source, load_external_data=False)
    next(entry for entry in model.graph.initializer[0].external_data if entry.key == "location").value = location
    source.write_bytes(model.SerializeToString())
    with pytest.raises(GraphError) as caught:
        graph.clean(source, tmp_path / "out.onnx", simplify=False)
    assert caught.value.message.key == "onnxfile.external-outside"


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_external_data_behind_a_link_out_of_the_folder(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    source = weighty(inner)
    (inner / "weights.bin").rename(tmp_path / "elsewhere.bin")
    (inner / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(GraphError) as caught:
        Document.open(source)
    assert caught.value.message.key == "onnxfile.external-outside"


def test_the_users_file_is_never_overwritten(bench, tmp_path):
    source = tmp_path / "a.onnx"
    source.write_bytes(bench.parse(f"{X} {{ y = Relu(x) }}").SerializeToString())
    with pytest.raises(GraphError):
        Document.open(source).save(source)


@pytest.mark.parametrize("content", [b"", b"\x00\x01garbage", b"version https://git-lfs.github.com/spec/v1\n"])
def test_files_that_are_no_models(tmp_path, content):
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError):
        graph.clean(path, tmp_path / "b.onnx", simplify=False)
    assert not (tmp_path / "b.onnx").exists()


# --- random graphs --------------------------------------------------------------------------------------------------


@st.composite
def whole_number_graphs(draw):
    """INT64 arithmetic on indices and constants, read by Gather and by outputs."""
    nodes = [helper.make_node("ArgMax", ["x"], ["t0"], axis=1, keepdims=0)]
    initial = []
    for place in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Mod", "Max", "Neg", "Abs", "Where", "Concat"]))
        source = f"t{draw(st.integers(0, place))}"
        value = draw(
            st.integers(1, 2**20)
            if kind in ("Div", "Mod")
            else st.one_of(st.integers(-9, 9), st.integers(-(2**33), 2**33))
        )
        name, output = f"c{place}", f"t{place + 1}"
        initial.append(numpy_helper.from_array(np.array([value]), name))
        if kind in ("Neg", "Abs"):
            nodes.append(helper.make_node(kind, [source], [output]))
        elif kind == "Where":
            nodes.append(helper.make_node("Where", ["p", source, name], [output]))
        elif kind == "Concat":
            nodes.append(helper.make_node("Slice", [source, "zero", "three"], [f"s{place}"]))
            nodes.append(helper.make_node("Concat", [f"s{place}"], [output], axis=0))
        else:
            nodes.append(helper.make_node(kind, [source, name], [output]))
    initial += [numpy_helper.from_array(np.array([value]), name) for name, value in (("zero", 0), ("three", 3))]
    inputs = [helper.make_tensor_value_info("x", 1, [3, 9]), helper.make_tensor_value_info("p", 9, [3])]
    last = nodes[-1].output[0]
    outputs = [helper.make_tensor_value_info(last, 7, [3])]
    made = helper.make_graph(nodes, "g", inputs, outputs, initial)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(model=whole_number_graphs())
def test_int32_never_changes_a_value(bench, model):
    """Proof is switched off by looking at what the pass alone makes: its ranges have to be right by themselves."""
    document = Document.of(model)
    passes.load("int32").apply(document, PassSettings())
    onnx.checker.check_model(document.model, full_check=True)
    for seed in (1, 2):
        before, after = bench.answer(model, seed), bench.answer(document.model, seed)
        np.testing.assert_array_equal(before[0], after[0])


UNARY = ("Relu", "Sigmoid", "HardSwish", "Softplus", "Abs")


@st.composite
def modern_graphs(draw):
    """Networks of opset 18 to 20 whose operators changed since 17."""
    opset = draw(st.integers(18, 20))
    nodes, initial, name = [], [], "x"
    for place in range(draw(st.integers(1, 5))):
        output = f"t{place}"
        kind = draw(st.sampled_from(["unary", "reduce", "pad", "split", "resize"] + (["gelu"] if opset >= 20 else [])))
        if kind == "unary":
            nodes.append(helper.make_node(draw(st.sampled_from(UNARY)), [name], [output]))
        elif kind == "gelu":
            nodes.append(
                helper.make_node("Gelu", [name], [output], approximate=draw(st.sampled_from(["none", "tanh"])))
            )
        elif kind == "reduce":
            initial.append(numpy_helper.from_array(np.array([draw(st.integers(-4, 3))]), f"a{place}"))
            op_type = draw(st.sampled_from(["ReduceMean", "ReduceMax", "ReduceL2", "ReduceL1", "ReduceLogSumExp"]))
            nodes.append(helper.make_node(op_type, [name, f"a{place}"], [f"r{place}"], keepdims=1))
            nodes.append(helper.make_node("Add", [name, f"r{place}"], [output]))
        elif kind == "pad":
            initial.append(numpy_helper.from_array(np.array([draw(st.integers(0, 2)), 1]), f"p{place}"))
            initial.append(numpy_helper.from_array(np.array([draw(st.integers(-2, 3))]), f"a{place}"))
            nodes.append(
                helper.make_node(
                    "Pad",
                    [name, f"p{place}", "", f"a{place}"],
                    [output],
                    mode=draw(st.sampled_from(["constant", "edge"])),
                )
            )
        elif kind == "split":
            nodes.append(helper.make_node("Split", [name], [f"l{place}", f"m{place}"], axis=-1, num_outputs=2))
            nodes.append(helper.make_node("Concat", [f"m{place}", f"l{place}"], [output], axis=-1))
        else:
            initial.append(numpy_helper.from_array(np.array([2.0], np.float32), f"s{place}"))
            nodes.append(
                helper.make_node(
                    "Resize", [name, "", f"s{place}"], [output], axes=[draw(st.integers(2, 3))], mode="nearest"
                )
            )
        name = output
    inputs = [helper.make_tensor_value_info("x", 1, [1, 2, 4, 5])]
    made = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)], initial
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(model=modern_graphs())
def test_downconvert_never_changes_a_value(bench, model):
    document = Document.of(model)
    applied = passes.load("downconvert").apply(document, PassSettings())
    assert applied.count, [str(message) for message in applied.left]
    onnx.checker.check_model(document.model)
    assert max(entry.version for entry in document.model.opset_import) == 17
    before, after = bench.answer(model), bench.answer(document.model)
    np.testing.assert_allclose(before[0], after[0], rtol=3e-6, atol=3e-6)


def test_run_leaves_the_document_alone(bench):
    document = Document.of(bench.parse(f"{X} {{ a = Relu(x) y = Clip(a) }}"))
    before = document.model.SerializeToString(deterministic=True)
    assert run(document, passes.ORDER, PassSettings(opset=17)).applied
    assert document.model.SerializeToString(deterministic=True) == before
