"""What an acceptance run costs beside the inferences that it needs, and what a second worker saves.

A first run times each inference of PyTorch and ONNX Runtime, by where in pth2om it was wanted: those of sessions, and
those of the net itself (seeding, the probes of an export; not the exporter's own tracing). In that run each inference
is alone: in the caller's thread, with all cores and the threads that ONNX Runtime and PyTorch choose themselves. Their
sum is what the inferences need; a second run, with nothing timed, is held against it. A fresh store for each run;
complete processes on this machine, modules compiled before.

    python benchmarks/night.py [--models yolov6] [--soc Ascend310B1] [--workers 2]
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
_TALLY = "PTH2OM_BENCHMARK_TALLY"
_INSIDE: list[str] = []
_PLACES = ("compare/", "accuracy/", "quantize/", "graph/", "export", "toolchain/", "checkpoint/", "questions/")


def _place() -> str:
    """The room and module that wanted an inference."""
    frame = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if "/pth2om/" in file:
            inside = file.rsplit("/pth2om/", 1)[1]
            if inside.startswith(_PLACES):
                return f"{inside.removesuffix('.py')}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


def pytest_configure() -> None:
    """As a pytest plugin: every inference alone, and timed."""
    from pth2om import session as sessions
    from pth2om.onnxfile import runtime
    from pth2om.sessions import onnx as onnx_sessions
    from pth2om.sessions.torch import TorchSession
    from pth2om.toolchain.emulator import session as emulated

    tally: dict[str, list[float]] = collections.defaultdict(lambda: [0, 0.0])

    def timed(kind: str, function: Any) -> Any:
        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> Any:
            _INSIDE.append(kind)
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                _INSIDE.pop()
                entry = tally[f"{kind} {_place()}"]
                entry[0] += 1
                entry[1] += time.perf_counter() - started

        return run

    sessions.ahead = lambda run, each, _count=1: map(run, each)
    onnx_sessions.ways_of = emulated.ways_of = lambda _inputs, _threads: 1
    opened = runtime.open_runtime
    chosen = functools.wraps(opened)(lambda *arguments, **options: opened(*arguments, **{**options, "spinning": True}))
    for module in (runtime, onnx_sessions, emulated):
        module.open_runtime = chosen
    counted = timed("onnxruntime", runtime.run_runtime)
    for module in (runtime, onnx_sessions, emulated):
        module.run_runtime = counted
    TorchSession.run = timed("torch", TorchSession.run)
    _time_nets(timed)

    def write() -> None:
        folder = Path(os.environ[_TALLY])
        (folder / f"{os.getpid()}.json").write_text(json.dumps(tally))

    import atexit

    atexit.register(write)


def _time_nets(timed: Any) -> None:
    """Time what runs a net outside of sessions, once torch is there."""
    import importlib.abc

    class Watch(importlib.abc.MetaPathFinder):
        def find_spec(self, *_: Any) -> None:
            module = sys.modules.get("torch.nn.modules.module")
            if module is None or not hasattr(module, "Module"):
                return
            sys.meta_path.remove(self)
            plain = module.Module.__call__
            counted = timed("net", plain)

            def outermost(net: Any, *arguments: Any, **options: Any) -> Any:
                if type(net).__name__ == "ONNXTracedModule":
                    _INSIDE.append("trace")
                    try:
                        return plain(net, *arguments, **options)
                    finally:
                        _INSIDE.pop()
                return (plain if _INSIDE else counted)(net, *arguments, **options)

            module.Module.__call__ = outermost

    sys.meta_path.insert(0, Watch())


def once(
    models: str, soc: str, workers: int = 0, *, alone: bool = False
) -> tuple[float, float, dict[str, tuple[int, float]]]:
    """Wall seconds, CPU seconds, and inferences by place (where each was ``alone``) of one run with a fresh store."""
    with tempfile.TemporaryDirectory() as temporary:
        environment = {**os.environ, "PTH2OM_STORE": f"{temporary}/store", "PTH2OM_LANG": "en", _TALLY: temporary}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled modules, as in normal use
        environment["PYTHONPATH"] = f"{REPOSITORY}{os.pathsep}{environment.get('PYTHONPATH', '')}"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            *(["-p", "benchmarks.night"] if alone else []),
            "-k",
            models,
        ]
        command += [
            "--soc",
            soc,
            "--om-reports-dir",
            f"{temporary}/reports",
            *(["-n", str(workers)] if workers else []),
        ]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        wall = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
        print(done.stdout.strip().splitlines()[-1])
        total: dict[str, tuple[int, float]] = {}
        for file in Path(temporary).glob("*.json"):
            for place, (count, seconds) in json.loads(file.read_text()).items():
                known = total.get(place, (0, 0.0))
                total[place] = (known[0] + count, known[1] + seconds)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return wall, cpu, total


def main() -> None:
    """Print one process against its inferences, and the workers against one process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default="yolov6")
    parser.add_argument("--soc", default="Ascend310B1")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    _, _, total = once(asked.models, asked.soc, alone=True)
    wall, cpu, _ = once(asked.models, asked.soc)
    bare = sum(seconds for _, seconds in total.values())
    for place, (count, seconds) in sorted(total.items(), key=lambda each: -each[1][1])[:25]:
        print(f"{seconds:8.2f} s {count:6} x  {place}")
    print(f"one process: {wall:.1f} s, {cpu:.1f} CPU seconds; inferences {bare:.1f} s; ratio {wall / bare:.2f}")
    if asked.workers:
        wall_n, cpu_n, _ = once(asked.models, asked.soc, asked.workers)
        print(
            f"{asked.workers} workers: {wall_n:.1f} s ({wall_n / wall:.2f} of one process), "
            f"{cpu_n:.1f} CPU seconds ({cpu_n / cpu:.2f})"
        )


if __name__ == "__main__":
    main()
