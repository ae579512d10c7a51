"""Injected faults: ``python -m tests.campaigns.faults 1000 --shards 16`` (at night a share of it).

Each one is a run of pytest in this process: a few inferences through a session, and its end, against agents that stay
connected (on this machine, and behind a real sshd where there is one), with one random failure of the doubles of CANN
or of the connection in it. What each test must report is known before. Whatever happens: every test that was collected
is reported, with the verdict and the name of what was injected; nothing takes longer than its limit and a second, and
a death is told within a second, from the call to a started worker to the verdict; figures that come are the right ones;
and afterwards no worker, no lease and no folder is left.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from tests.campaigns import sharding
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
    took: dict[str, float] = field(default_factory=dict)

    def _open(self) -> Any:
        """A session whose worker is started and has its model: what follows is the call alone."""
        if self.session is None:
            self.session = self.toolchain.open(self.compiled, "device")
        self.session._ready()
        return self.session

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        """Keep how long the last call of a test took, also where it fails."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.took[name] = time.monotonic() - begun

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
        with self._timed(f"test_inference[{number}]"):
            outputs = session.run(self.given[number])
        assert np.array_equal(outputs["y"], self.right[number]), "another figure"

    def stream(self) -> None:
        """Each answer by itself: the limit of an inference begins with the answer before it."""
        answers, seen = self._open().stream(self._fed()), 0
        while True:
            with self._timed("test_stream"):
                outputs = next(answers, None)
            if outputs is None:
                break
            assert np.array_equal(outputs["y"], self.right[seen]), "another figure"
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
            with self._timed("test_end"):
                self.session.close()


class Stalls(threading.Thread):
    """How long this process was kept from the CPU at most: what a loaded machine adds to every time.

    Attributes:
        longest: seconds, since it was put back.
    """

    _EVERY = 0.02

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.longest = 0.0
        self._over = threading.Event()

    def run(self) -> None:
        before = time.monotonic()
        while not self._over.wait(self._EVERY):
            now = time.monotonic()
            self.longest = max(self.longest, now - before - self._EVERY)
            before = now

    def stop(self) -> None:
        self._over.set()
        self.join()

    @property
    def text(self) -> str:
        """For people."""
        load = os.getloadavg()[0]
        return f"load {load:.1f} on {os.cpu_count()} CPUs, kept from the CPU for {self.longest:.2f} s at most"


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


def judge(run: Run, streamed: bool, file: Path, stalls: Stalls) -> list[str]:
    """One run of pytest; what it reported wrongly, one sentence each.

    Raises:
        KeyboardInterrupt: pytest was interrupted, which it tells only by its status.
    """
    wrong = []
    stalls.longest = 0.0
    watch = Watch()
    expected = run.fault.expected(streamed)
    _CURRENT.append(run)
    line = [str(file), "-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={file.parent}", "--tb=short"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = pytest.main([*line, "-k", " or ".join(_named(expected))], plugins=[watch])
    _CURRENT.pop()
    if status == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if sorted(watch.collected) != sorted(watch.reported) or sorted(watch.collected) != sorted(expected):
        wrong.append(f"collected {watch.collected}, reported {sorted(watch.reported)}")
    if int(status) != int(any(expected.values())):
        wrong.append(f"status {status}: {printed.getvalue()[-800:]}")
    for name, (outcome, text, seconds) in watch.reported.items():
        said = expected.get(name, "")
        if outcome != ("failed" if said else "passed") or said not in text:
            wrong.append(f"{name}: {outcome}, not {said or 'passed'}: {text[-600:]}")
        if said in ("longer than", "did not leave"):
            limit, took = LIMIT if said == "longer than" else LEAVE, run.took.get(name, 0.0)
            if not limit - 0.1 <= took <= limit + LATE:
                wrong.append(f"{name}: a limit of {limit} s was {took:.2f} s ({stalls.text})")
        elif said and run.fault.where == "execute" and run.took.get(name, 0.0) > LATE:
            wrong.append(f"{name}: told {run.took[name]:.2f} s after the call ({stalls.text})")
        elif seconds > _MOST:
            wrong.append(f"{name}: took {seconds:.1f} s")
    return wrong


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


@dataclass(frozen=True)
class Outcome:
    """What came of one fault.

    Attributes:
        number: with the campaign's seed it is the same fault again.
        kind: ``execute/segfault``.
        wrong: one sentence each.
    """

    number: int
    kind: str
    wrong: list[str]


def campaign(folder: Path, numbers: Iterable[int], seed: int) -> Iterator[Outcome]:
    """Inject faults.

    Args:
        folder: an empty one.
        numbers: of the faults; each is drawn by itself, whatever the others are.
        seed: of the whole.
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
    stalls = Stalls()
    stalls.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        try:
            for number in numbers:
                generator = random.Random(f"{seed} {number}")
                index = generator.randrange(len(places))
                place, streamed, fault = places[index], generator.random() < 0.3, draw(generator)
                place.installed.rules(*fault.rules)
                run = Run(place.toolchain, compiled[index], place.url, fault, given, right, place.kill_agent)
                wrong = judge(run, streamed, file, stalls)
                with contextlib.suppress(CrashError, LostError):
                    run.leave()
                place.installed.rules()
                wrong += place.left()
                how = "streamed" if streamed else "single"
                texts = [f"{number} {place.url or 'here'} {how} {fault}: {text}" for text in wrong]
                yield Outcome(number, f"{fault.where}/{fault.do}", texts)
        finally:
            stalls.stop()
            close_all()
            if server is not None:
                server.stop()


def main(words: Sequence[str]) -> int:
    """``faults COUNT [SEED [NUMBER]] [--shards N]``; prints what goes wrong as it does, and a total."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.faults")
    parser.add_argument("count", type=int, help="how many faults")
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("number", type=int, nargs="?", help="a single one to repeat")
    parser.add_argument("--shards", type=int, default=1, help="so many processes beside each other")
    parser.add_argument("--share", metavar="K/N", help=argparse.SUPPRESS)  # of such a process
    asked = parser.parse_args(words)
    # A shell starts what it puts into the background with this signal ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if asked.share:
        first, step = (int(part) for part in asked.share.split("/"))
        return sharding.tell(injected(range(first, asked.count, step), asked.seed))
    if asked.number is not None:
        return sharding.total(injected([asked.number], asked.seed))
    if asked.shards == 1:
        return sharding.total(injected(range(asked.count), asked.seed))
    line = [sys.executable, "-m", "tests.campaigns.faults", str(asked.count), str(asked.seed)]
    shares = [[*line, "--share", f"{first}/{asked.shards}"] for first in range(min(asked.shards, asked.count))]
    return sharding.total(sharding.joined(shares))


def injected(numbers: Iterable[int], seed: int) -> Iterator[Outcome]:
    """`campaign` in a folder that is removed afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as name,
        contextlib.closing(campaign(Path(name), numbers, seed)) as outcomes,
    ):
        yield from outcomes


if __name__ == "__main__":
    # As a module, so that the tests that pytest imports find the same `current`.
    from tests.campaigns import faults

    raise SystemExit(faults.main(sys.argv[1:]))
