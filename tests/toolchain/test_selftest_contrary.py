"""A machine on which an assumption does not hold: each row of the self-test that is tried reports that it fails."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pth2om.ascend.target import Target
from pth2om.toolchain import Access, CompiledModel
from pth2om.toolchain.cann import CannToolchain, selftest
from pth2om.toolchain.cann.agent import selftest as steps
from pth2om.toolchain.cann.assumptions import assumptions
from pth2om.toolchain.cann.board import Board
from pth2om.toolchain.cann.place import Place
from pth2om.toolchain.cann.selftest import compiling, connection, tools, trials
from pth2om.toolchain.emulator import EmulatorToolchain
from tests.toolchain.cann.conftest import Installed, install, this_machine

SOC = "Ascend310P3"
PROGRAM = [sys.executable, "-m", "pth2om.toolchain.cann.agent"]
Rows = dict[str, tuple[bool | str | None, str]]


@dataclass(frozen=True)
class World:
    """The pretended machine, a toolchain on it, and what its atc made."""

    machine: Installed
    toolchain: CannToolchain
    board: Board
    oms: Path
    first: CompiledModel
    folder: Path

    def place(self) -> Path:
        """An empty folder."""
        made = self.folder / f"{len(list(self.folder.iterdir()))}"
        made.mkdir()
        return made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    more = {"soc": SOC, "kernels": ["ascend310p", "ascend310b"], "cann": "9.2.0"}
    home = tmp_path_factory.mktemp("machine") / "m"
    machine = install(home, packages=("ais_bench", "onnxruntime"), **more)
    with this_machine(machine, tmp_path_factory.mktemp("board")):
        toolchain = CannToolchain(Target.of(SOC, "9.2.0"))
        oms, folder = tmp_path_factory.mktemp("oms"), tmp_path_factory.mktemp("work")
        (folder / "static").mkdir()
        model = trials.network(folder / "static", "static")
        first = toolchain.compile(model, trials.options(toolchain, "static"), folder / "static")
        _made(machine, toolchain, oms)
        board = Board(Place())
        board.facts  # noqa: B018 - connects
        yield World(machine, toolchain, board, oms, first, folder)
        board.close()


def _made(machine: Installed, toolchain: CannToolchain, oms: Path) -> None:
    """The OMs of the agent's steps, in one process: its start costs more than a compilation."""
    lines = []
    for name in ("static", "batch", "hw", "range", "gather"):
        (oms / name).mkdir()
        model = trials.network(oms / name, name)
        lines.append(trials.options(toolchain, name).given([f"--model={model}", f"--output={oms / name}"]))
    script = (
        "import json, sys\nfrom cann_double.atc import main\n"
        "for words in json.loads(sys.argv[1]):\n    assert main(words) == 0\n"
    )
    words = json.dumps([line.command_line()[1:] for line in lines])
    command = [sys.executable, "-c", script, words]
    done = subprocess.run(command, cwd=oms, env=machine.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = oms.glob("range_linux_*.om")
    found.rename(oms / "range.om")
    trials.network(oms, "static", last="Unique")


# --- the agent's steps ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One process, or a few, of the agent, on a machine that answers otherwise.

    Attributes:
        run: gets the folder of the OMs and the environment.
        rules: of the doubles.
        machine: properties of it.
    """

    run: Callable[[str, dict[str, str]], steps.Rows]
    rules: tuple[dict[str, Any], ...]
    machine: dict[str, Any] = field(default_factory=dict)

    def rows(self, world: World) -> Rows:
        environment = {**world.machine.environment, "PTH2OM_DOUBLE_RULES": json.dumps(self.rules)}
        before = json.loads((world.machine.home / "machine.json").read_text())
        world.machine.machine(**self.machine)
        try:
            found = self.run(str(world.oms), environment)
        finally:
            (world.machine.home / "machine.json").write_text(json.dumps(before))
        return {name: (row["holds"], str(row["seen"])) for name, row in found.items()}


def one(name: str) -> Callable[[str, dict[str, str]], steps.Rows]:
    return lambda folder, environment: steps._rows(folder, PROGRAM, name, 60.0, environment)


def answers(call: str, value: object, do: str = "code") -> dict[str, Any]:
    """A call that answers otherwise than the vendor records."""
    return {"where": f"answer {call}", "do": do, "value": value}


SLOW = tuple({"where": "execute", "do": "sleep", "value": 0.4, "at": at} for at in range(9, 21))
STEPS = {
    "R1 R2 R3 R7 R8 R9": Step(
        one("basics"),
        (
            answers("init", 0),
            answers("get_soc_name", "", "value"),
            answers("rt.create_context", 7),
            answers("get_recent_err_msg", "the same text", "value"),
            answers("mdl.get_input_data_type", 1),
            answers("mdl.get_output_name_by_index", "y"),
        ),
    ),
    "R5 T4": Step(
        one("basics"),
        (
            answers("get_soc_name", "Ascend310B1", "value"),
            answers("rt.get_mem_info", [1, 1 << 60, 0], "value"),
            answers("rt.memcpy", 107000),
        ),
    ),
    "R6": Step(one("basics"), ({"where": "execute", "do": "return", "value": 507018, "at": 3},)),
    "N3 T1": Step(one("basics"), ({"where": "execute", "do": "flip"}, *SLOW)),
    "R4": Step(one("threads"), (answers("mdl.execute", 0),)),
    "R16": Step(one("damaged"), ({"where": "load_from_file", "do": "segfault"},)),
    "G1 G2 G3": Step(
        one("batch"),
        (
            answers("mdl.get_input_name_by_index", "x"),
            answers("mdl.get_cur_output_dims", [{"dims": [4, 16, 8, 8]}, 0], "value"),
            answers("mdl.set_dynamic_batch_size", 0),
        ),
    ),
    "G4": Step(one("hw"), (answers("mdl.set_dynamic_hw_size", 0),)),
    "G5 G6": Step(one("range"), ({"where": "execute", "do": "return", "value": 500002},)),
    "R11": Step(
        lambda folder, environment: steps._flush(folder, PROGRAM, environment, environment),
        ({"where": "finalize", "do": "sleep", "value": 0.6},),
    ),
    "R13": Step(
        lambda folder, environment: steps._killed(folder, PROGRAM, environment),
        ({"where": "init", "do": "segfault"},),
    ),
    "R12 R15 R17 N5 X3": Step(
        lambda folder, environment: steps._provoked(folder, PROGRAM, environment),
        ({"where": "execute", "do": "flip"}, {"where": "cann-provider", "do": "strict"}),
        {"checks_bounds": True},
    ),
}


# --- what the doctor saw ----------------------------------------------------------------------------------------------

MACHINE = {"nodes": ["/dev/davinci0"], "device": True, "driver": "24.1", "soc": SOC, "cann": "9.2.0"}
SOUND = {
    "machine": MACHINE,
    "set_env": "/usr/local/Ascend/cann/set_env.sh",
    "runner": {"acl": True, "numpy": "1.26", "path": "python3"},
    "openable": ["/dev/davinci0"],
    "disk": {"/dev/shm": 1 << 30},
    "dcmi": {"error": "", "chips": [{"aicore_mhz": 1, "aicore_max_mhz": 2}]},
    "smi": {"error": "", "chips": [{}]},
}
FACTS: dict[str, dict[str, Any]] = {
    "M1": {"machine": {**MACHINE, "device": False, "driver": ""}},
    "M2": {"set_env": "/opt/elsewhere/set_env.sh"},
    "M3": {"runner": {"acl": True, "numpy": ""}},
    "M4": {"openable": []},
    "M5": {"disk": {}},
    "M6": {"dcmi": {"error": "dcmi_init returned -8001", "chips": []}},
    "M7": {"smi": {"error": "no known form", "chips": []}},
    "T3": {"dcmi": {"error": "", "chips": [{"aicore_mhz": 1}]}},
}


# --- what this side tries ---------------------------------------------------------------------------------------------


def _refusals(world: World) -> Iterator[trials.Trial]:
    yield from compiling.refusals(world.toolchain, world.board, world.place())


def _compiled(world: World) -> Iterator[trials.Trial]:
    """A model that atc does not compile as it should, and what follows."""
    place = world.place()
    (folder := place / "static").mkdir()
    model, asked = trials.network(folder, "static"), trials.options(world.toolchain, "static")
    with pytest.raises(selftest.Pth2omError) as caught:
        world.toolchain.compile(model, asked, folder)
    yield from compiling.failures({"static": caught.value}, place)


def _files(world: World) -> Iterator[trials.Trial]:
    place = world.place()
    asked = trials.options(world.toolchain, "static")
    compiled = world.toolchain.compile(trials.network(place, "static"), asked, place)
    yield from compiling.files(compiled, {"static.om": compiled.path})


def _outside(world: World) -> Iterator[trials.Trial]:
    """Outputs of a device that are not the emulator's."""
    place = world.place()
    np.save(place / "fed.npy", trials.fed()["x"])
    emulator = EmulatorToolchain(world.toolchain.target, threads=1)
    (place / "there").mkdir()
    model = trials.network(place / "there", "static")
    compiled = emulator.compile(model, trials.options(world.toolchain, "static"), place / "there")
    with emulator.open(compiled, compiled.bands[0]) as session:
        np.save(place / "seen.npy", next(iter(session.run(trials.fed()).values())) + np.float32(0.1))
    yield selftest._bands(world.toolchain, place)


def _two_leases(world: World) -> Iterator[trials.Trial]:
    """Users of a machine that look for the lock in two places."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTH2OM_LEASE_DIR", str(world.place()))
        yield from connection.lease(world.board, Place())


def _same_times(world: World) -> Iterator[trials.Trial]:
    """X2, and T2 of the same small model, in a few runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools, "_times", lambda *_: tools.timed(2.1, 2.0))
        (folder := world.place()).joinpath("static").symlink_to(world.first.path.parent)
        (folder / "batch").mkdir()
        model = trials.network(folder / "batch", "batch")
        world.toolchain.compile(model, trials.options(world.toolchain, "batch"), folder / "batch")
        yield from tools.ais_bench(world.toolchain, Access(), folder)


RAN = {"left": [], "ended": "time", "seconds": 1.0, "confined": True, "code": -9, "signal": "SIGKILL", "stdout": ""}


@dataclass(frozen=True)
class Tried:
    """Trials of this side, on a machine that behaves otherwise."""

    run: Callable[[World], Iterator[trials.Trial]]
    rules: tuple[dict[str, Any], ...] = ()
    machine: dict[str, Any] = field(default_factory=dict)

    def rows(self, world: World) -> Rows:
        before = json.loads((world.machine.home / "machine.json").read_text())
        world.machine.machine(**self.machine)
        world.machine.rules(*self.rules)
        try:
            found: dict[str, trials.Trial] = {}
            for each in self.run(world):
                found.setdefault(each.id, each)
        finally:
            world.machine.rules()
            (world.machine.home / "machine.json").write_text(json.dumps(before))
        return {name: (each.result, each.seen) for name, each in found.items()}


ERROR = {"where": "atc", "do": "error", "value": "E10001: Value [x] for parameter [y] is invalid. Reason: z."}
SHIFT = {"where": "execute", "do": "shift", "value": 0.5}
TRIED = {
    "C1": Tried(
        lambda world: compiling.verdicts(world.board, ""), (ERROR, {"where": "atc", "do": "status", "value": 1})
    ),
    "C2": Tried(_compiled, ({"where": "atc", "do": "two"},)),
    "C3": Tried(_files, ({"where": "atc", "do": "no-command"},)),
    "C4": Tried(_files, ({"where": "atc", "do": "no-fusion"},)),
    "N2": Tried(_compiled, ({"where": "atc", "do": "float32"},)),
    "C5": Tried(_refusals, (ERROR,)),
    "C9 C10": Tried(_refusals, ({"where": "atc", "do": "refuses-nothing"},), {"devices": 0}),
    "C11": Tried(
        lambda world: compiling.again(world.toolchain, world.first, world.place()),
        ({"where": "execute", "do": "flip"},),
    ),
    "C6 C7 C8": Tried(
        lambda _: iter(
            [
                compiling.settled(900, 900, same=True),
                compiling.ended({**RAN, "left": ["ccec"]}),
                compiling.killed({**RAN, "stdout": "ATC run failed, Please check"}),
            ]
        )
    ),
    "R10": Tried(lambda world: selftest._aipp(world.toolchain, world.place()), (ERROR,)),
    "N4": Tried(lambda world: selftest._aipp(world.toolchain, world.place()), (SHIFT,)),
    "N1": Tried(_outside),
    "L2": Tried(_two_leases),
    "L4": Tried(lambda _: iter([connection.rated(80e6, 100e6)])),
    "X1": Tried(lambda world: tools.msame(world.board, world.first), ({"where": "msame", "do": "exit", "value": 0},)),
    "X2 T2": Tried(_same_times, ({"where": "ais_bench-infer", "do": "shift", "value": 0.5},)),
}

NOT_HERE = {
    "R14": "a process that SIGKILL does not end hangs in a driver of the kernel, and no program can pretend that",
    "L1": "where no agent answers there is no table: the command ends with the reason (test_hostile.py)",
    "L3": "takes a process that leaves its group for good (test_selftest_link.py, at night)",
}
"""What the doubles cannot contradict here, and why."""


@functools.cache
def _seen(world: World, names: str) -> Rows:
    return {**STEPS, **TRIED}[names].rows(world)


World.__hash__ = object.__hash__


AT_NIGHT = ("R11", "N3 T1", "C2", "C3", "C9 C10", "C11", "R10", "N4")
"""What takes seconds each."""


def _cases() -> Iterator[Any]:
    for names in (*STEPS, *TRIED):
        marks = [pytest.mark.nightly] if names in AT_NIGHT else []
        yield from (pytest.param(name, names, id=name, marks=marks) for name in names.split())


@pytest.mark.parametrize(("name", "names"), list(_cases()))
def test_a_row_fails_where_the_machine_is_another(world: World, name: str, names: str) -> None:
    result, seen = _seen(world, names)[name]
    assert result in (False, "fails"), (result, seen)
    assert seen


@pytest.mark.nightly
@pytest.mark.parametrize(("factor", "result"), [(1.0, "holds"), (1.5, "fails")])
def test_the_times_of_two_ways_are_compared(world: World, monkeypatch, factor: float, result: str) -> None:
    """T2 on the doubles: an inference that takes long enough for the machine's load to be less than 1 % of it."""
    monkeypatch.setattr(tools, "_RUNS", 8)
    (folder := world.place() / "wide-1").mkdir()
    model = trials.network(folder, "wide")
    world.toolchain.compile(model, trials.options(world.toolchain, "wide"), folder)
    other = CannToolchain(world.toolchain.target, Access(run_by="ais_bench"))
    world.machine.machine(inference_ms=400, ais_bench_factor=factor)
    try:
        found = tools._times(world.toolchain, other, folder.parent)
    finally:
        world.machine.machine(inference_ms=0, ais_bench_factor=1.0)
    assert (found.id, found.result) == ("T2", result), found.seen


@pytest.mark.parametrize("name", FACTS)
def test_a_row_of_the_doctors_facts_fails_alone(name: str) -> None:
    sound = {each.id: each.result for each in selftest._machine(SOUND)}
    assert set(sound.values()) == {"holds"}
    found = {each.id: each.result for each in selftest._machine({**SOUND, **FACTS[name]})}
    assert found[name] == "fails"
    assert [other for other, result in found.items() if result == "fails"] == [name]


def test_every_row_that_is_tried_can_fail() -> None:
    contrary = {name for names in (*STEPS, *TRIED) for name in names.split()} | set(FACTS)
    assert contrary.isdisjoint(NOT_HERE)
    assert contrary | set(NOT_HERE) == {entry.id for entry in assumptions() if not entry.by_hand}
