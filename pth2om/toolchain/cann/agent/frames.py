"""Frames: ``P2OM``, the length of a JSON header, the length of a payload, the header, the payload.

Both ends read and write them with this module; whoever sends the first frame says its `PROTOCOL` there.
"""

from __future__ import annotations

import io
import json
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

Header = Dict[str, Any]


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
        self.read_fd = read

    def send(self, header: Header, payload: Sequence[Any] = ()) -> None:
        """Write one frame.

        Args:
            header: JSON values.
            payload: bytes-like objects, written one after the other.

        Raises:
            OSError: the other side is gone.
        """
        views = [memoryview(part).cast("B") for part in payload if len(memoryview(part).cast("B"))]
        text = json.dumps(header, ensure_ascii=True, separators=(",", ":")).encode("ascii")
        self._write(memoryview(_HEAD.pack(MAGIC, len(text), sum(len(view) for view in views)) + text))
        for view in views:
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
        except ValueError as error:
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

    def fill(self, view: memoryview, deadline: Optional[float] = None, *, first: bool = False) -> None:
        """Read exactly as many bytes as ``view`` has.

        Raises:
            FrameError: they do not come.
        """
        done = 0
        while done < len(view):
            if (
                deadline is not None
                and not select.select([self.read_fd], [], [], max(0.0, deadline - time.monotonic()))[0]
            ):
                raise FrameError("late")
            try:
                count = self._in.readinto(view[done:])
            except OSError as error:
                raise FrameError("cut", str(error)) from None
            if not count:
                head = bytes(view[:done])
                if first and head and not MAGIC.startswith(head[:4]):
                    raise FrameError("garbage", _text(head))
                raise FrameError("ended" if first and not done else "cut")
            done += count

    def _write(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            done += self._out.write(view[done:]) or 0

    def _garbage(self, head: bytes) -> str:
        """The first line of what is no frame; a little more of it is read if it is there at once."""
        more = b""
        try:
            if select.select([self.read_fd], [], [], 0.2)[0]:
                more = self._in.read(_SHOWN) or b""
        except (OSError, ValueError):
            pass
        return _text(head + more)


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
