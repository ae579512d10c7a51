"""The way to a board, measured with doubles on this machine: ``python benchmarks/boards.py``.

The doubles compute nothing worth timing; what is measured is ours: the child process, the link, the scheduling.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import multiprocessing
import os
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

from cann_double.install import install  # noqa: E402

from pth2om.ascend.atc_options import AtcOptions  # noqa: E402
from pth2om.ascend.target import Target  # noqa: E402
from pth2om.errors import CrashError  # noqa: E402
from pth2om.toolchain import Access  # noqa: E402
from pth2om.toolchain.cann import CannToolchain, close_all, machine  # noqa: E402
from pth2om.toolchain.cann.agent.child import Child  # noqa: E402
from pth2om.toolchain.cann.agent.shared import Mapped  # noqa: E402
from pth2om.toolchain.cann.board import Limits  # noqa: E402
from pth2om.toolchain.cann.shipping import agent  # noqa: E402

SOC = "Ascend310B4"
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


def child_overhead(om: Path, floats: int, folder: Path, runs: int = 300) -> dict[str, float]:
    """What the worker costs beside what it does: from the command to its answer, less its own copies and execution."""
    file = folder / "agent.pyz"
    file.write_bytes(agent().data)
    from pth2om.toolchain.cann.agent.environment import captured

    child = Child([sys.executable, str(file), "worker"], captured()[0], str(folder))
    child.ask({"kind": "load", "path": str(om), "device": 0}, 60)
    given, out = Mapped(str(folder / "in")), Mapped(str(folder / "out"))
    given.view(4 * floats)[:] = np.ones(floats, np.float32).view(np.uint8).data
    command = {"kind": "run", "in": given.path, "out": out.path, "size": 4 * floats}
    command["tensors"] = [["x", "float32", [1, floats], 0]]
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


def ssh_rate(toolchain: CannToolchain, om, server: Server, floats: int, runs: int) -> dict[str, float]:
    """Inferences a second through the link, against what the board computes alone and what a bare ssh moves."""
    feeds = {"x": np.ones((1, floats), np.float32)}
    with toolchain.open(om, "device") as session:
        for _ in session.stream(feeds for _ in range(3)):
            pass
        session.device_times()
        begun = time.perf_counter()
        for _ in session.stream(feeds for _ in range(runs)):
            pass
        rate = runs / (time.perf_counter() - begun)
        worker = statistics.median(session.device_times()) / 1e9
    size = 4 * floats
    words = ["ssh", "-F", str(server.folder / "config"), "-p", str(server.port), "127.0.0.1", "cat > /dev/null"]
    blob = b"\0" * size
    begun = time.perf_counter()
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        for _ in range(runs):
            process.stdin.write(blob)
        process.stdin.close()
        process.wait()
    bare = runs / (time.perf_counter() - begun)
    limit = min(bare, 1 / worker)
    return {"bytes": size, "per_s": rate, "bare_ssh_per_s": bare, "execute_per_s": 1 / worker, "share": rate / limit}


def job(urls: list[str], om_folder: str, count: int) -> None:
    """One worker's device job."""
    toolchain = CannToolchain(Target.of(SOC, "8.0.0"), Access(tuple(urls), "board"), LIMITS)
    om = toolchain.compiled(Path(om_folder))
    feeds = {"x": np.ones((1, int(om.details["inputs"][0]["shape"][1])), np.float32)}
    with toolchain.open(om, "device") as session:
        for _ in range(count):
            session.run(feeds)
    close_all()


def scheduling(urls: list[str], om, jobs: int = 9, count: int = 60) -> dict[str, float]:
    """Nine jobs of inferences that take 50 ms each: one worker on one board, and three workers on three."""
    found = {}
    for name, workers, boards in (("serial_s", 1, urls[:1]), ("three_s", 3, urls)):
        begun = time.perf_counter()
        with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=None) as pool:
            pool.starmap(job, [(boards, str(om.path.parent), count)] * jobs, chunksize=1)
        found[name] = time.perf_counter() - begun
    return {**found, "share": found["three_s"] / found["serial_s"]}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        board = install(folder / "home")
        common = {"PTH2OM_BOARD_PYTHON": sys.executable, "PTH2OM_BOARD_CACHE": str(folder / "cache")}
        os.environ.update({**common, "ASCEND_HOME_PATH": str(board.toolkit), "PTH2OM_LEASE_DIR": str(folder)})
        here = CannToolchain(Target.of(SOC, "8.0.0"), limits=LIMITS)
        models = {floats: compiled(here, folder / str(floats), floats) for floats in (150_000, 37_500, 1_250_000)}
        small, big = models[37_500], models[1_250_000]
        print("child", json.dumps(child_overhead(models[150_000].path, 150_000, folder)), flush=True)
        print("crash", json.dumps(crash_to_verdict(here, small, board)), flush=True)
        close_all()
        keys(folder)
        server = Server(folder, {**common, "ASCEND_HOME_PATH": str(board.toolkit), "PTH2OM_LEASE_DIR": str(folder)})
        there = CannToolchain(Target.of(SOC, "8.0.0"), Access((server.url,), "board"), LIMITS)
        print("ssh", json.dumps(ssh_rate(there, small, server, 37_500, 400)), flush=True)
        print("ssh", json.dumps(ssh_rate(there, big, server, 1_250_000, 60)), flush=True)
        machine(server.url).close()
        servers = [server]
        for number in range(3):
            slow = install(folder / f"home-{number}", inference_ms=50.0)
            lease = folder / f"lease-{number}"
            lease.mkdir()
            own = {**common, "ASCEND_HOME_PATH": str(slow.toolkit), "PTH2OM_LEASE_DIR": str(lease)}
            servers.append(Server(folder, own))
        print("boards", json.dumps(scheduling([each.url for each in servers[1:]], small)), flush=True)
        close_all()
        for each in servers:
            each.process.terminate()


if __name__ == "__main__":
    main()
