"""Processes that carry a mark in their environment, wherever they moved: to another session, or to another parent."""

from __future__ import annotations

import os
import time
from typing import List, Tuple

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
