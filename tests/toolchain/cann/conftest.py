"""A pretended machine with CANN, and a small model to compile and run there."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pth2om.ascend.atc_options import AtcOptions
from pth2om.ascend.target import Target
from pth2om.toolchain.cann import CannToolchain, close_all
from pth2om.toolchain.cann.board import Limits

sys.path.insert(0, str(Path(__file__).parents[2] / "doubles" / "cann"))
from cann_double.install import Installed, install

SOC = "Ascend310B4"
OPTIONS = AtcOptions(
    output="m", soc_version=SOC, input_shape="x:2,3,8,8", precision_mode="force_fp16", input_format="NCHW"
)


def write_model(path: Path, batch: int | str = 2) -> Path:
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", kernel_shape=[3, 3])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4, 6, 6])],
        [helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.ravel())],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7), path)
    return path


def feeds(batch: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(size=(batch, 3, 8, 8)).astype(np.float32)}


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> Iterator[Installed]:
    """One for a module: a test that changes it puts it back."""
    installed = install(tmp_path_factory.mktemp("machine") / "home")
    with this_machine(installed, tmp_path_factory.mktemp("board")):
        yield installed


@contextlib.contextmanager
def this_machine(installed: Installed, folder: Path) -> Iterator[None]:
    """Inside the block the toolkit of the doubles is this machine's, and `folder` holds what the agent writes."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("ASCEND_", "PTH2OM_DOUBLE"))]:
            patch.delenv(name)
        patch.setenv("ASCEND_HOME_PATH", str(installed.toolkit))
        patch.setenv("PTH2OM_BOARD_PYTHON", sys.executable)
        patch.setenv("PTH2OM_BOARD_CACHE", str(folder / "cache"))
        patch.setenv("PTH2OM_LEASE_DIR", str(folder))
        patch.setenv("TMPDIR", str(folder))  # the agent's folders; pytest has its own already
        close_all()
        yield
        close_all()


@pytest.fixture(scope="module")
def toolchain(machine) -> CannToolchain:
    return CannToolchain(Target.of(SOC, "8.0.0"), limits=Limits(compile=120, run=3, wait=5))


@pytest.fixture(scope="module")
def compiled(toolchain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    return toolchain.compile(write_model(folder / "m.onnx"), OPTIONS, folder)
