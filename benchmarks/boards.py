"""The way to a board, measured with doubles on this machine: ``python benchmarks/boards.py [child crash ssh boards]``.

The doubles compute nothing worth timing; what is measured is ours: the child process, the link, the scheduling.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/doubles/cann")]

from cann_double.install import install  # noqa: E402 - after the path

from pth2om.ascend.atc_options import AtcOptions  # noqa: E402 - after the path
from pth2om.ascend.target import Target  # noqa: E402 - after the path
from pth2om.errors import CrashError  # noqa: E402 - after the path
from pth2om.toolchain import Access  # noqa: E402 - after the path
from pth2om.toolchain.cann import CannToolchain, close_all, machine  # noqa: E402 - after the path
from pth2om.toolchain.cann.agent.child import Child  # noqa: E402 - after the path
from pth2om.toolchain.cann.agent.environment import captured  # noqa: E402 - after the path
from pth2om.toolchain.cann.agent.frames import Pipe  # noqa: E402 - after the path
from pth2om.toolchain.cann.agent.shared import Mapped  # noqa: E402 - after the path
from pth2om.toolchain.cann.board import Limits  # noqa: E402 - after the path
from pth2om.toolchain.cann.place import Place  # noqa: E402 - after the path
from pth2om.toolchain.cann.shipping import agent  # noqa: E402 - after the path
from tests.evidence.canonical import canonical, read  # noqa: E402 - after the path

SOC = "Ascend310B4"
TICKS = os.sysconf("SC_CLK_TCK")
IMAGES = 597  # the whole of the digits: what is measured is a night, not three starts of an interpreter
LIMITS = Limits(compile=300, run=60, wait=300)


def model(path: Path, floats: int) -> Path:
    """One input of that many floats, one output of ten."""
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["x", "a", "b", "c"], ["s"], name="slice"),
            helper.make_node("Relu", ["s"], ["y"], name="relu"),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, floats])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in (("a", 0), ("b", 10), ("c", 1))],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7), path)
    return path


def compiled(toolchain: CannToolchain, folder: Path, floats: int):
    folder.mkdir()
    options = AtcOptions(
        output="m", soc_version=SOC, input_shape=f"x:1,{floats}", precision_mode="force_fp16", input_format="ND"
    )
    return toolchain.compile(model(folder / "m.onnx", floats), options, folder)


def started(om: Path, floats: int, folder: Path):
    """A worker with a loaded model and its inputs in a mapped file, and the command that runs it."""
    file = folder / "agent.pyz"
    file.write_bytes(agent().data)
    child = Child([sys.executable, str(file), "worker"], captured()[0], str(folder))
    child.ask({"kind": "load", "path": str(om), "device": 0}, 60)
    given = Mapped(str(folder / f"in-{floats}"))
    given.view(4 * floats)[:] = np.ones(floats, np.float32).view(np.uint8).data
    command = {"kind": "run", "in": given.path, "out": str(folder / f"out-{floats}"), "size": 4 * floats}
    command["tensors"] = [["x", "float32", [1, floats], 0]]
    return child, command


def child_overhead(om: Path, floats: int, folder: Path, runs: int = 300) -> dict[str, float]:
    """What the worker costs beside what it does: from the command to its answer, less its own copies and execution."""
    child, command = started(om, floats, folder)
    costs = []
    for _ in range(runs):
        begun = time.perf_counter_ns()
        answer = child.ask(command, 60)
        costs.append((time.perf_counter_ns() - begun - sum(answer["times"].values())) / 1e6)
    child.ask({"kind": "end"}, 10)
    child.finish(10)
    costs.sort()
    at = {"p10_ms": 0.1, "median_ms": 0.5, "p90_ms": 0.9}
    return {"bytes": 4 * floats, **{name: costs[int(share * runs)] for name, share in at.items()}}


def crash_to_verdict(toolchain: CannToolchain, om, machine_, rounds: int = 10) -> dict[str, float]:
    """From the death of the worker to the exception in the test."""
    times = []
    with contextlib.suppress(CrashError):
        for _ in range(rounds):
            session = toolchain.open(om, "device")
            feeds = {"x": np.ones((1, int(om.details["inputs"][0]["shape"][1])), np.float32)}
            session.run(feeds)
            machine_.rules({"where": "execute", "do": "hang"})
            died: list[float] = []

            def kill(died=died) -> None:
                time.sleep(0.3)
                for entry in Path("/proc").iterdir():
                    with contextlib.suppress(OSError):
                        ours = entry.name.isdigit() and str(machine_.home).encode() in (entry / "environ").read_bytes()
                        if ours and b"worker" in (entry / "cmdline").read_bytes().split(b"\0"):
                            died.append(time.monotonic())
                            os.kill(int(entry.name), signal.SIGSEGV)

            thread = threading.Thread(target=kill)
            thread.start()
            try:
                session.run(feeds)
            except CrashError as error:
                if "SIGSEGV" not in str(error):
                    raise RuntimeError(str(error)) from None
                times.append(time.monotonic() - died[0])
            thread.join()
            machine_.rules()
    return {"rounds": len(times), "median_s": statistics.median(times), "worst_s": max(times)}


def hang_to_verdict(om, machine_, limit: float = 2.0, rounds: int = 3) -> dict[str, float]:
    """From the call that hangs to the exception, and from there to the end of its worker."""
    toolchain = CannToolchain(Target.of(SOC, "8.0.0"), limits=Limits(compile=300, run=limit, wait=300))
    machine().limits = toolchain.limits
    late, left = [], []
    for _ in range(rounds):
        session = toolchain.open(om, "device")
        feeds = {"x": np.ones((1, int(om.details["inputs"][0]["shape"][1])), np.float32)}
        session.run(feeds)
        machine_.rules({"where": "execute", "do": "hang-deaf"})
        begun = time.monotonic()
        with contextlib.suppress(CrashError):
            session.run(feeds)
        late.append(time.monotonic() - begun - limit)
        machine_.rules()
        begun = time.monotonic()
        session.close()
        left.append(time.monotonic() - begun)
    machine().limits = LIMITS
    return {"limit_s": limit, "worst_late_s": max(late), "worst_teardown_s": max(left)}


class Server:
    """An sshd on loopback whose logins see one board."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        variables = " ".join(f'"{name}={value}"' for name, value in environment.items())
        config = folder / f"sshd-{self.port}"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile none\nStrictModes no\n"
            f"AuthorizedKeysFile {folder / 'user.pub'}\nUsePAM no\nPasswordAuthentication no\nSetEnv {variables}\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)
        server = shutil.which("sshd") or "/usr/sbin/sshd"
        self.process = subprocess.Popen([server, "-D", "-e", "-f", config], stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        with (folder / "known").open("a") as file:
            file.write(f"[127.0.0.1]:{self.port} {(folder / 'host.pub').read_text().rsplit(' ', 1)[0]}\n")
        self.url = f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"


def keys(folder: Path) -> None:
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "config").write_text(
        f"Host *\n  IdentityFile {folder / 'user'}\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder / 'known'}\n"
    )
    os.environ["PTH2OM_SSH_CONFIG"] = str(folder / "config")


def worker_rate(om: Path, floats: int, folder: Path, seconds: float = 1.0) -> float:
    """Inferences a second of a worker whose inputs lie in its mapped file and whose next command is there already."""
    child, command = started(om, floats, folder)
    for _ in range(3):
        child.send(command)
    runs, end = 0, time.perf_counter() + seconds
    begun = time.perf_counter()
    while time.perf_counter() < end:
        child.receive(60)
        child.send(command)
        runs += 1
    rate = runs / (time.perf_counter() - begun)
    for _ in range(3):
        child.receive(60)
    child.ask({"kind": "end"}, 10)
    child.finish(10)
    return rate


def bare_rate(url: str, size: int, runs: int) -> tuple[float, dict[str, float]]:
    """Inputs a second that ``ssh HOST 'cat > /dev/null'`` moves: same options and cipher, connected and warm.

    The connection stands before the clock starts, the bytes are not all alike, and the end is what the other side
    prints after its last byte, so that neither the login nor what is still under way counts. It then stays a moment, so
    that its processor time can be read.
    """
    words = [*Place.of(url).command()[:-1], "echo ready; cat > /dev/null; echo done; sleep 0.5"]
    blob = memoryview(os.urandom(size))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        pipe = Pipe(process.stdout.fileno(), process.stdin.fileno())  # as large as ours
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("no login")
        for _ in range(-(-(8 << 20) // size)):
            write(pipe.write_fd, blob)
        before, begun = processor_seconds(), time.perf_counter()
        for _ in range(runs):
            write(pipe.write_fd, blob)
        process.stdin.close()
        if process.stdout.readline() != b"done\n":
            raise RuntimeError("the connection was lost")
        took = time.perf_counter() - begun
        return runs / took, differences(before, runs)


def write(number: int, view: memoryview) -> None:
    while view:
        view = view[os.write(number, view) :]


def our_rate(toolchain: CannToolchain, om, floats: int, runs: int) -> tuple[float, dict[str, float]]:
    """Inferences a second through the link."""
    given = [{"x": np.random.default_rng(seed).normal(size=(1, floats)).astype(np.float32)} for seed in range(2)]
    with toolchain.open(om, "device") as session:
        for _ in session.stream(given * 10):
            pass
        before, begun = processor_seconds(), time.perf_counter()
        for _ in session.stream(given[number % 2] for number in range(runs)):
            pass
        took = time.perf_counter() - begun
        return runs / took, differences(before, runs)


def processor_seconds() -> dict[str, float]:
    """User and system time by side: this process, and ssh, sshd, agent and worker below it."""
    mine = time.process_time()
    rows = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else []
            if fields:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                rows[int(entry.name)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS, words)
    found: dict[str, float] = {"client": mine}
    for parent, seconds, words in list(rows.values()):
        while parent in rows and parent != os.getpid():
            parent = rows[parent][0]
        if parent == os.getpid():
            side = "worker" if b"worker" in words else "agent" if b"serve" in words else Path(words[0].decode()).name
            side = side.partition(":")[0]
            found[side] = found.get(side, 0.0) + seconds
    return found


def differences(before: dict[str, float], runs: int) -> dict[str, float]:
    """Milliseconds of processor for each run, by side."""
    now = processor_seconds()
    each = {side: round(1000 * (seconds - before.get(side, 0.0)) / runs, 3) for side, seconds in now.items()}
    return {side: cost for side, cost in each.items() if side in ("client", "ssh", "sshd", "agent", "worker")}


def ssh_rate(there: CannToolchain, om, server: Server, floats: int, runs: int, rounds: int = 5) -> dict[str, object]:
    """The link against the smaller of what the worker computes alone and what a bare ssh moves; rounds alternate."""
    rows, costs = [], {}
    for _ in range(rounds):
        bare, costs["bare_ms"] = bare_rate(server.url, 4 * floats, runs)
        alone = worker_rate(om.path, floats, server.folder)
        ours, costs["ours_ms"] = our_rate(there, om, floats, runs)
        rows.append({"bare_per_s": bare, "worker_per_s": alone, "ours_per_s": ours, "share": ours / min(bare, alone)})
    found = {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]}
    return {"bytes": 4 * floats, **found, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), **costs}


def repository(folder: Path, models: int) -> Path:
    """A repository of the bundled digits under several names, one variant each: equal jobs for the workers."""
    folder.mkdir()
    (folder / "calib").symlink_to(ROOT / "calib")
    ignored = shutil.ignore_patterns("model.toml", "train.py", "__pycache__")
    shutil.copytree(ROOT / "models/convmixer", folder / "models/net", ignore=ignored)
    text = (ROOT / "models/convmixer-digits/model.toml").read_text().partition("[quantize]")[0]
    text = text.replace('["fp16-bs1", "fp16-bs4", "int8-bs1"]', '["fp16-bs1"]').replace("../convmixer/", "../net/")
    for number in range(models):
        place = folder / f"models/digits-{number}"
        shutil.copytree(ROOT / "models/convmixer-digits", place, ignore=ignored)
        (place / "model.toml").write_text(text)
    return folder


def accepted(folder: Path, name: str, words: list[str]) -> tuple[float, float, list[str]]:
    """A run of pytest on `repository`: wall seconds, processor seconds without the boards', canonical evidence."""
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--om-models", str(folder / "repo/models")]
    line += ["--om-reports-dir", str(folder / name), "-k", "not latency", *words]
    store = folder / f"store-{name}"
    if (folder / "store-before").exists():
        shutil.copytree(folder / "store-before", store)
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PTH2OM_STORE": str(store)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled modules, as in normal use
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-2000:])
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, seconds, canonical(read(folder / name), [str(store), str(folder / name)])


def scheduling(folder: Path, urls: list[str], models: int, images: int) -> dict[str, object]:
    """Three workers on three boards against one process on one; each inference takes 50 ms of no processor.

    What PyTorch and the export need is made before, in a store that both begin with: what is left are compiles, waits
    for the device, and what is ours.
    """
    repository(folder / "repo", models)
    common = ["--om-cann", "8.0.0", "--om-subset", str(images)]
    accepted(folder, "before", ["--soc", SOC, *common, "--om-toolchain", "emulator"])
    boards = [word for url in urls for word in ("--board", url)]
    serial, serial_cpu, one = accepted(folder, "serial", [*common, "--board", urls[0], "--om-compile", "board"])
    three, three_cpu, other = accepted(folder, "three", [*common, *boards, "--om-compile", "board", "-n", "3"])
    return {
        "models": models,
        "images": images,
        "serial_s": round(serial, 1),
        "three_s": round(three, 1),
        "share": round(three / serial, 3),
        "serial_cpu_s": round(serial_cpu, 1),
        "three_cpu_s": round(three_cpu, 1),
        "records": len(one),
        "differing": len(set(one) ^ set(other)),
    }


def main(chosen: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as ends:
        folder = Path(name)
        board = install(folder / "home")
        common = {"PTH2OM_BOARD_PYTHON": sys.executable, "PTH2OM_BOARD_CACHE": str(folder / "cache")}
        common["OMP_NUM_THREADS"] = "1"
        os.environ.update({**common, "ASCEND_HOME_PATH": str(board.toolkit), "PTH2OM_LEASE_DIR": str(folder)})
        ends.callback(close_all)
        here = CannToolchain(Target.of(SOC, "8.0.0"), limits=LIMITS)
        keys(folder)

        def served(toolkit: Path, lease: Path) -> Server:
            server = Server(folder, {**common, "ASCEND_HOME_PATH": str(toolkit), "PTH2OM_LEASE_DIR": str(lease)})
            ends.callback(server.process.terminate)
            return server

        if "child" in chosen:
            middle = compiled(here, folder / "middle", 150_000)
            print("child", json.dumps(child_overhead(middle.path, 150_000, folder)), flush=True)
        small = compiled(here, folder / "small", 37_500)
        if "crash" in chosen:
            print("crash", json.dumps(crash_to_verdict(here, small, board)), flush=True)
            print("hang", json.dumps(hang_to_verdict(small, board)), flush=True)
            close_all()
        if "ssh" in chosen:
            big = compiled(here, folder / "big", 1_250_000)
            server = served(board.toolkit, folder)
            there = CannToolchain(Target.of(SOC, "8.0.0"), Access((server.url,), "board"), LIMITS)
            for milliseconds in (0.0, 1.0, 2.0, 5.0):
                # A device computes while the processor rests, so the double waits instead of computing.
                board.machine(inference_ms=milliseconds, computes=False)
                for om, floats, runs in ((small, 37_500, 600), (big, 1_250_000, 40)):
                    found = ssh_rate(there, om, server, floats, runs)
                    print("ssh", json.dumps({"device_ms": milliseconds, **found}), flush=True)
            machine(server.url).close()
        if "boards" in chosen:
            servers = []
            for number in range(3):
                slow = install(folder / f"home-{number}", inference_ms=50.0)
                lease = folder / f"lease-{number}"
                lease.mkdir()
                servers.append(served(slow.toolkit, lease))
            urls = [each.url for each in servers]
            print("boards", json.dumps(scheduling(folder, urls, models=6, images=IMAGES)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or ["child", "crash", "ssh", "boards"])
