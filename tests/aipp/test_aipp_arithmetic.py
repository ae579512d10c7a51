"""What AIPP computes: against plain Python pixel by pixel, and as ONNX nodes through ONNX Runtime, bit for bit."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from pth2om import aipp
from pth2om.aipp import csc
from pth2om.aipp.dynamic import buffer_size, pack, unpack
from pth2om.errors import AippError
from pth2om.spec import Preprocess
from tests.aipp import aipp_reference as reference

_FORMATS = ("RGB888_U8", "XRGB8888_U8", "YUV420SP_U8", "YUV400_U8")
_SINGLE = {"width": 32, "allow_nan": False, "allow_infinity": False}


@st.composite
def _cases(draw: st.DrawFn) -> tuple[dict, tuple[int, int], int]:
    """Field values, the model's size and its channels."""
    fmt = draw(st.sampled_from(_FORMATS))
    height, width = (2 * draw(st.integers(1, 4)) for _ in range(2))
    values: dict = {"aipp_mode": "static", "input_format": fmt, "src_image_size_w": width, "src_image_size_h": height}
    rows, columns = height, width
    if draw(st.booleans()):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        rows, columns = draw(st.integers(1, height - top)), draw(st.integers(1, width - left))
        values |= {"crop": True, "load_start_pos_h": top, "load_start_pos_w": left}
        values |= {"crop_size_h": rows, "crop_size_w": columns}
    if draw(st.booleans()):
        sides = {f"{side}_padding_size": draw(st.integers(0, 3)) for side in ("top", "bottom", "left", "right")}
        values |= {"padding": True, "padding_value": draw(st.floats(-300, 300, **_SINGLE))} | sides
        rows += sides["top_padding_size"] + sides["bottom_padding_size"]
        columns += sides["left_padding_size"] + sides["right_padding_size"]
    values["rbuv_swap_switch"] = draw(st.booleans())
    values["ax_swap_switch"] = fmt == "XRGB8888_U8" and draw(st.booleans())
    channels = 1 if fmt == "YUV400_U8" else 3
    if fmt != "YUV400_U8" and draw(st.booleans()):
        values["csc_switch"] = True
        kind = draw(st.sampled_from(["default", "random", "grey", "preset"]))
        if kind == "preset":
            table = csc.YUV_TO_RGB if fmt == "YUV420SP_U8" else csc.RGB_TO_YUV
            matrix = draw(st.sampled_from(sorted(table.items())))[1].matrix
        elif kind != "default":
            weight = st.integers(-32677, 32676)
            matrix = [[draw(weight) if kind == "random" or r == 0 else 0 for _ in range(3)] for r in range(3)]
        if kind != "default":
            values |= {f"matrix_r{r}c{c}": matrix[r][c] for r in range(3) for c in range(3)}
            values |= {f"{side}_bias_{c}": draw(st.integers(0, 255)) for side in ("input", "output") for c in range(3)}
            if not any(matrix[1]) and not any(matrix[2]):
                channels = 1
    elif fmt == "XRGB8888_U8":
        channels = draw(st.sampled_from([3, 4]))
    for channel in range(4):
        values[f"mean_chn_{channel}"] = draw(st.integers(0, 255))
        values[f"min_chn_{channel}"] = draw(st.floats(0, 255, **_SINGLE))
        values[f"var_reci_chn_{channel}"] = draw(
            st.one_of(st.floats(-65504, 65504, **_SINGLE), st.floats(0, 1, **_SINGLE))
        )
    return values, (rows, columns), channels


def _bytes(values: dict, count: int, seed: int) -> np.ndarray:
    size = reference.frame_size(values["input_format"], values["src_image_size_h"], values["src_image_size_w"])
    return np.random.default_rng(seed).integers(0, 256, int(size) * count, dtype=np.uint8)


def _same(got: np.ndarray, want: np.ndarray) -> bool:
    """Bit for bit, the sign of zero included; any NaN is a NaN."""
    if got.dtype != np.float16:
        return np.array_equal(got, want)
    nan = np.isnan(got) & np.isnan(want)
    return bool(np.all(nan | (got.view(np.uint16) == want.view(np.uint16))))


@settings(max_examples=150, deadline=None)
@given(_cases(), st.booleans(), st.booleans(), st.integers(1, 2), st.integers(0, 99))
def test_against_plain_python(case: tuple, nearest: bool, uint8: bool, count: int, seed: int) -> None:
    values, model_hw, channels = case
    data = _bytes(values, count, seed)
    dtype = "uint8" if uint8 else "float16"
    soc = "Ascend950PR_9599" if nearest else "Ascend310B1"
    got = aipp.apply(aipp.AippOp.of(**values), data, model_hw, soc=soc, dtype=dtype, channels=channels)
    want = reference.apply(values, data.tobytes(), model_hw, nearest=nearest, uint8=uint8, channels=channels)
    assert got.dtype == np.dtype(dtype)
    assert got.shape == (count, channels, *model_hw)
    assert _same(got, np.array(want, dtype=np.float64).astype(got.dtype))


def _identity(shape: list, kind: int, opset: int = 17) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _run(path: Path, feed: np.ndarray, level: ort.GraphOptimizationLevel) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": feed})[0]


_LEVELS = (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    _cases(),
    st.booleans(),
    st.sampled_from([TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8]),
    st.integers(0, 99),
)
def test_emulated_graph_is_the_arithmetic(tmp_path: Path, case: tuple, nearest: bool, kind: int, seed: int) -> None:
    values, model_hw, channels = case
    config = aipp.AippConfig((aipp.AippOp.of(**values),))
    soc = "Ascend950PR_9599" if nearest else "Ascend310B1"
    source, made = tmp_path / "m.onnx", tmp_path / "aipp.onnx"
    onnx.save(_identity(["N", channels, *model_hw], kind), source)
    aipp.emulate_graph(source, config, made, soc=soc)
    onnx.checker.check_model(onnx.load(made), full_check=True)
    data = _bytes(values, 2, seed)
    shape = csc.settings(config.op(), model_hw).input_shape()
    dtype = "uint8" if kind == TensorProto.UINT8 else "float16"
    want = aipp.apply(config, data, model_hw, soc=soc, dtype=dtype, channels=channels)
    for level in _LEVELS:
        got = _run(made, data.reshape(2, *shape), level)
        assert got.dtype == {1: np.float32, 10: np.float16, 2: np.uint8}[kind]
        assert _same(got.astype(want.dtype), want)
        if kind == TensorProto.FLOAT:  # nothing but FP16 values reaches a float32 input
            assert np.array_equal(got, want.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("opset", [11, 13, 18, 21])
def test_emulated_graph_in_every_opset(tmp_path: Path, opset: int) -> None:
    values = {"aipp_mode": "static", "input_format": "YUV420SP_U8", "csc_switch": True, "padding": True}
    values |= {"src_image_size_h": 6, "src_image_size_w": 8, "left_padding_size": 2, "var_reci_chn_0": 0.25}
    config = aipp.AippConfig((aipp.AippOp.of(**values),))
    onnx.save(_identity([1, 3, 6, 10], TensorProto.FLOAT, opset), tmp_path / "m.onnx")
    aipp.emulate_graph(tmp_path / "m.onnx", config, tmp_path / "a.onnx")
    data = _bytes(values, 1, 0)
    got = _run(tmp_path / "a.onnx", data.reshape(1, 9, 8, 1), _LEVELS[1])
    assert _same(got.astype(np.float16), aipp.apply(config, data, (6, 10)))


def test_two_image_inputs_subgraphs_and_an_input_that_is_an_output(tmp_path: Path) -> None:
    """Every use of the input sees the converted picture, also inside an If."""
    shape = [1, 3, 2, 2]
    then = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["t"])], "t", [], [helper.make_tensor_value_info("t", 1, shape)]
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["z"], ["e"])], "e", [], [helper.make_tensor_value_info("e", 1, shape)]
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)],
        "g",
        [helper.make_tensor_value_info(name, 1, shape) for name in ("x", "z")]
        + [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info(name, 1, shape) for name in ("y", "x")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    base = {"aipp_mode": "static", "input_format": "RGB888_U8"}
    config = aipp.AippConfig(
        (aipp.AippOp.of(**base, var_reci_chn_0=0.5), aipp.AippOp.of(**base, related_input_rank=1, mean_chn_0=7))
    )
    aipp.emulate_graph(tmp_path / "m.onnx", config, tmp_path / "a.onnx")
    feed = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    session = ort.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    first = aipp.apply(config, feed, (2, 2)).astype(np.float32)
    second = aipp.apply(config, feed, (2, 2), rank=1).astype(np.float32)
    for flag, want in ((True, first + first), (False, second)):
        y, x = session.run(None, {"x": feed, "z": feed, "c": np.array(flag)})
        assert np.array_equal(y, want)
        assert np.array_equal(x, first)


@pytest.mark.parametrize(
    ("shape", "kind", "opset", "fields", "key"),
    [
        ([1, 3, 2, 2], 1, 10, {}, "aipp.old-opset"),
        ([1, 3, "H", 2], 1, 17, {}, "aipp.not-an-image"),
        ([1, 3], 1, 17, {}, "aipp.not-an-image"),
        ([1, 3, 2, 2], 7, 17, {}, "aipp.wrong-input-type"),
        ([1, 1, 2, 2], 1, 17, {}, "aipp.wrong-channels"),
        ([1, 3, 2, 2], 1, 17, {"src_image_size_w": 4}, "aipp.wrong-output"),
        ([1, 3, 2, 2], 1, 17, {"aipp_mode": "dynamic"}, "aipp.is-dynamic"),
        ([1, 3, 2, 2], 1, 17, {"related_input_rank": 1}, "aipp.advice-rank"),
    ],
)
def test_models_that_do_not_fit(tmp_path: Path, shape: list, kind: int, opset: int, fields: dict, key: str) -> None:
    onnx.save(_identity(shape, kind, opset), tmp_path / "m.onnx")
    config = aipp.AippConfig((aipp.AippOp.of(**({"aipp_mode": "static", "input_format": "RGB888_U8"} | fields)),))
    with pytest.raises(AippError) as caught:
        aipp.emulate_graph(tmp_path / "m.onnx", config, tmp_path / "a.onnx")
    assert caught.value.message.key == key
    assert not (tmp_path / "a.onnx").exists()


def test_a_destination_that_cannot_be_written(tmp_path: Path) -> None:
    onnx.save(_identity([1, 3, 2, 2], 1), tmp_path / "m.onnx")
    with pytest.raises(AippError) as caught:
        aipp.emulate_graph(tmp_path / "m.onnx", _PLAIN, tmp_path / "none" / "a.onnx")
    assert caught.value.message.key == "aipp.unwritable"
    (tmp_path / "bad.onnx").write_bytes(b"hello")
    with pytest.raises(AippError) as caught:
        aipp.emulate_graph(tmp_path / "bad.onnx", _PLAIN, tmp_path / "a.onnx")
    assert caught.value.message.key == "aipp.unreadable-onnx"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.onnx", "m.onnx"]


def test_buffers_that_do_not_fit() -> None:
    op = aipp.AippOp.of(aipp_mode="static", input_format="RGB888_U8")
    for size in (0, 11, 13):
        with pytest.raises(AippError) as caught:
            aipp.apply(op, np.zeros(size, np.uint8), (2, 2))
        assert caught.value.message.key == "aipp.wrong-bytes"
    with pytest.raises(AippError):
        aipp.AippConfig((op,)).op(1)


def test_documented_matrices_turn_white_black_and_grey_into_themselves() -> None:
    """Studio white (235, 128, 128) and full white (255, 128, 128) are RGB white, to the last level or two."""
    for name, table in (("RGB", csc.YUV_TO_RGB), ("BGR", csc.YUV_TO_BGR)):
        for standard, item in table.items():
            fields = {f"matrix_r{r}c{c}": item.matrix[r][c] for r in range(3) for c in range(3)}
            fields |= {f"input_bias_{c}": item.bias[c] for c in range(3)}
            op = aipp.AippOp.of(aipp_mode="static", input_format="YUV420SP_U8", csc_switch=True, **fields)
            low, high = (16, 235) if standard.endswith("narrow") else (0, 255)
            for luma, want in ((low, 0), (high, 255)):
                frame = np.array([luma] * 4 + [128, 128], dtype=np.uint8)
                got = aipp.apply(op, frame, (2, 2), dtype="uint8")
                assert np.abs(got.astype(int) - want).max() <= 1, (name, standard)
            # strong V is red: first for RGB, last for BGR
            red = aipp.apply(op, np.array([100] * 4 + [128, 255], dtype=np.uint8), (2, 2), dtype="uint8")[0, :, 0, 0]
            assert int(red.argmax()) == (0 if name == "RGB" else 2)


def test_grey_weights_sum_to_one() -> None:
    for conversion in (csc.RGB_TO_GREY, csc.YUV_TO_GREY):
        assert sum(conversion.matrix[0]) == 256


# --- dynamic AIPP ---------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(_cases(), st.integers(1, 3), st.integers(0, 99))
def test_a_dynamic_buffer_says_the_same(case: tuple, count: int, seed: int) -> None:
    values, model_hw, channels = case
    op = aipp.AippOp.of(**values)
    data = pack([op] * count, model_hw)
    assert len(data) == buffer_size(count) == 64 + 96 * count
    back = unpack(data)
    assert len(back) == count
    pixels = _bytes(values, 1, seed)
    # The buffer holds no padding value: border pixels are the hardware's zero.
    values = {name: value for name, value in values.items() if name != "padding_value"}
    want = aipp.apply(aipp.AippOp.of(**values), pixels, model_hw, channels=channels)
    for one in back:
        assert _same(aipp.apply(one, pixels, model_hw, channels=channels), want)


def test_where_the_bytes_of_a_dynamic_buffer_lie() -> None:
    """Offsets counted by hand from the published structure."""
    fields = {f"matrix_r{r}c{c}": 10 * r + c - 5 for r in range(3) for c in range(3)}
    op = aipp.AippOp.of(
        aipp_mode="static", input_format="YUV420SP_U8", csc_switch=True, rbuv_swap_switch=True,
        src_image_size_w=64, src_image_size_h=48, crop=True, load_start_pos_w=2, load_start_pos_h=4, crop_size_w=32,
        crop_size_h=16, padding=True, top_padding_size=1, bottom_padding_size=2, left_padding_size=3,
        right_padding_size=4, mean_chn_0=104, min_chn_1=0.5, var_reci_chn_2=2.0, input_bias_0=16, **fields,
    )  # fmt: skip
    data = pack([op], (19, 39))
    assert data[:5] == bytes([1, 1, 1, 0, 1])
    assert int.from_bytes(data[8:12], "little") == 64
    assert int.from_bytes(data[12:16], "little") == 48
    assert np.frombuffer(data[16:34], "<i2").tolist() == [-5, -4, -3, 5, 6, 7, 15, 16, 17]
    assert data[40:46] == bytes([0, 0, 0, 16, 128, 128])
    picture = data[64:]
    assert picture[:4] == bytes([1, 0, 1, 0])
    assert np.frombuffer(picture[8:24], "<i4").tolist() == [2, 4, 32, 16]
    assert np.frombuffer(picture[40:56], "<i4").tolist() == [1, 2, 3, 4]
    assert np.frombuffer(picture[56:64], "<i2").tolist() == [104, 0, 0, 0]
    assert np.frombuffer(picture[64:72], "<f2").tolist() == [0, 0.5, 0, 0]
    assert np.frombuffer(picture[72:80], "<f2").tolist() == [1, 1, 2, 1]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_buffer_is_read_or_refused(data: bytes) -> None:
    try:
        ops = unpack(data)
    except AippError:
        return
    assert len(data) == buffer_size(len(ops))


# --- deriving -------------------------------------------------------------------------------------------------------


def _preprocess(**fields: object) -> Preprocess:
    return Preprocess.model_validate({"size": (4, 6), **fields})


_MEANS = st.lists(st.floats(0, 1), min_size=3, max_size=3)
_STDS = st.lists(st.floats(0.05, 2), min_size=3, max_size=3)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["RGB", "BGR"]), _MEANS, _STDS, st.sampled_from([1.0, 127.5, 255.0]), st.integers(0, 99))
def test_derived_configuration_does_what_the_host_does(
    color: str, mean: list, std: list, scale: float, seed: int
) -> None:
    preprocess = _preprocess(color=color, mean=mean, std=std, scale=scale)
    config = aipp.derive(preprocess)
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 4, 6, 3), dtype=np.uint8)
    got = aipp.apply(config, pixels, (4, 6)).astype(np.float64)
    ordered = (pixels if color == "RGB" else pixels[..., ::-1]).transpose(0, 3, 1, 2)
    want = (ordered / scale - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    bound = aipp.error_bound(config, preprocess)
    assert np.abs(got - want).max() <= bound * (1 + 1e-9)
    # FP16 has 11 bits: four roundings (min, difference, factor, product) of relative 2^-11 each, and min's own.
    span = max(np.abs((np.array([0, 255])[:, None] / scale - np.array(mean)) / np.array(std)).max(), 1e-6)
    assert bound <= span * 4 * 2**-11 + 2**-11 / (scale * min(std))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet20", "yolov6lite", "yolov6n"])
def test_the_models_here_get_the_same_input_from_aipp_as_from_the_host(repository: Path, name: str) -> None:
    """A picture through the derived AIPP and through the host's own preprocessing: all levels of all channels."""
    from pth2om.data.preprocess import Preprocessor
    from pth2om.spec import load

    preprocess = load(repository / "models" / name).preprocess
    assert preprocess is not None
    config = aipp.derive(preprocess)
    height, width = preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    host = Preprocessor(preprocess).normalize(pixels).astype(np.float64)
    unit = aipp.apply(config, pixels, preprocess.size)[0].astype(np.float64)
    # 1e-6: the host computes in float32
    assert np.abs(host - unit).max() <= aipp.error_bound(config, preprocess) + 1e-6


def test_means_are_integers_and_fractions() -> None:
    op = aipp.derive(_preprocess(mean=(0.485, 0.456, 0.5), std=(0.229, 0.224, 0.225))).op()
    assert [op.integer(f"mean_chn_{c}") for c in range(3)] == [123, 116, 127]
    assert [op.values[f"min_chn_{c}"][0] for c in range(3)] == [0.675, 0.28, 0.5]


def test_splitting_the_mean_is_more_exact_than_min_chn_alone() -> None:
    """What most published configurations do, and what it costs."""
    preprocess = _preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    derived = aipp.derive(preprocess)
    usual = {name: value[0] for name, value in derived.op().values.items() if not name.startswith("mean")}
    usual |= {"min_chn_0": 123.675, "min_chn_1": 116.28, "min_chn_2": 103.53}
    common = aipp.AippConfig((aipp.AippOp.of(**usual),))
    assert aipp.error_bound(derived, preprocess) < aipp.error_bound(common, preprocess)


@pytest.mark.parametrize("color", ["RGB", "BGR", "GRAY"])
@pytest.mark.parametrize("standard", csc.STANDARDS)
def test_derived_from_yuv(color: str, standard: csc.Standard) -> None:
    """A colour picture turned into YUV in real numbers comes back within the matrices' precision."""
    config = aipp.derive(_preprocess(color=color, scale=1), "YUV420SP_U8", standard=standard, nv21=True)
    wide, kr, kb = standard.endswith("wide"), *((0.299, 0.114) if standard.startswith("601") else (0.2126, 0.0722))
    rgb = np.array([200, 90, 40]) / 255
    luma = kr * rgb[0] + (1 - kr - kb) * rgb[1] + kb * rgb[2]
    blue, red = (rgb[2] - luma) / (2 - 2 * kb), (rgb[0] - luma) / (2 - 2 * kr)
    y = round(luma * 255) if wide else round(16 + luma * 219)
    u, v = (round(128 + part * (255 if wide else 224)) for part in (blue, red))
    frame = np.array([y] * 24 + [v, u] * 6, dtype=np.uint8)
    got = aipp.apply(config, frame, (4, 6)).astype(float)[0, :, 0, 0]
    want = {"RGB": rgb * 255, "BGR": rgb[::-1] * 255, "GRAY": np.array([float(y)])}[color]
    assert np.abs(got - want).max() <= 3


def test_derived_grey_from_rgb() -> None:
    config = aipp.derive(_preprocess(color="GRAY", scale=1))
    pixels = np.full((1, 4, 6, 3), (200, 90, 40), np.uint8)
    assert abs(float(aipp.apply(config, pixels, (4, 6))[0, 0, 0, 0]) - (0.299 * 200 + 0.587 * 90 + 0.114 * 40)) <= 2


def test_crop_and_border_are_derived() -> None:
    config = aipp.derive(_preprocess(resize="shorter", resize_to=8, crop="centre"), source=(8, 10))
    assert [config.op().integer(name) for name in ("load_start_pos_h", "load_start_pos_w")] == [2, 2]
    config = aipp.derive(_preprocess(resize="letterbox"), source=(3, 6))
    frame = np.full((1, 3, 6, 3), 255, np.uint8)
    got = aipp.apply(config, frame, (4, 6))
    assert got[0, 0, :, 0].tolist() == [1.0, 1.0, 1.0, float(np.float16(114 / 255))]


@pytest.mark.parametrize(
    ("fields", "options", "key"),
    [
        ({"extra": "sobel"}, {}, "aipp.extra-channel"),
        ({"mean": (-0.1, 0, 0), "std": (1, 1, 1)}, {}, "aipp.mean-out-of-range"),
        ({"mean": (2.5, 0, 0), "std": (1, 1, 1)}, {}, "aipp.mean-out-of-range"),
        ({"scale": 1e6}, {}, "aipp.factor-out-of-range"),
        ({}, {"source": (8, 12)}, "aipp.needs-resize"),
        ({"resize": "shorter", "resize_to": 9, "crop": "centre"}, {"source": (8, 12)}, "aipp.needs-resize"),
        (
            {"resize": "letterbox", "letterbox": "top_left", "size": (100, 6)},
            {"source": (60, 6)},
            "aipp.border-too-wide",
        ),
        (
            {"resize": "letterbox", "mean": (0.5, 0.4, 0.3), "std": (1, 1, 1)},
            {"source": (3, 6)},
            "aipp.border-per-channel",
        ),
        ({}, {"input_format": "YUV400_U8"}, "aipp.grey-to-colour"),
        ({}, {"input_format": "RAW10"}, "aipp.unsupported-format"),
        ({"size": (5, 6)}, {"input_format": "YUV420SP_U8"}, "aipp.odd-yuv"),
    ],
)
def test_what_aipp_cannot_express(fields: dict, options: dict, key: str) -> None:
    with pytest.raises(AippError) as caught:
        aipp.derive(_preprocess(**fields), **options)
    assert caught.value.message.key == key


# --- normalized once ------------------------------------------------------------------------------------------------


def _net(*steps: tuple[str, object], transpose: bool = False) -> onnx.ModelProto:
    """A graph of affine steps before a convolution."""
    nodes, constants, name = [], [], "x"
    if transpose:
        nodes.append(helper.make_node("Transpose", [name], ["tr"], perm=[0, 1, 2, 3]))
        name = "tr"
    for place, (kind, value) in enumerate(steps):
        array = np.asarray(value, dtype=np.float32)
        array = array.reshape(1, -1, 1, 1) if array.ndim else array
        constants.append(onnx.numpy_helper.from_array(array, f"c{place}"))
        nodes.append(helper.make_node(kind, [name, f"c{place}"], [f"v{place}"], name=f"{kind}_{place}"))
        name = f"v{place}"
    constants.append(onnx.numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w"))
    nodes.append(helper.make_node("Conv", [name, "w"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 3, 4, 6])],
        [helper.make_tensor_value_info("y", 1, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


_IMAGENET = _preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_INSIDE = (("Div", 255), ("Sub", [0.485, 0.456, 0.406]), ("Div", [0.229, 0.224, 0.225]))
_PLAIN = aipp.AippConfig((aipp.AippOp.of(aipp_mode="static", input_format="RGB888_U8"),))


@pytest.mark.parametrize("preprocess", [None, _IMAGENET])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(
    ("steps", "config", "rules"),
    [
        ((), aipp.derive(_IMAGENET), []),
        (_INSIDE, _PLAIN, []),
        (_INSIDE, aipp.derive(_IMAGENET), ["aipp.twice-normalized"]),
        ((), _PLAIN, ["aipp.never"]),
    ],
)
def test_normalized_once(
    steps: tuple, config: aipp.AippConfig, rules: list, transpose: bool, preprocess: object
) -> None:
    found = aipp.diagnose(_net(*steps, transpose=transpose), config, preprocess=preprocess)
    assert [finding.rule for finding in found] == rules
    assert all("{" not in finding.message.render(to) for finding in found for to in ("en", "zh"))


def test_half_of_it_in_aipp_and_half_in_the_graph_is_once() -> None:
    config = aipp.derive(_preprocess())  # x / 255
    assert aipp.diagnose(_net(*_INSIDE[1:]), config, preprocess=_IMAGENET) == []


def test_swapped_channels_are_another_normalization() -> None:
    config = aipp.derive(_preprocess(mean=(0.0, 0.456, 0.9), std=(0.229, 0.224, 0.225)))
    swapped = _preprocess(mean=(0.9, 0.456, 0.0), std=(0.225, 0.224, 0.229))
    assert [item.rule for item in aipp.diagnose(_net(), config, preprocess=swapped)] == ["aipp.other-normalization"]


def test_a_batch_normalization_in_front() -> None:
    graph = _net()
    names = ("gamma", "beta", "mean", "var")
    values = ([1.0] * 3, [0.0] * 3, [127.5] * 3, [127.5**2] * 3)
    for name, value in zip(names, values, strict=True):
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.float32), name))
    graph.graph.node[0].input[0] = "n"
    graph.graph.node.insert(0, helper.make_node("BatchNormalization", ["x", *names], ["n"], name="norm"))
    found = aipp.diagnose(graph, aipp.derive(_preprocess()))
    assert [(item.rule, item.message.values["node"]) for item in found] == [("aipp.twice-normalized", "norm")]


def test_the_host_normalizes_what_the_graph_normalizes() -> None:
    found = aipp.diagnose(_net(*_INSIDE), None, preprocess=_IMAGENET)
    assert [item.rule for item in found] == ["aipp.twice-normalized"]
    assert aipp.diagnose(_net(), None, preprocess=_IMAGENET) == []


def test_diagnosing_any_graph(data_root: Path) -> None:
    files = sorted((data_root / "onnx_hard").glob("*.onnx"))
    assert files
    for path in files:
        with contextlib.suppress(AippError):  # any other error fails the test
            aipp.diagnose(path, _PLAIN)
