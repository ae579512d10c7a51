"""Bounded reading of a file through a small window, and the protobuf wire format on top of it.

No length in the file is trusted: every range is checked against the range that contains it before it is read, and the
size of one read is limited, so a damaged or hostile file leads to an error and does not fill the memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

from pth2om.errors import OmFileError

_WINDOW = 4096
_LEAP = 128
MOST_AT_ONCE = 64 * 2**20
"""Largest piece of a file that is ever held in memory at once, in bytes."""
DEEPEST = 48
"""Messages may be nested this deep; real models stay below ten."""

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


class Source:
    """Reads ranges of a file through a window of a few KiB, and counts what it fetches.

    Args:
        path: the file; `close` it, or use the source as a context manager.

    Attributes:
        size: of the file, in bytes.
        fetched: bytes read from the file so far.
        ahead: the least number of bytes per read; small where large parts are skipped.
        where: what errors name.
    """

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        try:
            self._file: BinaryIO = path.open("rb", buffering=0)
        except OSError as error:
            raise OmFileError("omfile.unreadable", where=self.where, reason=error.strerror or str(error)) from None
        self.size = self._file.seek(0, 2)
        self.fetched = 0
        self.ahead = _WINDOW
        self._start = 0
        self._window = b""

    def read(self, start: int, size: int) -> bytes:
        """``size`` bytes from ``start``.

        Raises:
            OmFileError: the range ends outside the file or is larger than `MOST_AT_ONCE`.
        """
        if start < 0 or size < 0 or start + size > self.size:
            raise OmFileError("omfile.truncated", where=self.where, at=start, size=size, length=self.size)
        if size > MOST_AT_ONCE:
            raise OmFileError("omfile.too-large-piece", where=self.where, at=start, size=size, most=MOST_AT_ONCE)
        skip = start - self._start
        if skip < 0 or skip + size > len(self._window):
            self._start, skip = start, 0
            self._window = self._fetch(start, min(max(size, self.ahead), self.size - start))
            if len(self._window) < size:  # the file shrank while it was read
                raise OmFileError("omfile.truncated", where=self.where, at=start, size=size, length=self.size)
        return self._window[skip : skip + size]

    def _fetch(self, start: int, size: int) -> bytes:
        try:
            self._file.seek(start)
            pieces = []
            while size:
                piece = self._file.read(size)
                if not piece:
                    break
                pieces.append(piece)
                size -= len(piece)
        except OSError as error:
            raise OmFileError("omfile.unreadable", where=self.where, reason=error.strerror or str(error)) from None
        data = b"".join(pieces)
        self.fetched += len(data)
        return data

    @contextmanager
    def leaping(self) -> Iterator[None]:
        """Within this context, read little at a time."""
        before, self.ahead = self.ahead, _LEAP
        try:
            yield
        finally:
            self.ahead = before

    def unpack(self, layout: str, start: int) -> tuple[int, ...]:
        """Little-endian integers of ``struct`` layout ``layout`` at ``start``."""
        return struct.unpack("<" + layout, self.read(start, struct.calcsize("<" + layout)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Part(Source):
    """A range of another source, read like a separate file: the OM inside a flow model's partition.

    Args:
        whole: the source that contains the range; closing the part leaves it open.
        start, end: the range.
        where: what errors name.
    """

    def __init__(self, whole: Source, start: int, end: int, where: str) -> None:
        self.where = where
        self.size = end - start
        self._whole = whole
        self._offset = start

    def read(self, start: int, size: int) -> bytes:
        """As `Source.read`, counted from the part's start."""
        if start < 0 or size < 0 or start + size > self.size:
            raise OmFileError("omfile.truncated", where=self.where, at=start, size=size, length=self.size)
        return self._whole.read(self._offset + start, size)

    @contextmanager
    def leaping(self) -> Iterator[None]:
        """As `Source.leaping`."""
        with self._whole.leaping():
            yield

    def close(self) -> None:
        """Does nothing: the whole is closed by the code that opened it."""


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: its field number.
        wire: its wire type: `VARINT`, `FIXED64`, `LENGTH` or `FIXED32`.
        value: the integer of a varint or fixed field (unsigned); 0 for `LENGTH`.
        start, end: where the value's bytes lie in the source.
    """

    number: int
    wire: int
    value: int
    start: int
    end: int


def fields(source: Source, start: int, end: int) -> Iterator[Field]:
    """The fields of the message at ``start:end``, in file order; the values of `LENGTH` fields are not read.

    Raises:
        OmFileError: the bytes are not a protobuf message.
    """
    at = start
    while at < end:
        key, at = varint(source, at, end)
        number, wire = key >> 3, key & 7
        if number == 0 or number > 0x1FFFFFFF:
            raise _damaged(source, at)
        if wire == VARINT:
            begin = at
            value, at = varint(source, at, end)
            yield Field(number, wire, value, begin, at)
        elif wire == LENGTH:
            length, at = varint(source, at, end)
            if length > end - at:
                raise _damaged(source, at)
            yield Field(number, wire, 0, at, at + length)
            at += length
        elif wire in (FIXED32, FIXED64):
            width = 4 if wire == FIXED32 else 8
            if width > end - at:
                raise _damaged(source, at)
            yield Field(number, wire, int.from_bytes(source.read(at, width), "little"), at, at + width)
            at += width
        else:  # groups are not part of proto3
            raise _damaged(source, at)


def varint(source: Source, at: int, end: int) -> tuple[int, int]:
    """The varint at ``at`` (64 bits, unsigned) and where it ends."""
    value = 0
    raw = source.read(at, min(10, end - at)) if end > at else b""
    for shift, byte in enumerate(raw):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + shift + 1
    raise _damaged(source, at)


def signed(value: int) -> int:
    """An int32/int64 varint as the number it stands for."""
    return value - (1 << 64) if value >> 63 else value


def packed(source: Source, start: int, end: int) -> Iterator[int]:
    """The varints of a packed repeated field."""
    at = start
    while at < end:
        value, at = varint(source, at, end)
        yield value


def _damaged(source: Source, at: int) -> OmFileError:
    return OmFileError("omfile.not-protobuf", where=source.where, at=at)
