"""Graphs that cannot be computed at a shape that is compiled: check, atc, the emulator and fix refuse them alike."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pth2om.ascend.atc_options import AtcOptions
from pth2om.ascend.target import Target
from pth2om.cli import main
from pth2om.errors import AtcError, GraphError
from pth2om.graph.contract import PassSettings
from pth2om.graph.fixing import fix
from pth2om.preflight import check, soundness
from pth2om.toolchain.emulator import EmulatorToolchain
from pth2om.toolchain.emulator.front_end import check_model

SOC = "Ascend310P3"
FLOAT = TensorProto.FLOAT
IMAGE = ("x", FLOAT, ["n", 3, 8, 8])


def node(kind, reads, makes, name, **attributes):
    return helper.make_node(kind, reads, makes, name=name, **attributes)


def model(path, nodes, inputs=(IMAGE,), constants=None, outputs=("y",), domains=(), kind=FLOAT):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def weight(out, into, size=3):
    return np.zeros((out, into, size, size), np.float32)


CONV = node("Conv", ["x", "w"], ["c"], "stem", pads=[1] * 4)
VECTOR = ("x", FLOAT, [1, 3])
IMPOSSIBLE = {
    # name: nodes, inputs, constants, --input_shape, what else, the node at fault
    "batch in a Reshape": (
        [CONV, node("Reshape", ["c", "s"], ["y"], "head")],
        [IMAGE], {"w": weight(4, 3), "s": np.array([1, 4, 64])}, "x:2,3,8,8", {}, "head",
    ),
    "batch in a Reshape, one gear": (
        [CONV, node("Reshape", ["c", "s"], ["y"], "head")],
        [IMAGE], {"w": weight(4, 3), "s": np.array([1, 4, 64])}, "x:-1,3,8,8", {"dynamic_batch_size": "1,4"}, "head",
    ),
    "size in a grid": (
        [CONV, node("Add", ["c", "g"], ["y"], "grid")],
        [("x", FLOAT, ["n", 3, "h", "w"])], {"w": weight(4, 3), "g": np.zeros((1, 1, 8, 8), np.float32)},
        "x:1,3,16,16", {}, "grid",
    ),
    "size in a grid, image gear": (
        [CONV, node("Add", ["c", "g"], ["y"], "grid")],
        [("x", FLOAT, ["n", 3, "h", "w"])], {"w": weight(4, 3), "g": np.zeros((1, 1, 8, 8), np.float32)},
        "x:1,3,-1,-1", {"dynamic_image_size": "8,8;16,16"}, "grid",
    ),
    "length in an Expand, dims gear": (
        [node("MatMul", ["x", "z"], ["y"], "product")],
        [("x", FLOAT, [1, "t"]), ("z", FLOAT, ["u", 2])], {}, "x:1,-1;z:-1,2", {"dynamic_dims": "4,4;4,5"}, "product",
    ),
    "inner axes of a MatMul": (
        [node("MatMul", ["x", "w"], ["y"], "product")], [VECTOR], {"w": np.zeros((4, 2), np.float32)}, None, {},
        "product",
    ),
    "channels of a Conv": (
        [CONV, node("Relu", ["c"], ["y"], "r")], [IMAGE], {"w": weight(4, 5)}, "x:1,3,8,8", {}, "stem",
    ),
    "channels of a BatchNorm": (
        [node("BatchNormalization", ["x", "s", "s", "s", "s"], ["y"], "norm")],
        [IMAGE], {"s": np.ones(4, np.float32)}, "x:1,3,8,8", {}, "norm",
    ),
    "sides of a Concat": (
        [node("Concat", ["x", "c"], ["y"], "join", axis=1)],
        [VECTOR], {"c": np.zeros((2, 3), np.float32)}, None, {}, "join",
    ),
    "sizes of an Add": (
        [node("Add", ["x", "c"], ["y"], "sum")], [VECTOR], {"c": np.zeros((1, 4), np.float32)}, None, {}, "sum",
    ),
    "element types of an Add": (
        [node("Cast", ["x"], ["i"], "cast", to=TensorProto.INT32), node("Add", ["x", "i"], ["y"], "sum")],
        [VECTOR], {}, None, {}, "sum",
    ),
    "a circle": (
        [node("Add", ["x", "b"], ["a"], "one"), node("Relu", ["a"], ["b"], "two"), node("Relu", ["b"], ["y"], "out")],
        [VECTOR], {}, None, {}, None,
    ),
    "two makers": (
        [node("Relu", ["x"], ["y"], "one"), node("Neg", ["x"], ["y"], "two")], [VECTOR], {}, None, {}, "two",
    ),
    "an undefined input": ([node("Add", ["x", "gone"], ["y"], "sum")], [VECTOR], {}, None, {}, "sum"),
    "behind a custom operator": (
        [
            node("Grid", ["x"], ["q"], "grid", domain="mine"),
            node("MatMul", ["x", "w"], ["m"], "product"),
            node("Add", ["q", "m"], ["y"], "sum"),
        ],
        [VECTOR], {"w": np.zeros((4, 2), np.float32)}, None, {}, "product",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_check_and_atc_refuse_what_cannot_be_computed(case, tmp_path):
    nodes, inputs, constants, shape, more, fault = case
    path = model(tmp_path / "m.onnx", nodes, inputs, constants, domains=("mine",))
    options = AtcOptions(model=str(path), soc_version=SOC, output="m", input_shape=shape, **more)
    (found,) = [one for one in check(path, options=options) if one.rule.removeprefix("preflight.") in RULES]
    assert found.severity == "error"
    assert fault in (None, found.node)
    assert found.message.fix()
    if not any(one.domain for one in nodes):  # ATC stops at an operator that it does not know
        (refused,) = check_model(options, cwd=tmp_path)
        assert refused.advice == found.message
        assert "InferShapeAndType" in refused.text or "sort" in refused.text


RULES = {"impossible-shape", "types-differ", "cycle", "two-producers", "undefined-input", "undefined-output"}

SOUND = {
    "open axes": ([CONV, node("Flatten", ["c"], ["y"], "f")], [IMAGE], {"w": weight(4, 3)}, "x:4,3,8,8"),
    "a shape that is computed": (
        [
            node("Shape", ["x"], ["s"], "shape"),
            node("Gather", ["s", "zero"], ["b"], "batch"),
            node("Concat", ["b", "rest"], ["t"], "target", axis=0),
            node("Reshape", ["x", "t"], ["y"], "head"),
        ],
        [IMAGE], {"zero": np.array([0]), "rest": np.array([-1])}, "x:5,3,8,8",
    ),
    "nodes out of order": ([node("Relu", ["a"], ["y"], "two"), node("Neg", ["x"], ["a"], "one")], [VECTOR], {}, None),
    "a shape that data decides": (
        [
            node("NonZero", ["x"], ["i"], "where"),
            node("Cast", ["i"], ["f"], "cast", to=FLOAT),
            node("Reshape", ["f", "s"], ["y"], "head"),
        ],
        [VECTOR], {"s": np.array([2, 3])}, None,
    ),
    "a custom operator": ([node("Grid", ["x"], ["y"], "grid", domain="mine")], [VECTOR], {}, None),
}  # fmt: skip


@pytest.mark.parametrize("case", SOUND.values(), ids=SOUND)
def test_nothing_sound_is_refused(case, tmp_path):
    nodes, inputs, constants, shape = case
    path = model(tmp_path / "m.onnx", nodes, inputs, constants, domains=("mine",))
    options = AtcOptions(model=str(path), soc_version=SOC, output="m", input_shape=shape)
    assert not {one.rule.removeprefix("preflight.") for one in check(path, options=options)} & RULES


def deploy(path, channels):
    """An INT8 layer as AMCT writes it."""
    weights = np.ones((4, channels, 3, 3), np.int8)
    return model(
        path,
        [
            node("AscendQuant", ["x"], ["q"], "quant", scale=1.0, offset=0.0),
            node("Conv", ["q", "w", "b"], ["s"], "layer", pads=[1] * 4),
            node("AscendDequant", ["s", "d"], ["y"], "dequant"),
        ],
        [IMAGE],
        {"w": weights, "b": np.zeros(4, np.int32), "d": np.ones(4, np.uint64)},
    )


def test_int8_operators_are_taken_for_what_they_do_to_shapes(tmp_path):
    options = AtcOptions(soc_version=SOC, input_shape="x:2,3,8,8")
    assert (
        not {one.rule.removeprefix("preflight.") for one in check(deploy(tmp_path / "a.onnx", 3), options=options)}
        & RULES
    )
    findings = check(deploy(tmp_path / "b.onnx", 5), options=options)
    assert [one.node for one in findings if one.rule == "preflight.impossible-shape"] == ["layer"]


def test_the_emulator_refuses_the_same(tmp_path):
    path = model(tmp_path / "m.onnx", [CONV, node("Relu", ["c"], ["y"], "r")], [IMAGE], {"w": weight(4, 5)})
    options = AtcOptions(model=str(path), soc_version=SOC, output="m", input_shape="x:1,3,8,8")
    with pytest.raises(AtcError, match="its input has 3 channels, its weight is made for 5"):
        EmulatorToolchain(Target.of(SOC), threads=1).compile(path, options, tmp_path / "out")


@pytest.mark.parametrize("name", ["a circle", "two makers", "an undefined input"])
def test_fix_says_in_one_sentence_what_no_pass_mends(name, tmp_path, capsys):
    nodes, inputs, constants, *_ = IMPOSSIBLE[name]
    path = model(tmp_path / "m.onnx", nodes, inputs, constants)
    with pytest.raises(GraphError) as caught:
        fix(path, tmp_path / "out.onnx", settings=PassSettings())
    assert caught.value.message.key.removeprefix("preflight.") in RULES
    assert main(["fix", str(path)]) != 0
    assert "Recursion" not in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()


def test_fix_asks_no_simplifier_about_a_model_that_does_not_run(tmp_path, monkeypatch):
    from pth2om.graph import simplifier

    asked = []
    monkeypatch.setattr(simplifier, "simplified", lambda *_: asked.append(1))
    path = model(tmp_path / "m.onnx", [node("Grid", ["x"], ["y"], "grid", domain="mine")], [VECTOR], domains=("mine",))
    fixed = fix(path, tmp_path / "out.onnx", settings=PassSettings(), names=["simplify"])
    assert not asked
    assert [finding.rule for finding in fixed.cleaned.findings] == ["graph.not-tried"]


def test_large_weights_are_neither_read_nor_held(tmp_path):
    """A weight outside the file may be absent from the machine that checks: only its shape matters here."""
    path = model(tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["y"], "product")], [VECTOR])
    proto = onnx.load(path)
    tensor = proto.graph.initializer.add(name="w", data_type=FLOAT, dims=[4, 2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="absent.bin")
    found = soundness.judge(path, proto, soundness.profiles_of(proto, {}))
    assert [one.rule for one in found] == ["preflight.impossible-shape"]
    tensor.dims[0] = 3
    assert soundness._judged(proto, soundness.profiles_of(proto, {})) == ()


def test_gears_fill_the_open_sizes(tmp_path):
    proto = onnx.load(model(tmp_path / "m.onnx", [node("Relu", ["x"], ["y"], "r")], [IMAGE, ("z", FLOAT, ["n", 2])]))
    static = {"x": (-1, 3, 8, 8), "z": (-1, 2)}
    batches = soundness.profiles_of(proto, static, [(1,), (4,)], "dynamic_batch_size")
    assert batches == [{"x": (1, 3, 8, 8), "z": (1, 2)}, {"x": (4, 3, 8, 8), "z": (4, 2)}]
    (dims,) = soundness.profiles_of(proto, static, [(5, 6)], "dynamic_dims")
    assert dims == {"x": (5, 3, 8, 8), "z": (6, 2)}
    (sized,) = soundness.profiles_of(proto, {"x": (1, 3, -1, -1)}, [(16, 24)], "dynamic_image_size")
    assert sized["x"] == (1, 3, 16, 24)
    assert soundness.gears_of(AtcOptions(dynamic_image_size="16,24;32,48")) == (
        [(16, 24), (32, 48)],
        "dynamic_image_size",
    )
    assert soundness.gears_of(AtcOptions(dynamic_dims="a,b")) == ([], "")
