"""Any mixture of logs, summaries, output folders and results into one result per batch size."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from pth2om.errors import DataError
from pth2om.files import is_folder
from pth2om.offline.logs import read_log
from pth2om.offline.results import BatchResult, read_result
from pth2om.offline.scoring import read_labels, score_outputs

_NAMED_BATCH = re.compile(r"bs(\d{1,6})(?!\d)", re.IGNORECASE)


def read_sources(
    sources: Sequence[Path],
    *,
    batch: int | None = None,
    labels: Path | None = None,
    images: int | None = None,
    dtype: str = "float32",
) -> list[BatchResult]:
    """Read each source for what it is, and put together what concerns the same batch size.

    Args:
        sources: logs, ``_summary.json``, ``result_bs1.json``, or folders of outputs.
        batch: images per inference; default: from the file, or ``bs4`` in its name.
        labels: ``val_label.txt``; needed for folders of outputs.
        images: score only the first so many labels.
        dtype: of ``.bin`` outputs.

    Returns:
        One result per batch size, smallest first.

    Raises:
        DataError: what cannot be read, or two sources that contradict each other.
    """
    for name, value in (("--batch-size", batch), ("--images", images)):
        if value is not None and value < 1:
            raise DataError("offline.wrong-option", name=name, value=value)
    truth = None if labels is None else read_labels(labels)
    found: dict[int, BatchResult] = {}
    for source in sources:
        if is_folder(source):
            if truth is None:
                raise DataError("offline.labels-needed", where=str(source))
            size = batch if batch is not None else _named(source)
            result = BatchResult.of(size, None, score_outputs(source, truth, size, dtype, images))
        elif _is_result(source):
            result = read_result(source)
        else:
            timing = read_log(source, batch)
            result = BatchResult.of(timing.batch, timing, None)
        before = found.get(result.batch)
        found[result.batch] = result if before is None else before.joined(result)
    return [found[size] for size in sorted(found)]


def _named(folder: Path) -> int:
    """``bs4`` in the name of a folder of outputs, or in that of the folder it lies in."""
    for name in (folder.resolve().name, folder.resolve().parent.name):
        if named := _NAMED_BATCH.search(name):
            return int(named[1])
    raise DataError("offline.unknown-batch", where=str(folder))


def _is_result(path: Path) -> bool:
    """Whether this is one of our results, and not a log or an ais_bench summary."""
    if path.suffix != ".json" or not path.is_file() or path.stat().st_size > 1 << 20:
        return False
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and "batch_size" in data
