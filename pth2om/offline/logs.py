"""Latency and throughput out of the logs of msame, ais_bench and ``benchmark``.

Forms of the lines (each version of a tool writes its own):

* msame: ``Inference time: 12.3ms`` per file, then ``Inference average time without first time: 12.2 ms`` with
  ``--loop``, or ``Inference average time : 12.30 ms`` over a folder.
* ais_bench: ``NPU_compute_time (ms): min = ..., mean = ...`` and
  ``throughput 1000*batchsize.mean(1)/NPU_compute_time.mean(2.4): 407.1``; of several devices a
  ``summary throughput:557.9``; and ``<name>_summary.json`` beside the outputs.
* benchmark: ``throughputRate: 171.595, Interface throughputRate: 247.898, moduleLatency: 5.12``.

The time is the device's compute time: reading files and copying are not in it, so a whole program is slower.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pth2om.errors import DataError
from pth2om.files import is_file

Tool = Literal["msame", "ais_bench", "benchmark"]

_LARGEST = 256 << 20
"""Bytes of a log: 50,000 files of msame's longest form take about 20 MB."""
_LONGEST_LINE = 4096
_MOST_BATCH = 1 << 20

_NUMBER = r"(?P<{}>\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"
_ONE = re.compile(rf"Inference time: ?{_NUMBER.format('ms')} ?ms")
_AVERAGE = re.compile(rf"Inference average time ?: ?{_NUMBER.format('ms')} ?ms")
_LATER = re.compile(rf"Inference average time without first time ?: ?{_NUMBER.format('ms')} ?ms")
_COMPUTE = re.compile(rf"NPU_compute_time ?\(ms\):.*?\bmean = {_NUMBER.format('ms')}")
_THROUGHPUT = re.compile(
    rf"throughput \(?1000\*batchsize(?:\.mean)?(?:\({_NUMBER.format('batch')}\))?/NPU_compute_time"
    rf"(?:\.mean)?(?:\({_NUMBER.format('ms')}\))?\)?: {_NUMBER.format('fps')}"
)
_ALL_DEVICES = re.compile(rf"summary throughput: ?{_NUMBER.format('fps')}")
_OLD = re.compile(rf"(?<!Interface )throughputRate: ?{_NUMBER.format('fps')}.*?moduleLatency: ?{_NUMBER.format('ms')}")
_NAMED_BATCH = re.compile(r"(?:bs|batch_?(?:size)?_?)(\d{1,6})(?!\d)", re.IGNORECASE)
_FAILED = re.compile(r"\[ERROR\]|model execute failed|load model from file failed|RuntimeError: \[")


@dataclass(frozen=True)
class Timing:
    """What a log says of one model's speed.

    Attributes:
        tool: whose log it is.
        batch: images per inference.
        latency_ms: mean device time of one inference, milliseconds; the first call is left out where the log allows.
        fps: images per second, of all devices together where the log sums them up.
        calls: inferences that the mean is over; None where the log does not say.
        without_first: whether the first call is left out of the mean.
        devices: how many devices worked at the same time.
    """

    tool: Tool
    batch: int
    latency_ms: float
    fps: float
    calls: int | None
    without_first: bool
    devices: int = 1


def read_log(path: Path, batch: int | None = None) -> Timing:
    """The speed that a log, or an ais_bench ``_summary.json``, tells.

    Args:
        path: the file.
        batch: images per inference; default: from the log, then from ``bs4`` in the file's name.

    Returns:
        The timing.

    Raises:
        DataError: not a file, too large, no line with a time in it, errors of the tool, or an unknown batch size.
    """
    where = str(path)
    if not is_file(path):
        raise DataError("offline.no-file", where=where)
    if path.stat().st_size > _LARGEST:
        raise DataError("offline.too-large", where=where, limit=_LARGEST >> 20)
    if path.suffix == ".json":
        return _summary(path, batch)
    found = _Lines()
    with path.open(encoding="utf-8", errors="replace") as file:
        # A progress bar redraws its line with carriage returns, which universal newlines split.
        for line in iter(lambda: file.readline(_LONGEST_LINE), ""):
            found.read(line)
    return found.timing(where, _asked(path, batch))


class _Lines:
    """The figures of a log, gathered line by line."""

    def __init__(self) -> None:
        self.each: list[float] = []
        self.average: float | None = None
        self.later: float | None = None
        self.compute: list[float] = []
        self.throughput: list[tuple[float | None, float]] = []
        self.summed: float | None = None
        self.old: tuple[float, float] | None = None
        self.error: str | None = None

    def read(self, line: str) -> None:
        if found := _LATER.search(line):
            self.later = float(found["ms"])
        elif found := _AVERAGE.search(line):
            self.average = float(found["ms"])
        elif found := _ONE.search(line):
            self.each.append(float(found["ms"]))
        elif found := _THROUGHPUT.search(line):
            size = found["batch"]
            self.throughput.append((None if size is None else float(size), float(found["fps"])))
        elif found := _COMPUTE.search(line):
            self.compute.append(float(found["ms"]))
        elif found := _ALL_DEVICES.search(line):
            self.summed = float(found["fps"])
        elif found := _OLD.search(line):
            self.old = (float(found["ms"]), float(found["fps"]))
        elif self.error is None and _FAILED.search(line):
            self.error = line.strip()

    def timing(self, where: str, asked: int | None) -> Timing:
        if self.error is not None:
            # A run that reported an error measured something else than the model.
            raise DataError("offline.failed-run", where=where, line=self.error[:200])
        if self.throughput or self.compute:
            return self._ais_bench(where, asked)
        if self.old is not None:
            ms, fps = self.old
            return Timing("benchmark", _size(where, asked), _time(where, ms), _time(where, fps), None, False)
        return self._msame(where, asked)

    def _ais_bench(self, where: str, asked: int | None) -> Timing:
        sizes = {size for size, _ in self.throughput if size is not None}
        if len(sizes) > 1:
            raise DataError("offline.mixed-batches", where=where, sizes=", ".join(f"{one:g}" for one in sorted(sizes)))
        written = _whole(sizes.pop()) if sizes else None
        if written is not None and asked is not None and written != asked:
            raise DataError("offline.other-batch", where=where, asked=asked, written=written)
        batch = _size(where, written if written is not None else asked)
        if not self.compute:
            # Only the throughput line is left, as when a log was cut to its last lines.
            fps = _time(where, statistics.fmean(fps for _, fps in self.throughput))
            self.compute = [1000 * batch / fps]
        ms = _time(where, statistics.fmean(self.compute))
        devices = len(self.compute)
        fps = 1000 * batch / ms if devices == 1 else sum(1000 * batch / _time(where, one) for one in self.compute)
        told = (
            self.summed
            if self.summed is not None
            else (self.throughput[0][1] if devices == 1 and self.throughput else fps)
        )
        if not math.isclose(told, fps, rel_tol=0.01):
            raise DataError("offline.contradiction", where=where, told=f"{told:g}", computed=f"{fps:g}", batch=batch)
        return Timing("ais_bench", batch, ms, told, None, True, devices)

    def _msame(self, where: str, asked: int | None) -> Timing:
        calls = len(self.each) or None
        first_out = self.later is not None or len(self.each) > 1
        if self.later is not None:
            ms = self.later
        elif len(self.each) > 1:
            ms = statistics.fmean(self.each[1:])
        elif self.each:
            ms = self.each[0]
        elif self.average is not None:
            ms = self.average
        else:
            raise DataError("offline.no-times", where=where)
        batch = _size(where, asked)
        return Timing("msame", batch, _time(where, ms), 1000 * batch / _time(where, ms), calls, first_out)


def _summary(path: Path, asked: int | None) -> Timing:
    """``<name>_summary.json`` of ais_bench."""
    where = str(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError("offline.not-json", where=where) from error
    compute = data.get("NPU_compute_time") if isinstance(data, Mapping) else None
    if not isinstance(compute, Mapping):
        raise DataError("offline.no-times", where=where)
    ms = _time(where, compute.get("mean"))
    fps = _time(where, data.get("throughput"))
    written = _whole(fps * ms / 1000)
    if written is None:
        raise DataError("offline.contradiction", where=where, told=f"{fps:g}", computed=f"{1000 / ms:g}", batch=1)
    if asked is not None and asked != written:
        raise DataError("offline.other-batch", where=where, asked=asked, written=written)
    count = compute.get("count")
    calls = count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else None
    return Timing("ais_bench", written, ms, fps, calls, True)


def _asked(path: Path, batch: int | None) -> int | None:
    """The batch size that was typed, or that the file's name holds (``msame_bs4.txt``)."""
    if batch is not None:
        return batch
    named = _NAMED_BATCH.search(path.stem)
    return int(named[1]) if named else None


def _whole(value: float) -> int | None:
    """A batch size within a thousandth of a whole number."""
    if not math.isfinite(value) or not 1 <= round(value) <= _MOST_BATCH:
        return None
    return round(value) if math.isclose(value, round(value), rel_tol=1e-3) else None


def _size(where: str, batch: int | None) -> int:
    if batch is None:
        raise DataError("offline.unknown-batch", where=where)
    if not 1 <= batch <= _MOST_BATCH:
        raise DataError("offline.wrong-batch", where=where, batch=batch)
    return batch


def _time(where: str, value: Any) -> float:  # noqa: ANN401 - of a file
    """A time or rate: finite and above zero."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise DataError("offline.wrong-figure", where=where, value=str(value)[:40])
    return float(value)
