"""Whole graphs through the emulator: modes, bands, sub-graphs, shared and external weights, odd files."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pth2om.ascend.atc_options import AtcOptions
from pth2om.ascend.target import Target
from pth2om.errors import ToolchainError
from pth2om.toolchain.emulator import EmulatorToolchain
from pth2om.toolchain.emulator.numerics import compile_numerics, overflow_report, read_compiled, register
from pth2om.toolchain.emulator.session import EmulatedOmSession

SOC = "Ascend910B1"
FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


def half(values):
    with np.errstate(all="ignore"):
        return np.asarray(values).astype(np.float16).astype(np.float32)


def value(name, kind=FLOAT, shape=("n",)):
    return helper.make_tensor_value_info(name, kind, list(shape))


def save(path, nodes, inputs, outputs, initializers=None, opset=13, **more):
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (initializers or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    imports = [helper.make_opsetid("", opset), *more.pop("imports", [])]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8, **more), path)
    return path


def compiled_run(path, feeds, mode="force_fp16", band="fused", soc=SOC, **options):
    compiled = compile_numerics(path, path.parent / f"{mode}-{soc}", precision_mode=mode, soc=soc, **options)
    with EmulatedOmSession(compiled, band, threads=1) as session:
        return session.run(feeds)


@pytest.fixture
def mlp(tmp_path):
    """y = tanh(x @ w) + x0, with weights that float16 cannot hold."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="product"),
        helper.make_node("Tanh", ["m"], ["t"], name="squash"),
        helper.make_node("Mul", ["t", "s"], ["y"], name="stretch"),
    ]
    generator = np.random.default_rng(3)
    constants = {"w": generator.standard_normal((8, 4)).astype(np.float32), "s": np.float32(1 / 3)}
    path = save(tmp_path / "mlp.onnx", nodes, [value("x", shape=(2, 8))], [value("y", shape=(2, 4))], constants)
    return path, generator.standard_normal((2, 8)).astype(np.float32), constants


def mlp_reference(x, w, s, *, product_in, product_out, vector):
    """Rounding points of the net above, in NumPy: one flag a place."""
    a, b = (half(x), half(w)) if product_in else (x, w)
    m = a @ b
    m = half(m) if product_out else m
    t = np.tanh(m)
    t = half(t) if vector else t
    y = t * (half(s) if vector else s)
    return half(y) if vector else y


@pytest.mark.parametrize(
    ("mode", "flags"),
    [
        ("force_fp16", (True, True, True)),
        ("fp16", (True, True, True)),
        ("", (True, True, True)),
        ("must_keep_origin_dtype", (False, False, False)),
        ("origin", (False, False, False)),
        ("allow_fp32_to_fp16", (True, True, False)),
        ("allow_mix_precision", (True, True, True)),
        ("mixed_float16", (True, True, True)),
        ("force_fp32", (True, False, False)),
        ("cube_fp16in_fp32out", (True, False, False)),
    ],
)
def test_modes_round_where_the_guide_says(mlp, mode, flags):
    path, x, constants = mlp
    got = compiled_run(path, {"x": x}, mode, "unfused")["y"]
    wanted = mlp_reference(
        x, constants["w"], constants["s"], **dict(zip(("product_in", "product_out", "vector"), flags, strict=True))
    )
    others = [
        mlp_reference(x, constants["w"], constants["s"], product_in=a, product_out=b, vector=c)
        for a, b, c in {(True, True, True), (False, False, False), (True, True, False), (True, False, False)} - {flags}
    ]
    error = np.abs(got - wanted).max()
    assert error <= (1e-3 * np.abs(wanted).max() if flags[2] else 1e-6)
    assert error < min(np.abs(got - other).max() for other in others)


def test_keep_dtype_by_name_and_by_type(mlp):
    path, x, constants = mlp
    plain = constants["w"]
    for keep in (["product", "squash", "stretch"], ["OpType::MatMulV2", "OpType::Tanh", "OpType::Muls"]):
        got = compiled_run(path, {"x": x}, keep_dtype=keep)["y"]
        assert np.allclose(got, np.tanh(x @ plain) * constants["s"], rtol=0, atol=1e-6)
    kept = compiled_run(path, {"x": x}, "must_keep_origin_dtype", keep_dtype=["product"])["y"]
    assert np.allclose(kept, np.tanh(x @ plain) * constants["s"], rtol=0, atol=1e-6)


def test_mix_list_black_white_grey(mlp):
    path, x, constants = mlp
    black = {"black-list": {"to-add": ["Tanh", "Mul"]}}
    got = compiled_run(path, {"x": x}, "allow_mix_precision", "unfused", modify_mixlist=black)["y"]
    wanted = mlp_reference(x, constants["w"], constants["s"], product_in=True, product_out=True, vector=False)
    assert np.allclose(got, wanted, rtol=0, atol=1e-6)
    grey = {"white-list": {"to-remove": ["MatMulV2"]}}  # nothing white is left: grey follows the float32 input
    got = compiled_run(path, {"x": x}, "allow_mix_precision", "unfused", modify_mixlist=grey)["y"]
    assert np.allclose(got, np.tanh(x @ constants["w"]) * constants["s"], rtol=0, atol=1e-6)
    for wrong in ({"red-list": {}}, {"black-list": {"add": []}}, {"black-list": {"to-add": "Tanh"}}, []):
        with pytest.raises(ToolchainError, match="mix list"):
            compile_numerics(path, path.parent / "w", precision_mode="mixed_float16", soc=SOC, modify_mixlist=wrong)


def test_what_is_not_emulated_is_said(mlp):
    path, _, _ = mlp
    for mode, words in (
        ("allow_fp32_to_bf16", "bfloat16"),
        ("mixed_hif8", "hifloat8"),
        ("fast", "not a precision mode"),
    ):
        with pytest.raises(ToolchainError, match=words):
            compile_numerics(path, path.parent / "c", precision_mode=mode, soc=SOC)
    with pytest.raises(ToolchainError, match="Ascend310P"):
        compile_numerics(path, path.parent / "c", precision_mode="", soc="Kirin990")
    assert not (path.parent / "c").exists()


def conv_net(tmp_path, nodes_after, constants=None, outputs=("y",), channels=4):
    generator = np.random.default_rng(11)
    initial = {
        "w": generator.standard_normal((channels, 3, 3, 3)).astype(np.float32),
        "b": generator.standard_normal(channels).astype(np.float32),
        **(constants or {}),
    }
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4), *nodes_after]
    path = save(
        tmp_path / "conv.onnx",
        nodes,
        [value("x", shape=(1, 3, 6, 6))],
        [value(name, shape=(1, channels, 6, 6)) for name in outputs],
        initial,
    )
    return path, generator.standard_normal((1, 3, 6, 6)).astype(np.float32), initial


def plain(path, feeds, optimize=False):
    options = onnxruntime.SessionOptions()
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def conv_of(tmp_path, x, w, b):
    """ONNX Runtime's float32 convolution of given values."""
    node = helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4)
    shape = (1, w.shape[0], 6, 6)
    path = save(tmp_path / "one.onnx", [node], [value("x", shape=x.shape)], [value("c", shape=shape)], {"w": w, "b": b})
    return plain(path, {"x": x})[0]


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


@pytest.mark.parametrize("soc", ["Ascend910B1", "Ascend310P3"])
def test_silu_is_rounded_once_or_thrice(tmp_path, soc):
    after = [helper.make_node("Sigmoid", ["c"], ["s"]), helper.make_node("Mul", ["s", "c"], ["y"])]
    path, x, initial = conv_net(tmp_path, after)
    c = conv_of(tmp_path, half(x), half(initial["w"]), half(initial["b"]))
    once = half((c * sigmoid(c)).astype(np.float32))
    thrice = half(half(c) * half(sigmoid(half(c)).astype(np.float32)))
    fused = compiled_run(path, {"x": x}, band="fused", soc=soc)["y"]
    unfused = compiled_run(path, {"x": x}, band="unfused", soc=soc)["y"]
    ulp = np.spacing(np.abs(once).astype(np.float16)).astype(np.float32)
    # ONNX Runtime's sigmoid is absolute to 1.5e-7; far out on the left x times it shows that.
    assert (np.abs(fused - once) <= ulp + 2e-7 * np.abs(c)).all()
    assert (fused == once).mean() > 0.95
    assert (unfused == thrice).mean() > 0.95
    assert (unfused != once).any()


def test_batch_norm_is_folded_then_rounded(tmp_path):
    generator = np.random.default_rng(5)
    names = ("scale", "shift", "mean", "variance")
    norm = {name: generator.uniform(0.5, 1.5, 4).astype(np.float32) for name in names}
    after = [helper.make_node("BatchNormalization", ["c", *names], ["n"]), helper.make_node("Relu", ["n"], ["y"])]
    path, x, initial = conv_net(tmp_path, after, norm)
    factor = norm["scale"].astype(np.float64) / np.sqrt(norm["variance"].astype(np.float64) + 1e-5)
    w = half((initial["w"] * factor.reshape(-1, 1, 1, 1)).astype(np.float32))
    b = half((norm["shift"] + factor * (initial["b"].astype(np.float64) - norm["mean"])).astype(np.float32))
    folded = np.maximum(half(conv_of(tmp_path, half(x), w, b)), 0)
    assert np.allclose(compiled_run(path, {"x": x})["y"], folded, rtol=2**-10, atol=1e-6)
    c = half(conv_of(tmp_path, half(x), half(initial["w"]), half(initial["b"])))
    scale, shift, mean, variance = (half(norm[name]).reshape(1, -1, 1, 1) for name in names)
    apart = np.maximum(half(scale * (c - mean) / np.sqrt(variance + np.float32(1e-5)) + shift), 0)
    assert np.allclose(compiled_run(path, {"x": x}, band="unfused")["y"], apart, rtol=2**-10, atol=1e-6)


def test_a_residual_sum_joins_the_fused_band(tmp_path):
    after = [helper.make_node("Conv", ["x", "w2"], ["r"]), helper.make_node("Add", ["r", "c"], ["y"])]
    generator = np.random.default_rng(1)
    path, x, initial = conv_net(tmp_path, after, {"w2": generator.standard_normal((4, 3, 1, 1)).astype(np.float32)})
    compiled = compile_numerics(path, tmp_path / "c", precision_mode="", soc=SOC)
    assert compiled.band("fused").counts["rounded"] < compiled.band("unfused").counts["rounded"]
    got = compiled_run(path, {"x": x}, band="unfused")["y"]
    c = half(conv_of(tmp_path, half(x), half(initial["w"]), half(initial["b"])))
    r = half(np.einsum("nchw,oc->nohw", half(x), half(initial["w2"])[:, :, 0, 0]))
    assert np.allclose(got, half(r + c), rtol=2**-9, atol=2e-3)


def test_bands_that_compute_the_same_are_one_file_and_one_digest(tmp_path):
    """A chain of which fusing changes nothing (Exp follows no convolution's chain), and one that it changes."""
    nodes = {
        True: [helper.make_node("Exp", ["c"], ["e"]), helper.make_node("Neg", ["e"], ["y"])],
        False: [helper.make_node("Sigmoid", ["c"], ["s"]), helper.make_node("Mul", ["c", "s"], ["y"])],
    }
    for alike, after in nodes.items():
        path, x, _ = conv_net(tmp_path, after)
        folder = tmp_path / f"c-{alike}"
        bands = compile_numerics(path, folder, precision_mode="", soc=SOC).bands
        assert (bands["fused"].digest == bands["unfused"].digest) is alike
        assert {file.name for file in folder.glob("*.onnx")} == {band.file for band in bands.values()}
        assert len({band.file for band in bands.values()}) == (1 if alike else 2)
        results = []
        for name in bands:
            with EmulatedOmSession(folder, name, threads=1) as session:
                results.append(session.run({"x": x})["y"])
        assert np.array_equal(*results) is alike


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


def test_integers_are_exact(tmp_path):
    nodes = [
        helper.make_node("Add", ["i", "big"], ["j"]),
        helper.make_node("Gather", ["x", "j"], ["g"], axis=0),
        helper.make_node("Mul", ["j", "big"], ["k"]),
    ]
    big = np.array(70_001, np.int64)
    inputs = [value("x"), value("i", INT64, (2,))]
    outputs = [value("g", shape=(2,)), value("k", INT64, (2,))]
    path = save(tmp_path / "i.onnx", nodes, inputs, outputs, {"big": big})
    x = np.arange(70_010, dtype=np.float32) / 70_010
    got = compiled_run(path, {"x": x, "i": np.array([2, -1], np.int64)})
    assert got["k"].tolist() == [70_003 * 70_001, 70_000 * 70_001]
    assert np.array_equal(got["g"], half(x[[70_003, 70_000]]))


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


def test_scales_are_not_rounded(tmp_path):
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="nearest")
    scales = np.array([1, 1, 1 / 3, 0.1], np.float32)
    path = save(
        tmp_path / "r.onnx",
        [node],
        [value("x", shape=(1, 1, 3000, 3000))],
        [value("y", shape=(None,) * 4)],
        {"scales": scales},
    )
    x = np.random.default_rng(0).random((1, 1, 3000, 3000), np.float32)
    assert np.array_equal(compiled_run(path, {"x": x})["y"], half(plain(path, {"x": x})[0]))


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


def test_float16_parts_round_and_double_parts_do_not(tmp_path):
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=HALF),
        helper.make_node("Mul", ["h", "s"], ["hs"]),
        helper.make_node("Add", ["hs", "hs"], ["hh"]),
        helper.make_node("Cast", ["hh"], ["y"], to=FLOAT),
        helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["d", "t"], ["z"]),
    ]
    s = np.array(1 / 3, np.float16)
    outputs = [value("y"), value("hh", HALF), value("z", TensorProto.DOUBLE)]
    path = save(tmp_path / "m.onnx", nodes, [value("x")], outputs, {"s": s, "t": np.array(0.1)})
    x = np.array([1 / 7, 3.3, 1000.1], np.float32)
    wanted = (x.astype(np.float16) * s) * np.float16(2)
    for mode in ("must_keep_origin_dtype", "force_fp16", "allow_fp32_to_fp16"):
        got = compiled_run(path, {"x": x}, mode, output_type=None)
        assert got["hh"].dtype == np.float16
        assert np.array_equal(got["hh"], wanted)
        assert np.array_equal(got["y"], wanted.astype(np.float32))
        seen = half(x) if mode == "force_fp16" else x
        assert np.array_equal(got["z"], seen.astype(np.float64) * 0.1)
    assert compiled_run(path, {"x": x}, "force_fp16", output_type="FP32")["hh"].dtype == np.float32
    assert compiled_run(path, {"x": x}, "force_fp16", output_type="FP16")["y"].dtype == np.float16


def test_a_float16_model(tmp_path):
    nodes = [helper.make_node("Add", ["x", "x"], ["a"]), helper.make_node("Mul", ["a", "s"], ["y"])]
    s = np.array(0.7, np.float16)
    path = save(tmp_path / "h.onnx", nodes, [value("x", HALF)], [value("y", HALF)], {"s": s})
    x = np.array([0.123, 7.77, 40000], np.float16)
    with np.errstate(over="ignore"):
        wanted = (x + x) * s
    for mode in ("force_fp16", "must_keep_origin_dtype"):
        assert np.array_equal(compiled_run(path, {"x": x}, mode, output_type=None)["y"], wanted)
    # ONNX Runtime alone skips the rounding between the two, and with it the overflow.
    assert compiled_run(path, {"x": x}, soc="Ascend310P3", output_type=None)["y"][2] == np.float16(65504) * s


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


def test_weights_beyond_the_range_are_clipped_and_said(tmp_path):
    mask = np.array([-1e9, 1e-9, 1.0], np.float32)
    path = save(
        tmp_path / "w.onnx",
        [helper.make_node("Add", ["x", "m"], ["y"])],
        [value("x", shape=(3,))],
        [value("y", shape=(3,))],
        {"m": mask},
    )
    feeds = {"x": np.zeros(3, np.float32)}
    assert compiled_run(path, feeds)["y"].tolist() == [-65504, 0, 1]
    assert compiled_run(path, feeds, weight_clip=False)["y"].tolist() == [-np.inf, 0, 1]
    compiled = compile_numerics(path, tmp_path / "c", precision_mode="", soc=SOC)
    assert {finding.rule for finding in compiled.findings} == {"emulator.weights-clipped", "emulator.weights-vanished"}
    assert all(finding.message.render("zh") for finding in compiled.findings)


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


def test_overflow_is_counted(tmp_path):
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Sqrt", ["r"], ["y"]),
    ]
    path = save(tmp_path / "v.onnx", nodes, [value("x")], [value("y")])
    x = np.array([300, 1e-5, 0, 1e-9, 2, 70000], np.float32)
    for soc in ("Ascend910B1", "Ascend310P3"):
        compiled = compile_numerics(path, tmp_path / soc, precision_mode="", soc=soc)
        report = {entry.tensor: entry for entry in overflow_report(compiled, [{"x": x}, {"x": x}])}
        assert (report["x"].elements, report["x"].overflowed, report["x"].vanished) == (12, 2, 2)
        assert report["x"].largest == 70000
        # 300 overflows, and what was infinite or 65504 still does; 1e-9 is zero already.
        assert (report["a"].overflowed, report["a"].vanished) == (4, 2)
        assert "r" not in report  # a Relu of float16 values is not rounded again
        assert (report["y"].overflowed, report["y"].elements) == ((4 if soc == "Ascend910B1" else 0), 12)


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


def test_toolchain(mlp):
    path, x, _ = mlp
    (path.parent / "keep.txt").write_text("product\nOpType::Tanh\n\nstretch\n")
    toolchain = EmulatorToolchain(Target.of(SOC), threads=1)
    output = str(path.parent / "m")
    options = AtcOptions(output=output, soc_version=SOC, input_shape="x:2,8", keep_dtype=str(path.parent / "keep.txt"))
    compiled = toolchain.compile(path, options, path.parent / "om")
    assert compiled.bands == ("fused", "unfused")
    assert compiled.provenance.ground == "emulated"
    json.dumps(compiled.details)
    results = []
    for band in compiled.bands:
        with toolchain.open(compiled, band) as session:
            results.append(session.run({"x": x})["y"])
            assert session.provenance == toolchain.provenance
            assert session.outputs[0].shape == (2, 4)
    assert np.array_equal(results[0], plain(path, {"x": x})[0])
    again = toolchain.compile(path, options, path.parent / "om2")
    assert again.digest == compiled.digest
    other = toolchain.compile(path, AtcOptions(output=output, soc_version=SOC), path.parent / "om3")
    assert other.digest != compiled.digest
    assert sorted(file.name for file in (path.parent / "om").iterdir()) == [
        "compiled.json",
        "fused.onnx",
    ]
    with pytest.raises(ToolchainError, match="not a band"):
        toolchain.open(compiled, "bent")
    with pytest.raises(ToolchainError, match="no emulated model"):
        EmulatedOmSession(path.parent)
    absent = AtcOptions(output=output, soc_version=SOC, keep_dtype=str(path.parent / "absent"))
    with pytest.raises(ToolchainError):  # from atc's front end or from the numerics: whoever reads the file first
        toolchain.compile(path, absent, path.parent / "om4")


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
