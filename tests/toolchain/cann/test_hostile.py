"""What stands between here and a board breaks: each time a named failure, and the next try is a fresh one."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pth2om.errors import AtcError, CrashError, LostError, ToolchainError
from pth2om.toolchain.cann import CannToolchain, compiling, diagnosis, shipping
from pth2om.toolchain.cann import machine as board_at
from pth2om.toolchain.cann.agent.child import Child, ChildError
from pth2om.toolchain.cann.agent.frames import MAGIC, PROTOCOL, FrameError, Pipe
from pth2om.toolchain.cann.agent.lease import Lease
from pth2om.toolchain.cann.agent.supervisor import Supervisor
from pth2om.toolchain.cann.board import Board, Limits, failure
from pth2om.toolchain.cann.link import Link
from pth2om.toolchain.cann.place import _START, Place
from tests.toolchain.cann.conftest import feeds


def framed(header: dict[str, object], payload: bytes = b"") -> bytes:
    """Written by hand, so that the reader is not tried with its own writer alone."""
    text = json.dumps(header).encode()
    return MAGIC + len(text).to_bytes(4, "little") + len(payload).to_bytes(8, "little") + text + payload


DEEP = MAGIC + (100_000).to_bytes(4, "little") + bytes(8) + b"[" * 100_000
ANSWER = framed({"kind": "ran", "id": 1}, b"12345678")
HELLO = framed({"kind": "hello", "protocol": PROTOCOL, "agent": shipping.agent().digest, "pid": 1})


@pytest.fixture
def scripted(monkeypatch, tmp_path) -> Callable[..., Link]:
    """A link to something that says given bytes, and then leaves."""

    def start(data: bytes, then: str = "exit 0") -> Link:
        (tmp_path / "said").write_bytes(data)
        line = ["/bin/sh", "-c", f'read -r line; cat "$1"; {then}', "sh", str(tmp_path / "said")]
        monkeypatch.setattr(Place, "command", lambda self: line)
        return Link(Place())

    return start


def received(data: bytes) -> tuple[object, bytes]:
    read, write = os.pipe()
    try:
        os.write(write, data)
        os.close(write)
        pipe = Pipe(read, read)
        header, length = pipe.receive()
        return header, bytes(pipe.payload(length))
    finally:
        os.close(read)


def test_a_frame_that_is_cut_at_any_byte_is_no_frame() -> None:
    assert received(ANSWER) == ({"kind": "ran", "id": 1}, b"12345678")
    for place in range(len(ANSWER)):
        with pytest.raises(FrameError) as caught:
            received(ANSWER[:place])
        assert caught.value.kind == ("ended" if place == 0 else "cut"), place


def test_an_answer_that_is_cut_at_any_byte_is_a_lost_connection(scripted) -> None:
    begun = time.monotonic()
    for place in range(len(ANSWER)):
        link = scripted(b"PTH2OM have 3.11.2\n" + HELLO + ANSWER[:place])
        with pytest.raises(LostError, match="lost"):
            link.ask({"kind": "x"}, limit=5)
        link.close()
    link = scripted(b"PTH2OM have 3.11.2\n" + HELLO + ANSWER, "cat > /dev/null")
    assert link.ask({"kind": "x"}, limit=5) == ({"kind": "ran", "id": 1}, b"12345678")
    link.close()
    assert time.monotonic() - begun < 20


def test_a_request_that_is_cut_at_any_byte_ends_the_agent_and_nothing_else(tmp_path, monkeypatch) -> None:
    """The agent answers the whole ones, leaves nothing behind, and never takes a part for a request."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("PTH2OM_LEASE_DIR", str(tmp_path))
    monkeypatch.setenv("PTH2OM_BOARD_CACHE", str(tmp_path / "cache"))
    first = framed({"kind": "lease", "id": 1, "holder": {"who": "ada"}})
    second = framed({"kind": "put", "id": 2, "name": "0" * 64, "offset": 0, "size": 8}, b"1234")
    for place in range(len(second)):
        (down, up), (back, out) = os.pipe(), os.pipe()
        os.write(up, first + second[:place])
        os.close(up)
        assert Supervisor(Pipe(down, out), [], "digest").serve() == 0
        os.close(out)
        answers = Pipe(back, back)
        assert answers.receive()[0]["kind"] == "hello"
        assert answers.receive()[0] == {"kind": "leased", "id": 1}
        with pytest.raises(FrameError, match="ended"):
            answers.receive()
        for number in (down, back):
            os.close(number)
        assert Lease().look() == {"held": False}
    assert {path.name for path in tmp_path.iterdir()} <= {"cache", "pth2om-device-0.lock"}


def test_a_worker_that_starts_while_the_connection_ends_is_ended(tmp_path, monkeypatch) -> None:
    """The connection is lost between the start of a worker and its first command: nobody else would end it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("PTH2OM_BOARD_CACHE", str(tmp_path / "cache"))

    class Started:
        killed = False

        def kill(self) -> None:
            self.killed = True

        def ask(self, header: object, limit: float) -> dict[str, object]:
            if not self.killed:
                raise AssertionError("it would be waited for")
            raise ChildError("crash", signal="SIGKILL")

    read, write = os.pipe()
    supervisor = Supervisor(Pipe(read, write), [], "digest")
    supervisor._environment, supervisor._python = {"A": "b"}, sys.executable

    def start(place: str) -> Started:
        supervisor._gone.set()  # the reading thread met the end, and found no worker
        return Started()

    monkeypatch.setattr(supervisor, "_start", start)
    with pytest.raises(ChildError):
        supervisor._load({"model": "m", "files": {}, "main": "model.om", "limit": 300}, b"")
    assert supervisor._children == {}
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(
    ("said", "error", "text"),
    [
        (b"x" * 1_000_000, ToolchainError, "prints before the agent starts: xxx"),
        (b"Welcome!\n" * 120_000, ToolchainError, "prints before the agent starts: Welcome!"),
        (b"\x1b]0;title\x07\xff\xfe\x00" * 9, ToolchainError, "prints before"),
        (b"PTH2OM have 3.11.2\nnoise of a profile\n" * 3, ToolchainError, "printed into the connection: noise"),
        (b"PTH2OM have 3.11.2\n" + HELLO[:20], LostError, "lost"),
        (b"PTH2OM have 3.11.2\n" + MAGIC + b"\xff" * 12, ToolchainError, "length that cannot be"),
        (b"PTH2OM have 3.11.2\n" + MAGIC + b"\2" + b"\0" * 11 + b"[]", ToolchainError, "damaged header"),
        (b"PTH2OM have 3.11.2\n" + DEEP, ToolchainError, "damaged header"),
        (b"PTH2OM have 3.11.2\n" + framed({"kind": "hello", "protocol": 99}), ToolchainError, "another protocol: 99"),
        (
            b"PTH2OM have 3.11.2\n" + framed({"kind": "hello", "protocol": PROTOCOL, "agent": "0" * 64}),
            ToolchainError,
            "not the one that was sent",
        ),
        (b"PTH2OM full 3.11.2\n", ToolchainError, "cannot be stored"),
        (b"", LostError, "lost"),
    ],
    ids=[
        *("megabyte", "lines", "escapes", "noise", "half", "length"),
        *("header", "deep", "protocol", "other", "full", "nothing"),
    ],
)
def test_what_is_no_agent_is_named_at_once(scripted, said: bytes, error: type[Exception], text: str) -> None:
    begun = time.monotonic()
    with pytest.raises(error, match=text) as caught:
        scripted(said, "exec sleep 0.2")
    assert "\x1b" not in str(caught.value)
    assert time.monotonic() - begun < 8


@pytest.mark.parametrize("cache", ["file", "missing"])
def test_a_home_that_cannot_be_written_is_named(tmp_path, monkeypatch, cache: str) -> None:
    """Root may write everywhere, so the folder is one in which nobody can."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("PTH2OM_BOARD_CACHE", str(tmp_path / "file") if cache == "file" else f"/proc/{os.getpid()}")
    with pytest.raises(ToolchainError, match=r"cannot be stored there.*\n.*PTH2OM_BOARD_CACHE"):
        Link(Place())
    monkeypatch.setenv("PTH2OM_BOARD_CACHE", str(tmp_path / "cache"))
    Link(Place()).close()


def test_agents_that_are_left_over_do_no_harm(tmp_path, monkeypatch) -> None:
    """One of another version lies beside it; one that was cut off while it was stored is replaced."""
    monkeypatch.setenv("PTH2OM_BOARD_CACHE", str(tmp_path))
    (tmp_path / f"agent-{'0' * 64}.pyz").write_bytes(b"an older one")
    mine = tmp_path / f"agent-{shipping.agent().digest}.pyz"
    mine.write_bytes(shipping.agent().data[:1000])
    for _ in range(2):
        link = Link(Place())
        assert link.ask({"kind": "have", "names": []})[0]["kind"] == "have"
        link.close()
    assert mine.read_bytes() == shipping.agent().data


@pytest.mark.parametrize("thing", ["folder", "pipe", "nowhere", "link"])
def test_something_else_has_the_agents_name(tmp_path, monkeypatch, thing: str) -> None:
    """What can be replaced is, without being opened or followed; a folder is named."""
    monkeypatch.setenv("PTH2OM_BOARD_CACHE", str(tmp_path))
    path = tmp_path / f"agent-{shipping.agent().digest}.pyz"
    (tmp_path / "mine").write_text("precious")
    {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "nowhere": lambda: path.symlink_to("/nonexistent/x"),
        "link": lambda: path.symlink_to(tmp_path / "mine"),
    }[thing]()
    if thing == "folder":
        with pytest.raises(ToolchainError, match=r"cannot be stored there.*Is a directory"):
            Link(Place())
        return
    Link(Place()).close()
    assert path.read_bytes() == shipping.agent().data
    assert (tmp_path / "mine").read_text() == "precious"
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted((path.name, "mine"))


def test_a_locale_of_ascii_knows_other_names_too(tmp_path, monkeypatch) -> None:
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PTH2OM_BOARD_CACHE", str(tmp_path / "缓存 ß"))
    found = diagnosis.asked(Place())
    assert found.facts["machine"]["arch"]
    assert (tmp_path / "缓存 ß").is_dir()


def test_an_examination_that_fails_is_told_in_a_sentence(scripted) -> None:
    answer = framed({"kind": "error", "id": 1, "error": "agent", "values": {"reason": "OSError: no"}})
    scripted(b"PTH2OM have 3.11.2\n" + HELLO + answer).close()  # from now on
    found = diagnosis.asked(Place())
    assert [finding.message.key for finding in found.findings] == ["cann.agent"]
    assert "OSError: no" in "\n".join(found.lines("zh"))


def test_a_board_that_starts_anew_while_it_is_leased(toolchain, compiled) -> None:
    """The run is told; the one after it is as if nothing had been."""
    board = board_at()
    with toolchain.open(compiled, "device") as session:
        right = session.run(feeds())["y"]
        board.known = replace(board.facts, boot="of before the restart")
        board.link._process.kill()
        with pytest.raises(LostError, match="lost"):
            session.run(feeds())
        assert not board.is_leased
        with pytest.raises(CrashError, match="started anew"):
            session.run(feeds())
        assert np.array_equal(session.run(feeds())["y"], right)
    assert Lease().look() == {"held": False}


@pytest.mark.parametrize("where", ["execute", "load_from_file"])
def test_a_failure_is_told_before_its_worker_has_left(toolchain, compiled, machine, where: str) -> None:
    """A worker that takes its time keeps neither its verdict nor other requests; the next model waits for its end."""
    board = board_at()
    rules = ({"where": where, "do": "return", "value": 507011}, {"where": "finalize", "do": "hang-deaf", "times": 1})
    with toolchain.open(compiled, "device") as session:
        machine.rules(*rules)
        with pytest.raises(CrashError, match="507011"):
            session.run(feeds())
        assert workers(board), "its end was waited for"
        machine.rules()
        session.run(feeds())
        assert len(workers(board)) == 1
    assert workers(board) == []


def workers(board: Board) -> list[str]:
    """The processes of the agent."""
    return [str(name) for name in board.ask({"kind": "left"})[0]["processes"]]


def test_a_worker_that_sigkill_does_not_end_at_once_is_told_at_its_limit(monkeypatch, tmp_path) -> None:
    """One that hangs in the driver: the kernel ends it when the driver lets go."""
    child = Child([sys.executable, "-c", "import time; time.sleep(60)"], dict(os.environ), str(tmp_path))
    real = child.signal
    monkeypatch.setattr(child, "signal", lambda: None)
    begun = time.monotonic()
    with pytest.raises(ChildError, match="hang"):
        child.receive(0.2)
    assert time.monotonic() - begun < 1.2  # at its limit and a second; to wait for its end takes 5
    real()
    child.kill()


def test_a_full_disk_of_the_board_is_told_as_one(toolchain, compiled, monkeypatch) -> None:
    """In an upload, and in a compile that could not even write its log; a refusal with a code is what it is."""
    supervisor = Supervisor(Pipe(0, 1), [], "digest")
    answers: list[dict[str, object]] = []
    monkeypatch.setattr(supervisor._pipe, "send", lambda header, parts=(): answers.append(header))
    for number in (errno.ENOSPC, errno.EDQUOT):
        error = OSError(number, os.strerror(number))
        monkeypatch.setattr(supervisor, "_put", lambda header, payload, error=error: raised(error))
        supervisor._answer({"kind": "put", "id": 1}, b"", None)
        found = failure(answers[-1], "board")
        assert isinstance(found, CrashError)  # the board's, not the model's: it is tried again in the next run
        assert re.search(r"disk there is full[\s\S]*df -h", str(found))
    ran = {"stdout": "ATC start\n", "stderr": "", "ended": "", "signal": "", "code": 120, "room": 4096}
    with pytest.raises(CrashError, match="disk there is full: 4 KB"):
        compiling._judge(ran, "board", 1.0)
    for row in ({"room": 1 << 30}, {"stdout": "E10001: Value [x] for parameter [y] is invalid. Reason: z."}):
        with pytest.raises(AtcError):
            compiling._judge({**ran, **row}, "board", 1.0)


def raised(error: OSError) -> None:
    raise error


def test_tensors_for_which_there_is_no_room(toolchain, compiled) -> None:
    """A full /dev/shm: the run is told, whatever else was under way goes on, and with room it works again."""
    board = board_at()
    board.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, hard))  # the agent inherits it: a mapped file takes a megabyte
    try:
        board.facts  # noqa: B018 - connects
        link = board.link
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with toolchain.open(compiled, "device") as session:
        with pytest.raises(CrashError, match="room"):
            session.run(feeds())
        assert board.link is link  # the connection stands
    board.close()
    with toolchain.open(compiled, "device") as session:
        assert session.run(feeds())["y"].shape == (2, 4, 6, 6)


def test_two_runs_at_once_take_turns(toolchain, compiled, tmp_path) -> None:
    """Another process wants the same board all the time: both get it, never together, and both compute the same."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.toolchain.cann.conftest import SOC, feeds\n"
        "from pth2om.ascend.target import Target\nfrom pth2om.toolchain.cann import CannToolchain\n"
        "from pth2om.toolchain.cann.board import Board, Limits, failure\n"
        "toolchain = CannToolchain(Target.of(SOC, '8.0.0'), limits=Limits(compile=120, run=9, wait=30))\n"
        "om = toolchain.compiled(Path(sys.argv[1]))\n"
        "for _ in range(2):\n"
        "    with toolchain.open(om, 'device') as session:\n"
        "        print(session.run(feeds())['y'].sum(), flush=True)\n"
    )
    patient = CannToolchain(toolchain.target, limits=Limits(compile=120, run=9, wait=30))
    board_at().limits = patient.limits
    line = [sys.executable, "-c", code, str(compiled.path.parent)]
    root = Path(__file__).parents[3]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=root) as other:
        mine = []
        for _ in range(2):
            with patient.open(compiled, "device") as session:
                mine.append(str(session.run(feeds())["y"].sum()))
                held = Lease().look()
                assert (held["held"], held["pid"]) == (True, board_at().link._process.pid)
        theirs, _ = other.communicate(timeout=60)
    assert mine == theirs.split()
    assert Lease().look() == {"held": False}


def test_a_login_that_waits_is_told_from_an_agent_that_does(scripted, monkeypatch) -> None:
    """A `.bashrc` that reads its input takes the line that was for Python."""
    monkeypatch.setattr("pth2om.toolchain.cann.link.CONNECT", 0.5)
    with pytest.raises(LostError, match=r"No Python there answers within 0 s[\s\S]*bashrc"):
        scripted(b"", "exec sleep 30")
    with pytest.raises(LostError, match="No answer within"):
        scripted(b"PTH2OM have 3.11.2\n", "exec sleep 30")


@pytest.mark.parametrize("count", [1, 7, 100, 1000])
def test_a_login_that_takes_a_part_of_what_is_sent_is_named(monkeypatch, count: int) -> None:
    """A `.bashrc` that reads some of its input leaves Python half a line."""
    taking = f"head -c {count} > /dev/null; exec {sys.executable} -I -c '{_START}'"
    monkeypatch.setattr(Place, "command", lambda _: ["sh", "-c", taking])
    with pytest.raises(ToolchainError, match=r"takes a part of what is sent[\s\S]*\.bashrc"):
        Link(Place())


def test_what_ssh_says_last_is_read_behind_megabytes(scripted) -> None:
    with pytest.raises(LostError, match=r"Connection closed by peer\.\n"):  # one full stop
        scripted(b"", "yes of a profile | head -c 3000000 >&2; echo Connection closed by peer. >&2")
    with pytest.raises(ToolchainError, match="prints before") as caught:
        scripted(b"x" * 4000, "exec sleep 1")
    assert len(str(caught.value)) < 700


def test_a_silent_agent_is_ended_at_its_limit(scripted, monkeypatch) -> None:
    monkeypatch.setattr("pth2om.toolchain.cann.link.GRACE", 0.3)
    link = scripted(b"PTH2OM have 3.11.2\n" + HELLO, "exec sleep 30")
    begun = time.monotonic()
    with pytest.raises(LostError, match="No answer within"):
        link.ask({"kind": "x"}, limit=0.5)
    assert 0.7 < time.monotonic() - begun < 2.5
    link.close()
    assert threading.active_count() < 50
