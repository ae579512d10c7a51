"""The evidence file: appended line by line, each line with a digest of itself and of all lines before it."""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pth2om.errors import DataError
from pth2om.evidence.reading import check, from_json, from_line
from pth2om.evidence.records import EndRecord, GateRecord, MergedRecord, Record, RunRecord, to_json

MOST_BYTES = 1 << 30
"""Largest file that is read."""
SYNC_SECONDS = 1.0
"""A run waits for the disk no more often than this, and at its end: one that finds all in the store writes dozens of
lines in that time, and the waits would take as long as all the rest."""
_MOST_LINE = 1 << 26
_SEAL = b', "seal": "%s"}'
_DIGITS = 32
_SEAL_BYTES = len(_SEAL % (b"0" * _DIGITS))
_SEALED = 2  # the first format whose lines carry digests
# What the lines that may be many or long end with, as this package writes them.
_USUAL = re.compile(rb'"kind": "(gate|outcome|plan|stage)", "seal": "[0-9a-f]{32}"\}\n\Z')
_TAIL = 80
_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


class EvidenceFile:
    """Appends records to a run's ``evidence.jsonl``, each line flushed, so that a killed run keeps what it had.

    A killed process loses nothing; a machine that loses its power, what was written since the disk was last waited for.

    Args:
        path: the file; its folder is made when the first record comes. One writer writes it from the first line on.

    Attributes:
        records: how many lines were written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = 0
        self._digest = ""
        self._size = 0
        self._synced = -math.inf

    def append(self, records: Iterable[Record]) -> None:
        """Write ``records``, one line each, and hand them to the system; see `SYNC_SECONDS`.

        Raises:
            OSError: the disk is full, or the file cannot be written; then none of these records is in the file, and
                later ones can be.
        """
        digest, lines = self._digest, []
        for record in records:
            text = _JSON.encode(to_json(record)).encode("utf-8", "replace")
            digest = _chained("" if isinstance(record, RunRecord) else digest, text)
            lines.append(text[:-1] + _SEAL % digest.encode() + b"\n")
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = b"".join(lines)
        try:
            with self.path.open("ab", buffering=0) as file:
                written = 0
                while written < len(whole):
                    written += file.write(whole[written:]) or 0
                now = time.monotonic()
                if now - self._synced >= SYNC_SECONDS or isinstance(record, EndRecord):
                    os.fsync(file.fileno())
                    self._synced = now
        except OSError:  # a file of a network may fail when it is closed
            # What is half written would make the next line unreadable.
            with contextlib.suppress(OSError):
                os.truncate(self.path, self._size)
            raise
        self._digest = digest
        self._size += len(whole)
        self.records += len(lines)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Inside the block nothing looks for circles, which records do not make.

    Among hundreds of thousands of records looking for them takes nearly half of the time of whatever makes objects.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def read(path: Path) -> Iterator[Record]:
    """The records of an evidence file, in order; a last line that was cut off in mid-write is left out.

    Raises:
        DataError: a line is not a record or was changed, a line is missing, a run holds a gate twice, or a run of a
            merged file is missing; with the line's number.
        OSError: the file cannot be read.
    """
    for _, record, _ in scan(path):
        yield record


def seals(path: Path) -> tuple[str, ...]:
    """The running digest at the end of each run of a file, sorted: together they stand for all of its lines.

    Raises:
        DataError: as `read`.
        OSError: the file cannot be read.
    """
    found: list[str] = []
    for _, record, seal in scan(path):
        if isinstance(record, RunRecord):
            found.append(seal)
        elif not isinstance(record, MergedRecord):
            found[-1:] = [seal]
    return tuple(sorted(found))


def scan(path: Path) -> Iterator[tuple[bytes, Record, str]]:
    """As `read`, with each line without its end, and the running digest behind it (empty before format 2).

    Raises:
        DataError: as `read`.
        OSError: the file cannot be read.
    """
    if (size := path.stat().st_size) > MOST_BYTES:
        raise DataError("evidence.too-large", where=str(path), size=size, most=MOST_BYTES)
    digest, sealed, ended, count = "", False, True, 0
    seen: set[str] = set()
    promised: tuple[str, ...] | None = None
    last: list[str] = []
    name = where = str(path)
    with path.open("rb", buffering=1 << 18) as file:
        for number, line in enumerate(iter(functools.partial(file.readline, _MOST_LINE + 1), b""), 1):
            where = f"{name}:{number}"
            if len(line) > _MOST_LINE:
                raise DataError("evidence.too-large", where=where, size=len(line), most=_MOST_LINE)
            if line.isspace():
                continue
            try:
                read = _record(line)
                if read is None:
                    if line.endswith(b"\n") or number == 1:
                        raise DataError("evidence.not-json")
                    break
                record, has_seal = read
                gate = record if isinstance(record, GateRecord) else None
                if gate is not None:
                    check(gate)
            except DataError as error:
                raise DataError(error.message.key, where=where, **error.message.values) from None
            text = line.strip()
            if gate is None and isinstance(record, MergedRecord):
                if number != 1:
                    raise DataError("evidence.changed", where=where)
                promised = record.seals
                yield text, record, ""
                continue
            if gate is None and isinstance(record, RunRecord):
                sealed, digest, count, ended = record.format >= _SEALED, "", 0, False
                seen.clear()
                last.append("")
            if sealed or has_seal:
                digest = _chained(digest, text[:-_SEAL_BYTES] + b"}")
                if text[-_SEAL_BYTES:] != _SEAL % digest.encode():
                    raise DataError("evidence.changed", where=where)
                if ended or (isinstance(record, EndRecord) and record.records != count):
                    raise DataError("evidence.changed", where=where)
                if gate is not None:
                    if gate.id in seen:
                        raise DataError("evidence.duplicate", where=where, id=gate.id[:200])
                    seen.add(gate.id)
            ended = gate is None and isinstance(record, EndRecord)
            count += 1
            last[-1:] = [digest]
            yield text, record, digest
    if promised is not None and tuple(sorted(last)) != promised:
        raise DataError("evidence.changed", where=where)


def _record(line: bytes) -> tuple[Record, bool] | None:
    """A line's record, and whether it carries a digest; None where the line is no JSON.

    Raises:
        DataError: it is JSON, and no record.
    """
    usual = _USUAL.search(line, max(0, len(line) - _TAIL))
    record = from_line(usual[1].decode(), line) if usual else None
    if record is not None:
        return record, True
    data = _parsed(line)
    return None if data is None else (from_json(data), "seal" in data)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A line as JSON, of bounded depth and numbers of bounded length; None where it is none."""
    from pydantic_core import from_json as parse

    try:
        data = parse(line)
    except ValueError:
        return None
    return data if isinstance(data, dict) else {}


def _chained(before: str, text: bytes) -> str:
    """The digest of a line without its seal, and of all lines before it."""
    return hashlib.sha256(before.encode() + b"\n" + text).hexdigest()[:_DIGITS]
