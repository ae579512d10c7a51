"""What is rounded and when: modes, bands, folded and float16 parts, limits."""

import json

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper

from pth2om.ascend.atc_options import AtcOptions
from pth2om.ascend.target import Target
from pth2om.errors import ToolchainError
from pth2om.toolchain.emulator import EmulatorToolchain
from pth2om.toolchain.emulator.numerics import compile_numerics, overflow_report, rounding
from pth2om.toolchain.emulator.numerics.dtypes import inferred
from pth2om.toolchain.emulator.session import EmulatedOmSession
from tests.toolchain.numerics_models import (
    FLOAT,
    HALF,
    INT64,
    SOC,
    compiled_run,
    conv_net,
    conv_of,
    half,
    plain,
    save,
    sigmoid,
    value,
)


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


@pytest.mark.parametrize(("weight", "opens"), [(1 / 3, True), (0.5, False)])
def test_the_next_band_is_opened_with_the_first_where_it_is_another(tmp_path, monkeypatch, weight, opens):
    constants = {"w": np.full((4, 3, 3, 3), weight, np.float32)}
    path, x, _ = conv_net(tmp_path, [helper.make_node("Relu", ["c"], ["y"])] if not opens else silu(), constants)
    compiled = compile_numerics(path, tmp_path / "c", precision_mode="fp16", soc=SOC)
    first, second = (EmulatedOmSession(compiled, band, threads=1) for band in ("fused", "unfused"))
    assert (first.digest != second.digest) is opens
    begun = []
    monkeypatch.setattr(second, "open_ahead", lambda: begun.append(second))
    first.before(second)
    first.run({"x": x})
    first.run({"x": x})
    assert len(begun) == opens
    alone = EmulatedOmSession(compiled, "unfused", threads=1)
    np.testing.assert_array_equal(second.run({"x": x})["y"], alone.run({"x": x})["y"])


def silu():
    return [helper.make_node("Sigmoid", ["c"], ["g"]), helper.make_node("Mul", ["c", "g"], ["y"])]


@given(
    arrays(st.sampled_from([np.float32, np.float64, np.float16]), array_shapes(max_dims=3, min_side=0, max_side=5)),
    st.sampled_from([1.0, 70000.0, 1e-7, 3e38]),
    st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_constant_is_rounded_once_and_as_numpy_does(values, scale, clip):
    with np.errstate(all="ignore"):
        values = (values * values.dtype.type(scale)).astype(values.dtype)
        wide = values.astype(np.float32)
        limited = np.where(np.isinf(wide), wide, np.clip(wide, -65504, 65504)) if clip else wide
        wanted = limited.astype(np.float16).astype(np.float32)
    found = rounding.rounded_once(values, clip=clip)
    np.testing.assert_array_equal(wide if found.values is None else found.values, wanted)
    if found.values is not None:
        assert (found.overflowed, found.vanished) == rounding.counts(wide)
    assert rounding.rounded_once(values.copy(), clip=clip) is found


def test_constants_that_only_begin_and_end_alike_are_told_apart():
    values = np.full(1000, 1 / 3, np.float32)
    other = values.copy()
    other[500] = 1.25
    assert rounding.rounded_once(values, clip=True).values[500] != 1.25
    assert rounding.rounded_once(other, clip=True).values[500] == 1.25
    assert rounding.rounded_once(values, clip=True).values[500] != 1.25


def test_rounded_constants_are_kept_within_bounds(monkeypatch):
    monkeypatch.setattr(rounding, "_ROOM", 10_000)
    for seed in range(9):
        rounding.rounded_once(np.random.default_rng(seed).standard_normal(400).astype(np.float32), clip=True)
    assert sum(len(content) + found.values.nbytes for content, found in rounding._kept.values()) <= 10_000


@pytest.mark.parametrize("ir", [3, 8])
def test_types_are_those_that_inference_finds_with_all_weights(tmp_path, ir):
    constants = {
        "w": np.ones((64, 3, 3, 3), np.float32),
        "shape": np.array([1, -1], np.int64),
        "table": np.arange(2000, dtype=np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Reshape", ["c", "shape"], ["r"]),
        helper.make_node("Cast", ["r"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "i"], ["y"]),
    ]
    inputs = [value("x", shape=(1, 3, 6, 6))]
    inputs += [value("w", shape=(64, 3, 3, 3)), value("shape", INT64, (2,)), value("table", INT64, (2000,))][: 9 - ir]
    model = onnx.load(save(tmp_path / "m.onnx", nodes, inputs, [value("y", INT64)], constants))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model.ir_version = ir
    whole = onnx.shape_inference.infer_shapes(model)
    wanted = {entry.name: entry.type.tensor_type.elem_type for entry in (*whole.graph.value_info, *whole.graph.output)}
    types, reason = inferred(model)
    assert reason is None
    assert {name: types[name] for name in wanted} == wanted
    assert [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim] == [1, 64 * 36]
