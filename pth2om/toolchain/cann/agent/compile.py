"""``atc`` as a child: a session of its own, a time limit, a guard over the memory, settings for small boards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Mapping, Optional

from .child import how_ended
from .confining import confine, free
from .machine import memory
from .processes import remaining

EVERY = 0.2
REPORTED = 2.0
LEAST_FREE = 150 << 20
"""The compile is ended when less memory than this is available, or 3 % of the machine's, whichever is more."""

_PER_PROCESS = 2 << 30  # what one compile process of TBE may need
_MOST_PROCESSES = 8
_MARK = "PTH2OM_COMPILE"
_SOON = 1.0
OUT, STDOUT, STDERR = "out", "stdout.txt", "stderr.txt"


def settings(
    environment: Mapping[str, str], available: Optional[int] = None, cores: Optional[int] = None
) -> Dict[str, str]:
    """Variables that keep a compile within the free memory of a small machine.

    ``TE_PARALLEL_COMPILER`` (1 to 32, 8 by default) is how many kernels are compiled at a time; the documentation asks
    for at most 80 % of the cores. ``MAX_COMPILE_CORE_NUMBER`` are the threads of the graph compiler.

    Args:
        environment: what the user set there is left.
        available: bytes; None: now, of this machine.
        cores: None: of this machine.
    """
    room = memory()["MemAvailable"] if available is None else available
    count = cores or os.cpu_count() or 1
    most = max(1, min(_MOST_PROCESSES, int(count * 0.8), int(room // _PER_PROCESS)))
    chosen = {"TE_PARALLEL_COMPILER": str(most), "MAX_COMPILE_CORE_NUMBER": "1"}
    if most >= _MOST_PROCESSES:
        chosen = {}
    return {name: value for name, value in chosen.items() if name not in environment}


def run(
    command: List[str],
    environment: Mapping[str, str],
    folder: str,
    limit: float,
    report: Callable[[Dict[str, Any]], None],
    stop: Callable[[], bool],
    most: int = 0,
) -> Dict[str, Any]:
    """Run one compile to its end.

    Args:
        command: program and arguments.
        environment: for it.
        folder: its working directory, nobody else's; its output is written there to `STDOUT` and `STDERR`.
        limit: seconds.
        report: called every few seconds with ``seconds``, ``bytes`` (of all its processes) and ``available``.
        stop: whether nobody waits for it any more.
        most: bytes of memory beyond which the kernel is to end it; 0: no limit of its own.

    Returns:
        ``code``, ``signal``, ``seconds``, ``peak_bytes``, ``settings``, ``ended``: ``""``, or why it was ended:
        ``time``, ``memory``, ``gone``; ``left``: names of processes that its end left behind, and which were ended
        too; ``confined``: whether ``most`` could be kept.

    Raises:
        OSError: it cannot be started.
    """
    chosen = settings(environment)
    floor = max(LEAST_FREE, memory()["MemTotal"] * 3 // 100)
    group = confine(most) if most else None
    begun = time.monotonic()
    mark = "%d-%.6f" % (os.getpid(), begun)
    with open(os.path.join(folder, STDOUT), "wb") as out, open(os.path.join(folder, STDERR), "wb") as err:
        process = subprocess.Popen(
            _guarded(command, group or ""),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=folder,
            env={**environment, **chosen, _MARK: mark},
            start_new_session=True,
        )
    peak, told, ended = 0, begun, ""
    try:
        while True:
            code = _waited(process, EVERY)
            if code is not None:
                break
            used, now = used_by(process.pid), time.monotonic()
            peak = max(peak, used)
            available = memory()["MemAvailable"]
            if stop():
                ended = "gone"
            elif now - begun > limit:
                ended = "time"
            elif available and available < floor:
                ended = "memory"
            if ended:
                break
            if now - told >= REPORTED:
                told = now
                report({"seconds": round(now - begun, 1), "bytes": used, "available": available})
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind, too
        process.wait()
        left = remaining(_MARK, mark, _SOON)
        for number, _ in left:
            with contextlib.suppress(OSError):
                os.kill(number, signal.SIGKILL)
        if group is not None:
            free(group)
    how = how_ended(process.returncode)
    return {
        **how,
        "seconds": round(time.monotonic() - begun, 3),
        "peak_bytes": peak,
        "settings": chosen,
        "ended": ended,
        "left": [name for _, name in left],
        "confined": group is not None,
    }


def _guarded(command: List[str], group: str) -> List[str]:
    """The command behind a short start that ties it to this process's life, and puts it into a cgroup."""
    return [sys.executable, "-I", "-S", "-c", _GUARD, group, *command]


_GUARD = (
    "import ctypes,os,sys\n"
    "try: ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)\n"
    "except Exception: pass\n"
    "if sys.argv[1]: open(sys.argv[1] + '/cgroup.procs', 'w').write('0')\n"
    "os.execv(sys.argv[2], sys.argv[2:])"
)


def _waited(process: Any, seconds: float) -> Optional[int]:
    try:
        code: int = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    return code


def used_by(session: int) -> int:
    """Bytes that the processes of a session have in memory; shared pages by their share where the kernel tells."""
    total = 0
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % name, "rb") as file:
                words = file.read().rpartition(b")")[2].split()
            if int(words[3]) != session:
                continue
            total += _proportional(name) or int(words[21]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError, ValueError):
            continue
    return total


def _proportional(name: str) -> int:
    try:
        with open("/proc/%s/smaps_rollup" % name, "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) << 10
    except (OSError, ValueError):
        return 0
    return 0
