"""OMs run by msame, behind the same session: files in, files out, and how it ends badly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pth2om.errors import CrashError, ToolchainError
from pth2om.toolchain import WAYS, Access
from pth2om.toolchain.cann import CannToolchain
from pth2om.toolchain.cann import machine as board
from tests.toolchain.cann.conftest import OPTIONS, feeds
from tests.toolchain.cann.test_shapes import normal, sums


@pytest.fixture(scope="module")
def by_msame(toolchain) -> CannToolchain:
    return CannToolchain(toolchain.target, Access(run_by="msame"), toolchain.limits)


@pytest.fixture(scope="module")
def two_inputs(toolchain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    model = sums(folder / "m.onnx", {"x": (2, 3, 8, 8), "mask": (2, 5)})
    options = replace(OPTIONS, input_shape="x:2,3,8,8;mask:2,5", input_format="ND")
    return toolchain.compile(model, options, folder)


def test_it_computes_what_acl_computes(toolchain, by_msame, two_inputs, machine) -> None:
    with by_msame.open(two_inputs, "device") as session, toolchain.open(two_inputs, "device") as other:
        given = normal(x=(2, 3, 8, 8), mask=(2, 5))
        found, wanted = session.run(given), other.run(given)
        assert list(found) == list(wanted) == ["y", "squares"]
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
        assert session.device_times()[0] > 0
        machine.machine(msame_stamp=True)  # a folder named after the time, as some releases make
        assert np.array_equal(session.run(given)["y"], wanted["y"])
        machine.machine(msame_stamp=False)
        with pytest.raises(ToolchainError, match="size"):
            session.run(normal(x=(1, 3, 8, 8), mask=(2, 5)))
        with pytest.raises(ToolchainError, match="inputs"):
            session.run(feeds())
    assert dict(by_msame.device)["by"] == "msame"
    assert dict(toolchain.device)["by"] == "acl"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"where": "msame", "do": "segfault"}, "SIGSEGV"),
        ({"where": "msame-execute", "do": "return", "value": 507011}, "errorCode is 507011"),
        ({"where": "msame", "do": "exit", "value": 0}, "status 0"),  # no result is no success
        ({"where": "msame-execute", "do": "hang-deaf"}, "longer than 3"),
    ],
    ids=["segfault", "error", "silence", "hang"],
)
def test_a_failure_is_told_and_the_next_run_is_fresh(by_msame, compiled, machine, rule, text) -> None:
    with by_msame.open(compiled, "device") as session:
        machine.rules(rule)
        try:
            with pytest.raises(CrashError, match=text):
                session.run(feeds())
        finally:
            machine.rules()
        if "SEGV" in text:
            assert session.run(feeds())["y"].shape == (2, 4, 6, 6)


def test_an_unknown_way_is_refused(toolchain, compiled) -> None:
    other = CannToolchain(toolchain.target, Access(run_by="other"), toolchain.limits)
    with pytest.raises(ToolchainError, match=", ".join(WAYS)):
        other.open(compiled, "device")
    board().rest()
