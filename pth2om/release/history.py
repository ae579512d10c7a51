"""History: what every night measured, one append-only file a model, ``reports/history/<model>.jsonl``.

One line a run, so that an interrupted write damages that line only. Readers skip what they cannot read, and say so.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pth2om.errors import DataError
from pth2om.language import Message, say
from pth2om.release.night import Night

MOST_BYTES = 256 << 20
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
        points, _ = read(path)
        if any(one.run == point.run for one in points):
            continue
        line = json.dumps(asdict(point), ensure_ascii=False, allow_nan=False, sort_keys=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("a+b", buffering=0) as file:
                # After a line that was cut off, begin a new one.
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else f"\n{line}"
                file.write(line.encode("utf-8", "replace") + b"\n")
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError("release.unwritable", where=str(path), reason=error.strerror or str(error)) from None
        written.append(path)
    return written


def read(path: Path) -> tuple[list[Point], list[Message]]:
    """The nights of a file, oldest first, and what was skipped; nothing where there is no file.

    Raises:
        DataError: the file cannot be read or is too large.
    """
    points: list[Point] = []
    skipped: list[Message] = []
    try:
        if not path.exists():
            return [], []
        if path.stat().st_size > MOST_BYTES:
            raise DataError("release.too-large", where=str(path), most=MOST_BYTES)
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_MOST_LINE), b""), 1):
                if not line.strip():
                    continue
                point = _parsed(line)
                if point is None:
                    skipped.append(say("release.line-skipped", path=str(path), number=number))
                elif all(one.run != point.run for one in points):
                    points.append(point)
    except OSError as error:
        raise DataError("release.unreadable", where=str(path), reason=error.strerror or str(error)) from None
    return sorted(points, key=lambda one: one.started), skipped


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
        data: Any = from_json(line, allow_inf_nan=False)
        return pydantic.TypeAdapter(Point).validate_python(data)
    except ValueError:
        return None
