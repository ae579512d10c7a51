"""History: what every night measured, one append-only file a model, ``reports/history/<model>.jsonl``.

One line a run, so that an interrupted write damages that line only. Readers skip what they cannot read, and say so.
"""

from __future__ import annotations

import codecs
import dataclasses
import errno
import json
import math
import os
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from pth2om.errors import DataError
from pth2om.files import opened
from pth2om.language import Message, say
from pth2om.release.night import Night, moment

MOST_BYTES = 256 << 20
"""What is read of a file, from its end: it only grows, and one day it is larger."""
MOST_NIGHTS = 400
"""The last of its lines that are read."""
_MOST_LINE = 1 << 24
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")


@dataclass(frozen=True)
class Point:
    """What one night measured of one model.

    Attributes:
        run: id of the run.
        started: ISO 8601.
        toolchain: who compiled the OMs; empty where nothing was compiled.
        values: evidence id -> (value, ground, machine).
    """

    run: str
    started: str
    toolchain: str
    values: Mapping[str, tuple[float, str, str]]


def append(night: Night, folder: Path) -> list[Path]:
    """Add a night to the files of its models; a night that is there already is left as it is.

    Raises:
        DataError: the run did not come to its end, or is a shard of a night; a file cannot be written, or a model's
            name is no file name.
    """
    if night.coverage.is_shard:
        raise DataError("release.is-shard", where=night.run.run, shard=", ".join(night.coverage.shards))
    if not night.coverage.ended or night.coverage.interrupted:
        # What it measured comes again from the store when it is started again: one night would be two.
        raise DataError("release.not-ended", where=night.run.run)
    written = []
    for model in sorted({gate.model for gate in night.gates.values()}):
        point = _point(night, model)
        if not point.values:
            continue
        if not _PLAIN.fullmatch(model):
            raise DataError("release.no-file-name", name=model[:100])
        path = folder / f"{model}.jsonl"
        line = json.dumps(asdict(point), ensure_ascii=False, allow_nan=False, sort_keys=True).encode("utf-8", "replace")
        try:
            if _holds(path, point.run):
                continue
            folder.mkdir(parents=True, exist_ok=True)
            _add(path, line)
        except OSError as error:
            raise DataError("release.unwritable", where=str(path), reason=error.strerror or str(error)) from None
        written.append(path)
    return written


def _holds(path: Path, run: str) -> bool:
    """Whether a line of the file is of this run."""
    if not path.exists():
        return False
    named = f'"run": {json.dumps(run, ensure_ascii=False)}'.encode("utf-8", "replace")
    with opened(path) as file:
        return any(named in line and (point := _parsed(line)) is not None and point.run == run for line in _lines(file))


def _add(path: Path, line: bytes) -> None:
    """One line more at the end, whole or not at all.

    Raises:
        OSError: there is no room for it.
    """
    with path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            # After a line that was cut off, begin a new one.
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        # One write: of two nights that end at the same time, neither stands within the other.
        done = file.write(line + b"\n") or 0
        if done <= len(line):
            if file.seek(0, os.SEEK_END) == size + done:
                file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())


def read(path: Path) -> tuple[list[Point], list[Message]]:
    """The last `MOST_NIGHTS` nights of a file, oldest first, and what was skipped; nothing where there is no file.

    Raises:
        DataError: the file cannot be read.
    """
    points: dict[str, Point] = {}
    skipped: list[Message] = []
    try:
        if not path.exists():
            return [], []
        with opened(path) as file:
            last = _last(file)
    except OSError as error:
        raise DataError("release.unreadable", where=str(path), reason=error.strerror or str(error)) from None
    for number, line in last:
        point = _parsed(line)
        if point is None:
            skipped.append(say("release.line-skipped", path=str(path), number=number))
        else:
            points.setdefault(point.run, point)
    return sorted(points.values(), key=lambda one: moment(one.started)), skipped


def _last(file: BufferedReader) -> deque[tuple[int, bytes]]:
    """The last lines that are not empty, with their numbers."""
    begin = max(0, file.seek(0, os.SEEK_END) - MOST_BYTES)
    file.seek(0)
    before = 0
    if begin:
        for position in range(0, begin, _MOST_LINE):
            before += file.read(min(_MOST_LINE, begin - position)).count(b"\n")
        rest = file.readline(_MOST_LINE)  # of a line that is not read whole
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(_MOST_LINE)
        before += 1
    found: deque[tuple[int, bytes]] = deque(maxlen=MOST_NIGHTS)
    found.extend((number, line) for number, line in enumerate(_lines(file), before + 1) if line.strip())
    return found


def _lines(file: BufferedReader) -> Iterator[bytes]:
    """The lines from here on; one that is too long in pieces, none of which is a night."""
    return iter(lambda: file.readline(_MOST_LINE), b"")


def files(folder: Path) -> Iterator[Path]:
    """The files of a history."""
    yield from sorted(folder.glob("*.jsonl"))


def _point(night: Night, model: str) -> Point:
    tools = {
        f"{stage.provenance.name} {stage.provenance.version}"
        for (of, _, name), stage in night.stages.items()
        if of == model and name == "om"
    }
    values = {
        gate.id: (float(gate.measured), gate.ground, gate.host)
        for gate in night.gates.values()
        if gate.model == model and gate.measured is not None and math.isfinite(gate.measured)
    }
    return Point(night.run.run, night.run.started, ", ".join(sorted(tools)), values)


def _parsed(line: bytes) -> Point | None:
    import pydantic
    from pydantic_core import from_json

    try:
        data: Any = from_json(line.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
        point = pydantic.TypeAdapter(Point).validate_python(data)
    except ValueError:
        return None
    if not all(math.isfinite(value) for value, _, _ in point.values.values()):
        return None  # 1e999
    # Each night names the same figures, grounds and machines.
    values = {
        sys.intern(name): (value, sys.intern(ground), sys.intern(host))
        for name, (value, ground, host) in point.values.items()
    }
    return dataclasses.replace(point, values=values)
