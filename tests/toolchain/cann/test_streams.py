"""Many inferences under way at a time: given up, crashed, interrupted, and with more to tell than a pipe holds."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pth2om.errors import CrashError
from pth2om.toolchain.cann import machine as board_at
from pth2om.toolchain.cann.agent.frames import MOST_AHEAD, ahead
from pth2om.toolchain.cann.agent.lease import Lease
from tests.toolchain.cann.conftest import OPTIONS, feeds


def test_a_stream_that_is_given_up_leaves_nothing_behind(toolchain, compiled) -> None:
    """Answers that nobody took belong to nobody: the next question gets its own."""
    given = [feeds(seed=seed) for seed in range(12)]
    with toolchain.open(compiled, "device") as session:
        alone = [session.run(each)["y"] for each in given[:3]]
        for _ in range(3):
            stream = session.stream(given)
            next(stream)
            stream.close()
            assert np.array_equal(session.run(given[1])["y"], alone[1])
        assert board_at().ask({"kind": "machine"})[0]["kind"] == "machine"


def test_a_crash_in_the_middle_of_a_stream(toolchain, compiled, machine) -> None:
    """What was sent after it has no answer of its own, and the next run is a fresh one."""
    with toolchain.open(compiled, "device") as session:
        right = session.run(feeds())["y"]
        machine.rules({"where": "execute", "do": "segfault", "at": 4})
        found = []
        with pytest.raises(CrashError, match="SIGSEGV"):
            found.extend(session.stream(feeds(seed=seed) for seed in range(12)))
        assert len(found) == 2
        machine.rules()
        assert np.array_equal(session.run(feeds())["y"], right)


@pytest.mark.parametrize("where", ["execute", "load_from_file"])
def test_a_crash_gives_the_board_back_at_close(toolchain, compiled, machine, where) -> None:
    """The job of a failed test ends with the test: nobody waits for a board that nobody uses."""
    machine.rules({"where": where, "do": "segfault"})
    with toolchain.open(compiled, "device") as session, pytest.raises(CrashError, match="SIGSEGV"):
        session.run(feeds())
    end = time.monotonic() + 5.0  # the close does not wait for the kernel to end what crashed; the lease does
    while Lease().look() != {"held": False}:
        assert time.monotonic() < end, Lease().look()
        time.sleep(0.01)
    machine.rules()


def test_an_interrupt_in_the_middle_of_an_answer(toolchain, compiled, monkeypatch) -> None:
    """Ctrl-C while an answer comes: the rest of that answer is not taken for another one."""

    def interrupted(length: int) -> bytearray:
        raise KeyboardInterrupt

    with toolchain.open(compiled, "device") as session:
        right = session.run(feeds())["y"]
        monkeypatch.setattr(board_at().link._pipe, "payload", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.run(feeds())
        assert np.array_equal(session.run(feeds())["y"], right)


def test_answers_larger_than_the_pipes_do_not_block(toolchain, tmp_path: Path) -> None:
    """Both sides write at once, much more than pipes hold: neither may wait for the other to read."""
    count, copies = 30_000, 60
    graph = helper.make_graph(
        [helper.make_node("Concat", ["x"] * copies, ["y"], name="concat", axis=1)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, count])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, copies * count])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7), tmp_path / "m.onnx")
    options = replace(OPTIONS, input_shape=f"x:1,{count}", input_format="ND")
    compiled = toolchain.compile(tmp_path / "m.onnx", options, tmp_path)
    given = [{"x": np.full((1, count), seed, np.float32)} for seed in range(MOST_AHEAD + 2)]
    assert ahead(given[0]["x"].nbytes) == MOST_AHEAD
    with toolchain.open(compiled, "device") as session:
        found = [(outputs["y"].min(), outputs["y"].max()) for outputs in session.stream(given)]
    assert found == [(seed, seed) for seed in range(MOST_AHEAD + 2)]


@pytest.mark.parametrize(("size", "count"), [(0, 8), (1, 8), (600_000, 6), (5_000_000, 3), (1 << 32, 3)])
def test_how_many_are_under_way_follows_their_size(size: int, count: int) -> None:
    assert ahead(size) == count
