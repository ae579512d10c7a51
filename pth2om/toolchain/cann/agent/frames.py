"""Frames: ``P2OM``, the length of a JSON header, the length of a payload, the header, the payload.

Both ends read and write them with this module; whoever sends the first frame says its `PROTOCOL` there.
"""

from __future__ import annotations

import io
import json
import os
import select
import struct
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

PROTOCOL = 1
MAGIC = b"P2OM"
_HEAD = struct.Struct("<4sIQ")
MOST_HEADER = 1 << 20
MOST_PAYLOAD = 4 << 30
_SHOWN = 200
_AHEAD = 4096
_SKIPPED = 1 << 16
_PIPE_BYTES = 1 << 20
_SET_PIPE_SIZE = 1031  # fcntl.F_SETPIPE_SZ, which Python names from 3.10 on
_GATHERS = hasattr(os, "writev")  # not on Windows
_MOST_PARTS = 64

Header = Dict[str, Any]


MOST_AHEAD = 8
_AHEAD_BYTES = 4 << 20


def ahead(size: int) -> int:
    """How many runs may be under way at a time, for inputs of that many bytes: 3 to `MOST_AHEAD`.

    Both sides use it: the agent has room for so many, so that neither waits for the other with full pipes.
    """
    return max(3, min(MOST_AHEAD, _AHEAD_BYTES // max(1, size)))


class FrameError(Exception):
    """What came is no frame.

    Attributes:
        kind: ``ended`` (the other side closed before a frame), ``cut`` (in the middle of one), ``garbage`` (something
            else was printed), ``length`` (longer than a frame may be), ``header`` (not JSON), ``late`` (a time limit).
        text: what was there instead, for people.
    """

    def __init__(self, kind: str, text: str = "") -> None:
        super().__init__("%s: %s" % (kind, text))
        self.kind = kind
        self.text = text


class Pipe:
    """Two file descriptors that frames go through.

    Args:
        read: to read from.
        write: to write to.
    """

    def __init__(self, read: int, write: int) -> None:
        self._in = io.FileIO(read, "rb", closefd=False)
        self._out = io.FileIO(write, "wb", closefd=False)
        self._ahead = bytearray(_AHEAD)
        self._begin = self._end = 0  # what was read ahead, of `_ahead`
        self.read_fd = read
        self.write_fd = write
        for number in (read, write):
            _widen(number)

    def send(self, header: Header, payload: Sequence[Any] = ()) -> None:
        """Write one frame.

        Args:
            header: JSON values.
            payload: bytes-like objects, written one after the other.

        Raises:
            OSError: the other side is gone.
        """
        views = [view for view in (memoryview(part).cast("B") for part in payload) if len(view)]
        text = json.dumps(header, ensure_ascii=True, separators=(",", ":")).encode("ascii")
        head = _HEAD.pack(MAGIC, len(text), sum(len(view) for view in views)) + text
        left = [memoryview(head), *views]
        if _GATHERS and views:
            done = os.writev(self.write_fd, left[:_MOST_PARTS])  # one call for what is small
            while left and done >= len(left[0]):
                done -= len(left.pop(0))
            if left:
                left[0] = left[0][done:]
        for view in left:
            self._write(view)

    def receive(self, deadline: Optional[float] = None) -> Tuple[Header, int]:
        """Read a frame up to its payload.

        Args:
            deadline: of `time.monotonic`; None waits for ever.

        Returns:
            The header, and how many bytes of payload follow; the caller reads them with `fill` or `payload`.

        Raises:
            FrameError: see there.
        """
        head = bytearray(_HEAD.size)
        self.fill(memoryview(head), deadline, first=True)
        magic, header_length, payload_length = _HEAD.unpack(head)
        if magic != MAGIC:
            raise FrameError("garbage", self._garbage(bytes(head)))
        if header_length > MOST_HEADER or payload_length > MOST_PAYLOAD:
            raise FrameError("length", "%d + %d" % (header_length, payload_length))
        text = bytearray(header_length)
        self.fill(memoryview(text), deadline)
        try:
            header = json.loads(text.decode("ascii"))
        except (ValueError, RecursionError) as error:
            raise FrameError("header", str(error)[:_SHOWN]) from None
        if not isinstance(header, dict):
            raise FrameError("header", type(header).__name__)
        return header, payload_length

    def payload(self, length: int, deadline: Optional[float] = None) -> bytearray:
        """The payload, as a buffer of its own.

        Raises:
            FrameError: it does not come whole.
        """
        data = bytearray(length)
        self.fill(memoryview(data), deadline)
        return data

    def skip(self, length: int) -> None:
        """Read a payload that nobody wants.

        Raises:
            FrameError: it does not come whole.
        """
        part = memoryview(bytearray(min(length, _SKIPPED)))
        while length:
            self.fill(part[: min(length, _SKIPPED)])
            length -= min(length, _SKIPPED)

    def fill(self, view: memoryview, deadline: Optional[float] = None, *, first: bool = False) -> None:
        """Read exactly as many bytes as ``view`` has.

        Raises:
            FrameError: they do not come.
        """
        done = self._taken(view)
        while done < len(view):
            if (
                deadline is not None
                and not select.select([self.read_fd], [], [], max(0.0, deadline - time.monotonic()))[0]
            ):
                raise FrameError("late")
            # What is short is read together with what follows it: a header needs no call of its own.
            ahead = len(view) - done < _AHEAD
            try:
                count = self._in.readinto(self._ahead if ahead else view[done:])
            except OSError as error:
                raise FrameError("cut", str(error)) from None
            if not count:
                head = bytes(view[:done])
                if first and head and not MAGIC.startswith(head[:4]):
                    raise FrameError("garbage", _text(head))
                raise FrameError("ended" if first and not done else "cut")
            if ahead:
                self._begin, self._end = 0, count
                count = self._taken(view[done:])
            done += count

    def _taken(self, view: memoryview) -> int:
        """Move what was read ahead into ``view``, as far as it goes; returns how many bytes."""
        count = min(len(view), self._end - self._begin)
        if count:
            view[:count] = memoryview(self._ahead)[self._begin : self._begin + count]
            self._begin += count
        return count

    def _write(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            done += self._out.write(view[done:]) or 0

    def _garbage(self, head: bytes) -> str:
        """The first line of what is no frame; a little more of it is read if it is there at once."""
        more = bytes(self._ahead[self._begin : self._end])
        self._begin = self._end
        try:
            if select.select([self.read_fd], [], [], 0.2)[0]:
                more += self._in.read(_SHOWN) or b""
        except (OSError, ValueError):
            pass
        return _text(head + more)


def _widen(number: int) -> None:
    """A larger pipe where the system has them: fewer switches for each tensor."""
    try:
        import fcntl

        fcntl.fcntl(number, _SET_PIPE_SIZE, _PIPE_BYTES)
    except (ImportError, OSError):  # Windows; no pipe; the user's pipes are large enough together
        return


def _text(data: bytes) -> str:
    return data.split(b"\n")[0].decode("utf-8", "replace")[:_SHOWN]


def described(arrays: Sequence[Tuple[str, Any]]) -> List[Header]:
    """What a header says of NumPy arrays: name, dtype, shape, bytes, in the payload's order."""
    return [
        {"name": name, "dtype": array.dtype.name, "shape": list(array.shape), "bytes": int(array.nbytes)}
        for name, array in arrays
    ]


def checked(tensors: Any, length: int) -> List[Tuple[str, str, Tuple[int, ...], int]]:
    """What `described` wrote, checked against the payload's length.

    Returns:
        Name, dtype, shape and offset in the payload, of each tensor.

    Raises:
        FrameError: it contradicts itself, or the length.
    """
    found = []
    offset = 0
    try:
        for row in tensors:
            shape = tuple(int(size) for size in row["shape"])
            count = 1
            for size in shape:
                if size < 0:
                    raise FrameError("length", "shape %s" % (shape,))
                count *= size
            if count * _ITEM[row["dtype"]] != row["bytes"]:
                raise FrameError("length", "%s: %s bytes" % (row["name"], row["bytes"]))
            found.append((str(row["name"]), str(row["dtype"]), shape, offset))
            offset += int(row["bytes"])
    except (KeyError, TypeError, ValueError) as error:
        raise FrameError("header", "tensors: %r" % (error,)) from None
    if offset != length:
        raise FrameError("length", "%d of %d bytes" % (length, offset))
    return found


_ITEM = {
    "float32": 4, "float16": 2, "int8": 1, "int32": 4, "uint8": 1, "int16": 2, "uint16": 2, "uint32": 4, "int64": 8,
    "uint64": 8, "float64": 8, "bool": 1,
}  # fmt: skip
