"""A limit on the memory of one process tree, kept by the kernel: it ends the tree and nothing else of the machine."""

from __future__ import annotations

import contextlib
import os
from typing import Optional

ROOT = "/sys/fs/cgroup"
_FORMS = {
    True: ("", "memory.max", "memory.swap.max"),
    False: ("memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
}
"""Folder below the root, limit, and limit with swap (version 1) or of swap alone, by whether it is version 2."""


def confine(size: int, root: str = ROOT) -> Optional[str]:
    """A new cgroup, of version 2 or 1, with a limit.

    Args:
        size: bytes that its processes may use, without swap.
        root: of the cgroups.

    Returns:
        Its folder, for `free`; a process joins it by writing 0 to ``cgroup.procs``. None where none can be made: by a
        user other than root, or where the machine hands out no memory controller.
    """
    unified = os.path.exists(os.path.join(root, "cgroup.controllers"))
    place, limit, swap = _FORMS[unified]
    path = os.path.join(root, place, "pth2om-%d" % os.getpid())
    try:
        os.mkdir(path)
        _write(path, limit, size)
    except OSError:
        free(path)
        return None
    with contextlib.suppress(OSError):  # a kernel without accounts of swap
        _write(path, swap, size if not unified else 0)
    return path


def free(path: str) -> None:
    """Remove a cgroup whose processes are gone."""
    with contextlib.suppress(OSError):
        os.rmdir(path)


def _write(path: str, name: str, value: int) -> None:
    with open(os.path.join(path, name), "w") as file:
        file.write("%d" % value)
