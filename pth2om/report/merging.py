"""``pth2om report merge RUN...``: the runs of a night as one, and their report."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from pth2om import evidence
from pth2om.errors import DataError
from pth2om.evidence import Merged
from pth2om.files import replacing
from pth2om.language import Message, say
from pth2om.release.night import file_of
from pth2om.release.status import reasons

EVIDENCE = "evidence.jsonl"
_PICTURES = "pictures"
_MOST_LISTED = 50


def merge_runs(runs: Sequence[Path], output: Path | None = None) -> tuple[Path, Merged]:
    """Write the union of runs, with their pictures and their report.

    Args:
        runs: folders or evidence files, also merged ones, in any order.
        output: the folder to write; default ``reports/merged-<digest>``, named after the runs.

    Returns:
        The folder, and what is in it.

    Raises:
        DataError: a run is damaged or has none, runs are of different artifacts, the folder holds a run that is not
            among those given, or it cannot be written.
    """
    with evidence.uncollected():
        return _merge_runs([file_of(run) for run in runs], output)


def _merge_runs(files: Sequence[Path], output: Path | None) -> tuple[Path, Merged]:
    from pth2om.report import render

    try:
        merged = evidence.merge(files)
        named = hashlib.sha256("\n".join(merged.seals).encode()).hexdigest()[:12]
        folder = output or Path("reports") / f"merged-{named}"
        _keep(folder, merged)
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(files):
            _carry(file.parent / _PICTURES, folder / _PICTURES)
        with replacing(folder / EVIDENCE) as scratch, scratch.open("wb") as written:
            written.writelines(merged.parts)
    except OSError as error:
        where = str(error.filename or output or "reports")
        raise DataError("report.not-writable", where=where, reason=error.strerror or str(error)) from None
    render(merged.joined, folder)
    return folder, merged


def told(merged: Merged) -> tuple[list[Message], list[Message]]:
    """What a night of shards came to.

    Returns:
        Sentences about the runs and about what is missing; why the exit status is not 0, nothing where it is.
    """
    coverage = merged.joined.coverage
    gates = [*merged.joined.gates, *coverage.unreached]
    lines = [say("report.merged", runs=len(merged.seals), gates=len(merged.joined.gates))]
    missing = coverage.planned
    lines += [say("report.merge-missing", item=each.item) for each in missing[:_MOST_LISTED]]
    if len(missing) > _MOST_LISTED:
        lines.append(say("report.more-in-evidence", count=len(missing) - _MOST_LISTED))
    because = [say("report.merge-empty", path=one) for one in merged.empty]
    because += reasons(gates)
    if not (missing or coverage.ended):
        because.append(say("report.headline-not-ended"))
    return lines, because


def _keep(folder: Path, merged: Merged) -> None:
    """Refuse to write over a run that would be lost."""
    there = folder / EVIDENCE
    if not there.exists() or _holds(there, merged.parts):
        return
    held = set(evidence.seals(there))
    inside = set(merged.seals)
    if not held <= inside:
        raise DataError("report.merge-would-lose", where=str(there), count=len(held - inside))


def _holds(file: Path, parts: Sequence[bytes]) -> bool:
    if file.stat().st_size != sum(map(len, parts)):
        return False
    with file.open("rb") as opened:
        return all(opened.read(len(part)) == part for part in parts)


def _carry(source: Path, destination: Path) -> None:
    """Copy pictures that are not there yet."""
    if not source.is_dir() or source.is_symlink():
        return
    for picture in sorted(source.iterdir()):
        if picture.is_file() and not picture.is_symlink() and not (destination / picture.name).exists():
            destination.mkdir(parents=True, exist_ok=True)
            with replacing(destination / picture.name) as scratch:
                shutil.copyfile(picture, scratch)
