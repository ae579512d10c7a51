"""An emulated OM with gears: every gear compiled, chosen by the shapes fed, and each what its static twin is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pth2om.ascend.atc_options import AtcOptions
from pth2om.ascend.target import Target
from pth2om.errors import AtcError, ToolchainError
from pth2om.toolchain.emulator import EmulatorToolchain

SOC = "Ascend310P3"


def convolution(path: Path, sizes: tuple[object, ...]) -> Path:
    """A convolution, an activation and a mean over the picture, which serve any batch and picture."""
    weights = np.random.default_rng(0).normal(0, 0.3, (5, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
            helper.make_node("Sigmoid", ["c"], ["s"], name="sigmoid"),
            helper.make_node("GlobalAveragePool", ["s"], ["y"], name="pool"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [sizes[0], 5, 1, 1])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), path)
    return path


def options(**flags: str) -> AtcOptions:
    return AtcOptions(output="m", soc_version=SOC, precision_mode="force_fp16", **flags)


@pytest.fixture
def toolchain() -> EmulatorToolchain:
    return EmulatorToolchain(Target.of(SOC, "9.x"), threads=1)


def picture(*sizes: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(7).normal(size=sizes).astype(np.float32)}


@pytest.mark.parametrize(
    ("flags", "fed", "other"),
    [
        (
            {"input_shape": "x:-1,3,8,8", "dynamic_batch_size": "1,2,4"},
            [(1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8)],
            (3, 3, 8, 8),
        ),
        (
            {"input_shape": "x:1,3,-1,-1", "dynamic_image_size": "8,8;6,10"},
            [(1, 3, 8, 8), (1, 3, 6, 10)],
            (1, 3, 10, 6),
        ),
        ({"input_shape": "x:-1,3,-1,8", "dynamic_dims": "1,8;2,4"}, [(1, 3, 8, 8), (2, 3, 4, 8)], (2, 3, 8, 8)),
    ],
)
def test_each_gear_is_its_static_twin(
    tmp_path: Path,
    toolchain: EmulatorToolchain,
    flags: dict[str, str],
    fed: list[tuple[int, ...]],
    other: tuple[int, ...],
) -> None:
    model = convolution(tmp_path / "m.onnx", ("n", 3, "h", "w"))
    compiled = toolchain.compile(model, options(**flags), tmp_path / "om")
    rows = json.loads((tmp_path / "om" / "compiled.json").read_text())["gears"]
    assert [tuple(low for low, _ in row["inputs"]["x"]) for row in rows] == fed
    assert toolchain.compiled(tmp_path / "om").digest == compiled.digest
    for band in compiled.bands:
        with toolchain.open(compiled, band) as session:
            for number, sizes in enumerate(fed):
                static = ",".join(map(str, sizes))
                twin = toolchain.compile(model, options(input_shape=f"x:{static}"), tmp_path / f"twin{number}")
                with toolchain.open(twin, band) as alone:
                    found, wanted = session.run(picture(*sizes)), alone.run(picture(*sizes))
                np.testing.assert_array_equal(found["y"], wanted["y"])
            with pytest.raises(ToolchainError) as caught:
                session.run(picture(*other))
            text = caught.value.message.render()
            for sizes in (other, *fed):
                assert "x".join(map(str, sizes)) in text


@pytest.mark.parametrize(
    ("flags", "fed"),
    [
        ({"input_shape": "x:1,3,-1,-1", "dynamic_image_size": "8,8;6,10"}, [(1, 8, 8, 3), (1, 6, 10, 3)]),
        ({"input_shape": "x:-1,3,8,8", "dynamic_batch_size": "1,3"}, [(1, 8, 8, 3), (3, 8, 8, 3)]),
    ],
)
def test_aipp_takes_the_picture_of_each_gear(
    tmp_path: Path, toolchain: EmulatorToolchain, flags: dict[str, str], fed: list[tuple[int, ...]]
) -> None:
    from pth2om.aipp import derive, save_config
    from pth2om.spec import Preprocess

    config = derive(Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.25,) * 3), sized="image" not in str(flags))
    save_config(config, tmp_path / "aipp.cfg")
    asked = options(**flags, insert_op_conf=str(tmp_path / "aipp.cfg"))
    model = convolution(tmp_path / "m.onnx", ("n", 3, "h", "w"))
    plain = toolchain.compile(model, options(**flags), tmp_path / "plain")
    compiled = toolchain.compile(model, asked, tmp_path / "om")
    with toolchain.open(compiled, "fused") as session, toolchain.open(plain, "fused") as floats:
        for sizes in fed:
            pixels = np.random.default_rng(3).integers(0, 256, sizes, dtype=np.uint8)
            values = ((pixels / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2).astype(np.float32)
            got, wanted = session.run({"x": pixels})["y"], floats.run({"x": np.ascontiguousarray(values)})["y"]
            np.testing.assert_allclose(got, wanted, atol=2e-3)


def test_a_size_in_the_aipp_file_is_refused_with_gears_of_the_picture(
    tmp_path: Path, toolchain: EmulatorToolchain
) -> None:
    from pth2om.aipp import derive, save_config
    from pth2om.spec import Preprocess

    save_config(derive(Preprocess(size=(8, 8))), tmp_path / "aipp.cfg")
    flags = {"input_shape": "x:1,3,-1,-1", "dynamic_image_size": "8,8;6,10"}
    asked = options(**flags, insert_op_conf=str(tmp_path / "aipp.cfg"))
    with pytest.raises(AtcError) as caught:
        toolchain.compile(convolution(tmp_path / "m.onnx", ("n", 3, "h", "w")), asked, tmp_path / "om")
    assert "E10052" in str(caught.value.where)
    assert "must be set to '0'" in str(caught.value.where)


def test_a_row_of_a_larger_gear_is_the_row_alone(tmp_path: Path, toolchain: EmulatorToolchain) -> None:
    model = convolution(tmp_path / "m.onnx", ("n", 3, 8, 8))
    asked = options(input_shape="x:-1,3,8,8", dynamic_batch_size="1,8")
    with toolchain.open(toolchain.compile(model, asked, tmp_path / "om"), "fused") as session:
        fed = picture(8, 3, 8, 8)["x"]
        together = session.run({"x": fed})["y"]
        for row in range(8):
            alone = session.run({"x": fed[row : row + 1]})["y"]
            np.testing.assert_allclose(together[row : row + 1], alone, rtol=0, atol=2**-10)
        assert not np.allclose(together[0], together[1], atol=2**-10)  # rows that differ, or nothing was compared


def test_a_range_takes_what_lies_within(tmp_path: Path, toolchain: EmulatorToolchain) -> None:
    model = convolution(tmp_path / "m.onnx", ("n", 3, 8, 8))
    compiled = toolchain.compile(model, options(input_shape="x:1~4,3,8,8"), tmp_path / "om")
    with toolchain.open(compiled, "fused") as session:
        assert session.inputs[0].shape == (None, 3, 8, 8)
        for count in (1, 3, 4):
            assert session.run(picture(count, 3, 8, 8))["y"].shape == (count, 5, 1, 1)
        with pytest.raises(ToolchainError, match="1~4x3x8x8"):
            session.run(picture(5, 3, 8, 8))


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ({"input_shape": "x:-1,3,8,8", "dynamic_batch_size": "4"}, "E10035"),
        ({"input_shape": "x:-1,3,8,8", "dynamic_batch_size": "1,4", "dynamic_dims": "1;4"}, "E10009"),
        ({"input_shape": "x:1,3,8,8", "dynamic_batch_size": "1,4"}, "E10031"),
        ({"input_shape": "x:-1,3,8,8", "dynamic_image_size": "8,8;4,4"}, "E10019"),
    ],
)
def test_what_atc_refuses_is_not_compiled(
    tmp_path: Path, toolchain: EmulatorToolchain, flags: dict[str, str], code: str
) -> None:
    model = convolution(tmp_path / "m.onnx", ("n", 3, "h", "w"))
    with pytest.raises(AtcError) as caught:
        toolchain.compile(model, options(**flags), tmp_path / "om")
    assert code in str(caught.value.where)


def test_a_damaged_record_is_a_sentence(tmp_path: Path, toolchain: EmulatorToolchain) -> None:
    model = convolution(tmp_path / "m.onnx", ("n", 3, 8, 8))
    toolchain.compile(model, options(input_shape="x:-1,3,8,8", dynamic_batch_size="1,2"), tmp_path / "om")
    outside = {"format": 1, "gears": [{"folder": "..", "inputs": {}}]}
    newer = {"format": 9, "gears": [{}]}
    for damaged in ({"gears": 3}, {"format": 1, "gears": []}, newer, outside, [], "gears"):
        (tmp_path / "om" / "compiled.json").write_text(json.dumps(damaged))
        with pytest.raises(ToolchainError):
            toolchain.compiled(tmp_path / "om")
