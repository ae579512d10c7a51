"""``result_bs4.json`` of one batch size, and the table of the ModelZoo over all of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pth2om.errors import DataError
from pth2om.escaping import json_text, visible
from pth2om.files import is_file, write_text
from pth2om.language import joined, say
from pth2om.offline.logs import Timing
from pth2om.offline.scoring import Score
from pth2om.session import Ground

_LARGEST = 1 << 20
_ORIGINS: dict[Ground | None, str] = {
    None: "logs and outputs of another tool; not measured by pth2om",
    "host": "outputs of ONNX Runtime on this machine; no OM was run",
    "emulated": "outputs of an emulated OM; no NPU was used, and no speed was measured",
    "double": "outputs of a test double; no NPU was used, and no speed was measured",
    "device": "outputs and speed of an NPU",
}
_UNTIMED = ("host", "emulated", "double")


@dataclass(frozen=True)
class BatchResult:
    """Speed and accuracy of one batch size; None where it was not read.

    Attributes:
        batch: images per inference.
        latency_ms: device time of one inference, milliseconds.
        fps: images per second.
        top1, top5: percent.
        interval: two-sided 95 % interval of top1, percent.
        images: how many images top1 is over.
        absent: images of these without an output.
        not_finite: images of these with NaN or infinity in their output.
        tool: who measured the speed.
        ground: where outputs that pth2om computed come from; None: another tool's.
        band: of an emulated OM, the band that these outputs are of.
        soc: of the OM.
        dataset: that top1 is of.
    """

    batch: int
    latency_ms: float | None = None
    fps: float | None = None
    top1: float | None = None
    top5: float | None = None
    interval: tuple[float, float] | None = None
    images: int | None = None
    absent: int | None = None
    not_finite: int | None = None
    tool: str | None = None
    ground: Ground | None = None
    band: str | None = None
    soc: str | None = None
    dataset: str | None = None

    @classmethod
    def of(cls, batch: int, timing: Timing | None, score: Score | None) -> BatchResult:
        """Put together what a log and a folder of outputs say of one batch size."""
        result = cls(batch)
        values: dict[str, Any] = vars(result) | {}
        if timing is not None:
            values |= {"latency_ms": timing.latency_ms, "fps": timing.fps, "tool": timing.tool}
        if score is not None:
            values |= {"top1": score.top1, "top5": score.top5, "interval": score.interval}
            values |= {"images": score.images, "absent": score.absent, "not_finite": score.not_finite}
        return cls(**values)

    def joined(self, other: BatchResult) -> BatchResult:
        """Both results of one batch size in one.

        Raises:
            DataError: they give different values for the same figure.
        """
        values: dict[str, Any] = {}
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            if mine is not None and theirs is not None and mine != theirs:
                raise DataError("offline.two-values", name=name, batch=self.batch, first=str(mine), second=str(theirs))
            values[name] = theirs if mine is None else mine
        return BatchResult(**values)


def write_result(path: Path, result: BatchResult) -> None:
    """Write ``result_bs1.json``: the figures, and where they come from."""
    figures = {name: value for name, value in vars(result).items() if value is not None and name != "batch"}
    write_text(path, json_text({"batch_size": result.batch, **figures, "origin": _ORIGINS[result.ground]}, 2) + "\n")


def read_result(path: Path) -> BatchResult:
    """The inverse of `write_result`.

    Raises:
        DataError: no such file, or not such a file.
    """
    where = str(path)
    if not is_file(path):
        raise DataError("offline.no-file", where=where)
    if path.stat().st_size > _LARGEST:
        raise DataError("offline.too-large", where=where, limit=_LARGEST >> 20)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError("offline.not-json", where=where) from error
    if not isinstance(data, Mapping) or not _count(data.get("batch_size")):
        raise DataError("offline.no-result", where=where)
    figures = {name: data.get(name) for name in ("latency_ms", "fps", "top1", "top5")}
    counts = {name: data.get(name) for name in ("images", "absent", "not_finite")}
    ends = data.get("interval")
    words = {name: data.get(name) for name in ("tool", "ground", "band", "soc", "dataset")}
    fits = (
        all(value is None or _figure(value) for value in figures.values())
        and all(value is None or value == 0 or _count(value) for value in counts.values())
        and (ends is None or (isinstance(ends, list) and len(ends) == 2 and all(_figure(end) for end in ends)))
        and all(one is None or isinstance(one, str) for one in words.values())
        and words["ground"] in _ORIGINS
    )
    if not fits:
        raise DataError("offline.no-result", where=where)
    values: dict[str, Any] = {**figures, **counts, **words}
    values["interval"] = None if ends is None else tuple(ends)
    return BatchResult(int(data["batch_size"]), **values)


def best(results: Iterable[BatchResult]) -> BatchResult | None:
    """The batch size with the highest fps; None where no speed is known."""
    timed = [one for one in results if one.fps is not None]
    return max(timed, key=lambda one: (one.fps or 0.0, -one.batch), default=None)


def modelzoo_table(results: Iterable[BatchResult], soc: str = "", dataset: str = "") -> str:
    """The ModelZoo's table in Markdown: SoC, batch size, dataset, accuracy, performance; the best batch below it.

    Args:
        results: one per batch size.
        soc: of the results that name none.
        dataset: likewise.

    Raises:
        DataError: a result names another SoC or dataset than the given one.
    """
    rows = sorted(results, key=lambda one: one.batch)
    heads = [say(f"offline.head-{name}").render() for name in ("soc", "batch", "dataset", "accuracy", "performance")]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for one in rows:
        for name, mine, given in (("SoC", one.soc, soc), ("dataset", one.dataset, dataset)):
            if mine and given and mine != given:
                raise DataError("offline.two-values", name=name, batch=one.batch, first=mine, second=given)
        cells = (_cell(one.soc or soc), str(one.batch), _cell(one.dataset or dataset), _accuracy(one), _speed(one))
        lines.append("| " + " | ".join(cells) + " |")
    fastest = best(rows)
    lines.append("")
    if fastest is not None and fastest.fps is not None:
        lines.append(say("offline.best", batch=fastest.batch, fps=_digits(fastest.fps)).render())
    if any(one.ground is None or (one.fps is not None and one.ground != "device") for one in rows):
        lines.append(say("offline.origin").render())
    grounds = dict.fromkeys(one.ground for one in rows if one.ground is not None)
    lines += [say(f"offline.origin-{ground}").render() for ground in grounds]
    return "\n".join(lines)


def _accuracy(result: BatchResult) -> str:
    if result.top1 is None:
        return say("offline.not-read" if result.ground is None else "offline.not-measured").render()
    parts = [f"Top1 {result.top1:.2f}%"]
    if result.interval is not None:
        parts[0] += f" [{result.interval[0]:.2f}, {result.interval[1]:.2f}]"
    if result.top5 is not None:
        parts.append(f"Top5 {result.top5:.2f}%")
    if result.absent:
        parts.append(say("offline.absent-cell", absent=result.absent, images=result.images).render())
    if result.not_finite:
        parts.append(say("offline.not-finite-cell", count=result.not_finite, images=result.images).render())
    if result.ground is not None and result.ground != "device":
        parts.append(say(f"offline.cell-{result.ground}").render())
    return joined(parts, "; ")


def _speed(result: BatchResult) -> str:
    if result.fps is not None:
        return f"{_digits(result.fps)} fps"
    if result.ground in _UNTIMED:
        return say("offline.untimed", how=say(f"offline.cell-{result.ground}").render()).render()
    return say("offline.not-read").render()


def _digits(fps: float) -> str:
    return f"{fps:.2f}" if fps < 10_000 else f"{fps:.0f}"


def _cell(text: str) -> str:
    return visible(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") or "-"


def _figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40
