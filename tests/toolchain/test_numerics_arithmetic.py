"""The emulator against NumPy's float16, operator by operator."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper
from scipy import special

from pth2om.toolchain.emulator.numerics import compile_numerics
from pth2om.toolchain.emulator.numerics.rounding import counts, to_half
from pth2om.toolchain.emulator.session import EmulatedOmSession

INFINITY, SATURATION = "Ascend910B1", "Ascend310B1"
ANY_FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)
# Around everything that float16 makes special: ties, subnormals, the edge of the range.
EDGES = np.array(
    [
        0,
        -0.0,
        1,
        1 + 2**-11,
        1 + 3 * 2**-11,
        2**-14,
        2**-15,
        2**-24,
        2**-25,
        1.5 * 2**-25,
        65504,
        65519.996,
        65520,
        1e5,
        -65520,
        -1e30,
        3e38,
        2049,
        2051,
        1 / 3,
        1e-8,
        -3e-8,
        1e-45,
    ],
    np.float32,
)
VALUES = st.one_of(ANY_FLOAT, st.sampled_from(EDGES.tolist()), st.floats(-8, 8, width=32))
VECTORS = hnp.arrays(np.float32, st.integers(1, 24), elements=VALUES)


def model_of(nodes, inputs, outputs, *, initializers=None, opset=13):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """Sessions by what they compute, compiled once."""
    made = {}

    def session(op_type, soc=INFINITY, inputs=1, band="fused", **attributes):
        key = (op_type, soc, inputs, band, tuple(sorted(attributes.items())))
        if key not in made:
            names = ["x", "y"][:inputs]
            node = helper.make_node(op_type, names, ["z"], **attributes)
            shapes = {name: (TensorProto.FLOAT, ["n"]) for name in names}
            model = model_of([node], shapes, ["z"], opset=18)
            folder = tmp_path_factory.mktemp("op")
            onnx.save(model, folder / "m.onnx")
            compiled = compile_numerics(folder / "m.onnx", folder / "c", precision_mode="force_fp16", soc=soc)
            made[key] = EmulatedOmSession(compiled, band, threads=1)
        return made[key]

    return session


def half(values):
    with np.errstate(all="ignore"):
        return values.astype(np.float16)


def saturated(values):
    """What a saturating unit leaves: infinity is 65504, NaN is 0."""
    with np.errstate(all="ignore"):
        return np.nan_to_num(values, nan=0.0, posinf=65504.0, neginf=-65504.0)


def bits(values):
    """Bit patterns; all NaNs are one."""
    return np.where(np.isnan(values), np.float32(np.nan), values.astype(np.float32)).view(np.uint32).tolist()


@given(x=VECTORS)
def test_weights_round_as_numpy_does(x):
    assert bits(to_half(x, clip=False)) == bits(half(x))
    clipped = to_half(x, clip=True)
    assert bits(clipped) == bits(half(np.clip(x, -65504, 65504)))
    overflowed, vanished = counts(x)
    assert overflowed == np.isinf(half(x)).sum()
    assert vanished == ((x != 0) & (half(x) == 0)).sum()


def test_every_float16_value_stays_what_it_is(sessions):
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    every = every[np.isfinite(every)]
    for soc in (INFINITY, SATURATION):
        assert bits(sessions("Identity", soc).run({"x": every})["z"]) == bits(every)


@given(x=VECTORS)
@settings(max_examples=80)
def test_the_boundary_rounds_to_nearest_even(sessions, x):
    assert bits(sessions("Identity").run({"x": x})["z"]) == bits(half(x))
    assert bits(sessions("Identity", SATURATION).run({"x": x})["z"]) == bits(saturated(half(x)))


@pytest.mark.parametrize("soc", [INFINITY, SATURATION])
@pytest.mark.parametrize(
    ("op_type", "function"), [("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply), ("Div", np.divide)]
)
@given(data=st.data())
@settings(max_examples=60)
def test_arithmetic_is_bit_for_bit(sessions, op_type, function, soc, data):
    x = data.draw(VECTORS)
    y = data.draw(hnp.arrays(np.float32, x.shape, elements=VALUES))
    finish = saturated if soc == SATURATION else lambda values: values
    with np.errstate(all="ignore"):
        wanted = finish(function(finish(half(x)), finish(half(y))))
    assert wanted.dtype == np.float16
    got = sessions(op_type, soc, inputs=2).run({"x": x, "y": y})["z"]
    assert bits(got) == bits(wanted)


@pytest.mark.parametrize(
    ("op_type", "function"),
    [("Relu", lambda x: np.maximum(x, np.float16(0))), ("Neg", np.negative), ("Abs", np.abs), ("Floor", np.floor)],
)
@given(x=VECTORS)
@settings(max_examples=30)
def test_movement_is_bit_for_bit(sessions, op_type, function, x):
    # Zero's sign may differ in a maximum of zeros.
    assert np.array_equal(sessions(op_type).run({"x": x})["z"], function(half(x)).astype(np.float32))


TRANSCENDENTAL = {
    "Exp": np.exp,
    "Log": np.log,
    "Sqrt": np.sqrt,
    "Reciprocal": np.reciprocal,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "Erf": special.erf,
    "Softplus": lambda x: np.logaddexp(0, x),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Elu": lambda x: np.where(x < 0, np.expm1(x), x),
    "Sin": np.sin,
    "Cos": np.cos,
    "Tan": np.tan,
    "Asin": np.arcsin,
    "Acos": np.arccos,
    "Atan": np.arctan,
    "Sinh": np.sinh,
    "Cosh": np.cosh,
    "Asinh": np.arcsinh,
    "Acosh": np.arccosh,
    "Atanh": np.arctanh,
}


@pytest.mark.parametrize("op_type", TRANSCENDENTAL)
def test_transcendentals_are_within_two_ulp_for_every_float16(sessions, op_type):
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    x = x[np.isfinite(x)]
    with np.errstate(all="ignore"):
        exact = TRANSCENDENTAL[op_type](x.astype(np.float64))
    wanted = half(exact).astype(np.float64)
    got = sessions(op_type).run({"x": x})["z"].astype(np.float64)
    assert np.array_equal(got, half(got).astype(np.float64), equal_nan=True)
    with np.errstate(all="ignore"):
        ulp = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(exact), 2.0**-14))) - 10)
        distance = np.where((got == wanted) | (np.isnan(got) & np.isnan(wanted)), 0, np.abs(got - exact) / ulp)
    assert distance.max() <= 2
    saturating = sessions(op_type, SATURATION).run({"x": x})["z"]
    assert np.array_equal(saturating, saturated(got))


def test_overflow_follows_the_soc(sessions):
    x = np.array([12.0, -1.0, 300.0], np.float32)
    # The examples of the CANN guide, INF_NAN_MODE_ENABLE: exp(12) and sqrt(-1) in both modes.
    assert sessions("Exp").run({"x": x})["z"][0] == np.inf
    assert sessions("Exp", SATURATION).run({"x": x})["z"][0] == 65504
    assert np.isnan(sessions("Sqrt").run({"x": x})["z"][1])
    assert sessions("Sqrt", SATURATION).run({"x": x})["z"][1] == 0
    assert sessions("Mul", inputs=2).run({"x": x, "y": x})["z"][2] == np.inf
    assert sessions("Mul", SATURATION, inputs=2).run({"x": x, "y": x})["z"][2] == 65504


def reduction_bound(wanted, magnitude, terms):
    """1 float16 ulp plus (K + 2) * 2**-24 * sum|x||w|."""
    ulp = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(wanted), 2.0**-14))) - 10)
    return ulp + (terms + 2) * 2.0**-24 * magnitude


@given(data=st.data(), k=st.integers(1, 64))
@settings(max_examples=30, deadline=None)
def test_matrix_products_and_sums(sessions, data, k):
    x = data.draw(hnp.arrays(np.float32, k, elements=st.floats(-30, 30, width=32)))
    y = data.draw(hnp.arrays(np.float32, k, elements=st.floats(-30, 30, width=32)))
    a, b = half(x).astype(np.float64), half(y).astype(np.float64)
    got = float(sessions("MatMul", inputs=2).run({"x": x, "y": y})["z"])
    assert abs(got - a @ b) <= reduction_bound(a @ b, np.abs(a) @ np.abs(b), k)
    total = float(np.squeeze(sessions("ReduceSum").run({"x": x})["z"]))
    assert abs(total - a.sum()) <= reduction_bound(a.sum(), np.abs(a).sum(), k)
    assert total == half(np.array(total))


def convolve(x, w, bias, stride):
    """A plain convolution in float64: NCHW, no padding."""
    n, _, height, width = x.shape
    out, _, kh, kw = w.shape
    rows, columns = (height - kh) // stride + 1, (width - kw) // stride + 1
    result = np.zeros((n, out, rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = x[:, :, i * stride : i * stride + kh, j * stride : j * stride + kw]
            result[:, :, i, j] = np.einsum("nchw,ochw->no", window, w)
    return result + bias.reshape(1, -1, 1, 1)


@pytest.mark.parametrize("soc", [INFINITY, SATURATION])
@pytest.mark.parametrize("band", ["fused", "unfused"])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 100.0])
def test_convolution_and_its_relu(tmp_path, soc, band, scale):
    generator = np.random.default_rng(7)
    x = (generator.standard_normal((2, 16, 9, 9)) * scale).astype(np.float32)
    w = (generator.standard_normal((32, 16, 3, 3)) * scale).astype(np.float32)
    bias = generator.standard_normal(32).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["z"]),
    ]
    model = model_of(nodes, {"x": (TensorProto.FLOAT, x.shape)}, ["z"], initializers={"w": w, "b": bias})
    onnx.save(model, tmp_path / "m.onnx")
    compiled = compile_numerics(tmp_path / "m.onnx", tmp_path / "c", precision_mode="force_fp16", soc=soc)
    got = EmulatedOmSession(compiled, band, threads=1).run({"x": x})["z"].astype(np.float64)
    xs, ws, bs = (half(array).astype(np.float64) for array in (x, w, bias))
    exact = convolve(xs, ws, bs, 2)
    bound = reduction_bound(exact, convolve(np.abs(xs), np.abs(ws), np.abs(bs), 2), 16 * 9)
    inside = np.abs(exact) < 65000
    assert (np.abs(got - np.maximum(exact, 0)) <= bound)[inside].all()
    beyond = exact > 66000
    assert (got[beyond] == (65504 if soc == SATURATION else np.inf)).all()
    assert (scale == 100.0) == bool(beyond.any())
    assert np.array_equal(got, half(got).astype(np.float64))
