"""The agent's modules by themselves: what they may import, frames, uploads, the lease, how a process ended."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pth2om.toolchain.cann.agent as agent_package
from pth2om.toolchain.cann import shipping
from pth2om.toolchain.cann.agent import compile as compiling
from pth2om.toolchain.cann.agent import machine
from pth2om.toolchain.cann.agent.blobs import BlobError, Blobs
from pth2om.toolchain.cann.agent.child import how_ended
from pth2om.toolchain.cann.agent.confining import confine
from pth2om.toolchain.cann.agent.environment import captured, probed
from pth2om.toolchain.cann.agent.frames import MAGIC, FrameError, Pipe, checked, described
from pth2om.toolchain.cann.agent.lease import FOLDER, Lease, place, told
from pth2om.toolchain.cann.agent.shared import Mapped, kept, sweep, workplace
from pth2om.toolchain.cann.boards import holder

AGENT = Path(agent_package.__file__).parent
SOURCES = sorted(AGENT.glob("*.py"))


OPTIONAL = {"ais_bench": {"ais_bench"}, "cann_provider": {"onnxruntime"}, "selftest_faults": {"onnxruntime"}}
"""Packages that a way of running is made of, imported when it is asked for."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_module_runs_on_a_board(path) -> None:
    """Python 3.7's syntax, its standard library, NumPy and acl, and nothing of pth2om."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 7))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module)]
        for name in names:
            root = name.partition(".")[0]
            assert root in sys.stdlib_module_names | {"numpy", "acl"} | OPTIONAL.get(path.stem, set()), name
            assert root not in ("tomllib", "zoneinfo", "graphlib")
        # What Python 3.8 and 3.9 added, as attributes: the parser does not see them.
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("removeprefix", "removesuffix", "pidfd_open", "strsignal", "to_thread")
        assert not (isinstance(node, ast.keyword) and node.arg in ("missing_ok", "strict", "dirs_exist_ok"))


def test_the_agent_is_one_file_with_the_same_bytes() -> None:
    one = shipping.agent()
    shipping.agent.cache_clear()
    assert shipping.agent() == one
    assert hashlib.sha256(one.data).hexdigest() == one.digest
    names = zipfile.ZipFile(io.BytesIO(one.data)).namelist()
    assert names == sorted(names)
    assert {Path(name).name for name in names} == {"texts.json", *(path.name for path in SOURCES)}


def test_the_file_starts(tmp_path) -> None:
    file = tmp_path / "agent.pyz"
    file.write_bytes(shipping.agent().data)
    done = subprocess.run([sys.executable, "-I", file, "version"], capture_output=True, text=True, timeout=30)
    assert shipping.agent().digest in done.stdout
    assert subprocess.run([sys.executable, "-I", file, "x"], capture_output=True, timeout=30).returncode == 2


# --- frames ---------------------------------------------------------------------------------------------------------


def piped(data: bytes) -> Pipe:
    """A pipe from which ``data`` comes, and then nothing more."""
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    return Pipe(read, 1)


def sent(header, payload=()) -> bytes:
    read, write = os.pipe()
    thread = threading.Thread(target=lambda: (Pipe(read, write).send(header, payload), os.close(write)))
    thread.start()
    data = b""
    while part := os.read(read, 65536):
        data += part
    thread.join()
    os.close(read)
    return data


@given(
    st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8) | st.none(), max_size=4),
    st.lists(st.binary(max_size=2000), max_size=3),
)
@settings(max_examples=25, deadline=None)
def test_a_frame_comes_as_it_was_sent(header, parts) -> None:
    pipe = piped(sent(header, parts))
    found, length = pipe.receive()
    assert found == header
    assert bytes(pipe.payload(length)) == b"".join(parts)
    with pytest.raises(FrameError, match="ended"):
        pipe.receive()
    os.close(pipe.read_fd)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "ended"),
        (b"P2", "cut"),
        (b"Welcome to Ubuntu 22.04\n", "garbage"),
        (b"hi\n", "garbage"),
        (MAGIC + b"\xff" * 12, "length"),
        (MAGIC + (2).to_bytes(4, "little") + bytes(8) + b"[]", "header"),
        (MAGIC + (2).to_bytes(4, "little") + bytes(8) + b"{x", "header"),
        (MAGIC + (9).to_bytes(4, "little") + bytes(8) + b"{}", "cut"),
    ],
)
def test_what_is_no_frame_is_named(data, kind) -> None:
    pipe = piped(data)
    with pytest.raises(FrameError) as caught:
        pipe.receive()
    os.close(pipe.read_fd)
    assert caught.value.kind == kind
    if data.startswith(b"Welcome"):
        assert caught.value.text == "Welcome to Ubuntu 22.04"


def test_a_late_frame_is_named() -> None:
    read, write = os.pipe()
    begun = time.monotonic()
    with pytest.raises(FrameError, match="late"):
        Pipe(read, write).receive(time.monotonic() + 0.1)
    assert time.monotonic() - begun < 1
    os.close(read)
    os.close(write)


@given(st.sampled_from(["float32", "float16", "uint8", "int64", "bool"]), st.lists(st.integers(0, 4), max_size=4))
def test_tensors_are_checked_against_their_bytes(dtype, shape) -> None:
    array = np.zeros(shape, dtype)
    rows = described([("a", array), ("b", array)])
    assert [row[2:] for row in checked(rows, 2 * array.nbytes)] == [(tuple(shape), 0), (tuple(shape), array.nbytes)]
    with pytest.raises(FrameError):
        checked(rows, 2 * array.nbytes + 1)
    with pytest.raises(FrameError):
        checked([{**rows[0], "bytes": array.nbytes + 1}], array.nbytes + 1)
    with pytest.raises(FrameError):
        checked([{**rows[0], "dtype": "object"}], array.nbytes)


# --- uploads --------------------------------------------------------------------------------------------------------


def test_an_upload_goes_on_where_it_broke_off(tmp_path) -> None:
    data = os.urandom(5000)
    name = hashlib.sha256(data).hexdigest()
    blobs = Blobs(str(tmp_path))
    assert blobs.add(name, 0, data[:3000], 5000) == 3000
    blobs = Blobs(str(tmp_path))
    assert blobs.have(name) == (False, 3000)
    with pytest.raises(BlobError):
        blobs.add(name, 0, data[:3000], 5000)
    assert blobs.add(name, 3000, data[3000:], 5000) == 5000
    assert blobs.have(name) == (True, 5000)
    (tmp_path / "job").mkdir()
    assert blobs.lay({"weight/a.bin": name, "b": "0" * 64}, str(tmp_path / "job")) == ["0" * 64]
    assert (tmp_path / "job/weight/a.bin").read_bytes() == data


def test_another_content_is_no_upload(tmp_path) -> None:
    blobs = Blobs(str(tmp_path))
    name = hashlib.sha256(b"right").hexdigest()
    with pytest.raises(BlobError, match="sha256"):
        blobs.add(name, 0, b"wrong", 5)
    assert blobs.have(name) == (False, 0)  # it begins anew
    assert blobs.add(name, 0, b"right", 5) == 5


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", "a//b", "a\nb", "."])
def test_paths_stay_in_their_folder(path, tmp_path) -> None:
    with pytest.raises(BlobError):
        Blobs(str(tmp_path)).lay({path: "0" * 64}, str(tmp_path))
    with pytest.raises(BlobError):
        Blobs(str(tmp_path)).have(path)


def test_old_uploads_go_first(tmp_path) -> None:
    blobs = Blobs(str(tmp_path))
    for number in range(3):
        data = bytes([number]) * 100
        blobs.add(hashlib.sha256(data).hexdigest(), 0, data, 100)
        os.utime(blobs.path(hashlib.sha256(data).hexdigest()), (number, number))
    blobs.prune(150)
    assert [path.read_bytes()[0] for path in tmp_path.iterdir()] == [2]


# --- the lease ------------------------------------------------------------------------------------------------------


def test_a_lease_is_held_by_one(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    one, other = Lease(), Lease()
    assert one.take({"who": "ada"}) is None
    assert one.take({"who": "ada"}) is None  # again: it is held already
    found = other.take({"who": "bob"}, 0.1)
    assert found is not None
    assert found["who"] == "ada"
    assert found["seconds"] < 5
    threading.Timer(0.1, one.give_back).start()
    assert other.take({"who": "bob"}, 3) is None
    assert one.take({"who": "ada"}, 5, lambda: True) is not None  # nobody waits any more
    other.give_back()


def test_a_lease_ends_with_its_holder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    code = "from pth2om.toolchain.cann.agent.lease import Lease; Lease().take({}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert Lease().take({}) == {} or Lease().take({})
        process.kill()
    lease = Lease()
    assert lease.take({}, 2) is None
    lease.give_back()


def test_a_lease_can_be_read_without_taking_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    one, other = Lease(), Lease()
    assert other.look() == {"held": False}
    assert one.take({"who": "ada", "host": "pc", "secret": "x"}) is None
    found = other.look()
    assert (found["held"], found["who"], found["host"], found["pid"]) == (True, "ada", "pc", os.getpid())
    assert found["seconds"] < 5
    assert "secret" not in found
    assert one.held  # looking took nothing
    one.give_back()
    assert other.look() == {"held": False}
    Path(place(0)).write_text('{"who": "ada", "since": 1}')  # all that is left of a holder that was killed
    assert other.look() == {"held": False}
    assert Path(place(0)).read_text() == ""
    Path(place(0)).unlink()
    Path(place(0)).symlink_to(tmp_path / "elsewhere")
    assert other.look()["held"] is None


def test_a_look_is_never_in_the_way(tmp_path, monkeypatch) -> None:
    """Who takes a free lease while others look at it all the time gets it, without a wait of its own."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            Lease().look()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(200):
            lease = Lease()
            assert lease.take({"who": "ada"}) is None
            lease.give_back()
    finally:
        done.set()
        thread.join()


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3), st.lists, max_leaves=3)
    | st.dictionaries(
        st.sampled_from(["who", "host", "since", "up", "pid", "x"]),
        st.floats() | st.integers() | st.text() | st.booleans() | st.none() | st.lists(st.text()),
    )
)
def test_what_a_lock_file_says_is_text_and_numbers(found) -> None:
    """Any user may have written the file: whatever it says can be printed."""
    row = told(found, 1e9, 1e6)
    assert set(row) <= {"who", "host", "seconds", "pid"}
    assert 0 <= row.get("seconds", 0) < 2e12
    who, since = holder(row, 2e9)
    assert len(who) <= 401
    assert bool(since) is ("seconds" in row)


# --- processes, memory, machine -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "name"),
    [(0, ""), (1, ""), (255, ""), (-11, "SIGSEGV"), (139, "SIGSEGV"), (137, "SIGKILL"), (-6, "SIGABRT")],
)
def test_a_status_has_its_signals_name(code, name) -> None:
    assert how_ended(code)["signal"] == name


def test_mapped_files_are_shared_and_grow(tmp_path) -> None:
    one, other = Mapped(str(tmp_path / "m")), Mapped(str(tmp_path / "m"))
    one.view(3)[:] = b"abc"
    assert bytes(other.view(3)) == b"abc"
    one.view(3 << 20)[-1:] = b"z"
    assert bytes(other.view(3 << 20)[-1:]) == b"z"
    assert bytes(other.view(3)) == b"abc"


@pytest.mark.parametrize(
    ("gigabytes", "cores", "processes"), [(1, 4, "1"), (4, 4, "2"), (16, 4, "3"), (3, 16, "1"), (64, 16, None)]
)
def test_compile_settings_follow_the_free_memory(gigabytes, cores, processes) -> None:
    assert compiling.settings({}, gigabytes << 30, cores).get("TE_PARALLEL_COMPILER") == processes
    assert "TE_PARALLEL_COMPILER" not in compiling.settings({"TE_PARALLEL_COMPILER": "4"}, gigabytes << 30, cores)


def run(tmp_path, code, **values):
    given = {"limit": 20.0, "report": lambda state: None, "stop": lambda: False, **values}
    command = [sys.executable, "-c", code]
    return compiling.run(command, dict(os.environ), str(tmp_path), **given)


def test_a_compile_is_ended_with_all_it_started(tmp_path) -> None:
    child = "import subprocess,sys,time; p=subprocess.Popen([sys.executable,'-c','import time;time.sleep(60)']);"
    code = f"{child} print(p.pid, flush=True); time.sleep(60)"
    done = run(tmp_path, code, limit=1.0)
    assert done["ended"] == "time"
    assert done["seconds"] < 3
    number = int((tmp_path / compiling.STDOUT).read_text())
    for _ in range(50):
        if not Path(f"/proc/{number}").exists() or "Z" in Path(f"/proc/{number}/stat").read_text().split()[2]:
            break
        time.sleep(0.05)
    else:
        pytest.fail("a process is left")


def test_a_compile_ends_before_the_memory_does(tmp_path, monkeypatch) -> None:
    real = machine.memory()
    monkeypatch.setattr(compiling, "memory", lambda: {**real, "MemAvailable": compiling.LEAST_FREE - 1})
    done = run(tmp_path, "import time; x = bytearray(50 << 20); time.sleep(60)")
    assert done["ended"] == "memory"
    assert done["seconds"] < 5


def test_the_peak_is_that_of_all_processes(tmp_path) -> None:
    code = (
        "import subprocess,sys,time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'x = bytearray(60 << 20); import time; time.sleep(0.9)'])\n"
        "x = bytearray(60 << 20); p.wait()"
    )
    done = run(tmp_path, code)
    assert (done["code"], done["ended"]) == (0, "")
    assert 120 << 20 < done["peak_bytes"] < 250 << 20


def test_a_signal_is_named(tmp_path) -> None:
    assert run(tmp_path, "import os; os.kill(os.getpid(), 9)")["signal"] == "SIGKILL"
    assert run(tmp_path, "import time; time.sleep(60)", stop=lambda: True)["ended"] == "gone"


def test_only_nodes_driver_and_name_prove_a_device(tmp_path) -> None:
    def facts(soc="Ascend310B4"):
        return machine.facts({}, soc, str(tmp_path))["device"]

    assert not facts()
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/davinci0").touch()
    assert not facts()
    driver = tmp_path / "usr/local/Ascend/driver"
    driver.mkdir(parents=True)
    (driver / "version.info").write_text("Version=24.1.rc3\n")
    assert not facts()  # a plain file of that name is no node
    (tmp_path / "dev/davinci0").unlink()
    (tmp_path / "dev/davinci0").symlink_to("/dev/null")
    assert facts()
    assert not facts("")
    (tmp_path / "dev/davinci0").rename(tmp_path / "dev/davinci_manager")
    assert not facts()


def test_set_env_is_captured_once_and_quietly(tmp_path, monkeypatch) -> None:
    script = tmp_path / "latest" / "set_env.sh"
    script.parent.mkdir()
    script.write_text('echo noise\nexport PTH2OM_PROBE="a b\'c"\nfalse\n')
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path / "latest"))
    environment, found = captured()
    assert (environment["PTH2OM_PROBE"], found) == ("a b'c", str(script))


def test_a_python_without_acl_says_why(monkeypatch) -> None:
    python, soc, reason = probed({**os.environ, "PTH2OM_BOARD_PYTHON": sys.executable, "PYTHONPATH": ""})
    assert (python, soc) == ("", "")
    assert "No module named 'acl'" in reason


def test_signals_are_those_of_this_system() -> None:
    assert how_ended(-signal.SIGBUS)["signal"] == "SIGBUS"


def test_folders_of_agents_that_were_killed_are_removed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = Path(kept("board"))
    code = "import sys; from pth2om.toolchain.cann.agent.shared import kept; print(kept('shm', sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, capture_output=True)
    for name in ("pth2om-board-new", "pth2om-other", "else"):
        (tmp_path / name).mkdir()
    assert len(list(tmp_path.glob("pth2om-shm-*"))) == 1
    sweep()
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, "pth2om-board-new", "pth2om-other", "else"}


def test_a_helper_that_left_the_group_is_found_and_ended(tmp_path) -> None:
    seen = run(tmp_path, "import os; os.system('setsid sleep 60 & sleep 0.3')")
    assert (seen["code"], seen["left"]) == (0, ["sleep"])
    assert run(tmp_path, "import os; os.system('sleep 60 &')")["left"] == []  # its group ends with it


@pytest.mark.parametrize("version", [1, 2])
def test_a_compile_is_put_into_a_cgroup(tmp_path, monkeypatch, version: int) -> None:
    root = tmp_path / "cgroup"
    (root / "memory").mkdir(parents=True)
    if version == 2:
        (root / "cgroup.controllers").touch()
    monkeypatch.setattr(compiling, "confine", lambda size: confine(size, str(root)))
    seen = run(tmp_path, "import os; os.kill(os.getpid(), 9)", most=1 << 20)
    assert (seen["confined"], seen["signal"]) == (True, "SIGKILL")
    (group,) = (root if version == 2 else root / "memory").glob("pth2om-*")
    assert (group / "cgroup.procs").read_text() == "0"
    assert (group / ("memory.max" if version == 2 else "memory.limit_in_bytes")).read_text() == str(1 << 20)
    monkeypatch.setattr(compiling, "confine", lambda size: confine(size, str(tmp_path / "none")))
    assert run(tmp_path, "", most=1 << 20)["confined"] is False


@pytest.mark.parametrize(
    ("name", "taken"), [("plain", True), ("用户", True), ("a b", False), ("ü", False), ("~x", False), ("link", False)]
)
def test_jobs_lie_where_atc_takes_a_path(tmp_path, monkeypatch, name: str, taken: bool) -> None:
    """Its rule for paths holds for the whole path, behind every link."""
    (tmp_path / "a b").mkdir()
    place = tmp_path / name
    place.symlink_to(tmp_path / "a b") if name == "link" else place.mkdir(exist_ok=True)
    monkeypatch.setattr("tempfile.tempdir", str(place))
    (tmp_path / "other").mkdir()
    monkeypatch.setattr("pth2om.toolchain.cann.agent.shared._OTHERS", ("/nonexistent", str(tmp_path / "other")))
    assert workplace() == str(place if taken else tmp_path / "other")
