"""The machine of a run: what is needed to repeat the run, an anonymous name of the machine, and its memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from pth2om.store import version_of

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of <malloc.h>

THREADS = "OMP_NUM_THREADS"
"""The variable that limits the threads of one process; PyTorch reads it itself."""


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int | None:
    """The threads that one computation may use, by ``OMP_NUM_THREADS``; None where it sets none."""
    first = os.environ.get(THREADS, "").partition(",")[0].strip()
    return int(first) if first.isascii() and first.isdigit() and len(first) < 6 and int(first) > 0 else None


def data_roots() -> list[Path]:
    """The folders in ``PTH2OM_DATA``, searched for weights and datasets; several are separated as in ``PATH``."""
    return [Path(root) for root in os.environ.get("PTH2OM_DATA", "").split(os.pathsep) if root]


def host_fingerprint() -> str:
    """12 hex digits that distinguish machines, from processor, core count and system; no names or addresses."""
    text = "|".join([platform.machine(), _processor(), str(os.cpu_count()), platform.system()])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def environment() -> dict[str, Any]:
    """What is needed to repeat a run: versions, processor, cores, memory, operating system."""
    import sys

    packages = ("torch", "onnx", "onnxruntime", "onnxslim", "numpy", "pytest", "faster-coco-eval", "pillow")
    versions: dict[str, str] = {}
    for name in packages:
        try:
            versions[name] = version_of(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "pth2om": version_of("pth2om"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "byteorder": sys.byteorder,
        "host": host_fingerprint(),
        "packages": versions,
    }


def return_memory() -> None:
    """Return freed memory to the system if the C library can: glibc keeps free memory below a block in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def keep_memory() -> None:
    """Keep freed memory for what is allocated next, up to 256 MB, if the C library can be told.

    glibc hands arrays of megabytes back as soon as they are freed, and gets the next ones page by page: that took 5 of
    114 s of an acceptance. See ``mallopt(3)``; both numbers, since either switches off that it moves them by itself.
    """
    tell = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if tell is not None:
        tell(_TRIM_THRESHOLD, 256 << 20)
        tell(_MMAP_THRESHOLD, 32 << 20)


def started_alike(module: str, *, errors: bool = False) -> subprocess.Popen[bytes]:
    """Start ``python -m module`` in a session of its own, with what this process can import; see `end_group`.

    Args:
        module: its dotted name.
        errors: whether its stderr is a pipe, which then has to be read; else it is dropped, as its stdout is.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if errors else subprocess.DEVNULL,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in sys.path if path)),
        start_new_session=True,
    )


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a child that leads a session of its own, its children with it, and take its exit status."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()


@functools.cache
def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - no Path for /proc
            for line in file:
                if line.lower().startswith(("model name", "hardware", "cpu model")):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None  # Windows
