"""CANN on this machine, through the doubles: compile, run, and every way in which that ends badly."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pth2om.ascend.target import Target
from pth2om.errors import AtcError, CrashError, LostError, ToolchainError
from pth2om.session import Session
from pth2om.toolchain.cann import CannToolchain
from pth2om.toolchain.cann import machine as board
from pth2om.toolchain.cann.agent.lease import Lease
from pth2om.toolchain.emulator import EmulatorToolchain
from tests.toolchain.cann.conftest import OPTIONS, SOC, feeds, write_model


@pytest.fixture(autouse=True)
def _whole_again(machine):
    yield
    machine.rules()
    board().rest()


def test_an_om_is_compiled_read_back_and_described(toolchain, compiled) -> None:
    assert compiled.path.is_file()
    assert toolchain.compiled(compiled.path.parent) == compiled
    assert compiled.provenance.ground == "double"  # no NPU is proven here
    assert compiled.details["peak_memory_mb"] > 0
    assert compiled.details["seconds"] > 0
    assert {path.name for path in (compiled.path.parent / "atc").iterdir()} >= {"fusion_result.json", "stdout.txt"}
    assert dict(toolchain.compiler)["cann"] == "8.0.0"
    assert dict(toolchain.device)["ground"] == "double"


def test_it_computes_what_the_emulator_computes(toolchain, compiled, machine, tmp_path) -> None:
    emulator = EmulatorToolchain(Target.of(SOC, "8.0"), threads=1)
    emulated = emulator.compile(write_model(tmp_path / "m.onnx"), OPTIONS, tmp_path)
    with toolchain.open(compiled, "device") as session, emulator.open(emulated, "fused") as other:
        assert isinstance(session, Session)
        for seed in range(3):
            one, two = session.run(feeds(seed=seed)), other.run(feeds(seed=seed))
            assert one.keys() == two.keys()
            assert np.array_equal(one["y"], two["y"])
        streamed = list(session.stream(feeds(seed=seed) for seed in range(5)))
        assert all(np.array_equal(got["y"], other.run(feeds(seed=seed))["y"]) for seed, got in enumerate(streamed))
        assert all(times["execute"] > 0 for times in session.times)
    assert machine.broken == []


def test_what_atc_refuses_is_told_with_its_code(toolchain, tmp_path) -> None:
    model = write_model(tmp_path / "m.onnx")
    with pytest.raises(AtcError, match=r"E10016"):
        toolchain.compile(model, replace(OPTIONS, input_shape="wrong:2,3,8,8"), tmp_path)
    assert [finding.rule for finding in toolchain.refuses(model, OPTIONS)] == []


def test_the_precheck_lists_each_node(toolchain, tmp_path) -> None:
    import onnx

    model = onnx.load(write_model(tmp_path / "m.onnx"))
    model.graph.node[0].op_type = "Convolve"
    onnx.save(model, tmp_path / "m.onnx")
    found = toolchain.refuses(tmp_path / "m.onnx", OPTIONS)
    assert [(finding.severity, finding.node) for finding in found] == [("error", "conv")]
    assert "Convolve" in found[0].message.render("en")


@pytest.mark.parametrize(
    ("rule", "error", "text"),
    [
        ({"do": "error", "value": "E10001: [PID: 7] 2025-01-01-00:00:00.0 Value [x] is invalid."}, AtcError, "E10001"),
        pytest.param(
            {"do": "error", "value": "E13010: No operator plugin is registered for Op: n, optype: ai.onnx::18::Mish."},
            AtcError,
            "no parser for Mish at opset 18",
            marks=pytest.mark.nightly,
        ),
        pytest.param({"do": "oom"}, CrashError, "SIGKILL", marks=pytest.mark.nightly),
        ({"do": "segfault"}, CrashError, "SIGSEGV"),
        ({"do": "soc", "value": "Ascend310P3"}, AtcError, "Ascend310P3"),
        ({"do": "float32"}, AtcError, "FLOAT"),
        pytest.param({"do": "truncate", "value": "900"}, AtcError, "cannot be read", marks=pytest.mark.nightly),
        pytest.param({"do": "no-file"}, AtcError, "not one OM", marks=pytest.mark.nightly),
    ],
    ids=lambda value: value["do"] if isinstance(value, dict) else None,
)
def test_a_compile_that_fails_says_how(toolchain, machine, tmp_path, rule, error, text) -> None:
    machine.rules({"where": "atc", **rule})
    with pytest.raises(error, match=text) as caught:
        toolchain.compile(write_model(tmp_path / "m.onnx"), OPTIONS, tmp_path)
    assert caught.value.transient is (error is CrashError)


def test_a_compile_that_hangs_is_ended(toolchain, machine, tmp_path) -> None:
    machine.rules({"where": "atc", "do": "hang-deaf"})
    limited = CannToolchain(toolchain.target, limits=replace(toolchain.limits, compile=1.0))
    begun = time.monotonic()
    with pytest.raises(CrashError, match="longer than 1 s"):
        limited.compile(write_model(tmp_path / "m.onnx"), OPTIONS, tmp_path)
    assert time.monotonic() - begun < 4


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"where": "execute", "do": "segfault"}, "SIGSEGV"),
        pytest.param({"where": "execute", "do": "abort"}, "SIGABRT", marks=pytest.mark.nightly),
        pytest.param({"where": "execute", "do": "oom"}, "SIGKILL", marks=pytest.mark.nightly),
        ({"where": "execute", "do": "return", "value": 507011}, "507011"),
        pytest.param({"where": "execute", "do": "exit", "value": 3}, "status 3", marks=pytest.mark.nightly),
        ({"where": "load_from_file", "do": "segfault"}, "SIGSEGV"),
        pytest.param({"where": "init", "do": "return", "value": 507033}, "507033", marks=pytest.mark.nightly),
    ],
    ids=lambda value: f"{value['where']}-{value['do']}" if isinstance(value, dict) else None,
)
def test_a_crash_is_named_and_the_next_run_is_fresh(toolchain, compiled, machine, rule, text) -> None:
    with toolchain.open(compiled, "device") as session:
        machine.rules(rule)
        begun = time.monotonic()
        with pytest.raises(CrashError, match=text):
            session.run(feeds())
        assert time.monotonic() - begun < 10
        machine.rules()
        assert session.run(feeds())["y"].shape == (2, 4, 6, 6)


def test_a_hang_ends_at_its_limit(toolchain, compiled, machine) -> None:
    with toolchain.open(compiled, "device") as session:
        session.run(feeds())
        machine.rules({"where": "execute", "do": "hang-deaf"})
        begun = time.monotonic()
        with pytest.raises(CrashError, match=r"longer than 3"):
            session.run(feeds())
        assert 2.5 < time.monotonic() - begun < 4.5
        machine.rules()
        session.run(feeds())


@pytest.mark.parametrize("where", ["exit", "finalize"])
def test_a_crash_at_exit_is_told_by_close(toolchain, compiled, machine, where) -> None:
    session = toolchain.open(compiled, "device")
    session.run(feeds())
    machine.rules({"where": where, "do": "segfault"})
    with pytest.raises(CrashError, match=r"while it left: SIGSEGV"):
        session.close()
    machine.rules()
    session.run(feeds())
    session.close()


def test_logs_of_the_device_are_waited_for_after_a_failure_only(toolchain, compiled, machine) -> None:
    flushed = machine.home / "flushed"
    flushed.unlink(missing_ok=True)
    with toolchain.open(compiled, "device") as session:
        session.run(feeds())
    assert not flushed.exists()
    with toolchain.open(compiled, "device") as session:
        machine.rules({"where": "execute", "do": "return", "value": 507011})
        with pytest.raises(CrashError, match="507011"):
            session.run(feeds())
        machine.rules()
        session.run(feeds())  # after the worker that failed has left
        assert flushed.exists()


def test_what_the_libraries_print_does_no_harm(toolchain, compiled, machine) -> None:
    machine.rules({"where": "execute", "do": "print", "value": "\x1b[31m[ERROR] TBE noise"})
    with toolchain.open(compiled, "device") as session:
        assert session.run(feeds())["y"].shape == (2, 4, 6, 6)


def test_feeds_that_do_not_fit_are_refused(toolchain, compiled) -> None:
    with toolchain.open(compiled, "device") as session:
        with pytest.raises(ToolchainError, match="size"):
            session.run(feeds(batch=3))
        with pytest.raises(ToolchainError, match="dtype"):
            session.run({"x": feeds()["x"].astype(np.float64)})
        with pytest.raises(ToolchainError, match="inputs"):
            session.run({"other": feeds()["x"]})
        session.run(feeds())  # the worker lives


@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (2, 2), (4, 4)])
def test_a_gear_returns_its_own_samples(toolchain, geared, machine, batch, rows) -> None:
    """Buffers are the largest gear's; what comes back is the fed batch's, to the bit."""
    emulated, session = geared
    given = feeds(batch=batch, seed=batch)
    found = session.run(given)["y"]
    assert found.shape == (rows, 4, 6, 6)
    assert np.array_equal(found, emulated.run(given)["y"])
    assert machine.broken == []


def test_a_batch_between_gears_is_refused(geared) -> None:
    with pytest.raises(ToolchainError, match="gear"):
        geared[1].run(feeds(batch=3))


@pytest.fixture(scope="module")
def geared(toolchain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("geared")
    model = write_model(folder / "m.onnx", "n")
    options = replace(OPTIONS, input_shape="x:-1,3,8,8", dynamic_batch_size="1,2,4")
    emulator = EmulatorToolchain(Target.of(SOC, "8.0"), threads=1)
    (folder / "emulated").mkdir()
    other = emulator.open(emulator.compile(model, options, folder / "emulated"), "fused")
    with toolchain.open(toolchain.compile(model, options, folder), "device") as session:
        yield other, session


def test_a_board_that_is_held_is_waited_for(toolchain, compiled) -> None:
    lease = Lease()
    assert lease.take({"who": "ada", "host": "lab"}) is None
    try:
        waiting = CannToolchain(toolchain.target, limits=replace(toolchain.limits, wait=0.3))
        with pytest.raises(LostError, match=r"ada@lab"):
            waiting.open(compiled, "device").run(feeds())
    finally:
        lease.give_back()


def test_a_compile_takes_this_machine_only_where_it_has_an_npu(toolchain, tmp_path, monkeypatch) -> None:
    lease = Lease()
    assert lease.take({"who": "ada", "host": "lab"}) is None
    model = write_model(tmp_path / "m.onnx")
    waiting = CannToolchain(toolchain.target, limits=replace(toolchain.limits, wait=0.3))
    try:
        assert waiting.compile(model, OPTIONS, tmp_path).path.is_file()
        monkeypatch.setattr(board(), "known", replace(board().facts, nodes=("/dev/davinci0",)))
        with pytest.raises(LostError, match=r"ada@lab"):
            waiting.compile(model, OPTIONS, tmp_path / "other")
    finally:
        lease.give_back()


def test_nothing_is_left_behind(toolchain, compiled) -> None:
    toolchain.close()
    places = Path(os.environ["TMPDIR"]), Path("/dev/shm")

    def left() -> set[Path]:
        return {path for place in places for path in place.glob("pth2om-*")}

    before = left()
    with toolchain.open(compiled, "device") as session:
        session.run(feeds())
        assert left() > before
    toolchain.close()
    assert left() == before
    assert toolchain.open(compiled, "device").run(feeds())["y"].shape == (2, 4, 6, 6)  # it opens again
