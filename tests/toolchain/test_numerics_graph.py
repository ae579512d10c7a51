"""Forms of graphs through the emulator: sub-graphs, shared and external weights, opsets, odd files."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pth2om.errors import ToolchainError
from pth2om.toolchain.emulator.numerics import compile_numerics, overflow_report, read_compiled, register
from pth2om.toolchain.emulator.session import EmulatedOmSession
from tests.toolchain.numerics_models import FLOAT, INT64, SOC, compiled_run, conv_net, half, plain, save, value


def test_tensors_keep_their_names(tmp_path):
    path, x, _ = conv_net(tmp_path, [helper.make_node("Exp", ["c"], ["e"]), helper.make_node("Neg", ["e"], ["y"])])
    compiled = compile_numerics(path, tmp_path / "c", precision_mode="", soc=SOC)
    model = onnx.load(tmp_path / "c" / compiled.band("unfused").file)
    onnx.checker.check_model(model)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("c", "e"))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y, c, e = session.run(None, {"x": x})
    assert np.array_equal(c, half(c))
    assert np.array_equal(y, -e)
    assert compiled.inputs[0].shape == (1, 3, 6, 6)
    assert compiled.outputs[0].dtype == np.float32


def test_shapes_are_computed_on_the_host(tmp_path):
    """As torch exports interpolate(scale_factor=2): the size passes through floats, which float16 would round."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Cast", ["shape"], ["floats"], to=FLOAT),
        helper.make_node("Mul", ["floats", "factor"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["sizes"], to=INT64),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="nearest"),
    ]
    shape = (1, 1, 1, 2049)
    factor = np.array([1, 1, 1, 3], np.float32)
    outputs = [value("y", shape=(None,) * 4)]
    path = save(tmp_path / "r.onnx", nodes, [value("x", shape=shape)], outputs, {"factor": factor})
    x = np.random.default_rng(0).random(shape, np.float32)
    assert np.array_equal(compiled_run(path, {"x": x})["y"], np.repeat(half(x), 3, axis=3))


def branch(name, nodes, output, initializers=()):
    return helper.make_graph(nodes, name, [], [value(output, shape=(None,))], list(initializers))


def test_if_with_captures_and_constants(tmp_path):
    third = numpy_helper.from_array(np.array([1 / 3], np.float32), "third")
    then = branch("then", [helper.make_node("Mul", ["x", "third"], ["a"])], "a", [third])
    constant = helper.make_node("Constant", [], ["tenth"], value=numpy_helper.from_array(np.array([0.1], np.float32)))
    other = branch("else", [constant, helper.make_node("Add", ["e", "tenth"], ["b"])], "b")
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    path = save(
        tmp_path / "if.onnx",
        nodes,
        [value("x", shape=(3,)), value("c", TensorProto.BOOL, ())],
        [value("y", shape=(3,))],
    )
    x = np.array([0.7, -1.234, 2.5], np.float32)
    yes = compiled_run(path, {"x": x, "c": np.array(True)})["y"]
    assert np.array_equal(yes, half(half(x) * half(np.float32(1 / 3))))
    no = compiled_run(path, {"x": x, "c": np.array(False)})["y"]
    assert np.allclose(no, half(half(np.exp(half(x))) + half(np.float32(0.1))), rtol=2**-9)
    kept = compiled_run(path, {"x": x, "c": np.array(True)}, "must_keep_origin_dtype")["y"]
    assert np.array_equal(kept, x * np.float32(1 / 3))


def test_local_functions_are_inlined(tmp_path):
    body = [helper.make_node("Exp", ["a"], ["t"]), helper.make_node("Neg", ["t"], ["b"])]
    function = helper.make_function("mine", "NegExp", ["a"], ["b"], body, [helper.make_opsetid("", 13)])
    path = save(
        tmp_path / "f.onnx",
        [helper.make_node("NegExp", ["x"], ["y"], domain="mine")],
        [value("x")],
        [value("y")],
        functions=[function],
        imports=[helper.make_opsetid("mine", 1)],
    )
    x = np.array([0.1, 1.5], np.float32)
    assert np.allclose(compiled_run(path, {"x": x})["y"], -half(np.exp(half(x))), rtol=2**-9)


def test_shared_initializers_and_optional_outputs(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="kept"),
        helper.make_node("MatMul", ["m", "w"], ["n"]),
        helper.make_node("Dropout", ["n"], ["p", ""]),
        helper.make_node("Clip", ["p", "", "top"], ["y"]),
    ]
    w = np.random.default_rng(2).standard_normal((3, 3)).astype(np.float32)
    path = save(
        tmp_path / "s.onnx",
        nodes,
        [value("x", shape=(1, 3))],
        [value("y", shape=(1, 3))],
        {"w": w, "top": np.float32(0.3)},
    )
    x = np.array([[0.1, 0.2, 0.3]], np.float32)
    got = compiled_run(path, {"x": x}, "force_fp16", keep_dtype=["kept"])["y"]
    wanted = np.minimum(half(half(x @ w) @ half(w)), half(np.float32(0.3)))
    assert np.allclose(got, wanted, rtol=2**-9)


def test_constants_as_outputs_and_overridable_initializers(tmp_path):
    tenth = numpy_helper.from_array(np.array([0.1], np.float32))
    nodes = [helper.make_node("Constant", [], ["k"], value=tenth), helper.make_node("Mul", ["x", "w"], ["y"])]
    inputs = [value("x", shape=(1,)), value("w", shape=(1,))]
    outputs = [value("k", shape=(1,)), value("y", shape=(1,)), value("w", shape=(1,))]
    path = save(tmp_path / "k.onnx", nodes, inputs, outputs, {"w": np.array([0.3], np.float32)})
    got = compiled_run(path, {"x": np.array([0.7], np.float32)})
    assert got["k"] == half(np.float32(0.1))
    assert got["w"] == half(np.float32(0.3))
    assert got["y"] == half(half(np.float32(0.7)) * half(np.float32(0.3)))


@pytest.mark.parametrize("opset", [8, 9, 11, 17, 18])
@pytest.mark.parametrize("soc", ["Ascend310B1", "Ascend910B1"])
def test_every_opset_takes_the_limits(tmp_path, opset, soc):
    node = helper.make_node("Mul", ["x", "x"], ["y"])
    path = save(tmp_path / "o.onnx", [node], [value("x")], [value("y")], opset=opset)
    got = compiled_run(path, {"x": np.array([300.0, -2.0], np.float32)}, soc=soc)["y"]
    assert got.tolist() == [65504.0 if soc == "Ascend310B1" else np.inf, 4.0]


def test_external_data_stays_external(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("MatMul", ["m", "w"], ["y"])]
    w = np.random.default_rng(4).standard_normal((64, 64)).astype(np.float32)
    path = save(tmp_path / "e.onnx", nodes, [value("x", shape=(1, 64))], [value("y", shape=(1, 64))], {"w": w})
    feeds = {"x": np.ones((1, 64), np.float32)}
    inline = compiled_run(path, feeds)["y"]
    outside = tmp_path / "outside"
    outside.mkdir()
    onnx.save(onnx.load(path), outside / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    assert np.array_equal(compiled_run(outside / "e.onnx", feeds)["y"], inline)
    folder = outside / f"force_fp16-{SOC}"
    assert (folder / "weights.data").stat().st_size == w.nbytes  # both bands share one copy
    assert (folder / "fused.onnx").stat().st_size < 2000
    kept = compiled_run(outside / "e.onnx", feeds, "must_keep_origin_dtype")["y"]
    assert np.array_equal(kept, plain(path, feeds, optimize=True)[0])
    report = overflow_report(read_compiled(folder), feeds)
    assert [entry.tensor for entry in report] == ["x", "m", "y"]

    data = (outside / "e.data").read_bytes()
    (outside / "e.data").write_bytes(data[:-4])
    with pytest.raises(ToolchainError, match=r"e\.data"):
        compile_numerics(outside / "e.onnx", tmp_path / "no", precision_mode="", soc=SOC)
    (outside / "e.data").unlink()
    with pytest.raises(ToolchainError, match=r"e\.data"):
        compile_numerics(outside / "e.onnx", tmp_path / "no", precision_mode="", soc=SOC)
    model = onnx.load(outside / "e.onnx", load_external_data=False)
    next(entry for entry in model.graph.initializer[0].external_data if entry.key == "location").value = "../e.onnx"
    (outside / "e.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ToolchainError, match="outside the model's folder"):
        compile_numerics(outside / "e.onnx", tmp_path / "no", precision_mode="", soc=SOC)
    assert list((tmp_path / "no").iterdir()) == []


def test_unknown_operators_are_named(tmp_path):
    nodes = [
        helper.make_node("AscendQuant", ["x"], ["q"]),
        helper.make_node("Grid", ["q"], ["y"], domain="mmdeploy"),
    ]
    path = save(tmp_path / "u.onnx", nodes, [value("x")], [value("y")], imports=[helper.make_opsetid("mmdeploy", 1)])
    with pytest.raises(ToolchainError, match=r"AscendQuant \(opset 13\), mmdeploy::Grid"):
        compile_numerics(path, tmp_path / "c", precision_mode="", soc=SOC)


def test_an_operator_can_be_taught(tmp_path):
    def steps(emission):
        scale = emission.constant(np.float32(4))
        scaled = emission.add("Mul", [emission.input(0, rounded=True), scale])
        emission.output(0, emission.add("Floor", [scaled]), FLOAT, rounded=True)

    register("Steps", steps, domain="test.taught")
    nodes = [helper.make_node("Steps", ["x"], ["s"], domain="test.taught"), helper.make_node("Neg", ["s"], ["y"])]
    path = save(tmp_path / "t.onnx", nodes, [value("x")], [value("y")], imports=[helper.make_opsetid("test.taught", 1)])
    x = np.array([0.3, 0.9, -2.2], np.float32)
    assert np.array_equal(compiled_run(path, {"x": x})["y"], -np.floor(half(x) * 4))


def test_input_shapes_fix_dynamic_inputs(tmp_path):
    path = save(
        tmp_path / "d.onnx",
        [helper.make_node("Exp", ["x"], ["y"])],
        [value("x", shape=("n", 3))],
        [value("y", shape=("n", 3))],
    )
    compiled = compile_numerics(path, tmp_path / "c", precision_mode="", soc=SOC, input_shapes={"x": (2, 3)})
    assert compiled.inputs[0].shape == (2, 3)
    with pytest.raises(ToolchainError, match="Input x is 1x3"):
        EmulatedOmSession(compiled).run({"x": np.ones((1, 3), np.float32)})
    for wrong, words in (
        ({"z": (1,)}, "inputs are x"),
        ({"x": (1,)}, "2 dimensions"),
        ({"x": (2, 4)}, r"fixed to \?x3"),
    ):
        with pytest.raises(ToolchainError, match=words):
            compile_numerics(path, tmp_path / "w", precision_mode="", soc=SOC, input_shapes=wrong)


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02 not a model", b"<html></html>"])
def test_what_is_no_model(tmp_path, content):
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ToolchainError, match="cannot be read"):
        compile_numerics(tmp_path / "x.onnx", tmp_path / "c", precision_mode="", soc=SOC)
    with pytest.raises(ToolchainError, match="cannot be read"):
        compile_numerics(tmp_path / "absent.onnx", tmp_path / "c", precision_mode="", soc=SOC)


def test_unsorted_nodes_and_open_dimensions(tmp_path):
    nodes = [helper.make_node("Mul", ["e", "e"], ["y"]), helper.make_node("Exp", ["x"], ["e"])]
    path = save(tmp_path / "u.onnx", nodes, [value("x", shape=(-1, 2))], [value("y", shape=(-1, 2))])
    x = np.array([[0.3, 1.7]], np.float32)
    e = half(np.exp(half(x)))
    assert np.array_equal(compiled_run(path, {"x": x})["y"], half(e * e))


def outcome(path, folder, mode):
    """``ran``, or the sentence of the error."""
    try:
        compiled = compile_numerics(path, folder, precision_mode=mode, soc="Ascend310P3")
        with EmulatedOmSession(compiled, "unfused", threads=1) as session:
            session.run({})
    except ToolchainError as error:
        return error.render("zh")
    return "ran"


def test_real_awkward_files_end_in_a_sentence(tmp_path, data_root):
    files = sorted((data_root / "onnx_hard").glob("*.onnx"))
    results = {}
    for number, path in enumerate(files):
        for mode in ("force_fp16", "must_keep_origin_dtype"):
            results[path.name, mode] = outcome(path, tmp_path / f"{number}-{mode}", mode)
    assert len(results) >= 40
    assert all(results.values())
    assert "MultiThreshold" in results["finn_tfc_w2a2_model.onnx", "force_fp16"]
    assert "ext_weights.data" in results["polygraphy_ext_weights.onnx", "force_fp16"]


def test_silero_voice_detector(tmp_path, data_root):
    """Functions, If and LSTM in one real file."""
    path = data_root / "torchscript" / "silero_vad.onnx"
    generator = np.random.default_rng(0)
    feeds = {
        "input": (generator.standard_normal((1, 576)) * 0.1).astype(np.float32),
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.array(16000, np.int64),
    }
    wanted = dict(zip(("output", "stateN"), plain(path, feeds, optimize=True), strict=True))
    kept = compiled_run(path, feeds, "must_keep_origin_dtype")
    rounded = compiled_run(path, feeds)
    for name, array in wanted.items():
        assert kept[name].tobytes() == array.tobytes()
        assert 0 < np.abs(rounded[name] - array).max() < 0.02
