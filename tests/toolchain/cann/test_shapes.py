"""Gears of images and of dims, ranges and AIPP through a worker: to the bit what the emulator computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pth2om import aipp
from pth2om.ascend.atc_options import AtcOptions
from pth2om.ascend.target import Target
from pth2om.errors import AtcError, CrashError, ToolchainError
from pth2om.session import Array, Session
from pth2om.spec import Preprocess
from pth2om.toolchain.cann import CannToolchain, close_all
from pth2om.toolchain.emulator import EmulatorToolchain
from tests.toolchain.cann.conftest import OPTIONS, SOC

Sizes = tuple[int | str, ...]


def sums(path: Path, shapes: dict[str, Sizes]) -> Path:
    """A convolution of ``x`` and, where there is one, the mean of ``mask`` beside it."""
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shapes["x"][0], 4, *shapes["x"][2:]])]
    if "mask" in shapes:
        nodes.append(helper.make_node("Mul", ["mask", "mask"], ["squares"], name="squares"))
        outputs.append(helper.make_tensor_value_info("squares", TensorProto.FLOAT, shapes["mask"]))
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    tensor = helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.ravel())
    graph = helper.make_graph(nodes, "graph", inputs, outputs, [tensor])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7), path)
    return path


def normal(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@dataclass(frozen=True)
class Case:
    """A model of several shapes.

    Attributes:
        shapes: of the ONNX file.
        flags: of atc.
        fed: what is run, in this order: the same worker changes its shape each time.
        wrong: shapes that the OM does not have.
    """

    shapes: dict[str, Sizes]
    flags: dict[str, str]
    fed: tuple[dict[str, tuple[int, ...]], ...]
    wrong: dict[str, tuple[int, ...]]


CASES = {
    "images": Case(
        {"x": (2, 3, "h", "w")},
        {"input_shape": "x:2,3,-1,-1", "dynamic_image_size": "8,8;8,12;16,8"},
        ({"x": (2, 3, 8, 12)}, {"x": (2, 3, 16, 8)}, {"x": (2, 3, 8, 8)}, {"x": (2, 3, 16, 8)}),
        {"x": (2, 3, 12, 8)},
    ),
    "dims of two inputs": Case(
        {"x": ("n", 3, "h", 8), "mask": ("n", 5)},
        {"input_shape": "x:-1,3,-1,8;mask:-1,5", "input_format": "ND", "dynamic_dims": "1,8,1;2,16,2;2,8,2"},
        (
            {"x": (2, 3, 16, 8), "mask": (2, 5)},
            {"x": (1, 3, 8, 8), "mask": (1, 5)},
            {"x": (2, 3, 8, 8), "mask": (2, 5)},
        ),
        {"x": (1, 3, 16, 8), "mask": (1, 5)},
    ),
}


@pytest.fixture
def both(toolchain: CannToolchain, tmp_path: Path) -> Iterator[Callable[..., tuple[Session, Session]]]:
    """Opens what the emulator and what the doubles make of a model."""
    opened: list[Session] = []

    def make(model: Path, options: AtcOptions, there: CannToolchain = toolchain) -> tuple[Session, Session]:
        emulator = EmulatorToolchain(there.target, threads=1)
        (tmp_path / "emulated").mkdir()
        (tmp_path / "compiled").mkdir()
        opened.append(emulator.open(emulator.compile(model, options, tmp_path / "emulated"), "fused"))
        opened.append(there.open(there.compile(model, options, tmp_path / "compiled"), "device"))
        return opened[0], opened[1]

    yield make
    for session in opened:
        session.close()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_gear_gives_its_own_sizes_back(both, machine, tmp_path: Path, case: Case) -> None:
    emulated, session = both(sums(tmp_path / "m.onnx", case.shapes), replace(OPTIONS, **case.flags))
    for seed, shapes in enumerate(case.fed):
        given = normal(seed, **shapes)
        found, wanted = session.run(given), emulated.run(given)
        assert found.keys() == wanted.keys()
        for name, array in found.items():
            assert array.shape == wanted[name].shape
            assert np.array_equal(array, wanted[name]), name
    with pytest.raises(ToolchainError, match="gear"):
        session.run(normal(**case.wrong))
    assert session.run(normal(**case.fed[0])).keys() == {spec.name for spec in session.outputs}  # the worker lives
    assert machine.broken == []


# --- ranges -----------------------------------------------------------------------------------------------------------

RANGE = Case(
    {"x": ("n", 3, "h", 8), "mask": ("m", 5)},
    {"input_shape": "x:1~4,3,8~16,8;mask:1~4,5", "input_format": "ND"},
    (
        {"x": (3, 3, 11, 8), "mask": (2, 5)},
        {"x": (1, 3, 8, 8), "mask": (4, 5)},
        {"x": (4, 3, 16, 8), "mask": (1, 5)},
    ),
    {"x": (5, 3, 8, 8), "mask": (1, 5)},
)


@pytest.fixture
def newer(machine) -> Iterator[CannToolchain]:
    """The same chip with the first CANN that lists ranges for it."""
    close_all()
    machine.machine(cann="9.2.0")
    yield CannToolchain(Target.of(SOC, "9.2.0"))
    close_all()
    machine.machine(cann="8.0.0")


def test_a_range_takes_any_size_in_it(both, newer, machine, tmp_path: Path) -> None:
    emulated, session = both(sums(tmp_path / "m.onnx", RANGE.shapes), replace(OPTIONS, **RANGE.flags), newer)
    for seed, shapes in enumerate(RANGE.fed):
        given = normal(seed, **shapes)
        found, wanted = session.run(given), emulated.run(given)
        for name, array in wanted.items():
            assert found[name].shape == array.shape
            assert np.array_equal(found[name], array), name
    with pytest.raises(CrashError, match="not in the range"):
        session.run(normal(**RANGE.wrong))
    session.run(normal(**RANGE.fed[0]))  # in a new worker
    assert machine.broken == []


def test_a_range_is_refused_where_the_chip_has_none(toolchain, tmp_path: Path) -> None:
    with pytest.raises(AtcError, match="atc refuses"):
        toolchain.compile(sums(tmp_path / "m.onnx", RANGE.shapes), replace(OPTIONS, **RANGE.flags), tmp_path)


# --- AIPP -------------------------------------------------------------------------------------------------------------


STILL = pytest.param(False, id="one batch", marks=pytest.mark.nightly)


@pytest.mark.parametrize("gears", [STILL, pytest.param(True, id="gears of the batch")])
def test_pictures_are_fed_as_bytes(both, machine, tmp_path: Path, *, gears: bool) -> None:
    table = Preprocess(size=(8, 8), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    aipp.save_config(aipp.derive(table), tmp_path / "aipp.cfg")
    model = sums(tmp_path / "m.onnx", {"x": ("n" if gears else 2, 3, 8, 8)})
    flags = {"input_shape": "x:-1,3,8,8", "dynamic_batch_size": "1,2,4"} if gears else {"input_shape": "x:2,3,8,8"}
    emulated, session = both(model, replace(OPTIONS, insert_op_conf=str(tmp_path / "aipp.cfg"), **flags))
    (spec,) = session.inputs
    assert (spec.dtype, spec.shape[1:]) == (np.dtype(np.uint8), emulated.inputs[0].shape[1:])
    for batch in (1, 4, 2) if gears else (2, 2):
        pictures = np.random.default_rng(batch).integers(0, 256, (batch, 8, 8, 3)).astype(np.uint8)
        found = session.run({"x": pictures})["y"]
        assert found.shape == (batch, 4, 8, 8)
        assert np.array_equal(found, emulated.run({"x": pictures})["y"])
    with pytest.raises(ToolchainError, match="dtype"):
        session.run({"x": pictures.astype(np.float32)})
    assert machine.broken == []
