"""Boards over a real sshd on loopback, with its own configuration and keys; skipped where there is no sshd."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pth2om.ascend.target import Target
from pth2om.errors import CrashError, LostError, ToolchainError
from pth2om.toolchain import Access
from pth2om.toolchain.cann import CannToolchain, diagnosis, survey
from pth2om.toolchain.cann import machine as board_at
from pth2om.toolchain.cann.board import Limits
from pth2om.toolchain.cann.link import Link
from pth2om.toolchain.cann.place import SSH_CONFIG, Place
from tests.toolchain.cann.conftest import OPTIONS, SOC, feeds, install, write_model
from tests.toolchain.cann.sshd import Sshd, free_port, know, make_keys, needs_sshd

pytestmark = needs_sshd


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    return make_keys(tmp_path_factory.mktemp("ssh"))


@pytest.fixture(scope="module")
def board(machine, keys) -> Iterator[Sshd]:
    """A board: the pretended machine behind sshd, and a client that knows its key."""
    server = Sshd(keys, free_port())
    names = ("ASCEND_HOME_PATH", "PTH2OM_BOARD_PYTHON", "PTH2OM_LEASE_DIR", "TMPDIR")
    environment = {name: os.environ[name] for name in names}
    server.start({**environment, "PTH2OM_BOARD_CACHE": str(keys / "cache")})
    config = know(keys, server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SSH_CONFIG, str(config))
        yield server
        server.stop()


@pytest.fixture(scope="module")
def remote(board) -> CannToolchain:
    access = Access((board.url,), "board")
    return CannToolchain(Target.of(SOC, "8.0.0"), access, Limits(compile=120, run=3, wait=5))


@pytest.fixture(scope="module")
def over_there(remote, tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    return remote.compile(write_model(folder / "m.onnx"), OPTIONS, folder)


def test_an_om_is_compiled_and_runs_on_the_board(remote, over_there, toolchain, machine, board) -> None:
    assert over_there.details["machine"] == board_at(board.url).name
    with remote.open(over_there, "device") as session, toolchain.open(over_there, "device") as local:
        given = [feeds(seed=seed) for seed in range(4)]
        found = [output["y"] for output in session.stream(given)]
        session.close()  # one NPU: the lease goes from one to the other
        assert all(np.array_equal(local.run(each)["y"], one) for each, one in zip(given, found, strict=True))
    assert machine.broken == []
    assert remote.provenance.ground == "double"


def test_the_doctor_examines_a_board(board) -> None:
    (found,) = diagnosis.examine([board.url])
    assert (found.place, found.own, found.facts["machine"]["soc"]) == (board.url, {}, SOC)
    assert found.facts["set_env"].endswith("set_env.sh")
    assert "doctor.clock-differs" not in {finding.rule for finding in found.findings}


def test_a_crash_keeps_its_signals_name_over_ssh(remote, over_there, machine) -> None:
    with remote.open(over_there, "device") as session:
        machine.rules({"where": "execute", "do": "segfault"})
        with pytest.raises(CrashError, match="SIGSEGV"):
            session.run(feeds())
        machine.rules()
        session.run(feeds())


def test_a_lost_connection_is_taken_up_where_it_stopped(remote, over_there, board) -> None:
    """The ssh process dies in the middle of a stream: what had no answer yet is sent once more, nothing twice."""
    machine = board_at(board.url)
    with remote.open(over_there, "device") as session:
        found = []
        for number, outputs in enumerate(session.stream(feeds(seed=seed) for seed in range(24))):
            found.append(outputs["y"])
            if number == 2:
                machine.link._process.kill()
        again = [outputs["y"] for outputs in session.stream(feeds(seed=seed) for seed in range(24))]
    assert len(found) == 24
    assert all(np.array_equal(one, two) for one, two in zip(found, again, strict=True))


def test_a_compile_is_begun_anew_where_the_connection_was_lost_in_it(remote, over_there, board, tmp_path, monkeypatch):
    """Once: a connection that is lost each time is an error, with what ssh says of it, and the lease is free."""
    machine, real, cuts = board_at(board.url), Link.send, []

    def cut(link: Link, header, payload=()) -> int:
        if header["kind"] == "compile" and link.place.url and len(cuts) < most:
            cuts.append(link._process.kill())
        return real(link, header, payload)

    monkeypatch.setattr(Link, "send", cut)
    most = 1
    again = remote.compile(write_model(tmp_path / "m.onnx"), OPTIONS, tmp_path)
    assert len(cuts) == 1
    assert again.details["outputs"] == over_there.details["outputs"]
    cuts, most = [], 9
    with pytest.raises(LostError, match=r"lost: SIGKILL\.\n.*Run the same command again"):
        remote.refuses(tmp_path / "m.onnx", OPTIONS)
    assert len(cuts) == 2
    assert not machine.is_leased


def test_an_upload_is_sent_once(remote, over_there, board, monkeypatch) -> None:
    machine = board_at(board.url)
    sent = []
    real = machine.ask
    monkeypatch.setattr(machine, "ask", lambda header, *a, **k: (sent.append(header["kind"]), real(header, *a, **k))[1])
    with remote.open(over_there, "device") as session:
        session.run(feeds())
    assert "put" not in sent


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ("known", LostError, "host's key"),
        ("changed", LostError, r"another one than before.*\n.*ssh-keygen -R"),
        ("user", LostError, "ssh-copy-id"),
        ("port", LostError, "Nothing listens"),
    ],
)
def test_a_board_that_cannot_be_reached_says_why(board, keys, tmp_path, monkeypatch, change, error, text) -> None:
    config = (keys / "config").read_text()
    if change == "known":
        (tmp_path / "none").touch()
        config = config.replace(str(keys / "known"), str(tmp_path / "none"))
    if change == "changed":
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "new"], check=True)
        new = (tmp_path / "new.pub").read_text().rsplit(" ", 1)[0]
        (tmp_path / "known").write_text(f"[127.0.0.1]:{board.port} {new}\n")
        config = config.replace(str(keys / "known"), str(tmp_path / "known"))
    if change == "user":
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
        config = config.replace(str(keys / "user"), str(tmp_path / "other"))
    (tmp_path / "config").write_text(config)
    monkeypatch.setenv(SSH_CONFIG, str(tmp_path / "config"))
    url = board.url if change != "port" else f"ssh://127.0.0.1:{free_port()}"
    with pytest.raises(error, match=text):
        Link(Place.of(url))


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("echo Welcome to the lab", "Welcome to the lab"),
        ("/bin/true", "lost"),
        (f"{sys.executable} -c \"print('PTH2OM old 3.6.9')\"", "3.6.9"),
    ],
    ids=["garbage", "nothing", "old"],
)
def test_a_login_that_starts_no_agent_is_named(board, keys, monkeypatch, command, text) -> None:
    server = Sshd(keys, free_port())
    know(keys, server)
    server.start({"A": "b"}, command)
    try:
        with pytest.raises(ToolchainError, match=text):
            Link(Place.of(server.url))
    finally:
        server.stop()


_SLOW = """
import os, socket, sys, threading, time
link = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def pump(read, write, end):
    while True:
        data = read(int(sys.argv[3]))
        if not data:
            break
        time.sleep(float(sys.argv[4]))
        write(data)
    end()
back = (link.recv, lambda data: os.write(1, data), lambda: os._exit(0))
threading.Thread(target=pump, args=back, daemon=True).start()
pump(lambda size: os.read(0, size), link.sendall, lambda: link.shutdown(1))
time.sleep(5)
"""


def test_a_slow_link_is_only_slow(board, over_there, toolchain, keys, tmp_path, monkeypatch) -> None:
    """Small pieces, each of them late: login, frames and a stream come through whole, and nothing is taken for lost."""
    (tmp_path / "slow.py").write_text(_SLOW)
    proxy = f"  ProxyCommand {sys.executable} -S {tmp_path / 'slow.py'} %h %p 1500 0.01\n"
    (tmp_path / "config").write_text((keys / "config").read_text() + proxy)
    monkeypatch.setenv(SSH_CONFIG, str(tmp_path / "config"))
    board_at(board.url).close()
    slow = CannToolchain(Target.of(SOC, "8.0.0"), Access((board.url,), "board"), Limits(compile=120, run=30, wait=5))
    given = [feeds(seed=seed) for seed in range(12)]
    try:
        with slow.open(over_there, "device") as session:
            found = [outputs["y"] for outputs in session.stream(given)]
    finally:
        board_at(board.url).close()
    with toolchain.open(over_there, "device") as local:
        assert all(np.array_equal(local.run(each)["y"], one) for each, one in zip(given, found, strict=True))


def test_boards_that_differ_are_refused(board, keys, tmp_path, machine) -> None:
    other = install(tmp_path / "other", cann="7.0.0")
    server = Sshd(keys, free_port())
    know(keys, server)
    server.start(
        {
            "ASCEND_HOME_PATH": str(other.toolkit),
            "PTH2OM_BOARD_PYTHON": sys.executable,
            "PTH2OM_BOARD_CACHE": str(keys / "cache"),
        }
    )
    try:
        with pytest.raises(ToolchainError, match=r"CANN 8\.0\.0.*7\.0\.0"):
            survey(Access((board.url, server.url)))
    finally:
        board_at(server.url).close()
        server.stop()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "192.0.2.7",
        "ssh://",
        "ssh://-oProxyCommand=x",
        "ssh://a b",
        "ssh://h:99999",
        "ssh://h/x",
        "ssh://h:１２",
        f"ssh://{'a' * 999}",
    ],
)
def test_what_is_no_address_is_refused(url) -> None:
    with pytest.raises(ToolchainError, match="ssh://"):
        Place.of(url)


@pytest.mark.parametrize(
    "url", ["ssh://u:s3cret@h", "ssh://u:s3c@ret@h:22", "u:s3cret@h", "ssh://用户:s3cret@h", "ssh://:s3cret@h/x"]
)
def test_a_password_in_an_address_is_refused_and_not_repeated(url) -> None:
    with pytest.raises(ToolchainError, match="ssh-copy-id") as caught:
        Place.of(url)
    assert "s3c" not in caught.value.message.with_fix("en") + str(caught.value)
    assert "***" in str(caught.value)


def test_the_command_shares_no_connection_and_asks_nothing() -> None:
    words = Place.of("ssh://root@192.0.2.7:2222").command()
    text = " ".join(words)
    for option in ("ControlMaster=no", "ControlPath=none", "StrictHostKeyChecking=yes", "BatchMode=yes"):
        assert f"-o {option}" in text
    assert words[words.index("-p") + 1] == "2222"
    assert words[-3:-1] == ["--", "192.0.2.7"]
