"""Injected faults: ``python -m tests.campaigns.faults 1000`` (at night a share of it).

Each one takes a random failure of the doubles of CANN, at a random place, and a random stretch of inferences with a
random end. Whatever happens: no call hangs past its limit, each verdict names what was injected, figures that come are
the right ones, and afterwards no worker, no lease and no folder is left.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pth2om.ascend.target import Target
from pth2om.errors import CrashError, LostError
from pth2om.toolchain.cann import CannToolchain, close_all
from pth2om.toolchain.cann import machine as board_at
from pth2om.toolchain.cann.agent.lease import FOLDER, Lease
from pth2om.toolchain.cann.board import Limits
from tests.toolchain.cann.conftest import OPTIONS, SOC, feeds, install, write_model

LIMIT = 4.0
_SIGNALS = {"segfault": "SIGSEGV", "abort": "SIGABRT", "bus": "SIGBUS", "oom": "SIGKILL"}


@dataclass(frozen=True)
class Fault:
    """One failure: where, what, in the how-manieth call, and whether the connection is cut instead."""

    where: str
    do: str
    at: int
    value: object = None

    @property
    def rule(self) -> dict[str, object]:
        row: dict[str, object] = {"where": self.where, "do": self.do, "at": self.at}
        return row if self.value is None else {**row, "value": self.value}

    @property
    def named(self) -> str:
        """What the error has to say."""
        if self.do == "return":
            return str(self.value)
        if self.do in ("hang", "hang-deaf"):
            return "longer than" if self.where == "execute" else "did not leave"
        return "status" if self.do == "exit" else _SIGNALS[self.do]


def draw(generator: random.Random) -> Fault:
    """A random failure."""
    where = generator.choice(["execute", "execute", "execute", "load_from_file", "init", "exit", "finalize"])
    deaths = list(_SIGNALS)
    if where == "execute":
        do = generator.choice([*deaths, "return", "exit", *(["hang-deaf"] if generator.random() < 0.2 else [])])
        value = generator.choice([507011, 507015, 507018]) if do == "return" else 3 if do == "exit" else None
        return Fault(where, do, generator.randint(1, 3), value)
    do = generator.choice([*deaths, *(["return"] if where in ("load_from_file", "init") else [])])
    return Fault(where, do, 1, 507033 if do == "return" else None)


def campaign(folder: Path, count: int, seed: int) -> list[str]:
    """Inject ``count`` faults; returns what went wrong, one sentence each."""
    generator = random.Random(seed)
    machine = install(folder / "home")
    os.environ.update(
        {
            "ASCEND_HOME_PATH": str(machine.toolkit),
            "PTH2OM_BOARD_PYTHON": sys.executable,
            "PTH2OM_BOARD_CACHE": str(folder / "cache"),
            FOLDER: str(folder),
            "TMPDIR": str(folder),
        }
    )
    close_all()
    toolchain = CannToolchain(Target.of(SOC, "8.0.0"), limits=Limits(compile=120, run=LIMIT, wait=5))
    (folder / "om").mkdir()
    compiled = toolchain.compile(write_model(folder / "m.onnx"), OPTIONS, folder / "om")
    given = [feeds(seed=number) for number in range(4)]
    slow = CannToolchain(toolchain.target, limits=replace(toolchain.limits, run=30))
    with slow.open(compiled, "device") as session:
        right = [session.run(each)["y"] for each in given]
    board = board_at()
    board.limits = toolchain.limits
    wrong: list[str] = []
    for number in range(count):
        fault = draw(generator)
        begun = time.monotonic()
        wrong += [
            f"{number} {fault}: {text}" for text in _one(toolchain, compiled, machine, fault, given, right, generator)
        ]
        took = time.monotonic() - begun
        if took > 120:
            wrong.append(f"{number} {fault}: took {took:.0f} s")
        wrong += [f"{number} {fault}: {text}" for text in _left(board, folder)]
    toolchain.close()
    return wrong


def _one(toolchain, compiled, machine, fault, given, right, generator) -> list[str]:
    wrong = []
    met: list[Exception] = []
    machine.rules(fault.rule)
    session = toolchain.open(compiled, "device")
    cut = generator.random() < 0.1
    done = 0
    try:
        for place, each in enumerate(given):
            if cut and place == 1:
                board_at().link._process.kill()
            try:
                found = session.run(each)["y"]
            except LostError:
                if not cut:
                    raise
                found = session.run(each)["y"]
            done += 1
            if not np.array_equal(found, right[place]):
                wrong.append(f"inference {place} is wrong")
    except (CrashError, LostError) as error:
        met.append(error)
        machine.rules()
        try:
            again = session.run(given[0])["y"]
            if not np.array_equal(again, right[0]):
                wrong.append("the run after it is wrong")
        except (CrashError, LostError) as second:
            wrong.append(f"the run after it fails: {second}")
    try:
        session.close()
    except CrashError as error:
        met.append(error)
    machine.rules()
    hit = not cut or fault.where in ("init", "load_from_file")
    if hit and fault.named not in " ".join(map(str, met)):
        wrong.append(f"{done} inferences, and no error names {fault.named}: {met}")
    return wrong


def _left(board, folder: Path) -> list[str]:
    lease = Lease()
    busy = lease.take({}, 2.0)
    lease.give_back()
    wrong = [] if busy is None else ["the lease is left"]
    agents = [path.name for path in folder.glob("pth2om-board-*")]
    if len(agents) > 1:
        wrong.append(f"folders are left: {agents}")
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if b"worker" in words and str(folder).encode() in (entry / "environ").read_bytes():
            wrong.append(f"worker {entry.name} is left")
    return wrong


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        problems = campaign(Path(name), int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print("\n".join(problems) or "nothing wrong")
    raise SystemExit(bool(problems))
