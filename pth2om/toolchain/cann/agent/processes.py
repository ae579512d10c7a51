"""Processes that carry a mark in their environment, wherever they moved: to another session, or to another parent."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from typing import Dict, List, Tuple

AGENT = "PTH2OM_AGENT"
"""The mark of whatever an agent starts."""


def marked(name: str, value: str) -> List[Tuple[int, str]]:
    """Number and name of each living process of this user whose environment has ``name=value``; never this one."""
    wanted = ("%s=%s" % (name, value)).encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open("/proc/%s/environ" % entry, "rb") as file:
                if wanted not in file.read().split(b"\0"):
                    continue
            with open("/proc/%s/comm" % entry, "rb") as file:
                found.append((int(entry), file.read().decode("utf-8", "replace").strip()))
        except OSError:  # it ended, or is another user's
            continue
    return found


def remaining(name: str, value: str, seconds: float) -> List[Tuple[int, str]]:
    """Those that are still there when processes which were just killed have had the time to go."""
    deadline = time.monotonic() + seconds
    while True:
        found = marked(name, value)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def ran(line: List[str], environment: Dict[str, str], limit: float, most: int) -> Tuple[int, bytes]:
    """Run a program, without input and within a limit, and end whatever it started.

    Args:
        line: the program and its arguments.
        environment: for it.
        limit: seconds.
        most: bytes of its output that are read; one that prints more is ended.

    Returns:
        Its status, and what it printed on stdout and stderr.

    Raises:
        subprocess.TimeoutExpired: it, or a child of it that holds its output, did not end in time.
        OSError: it cannot be started.
    """
    end = time.monotonic() + limit
    with subprocess.Popen(
        line,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        output = process.stdout.fileno()
        read = b""
        try:
            while len(read) < most:
                left = end - time.monotonic()
                if left <= 0 or not select.select([output], [], [], left)[0]:
                    raise subprocess.TimeoutExpired(line, limit)
                part = os.read(output, min(65536, most - len(read)))
                if not part:
                    return process.wait(max(0.1, end - time.monotonic())), read
                read += part
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, read
