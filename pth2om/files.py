"""Files that appear whole or not at all: the one atomic writer. Whether names that come from files name anything."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path


def is_file(path: Path) -> bool:
    """Whether this is a file; a name that no file system takes (too long, with a NUL) is none (``Path`` raises)."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for names that no system takes


def is_folder(path: Path) -> bool:
    """Whether this is a folder; as `is_file` for names that no file system takes."""
    return os.path.isdir(path)  # noqa: PTH112 - as above


def is_there(path: Path) -> bool:
    """Whether there is a file or folder; as `is_file` for names that no file system takes."""
    return os.path.exists(path)  # noqa: PTH110 - as above


def from_here(path: Path) -> Path:
    """As a user would type it: relative to the working directory where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A file opened for reading, links followed; what has no end or no size is refused, and nothing is waited for.

    The size of a pipe or a device is reported as 0, so that no bound on it holds.

    Raises:
        OSError: there is none, or it is a folder, a pipe or a device.
    """
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, number)
        mode = os.fstat(number).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        stack.pop_all()
    with os.fdopen(number, "rb") as file:
        yield file


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A file or folder written beside ``path`` and renamed to it when the block ends well.

    A reader sees the old content or the new; an error or a kill leaves the old.

    Args:
        path: what is to be replaced; it lies in a folder that exists. A folder is not replaced, only made.
        durable: whether the bytes are on the disk before the name appears, so that a power failure cannot leave a
            half-written file under it.

    Yields:
        The scratch path: nothing lies there yet. It has the suffix of ``path``, by which some writers choose a format.

    Raises:
        OSError: the folder cannot be written, or a device or a pipe has the name, which would be one no more.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
    # A name of its own length: that of `path` may leave no room for more.
    scratch = path.with_name(f".{uuid.uuid4().hex[:16]}{path.suffix[:16]}")
    try:
        yield scratch
        if durable and scratch.is_file():
            with scratch.open("rb+") as file:
                os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        if scratch.is_dir() and not scratch.is_symlink():
            shutil.rmtree(scratch, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write ``data`` to ``path``, completely or not at all; see `replacing`."""
    with replacing(path, durable=durable) as scratch:
        scratch.write_bytes(data)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write ``text`` to ``path`` as UTF-8 with line feeds, completely or not at all; see `replacing`."""
    write_bytes(path, text.encode("utf-8"), durable=durable)


State = tuple[int, int, int, int, int]
"""What a change of a file cannot keep: device, inode, size, and the times of its content and of its inode.

The time of modification can be set back; that of the last change of the inode cannot.
"""


def state_of(path: str | Path) -> State:
    """The `State` of a file, or of what a link leads to.

    Raises:
        OSError: it cannot be looked at.
    """
    status = os.stat(path)  # noqa: PTH116 - thousands of times in a run: a Path for each takes longer than the call
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
