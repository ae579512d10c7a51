"""The lease of a device: one device job at a time on a machine, whoever asks for it.

It is a lock on a file, which the kernel gives back when its holder dies; the file says who holds it and since when.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from typing import Any, Callable, Dict, Optional

FOLDER = "PTH2OM_LEASE_DIR"
"""Another folder for the lock files; all users of a machine need the same."""

_EVERY = 0.02
_MOST = 4096


def place(number: int) -> str:
    """The lock file of device ``number``."""
    return os.path.join(os.environ.get(FOLDER) or "/tmp", "pth2om-device-%d.lock" % number)  # noqa: S108


class Lease:
    """The lock of one device.

    Args:
        number: of the device.
    """

    def __init__(self, number: int = 0) -> None:
        self._path = place(number)
        self._file: Optional[int] = None

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        return self._file is not None

    def take(
        self, holder: Dict[str, Any], wait: float = 0.0, stop: Callable[[], bool] = lambda: False
    ) -> Optional[Dict[str, Any]]:
        """Take it.

        Args:
            holder: who, for others to read.
            wait: seconds to wait while somebody else holds it.
            stop: whether nobody waits any more.

        Returns:
            None when it is held now; else who holds it (empty where that cannot be read).

        Raises:
            OSError: the file cannot be made.
        """
        if self._file is not None:
            return None
        number = self._open()
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() < end and not stop():
                    time.sleep(_EVERY)
                    continue
                other = self._read(number)
                os.close(number)
                return other
            break
        with contextlib.suppress(OSError):  # somebody else's file on a full disk is a lock all the same
            os.ftruncate(number, 0)
            os.pwrite(number, json.dumps({**holder, "since": time.time(), "pid": os.getpid()}).encode(), 0)
        self._file = number
        return None

    def give_back(self) -> None:
        """Release it."""
        number, self._file = self._file, None
        if number is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(number, 0)
            os.close(number)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self._path, flags)  # without O_CREAT: in a sticky folder that is refused for another's file
        except FileNotFoundError:
            number = os.open(self._path, flags | os.O_CREAT, 0o666)
            with contextlib.suppress(OSError):
                os.fchmod(number, 0o666)  # whatever the umask says: other users lock it too
            return number

    @staticmethod
    def _read(number: int) -> Dict[str, Any]:
        try:
            found = json.loads(os.pread(number, _MOST, 0).decode("utf-8", "replace"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
