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
_GLANCE = 0.1  # seconds: one who only looks, or is just taking it, has a lock without a text that long at most
_MOST = 4096
_TEXT = 200  # characters of a name that are told


def place(number: int) -> str:
    """The lock file of device ``number``."""
    return os.path.join(os.environ.get(FOLDER) or "/tmp", "pth2om-device-%d.lock" % number)  # noqa: S108 - a place to look at, not a file


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
            None when it is held now; else who holds it, see `told`.

        Raises:
            OSError: the file cannot be made.
        """
        if self._file is not None:
            return None
        number = self._open()
        begun = time.monotonic()
        end = begun + wait
        while True:
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                other = self._read(number)
                now = time.monotonic()
                if (now < end or (not other and now < begun + _GLANCE)) and not stop():
                    time.sleep(_EVERY)
                    continue
                os.close(number)
                return other
            break
        with contextlib.suppress(OSError):  # somebody else's file on a full disk is a lock all the same
            os.ftruncate(number, 0)
            row = {**holder, "since": time.time(), "up": running(), "pid": os.getpid()}
            os.pwrite(number, json.dumps(row).encode(), 0)
        self._file = number
        return None

    def look(self) -> Dict[str, Any]:
        """Who holds it now, without taking it; the text of a holder that died is removed.

        Returns:
            ``held``: True, False, or None where this user cannot know; with True also what `told` returns.
        """
        try:
            number = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return {"held": False}  # nobody took it since the machine started
        except OSError as error:
            return {"held": None, "reason": str(error.strerror or error)}
        try:
            try:  # shortly in the way of one who takes it, who therefore waits for a text
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return {"held": True, **self._read(number)}
            os.ftruncate(number, 0)
            return {"held": False}
        except OSError as error:
            return {"held": None, "reason": str(error.strerror or error)}
        finally:
            os.close(number)

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
        except (OSError, ValueError, RecursionError):  # whatever any user wrote there
            return {}
        return told(found, time.time(), running())


def running() -> float:
    """Seconds since this machine started, for all of its processes alike, whatever is done to its clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def told(found: Any, now: float, up: float) -> Dict[str, Any]:
    """What a lock file says, as far as it can be: any user of the machine may have written it.

    Args:
        found: JSON values.
        now: seconds since 1970 by this machine's clock, which may be wrong: so a holder's time is told as a duration.
        up: seconds since this machine started: a clock that is set meanwhile changes nothing.

    Returns:
        ``who`` and ``host``, texts; ``seconds`` since it was taken, not where it is unknown; ``pid`` of the agent.
    """
    if not isinstance(found, dict):
        return {}
    row: Dict[str, Any] = {name: str(found[name])[:_TEXT] for name in ("who", "host") if name in found}
    given = {name: found.get(name) for name in ("pid", "since", "up")}
    numbers = {
        name: value
        for name, value in given.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12
    }
    if "pid" in numbers:
        row["pid"] = int(numbers["pid"])
    for name, current in (("since", now), ("up", up)):  # the second is the better one
        if name in numbers and 0 <= numbers[name] <= current:
            row["seconds"] = round(current - numbers[name], 3)
    return row
