"""Mapped files through which the supervisor and its worker hand tensors to each other.

Python 3.7 has no ``multiprocessing.shared_memory``. The files lie in ``/dev/shm``, or where that is missing or full, in
the folder for temporary files.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import re
import shutil
import tempfile
from typing import Optional

_GRAIN = 1 << 20
_OURS = re.compile(r"pth2om-(?:board|shm)-")
_ALIVE = "alive"
_TAKEN = re.compile(r"[A-Za-z0-9./_\-\u4e00-\u9fa5]*\Z")
_OTHERS = ("/tmp", "/var/tmp")  # noqa: S108 - where a folder of a name of its own is made
_PLACES = ("/dev/shm",)  # noqa: S108 - the name of memory


class RoomError(OSError):
    """There is no room for tensors: the memory, or the folder for temporary files, is full."""


class Mapped:
    """A file that both sides map, and that grows.

    Args:
        path: of the file; it is made when it is first needed.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._map: Optional[mmap.mmap] = None

    def view(self, size: int) -> memoryview:
        """At least ``size`` bytes of the file, for reading and writing.

        Raises:
            RoomError: there is no room.
        """
        if self._map is None or len(self._map) < size:
            self.close()
            try:
                self._map = self._grown(size)
            except OSError as error:
                raise RoomError(error.errno, "%s: %s" % (error.strerror, self.path)) from None
        return memoryview(self._map)[:size]

    def _grown(self, size: int) -> mmap.mmap:
        whole = max(_GRAIN, -(-size // _GRAIN) * _GRAIN)
        number = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(number).st_size < whole:
                os.posix_fallocate(number, 0, whole)  # a full file system says so now, not by SIGBUS
            return mmap.mmap(number, os.fstat(number).st_size)
        finally:
            os.close(number)

    def close(self) -> None:
        """Unmap it; views must be gone."""
        if self._map is not None:
            with contextlib.suppress(BufferError):  # a view is still held: the mapping goes with it
                self._map.close()
            self._map = None


def workplace() -> Optional[str]:
    """The folder for jobs: that for temporary files, unless atc takes no path in it; None where there is no other.

    atc resolves links and then takes letters, digits, ``-``, ``.``, ``_`` and Chinese characters: no blank, no umlaut.
    """
    for place in (tempfile.gettempdir(), *_OTHERS):
        if _TAKEN.match(os.path.realpath(place)) and os.path.isdir(place) and os.access(place, os.W_OK | os.X_OK):
            return place
    return None


def kept(kind: str, place: Optional[str] = None) -> str:
    """A new folder of this process; a lock in it, which the kernel gives back, tells `sweep` that it is in use."""
    path = tempfile.mkdtemp(prefix="pth2om-%s-" % kind, dir=place)
    number = os.open(os.path.join(path, _ALIVE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return path


def sweep() -> None:
    """Remove the folders of agents that were ended by force: nobody holds their locks."""
    for place in {*_PLACES, tempfile.gettempdir(), workplace() or ""}:
        with contextlib.suppress(OSError):
            for name in os.listdir(place):
                if _OURS.match(name):
                    _sweep(os.path.join(place, name))


def _sweep(path: str) -> None:
    try:
        number = os.open(os.path.join(path, _ALIVE), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # another user's, or one that is just being made
        return
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return
    finally:
        os.close(number)


def folder(size: int) -> str:
    """A new folder for mapped files, where ``size`` bytes have room."""
    for place in _PLACES:
        try:
            free = os.statvfs(place)
            if free.f_bavail * free.f_frsize > 2 * size and os.access(place, os.W_OK):
                return kept("shm", place)
        except OSError:
            continue
    return kept("shm")
