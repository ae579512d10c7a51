"""Injected faults: ``python -m tests.campaigns.faults 1000`` (at night a share of it).

Each one is a run of pytest in this process: a few inferences through a session, and its end, against agents that stay
connected (on this machine, and behind a real sshd where there is one), with one random failure of the doubles of CANN
or of the connection in it. What each test must report is known before. Whatever happens: every test that was collected
is reported, with the verdict and the name of what was injected; nothing takes longer than its limit and a second;
figures that come are the right ones; and afterwards no worker, no lease and no folder is left.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pth2om.ascend.target import Target
from pth2om.errors import CrashError, LostError
from pth2om.toolchain import Access
from pth2om.toolchain.cann import CannToolchain, close_all
from pth2om.toolchain.cann import machine as board_at
from pth2om.toolchain.cann.agent.lease import FOLDER, Lease
from pth2om.toolchain.cann.board import Limits
from pth2om.toolchain.cann.place import SSH_CONFIG
from tests.toolchain.cann.conftest import OPTIONS, SOC, feeds, install, write_model
from tests.toolchain.cann.sshd import SSHD, Sshd, free_port, know, make_keys

LIMIT = 1.5
LEAVE = 10.0
LATE = 1.0
RUNS = 3
_SIGNALS = {"segfault": "SIGSEGV", "abort": "SIGABRT", "bus": "SIGBUS", "oom": "SIGKILL"}
_FILE = """
import pytest
from tests.campaigns import faults

@pytest.mark.parametrize("number", range(faults.RUNS))
def test_inference(number):
    faults.current().infer(number)

def test_stream():
    faults.current().stream()

def test_end():
    faults.current().leave()
"""
_CURRENT: list[Run] = []


@dataclass(frozen=True)
class Fault:
    """One failure.

    Attributes:
        where: a call of ``acl`` (``execute``, ``load_from_file``, ``init``, ``exit``, ``finalize``), or ``link``.
        do: what happens there: a rule of the doubles, or what is done to the connection.
        at: in which inference.
        value: of the rule.
    """

    where: str
    do: str
    at: int = 0
    value: Any = None

    @property
    def rules(self) -> list[dict[str, Any]]:
        """For the doubles."""
        if self.where == "link":
            slow = {"where": "execute", "do": "sleep", "value": 0.3, "at": self.at + 1, "times": 1}
            return [slow] if self.do == "cut-within" else []
        row = {"where": self.where, "do": self.do, "times": 1, "value": self.value}
        return [{**row, "at": self.at + 1}] if self.where == "execute" else [row]

    @property
    def named(self) -> str:
        """What the error has to say; empty where all goes well."""
        if self.do == "print":
            return ""
        if self.do in ("return", "lost"):
            return str(self.value or 507899)
        if self.do == "hang-deaf":
            return "longer than" if self.where == "execute" else "did not leave"
        if self.where == "link":
            return "lost"
        return "status" if self.do == "exit" else _SIGNALS[self.do]

    def expected(self, streamed: bool) -> dict[str, str]:
        """What each test has to report: empty: it passes; else what its error says."""
        tests = ["test_stream"] if streamed else [f"test_inference[{number}]" for number in range(RUNS)]
        found = dict.fromkeys([*tests, "test_end"], "")
        if self.where in ("exit", "finalize"):
            found["test_end"] = self.named
        elif self.where == "link" and streamed:
            pass  # what had no answer is sent again
        elif streamed:
            found["test_stream"] = self.named
        elif self.do == "lost":  # every later call fails too
            found.update(dict.fromkeys(tests[self.at :], self.named))
        else:
            found[tests[self.at if self.where in ("execute", "link") else 0]] = self.named
        return found


def draw(generator: random.Random) -> Fault:
    """A random failure."""
    where = generator.choice(["execute"] * 5 + ["load_from_file", "init", "exit", "finalize", "link", "link"])
    at = generator.randrange(RUNS)
    deaths = list(_SIGNALS)
    if where == "link":
        return Fault(where, generator.choice(["cut-before", "cut-within", "kill-agent"]), at)
    if where == "execute":
        do = generator.choice([*deaths, "return", "return", "exit", "hang-deaf", "print", "lost"])
        codes = {"return": generator.choice([507011, 507015, 507018]), "exit": 3, "print": "\x1b[31m[ERROR] noise"}
        return Fault(where, do, at, codes.get(do))
    do = generator.choice([*deaths, *(["return"] if where in ("load_from_file", "init") else [])])
    if where in ("exit", "finalize") and generator.random() < 0.05:
        do = "hang-deaf"
    return Fault(where, do, 0, 507033 if do == "return" else None)


def current() -> Run:
    """The run that pytest is in."""
    return _CURRENT[-1]


@dataclass
class Run:
    """One session with one fault, as the tests of `_FILE` use it."""

    toolchain: CannToolchain
    compiled: Any
    url: str
    fault: Fault
    given: list[dict[str, np.ndarray]]
    right: list[np.ndarray]
    kill_agent: Callable[[], None]
    session: Any = None
    timers: list[threading.Timer] = field(default_factory=list)

    def _open(self) -> Any:
        if self.session is None:
            self.session = self.toolchain.open(self.compiled, "device")
        return self.session

    def _strike(self, number: int) -> None:
        """What is done to the connection before an inference, or in the middle of it."""
        if self.fault.where != "link" or number != self.fault.at:
            return
        if self.fault.do == "kill-agent":
            self.kill_agent()
            return
        link = board_at(self.url).link
        if self.fault.do == "cut-before":
            link._process.kill()
            return
        self.timers.append(threading.Timer(0.1, link._process.kill))
        self.timers[-1].start()

    def infer(self, number: int) -> None:
        session = self._open()
        self._strike(number)
        assert np.array_equal(session.run(self.given[number])["y"], self.right[number]), "another figure"

    def stream(self) -> None:
        session = self._open()
        seen = 0
        for number, outputs in enumerate(session.stream(self._fed())):
            assert np.array_equal(outputs["y"], self.right[number]), "another figure"
            seen += 1
        assert seen == RUNS, "inferences are missing"

    def _fed(self) -> Iterator[dict[str, np.ndarray]]:
        for number, each in enumerate(self.given):
            self._strike(number)
            yield each

    def leave(self) -> None:
        for timer in self.timers:
            timer.join()
        if self.session is not None:
            self.session.close()


class Watch:
    """What pytest collects and reports."""

    def __init__(self) -> None:
        self.collected: list[str] = []
        self.reported: dict[str, tuple[str, str, float]] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.collected = [item.name for item in items]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.rpartition("::")[2]
        if report.when == "call":
            self.reported[name] = (report.outcome, str(report.longrepr or ""), report.duration)
        elif report.outcome != "passed":
            self.reported[name] = (f"{report.when} {report.outcome}", str(report.longrepr or ""), report.duration)


def judge(run: Run, streamed: bool, file: Path) -> list[str]:
    """One run of pytest; what it reported wrongly, one sentence each."""
    wrong = []
    watch = Watch()
    expected = run.fault.expected(streamed)
    _CURRENT.append(run)
    line = [str(file), "-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={file.parent}", "--tb=short"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = pytest.main([*line, "-k", " or ".join(_named(expected))], plugins=[watch])
    _CURRENT.pop()
    if sorted(watch.collected) != sorted(watch.reported) or sorted(watch.collected) != sorted(expected):
        wrong.append(f"collected {watch.collected}, reported {sorted(watch.reported)}")
    if int(status) != int(any(expected.values())):
        wrong.append(f"status {status}: {printed.getvalue()[-800:]}")
    for name, (outcome, text, seconds) in watch.reported.items():
        said = expected.get(name, "")
        if outcome != ("failed" if said else "passed") or said not in text:
            wrong.append(f"{name}: {outcome}, not {said or 'passed'}: {text[-600:]}")
        if said in ("longer than", "did not leave"):
            limit = LIMIT if said == "longer than" else LEAVE
            if not limit - 0.1 <= seconds <= limit + LATE + _START:
                wrong.append(f"{name}: a limit of {limit} s was {seconds:.2f} s")
        elif seconds > _MOST:
            wrong.append(f"{name}: took {seconds:.1f} s")
    return wrong


_START = 3.0  # seconds that a worker may take to start on a busy machine, within the test that starts it
_MOST = 30.0


def _named(expected: dict[str, str]) -> list[str]:
    return sorted({name.partition("[")[0] for name in expected})


class Place:
    """The doubles' machine, here or behind sshd, and what may be left there."""

    def __init__(self, folder: Path, server: Sshd | None = None) -> None:
        self.folder = folder
        folder.mkdir()
        self.installed = install(folder / "home")
        self.url = server.url if server is not None else ""
        self.environment = {
            "ASCEND_HOME_PATH": str(self.installed.toolkit),
            "PTH2OM_BOARD_PYTHON": sys.executable,
            "PTH2OM_BOARD_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            FOLDER: str(folder),
            "TMPDIR": str(folder),
        }
        access = Access((self.url,), "board") if self.url else Access()
        self.target = Target.of(SOC, "8.0.0")
        if server is not None:
            server.start(self.environment)
        else:
            os.environ.update(self.environment)
        self.toolchain = CannToolchain(self.target, access, Limits(compile=300, run=60, wait=20))

    def processes(self, verb: str) -> list[int]:
        """Of the agent's, on this place."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
                if verb.encode() in words and str(self.folder).encode() + b"\0" in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return found

    def kill_agent(self) -> None:
        """As the kernel does where the memory runs out."""
        for number in self.processes("serve"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def left(self) -> list[str]:
        """What is left of a run, one sentence each."""
        end = time.monotonic() + 5.0  # the kernel ends processes in its own time
        while True:
            with contextlib.ExitStack() as paths:
                paths.enter_context(pytest.MonkeyPatch.context()).setenv(FOLDER, str(self.folder))
                lease = Lease().look()
            wrong = [] if lease == {"held": False} else [f"the lease is left: {lease}"]
            wrong += [f"worker {number} is left" for number in self.processes("worker")]
            agents = self.processes("serve")
            folders = [path.name for path in self.folder.glob("pth2om-board-*")]
            if len(agents) > 1 or len(folders) > max(1, len(agents)):
                wrong.append(f"agents {agents}, folders {folders}")
            if not wrong or time.monotonic() > end:
                return wrong
            time.sleep(0.05)


def campaign(folder: Path, count: int, seed: int, only: int | None = None) -> Iterator[tuple[int, list[str]]]:
    """Inject ``count`` faults; for each its number and what went wrong, one sentence each.

    Args:
        folder: an empty one.
        count: of faults.
        seed: of the whole.
        only: a single number to repeat.
    """
    close_all()
    places = [Place(folder / "here")]
    server = None
    if Path(SSHD).is_file():
        keys = folder / "keys"
        keys.mkdir()
        server = Sshd(make_keys(keys), free_port())
        os.environ[SSH_CONFIG] = str(know(keys, server))
        places.append(Place(folder / "there", server))
    file = folder / "test_run.py"
    file.write_text(_FILE)
    compiled = []
    given = [feeds(seed=number) for number in range(RUNS)]
    right: list[np.ndarray] = []
    for place in places:
        (om := place.folder / "om").mkdir()
        compiled.append(place.toolchain.compile(write_model(place.folder / "m.onnx"), OPTIONS, om))
        with place.toolchain.open(compiled[-1], "device") as session:
            right = [session.run(each)["y"] for each in given]
        board_at(place.url).limits = Limits(compile=300, run=LIMIT, wait=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        try:
            for number in range(count) if only is None else [only]:
                generator = random.Random(f"{seed} {number}")
                index = generator.randrange(len(places))
                place, streamed, fault = places[index], generator.random() < 0.3, draw(generator)
                place.installed.rules(*fault.rules)
                run = Run(place.toolchain, compiled[index], place.url, fault, given, right, place.kill_agent)
                wrong = judge(run, streamed, file)
                with contextlib.suppress(CrashError, LostError):
                    run.leave()
                place.installed.rules()
                wrong += place.left()
                kind = "streamed" if streamed else "single"
                yield number, [f"{number} {place.url or 'here'} {kind} {fault}: {text}" for text in wrong]
        finally:
            close_all()
            if server is not None:
                server.stop()


def main(words: list[str]) -> int:
    """``faults COUNT [SEED [NUMBER]]``; prints what goes wrong as it does."""
    count, seed = int(words[0]), int(words[1]) if len(words) > 1 else 0
    problems = done = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        for number, wrong in campaign(Path(name), count, seed, int(words[2]) if len(words) > 2 else None):
            done += 1
            problems += bool(wrong)
            for text in wrong:
                print(text, flush=True)
            if number % 50 == 49:
                print(f"{done} faults, {problems} wrong, {time.monotonic() - begun:.0f} s", flush=True)
    print(f"{done} faults, {problems} wrong, {time.monotonic() - begun:.0f} s")
    return int(problems > 0 or done == 0)


if __name__ == "__main__":
    # As a module, so that the tests that pytest imports find the same `current`.
    from tests.campaigns import faults

    raise SystemExit(faults.main(sys.argv[1:]))
