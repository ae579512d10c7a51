"""Top-1 and top-5 of a classifier out of the files that msame or ais_bench wrote.

A file holds one output of one inference: ``<input>_output_0.txt`` (msame), ``<input>_0.bin`` (ais_bench), as text,
raw numbers or NPY. The input is either named like an image (then it is one image) or numbered (``input_00003``): its
samples are then images 3 x batch and on, in the order of the labels. What fills up the last batch is not counted.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pth2om.accuracy.bounds import TWO_SIDED, binomial_upper
from pth2om.errors import DataError
from pth2om.files import is_file
from pth2om.progress import counted
from pth2om.sessions.output_files import output_files

_LARGEST = 256 << 20
_MOST_LABELS = 10_000_000
_NUMBERED = re.compile(r"^(?:\D*_)?(?P<number>\d+)$")
_SUFFIXES = frozenset({".txt", ".bin", ".npy"})

Rows = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A classifier's result on the outputs of one batch size.

    Attributes:
        images: labelled images that were looked for; all of them are scored, the absent ones as wrong.
        right1, right5: images whose class is the best, or among the five best; right5 is None below six classes.
        absent: images without an output.
        not_finite: images with NaN or infinity in their output; they count as wrong.
    """

    images: int
    right1: int
    right5: int | None
    absent: int
    not_finite: int

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.right1 / self.images

    @property
    def top5(self) -> float | None:
        """Percent; None where there are fewer than six classes."""
        return None if self.right5 is None else 100 * self.right5 / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Two-sided 95 % interval of `top1`, percent (Clopper and Pearson)."""
        low = 1 - binomial_upper(self.images - self.right1, self.images, TWO_SIDED)
        return 100 * low, 100 * binomial_upper(self.right1, self.images, TWO_SIDED)


def read_labels(path: Path) -> dict[str, int]:
    """``val_label.txt``: lines ``ILSVRC2012_val_00000001.JPEG 65``, or one class number a line.

    Returns:
        Image name without suffix (or the line's number from 0, as text) -> class; in the order of the file.

    Raises:
        DataError: no such file, a line that is neither, a name twice, or nothing in it.
    """
    where = str(path)
    if not is_file(path):
        raise DataError("offline.no-file", where=where)
    if path.stat().st_size > _LARGEST:
        raise DataError("offline.too-large", where=where, limit=_LARGEST >> 20)
    labels: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) > 2 or not words[-1].isascii() or not words[-1].isdigit() or len(words[-1]) > 9:
            raise DataError("offline.wrong-label", where=f"{where}:{number}", line=line[:80])
        name = Path(words[0]).stem if len(words) == 2 else str(len(labels))
        if name in labels:
            raise DataError("offline.label-twice", where=f"{where}:{number}", name=name)
        labels[name] = int(words[-1])
        if len(labels) > _MOST_LABELS:
            raise DataError("offline.too-large", where=where, limit=_MOST_LABELS)
    if not labels:
        raise DataError("offline.no-labels", where=where)
    return labels


def score_outputs(
    folder: Path, labels: dict[str, int], batch: int, dtype: str = "float32", limit: int | None = None
) -> Score:
    """Score an output folder; one file is in memory at a time.

    Args:
        folder: of the tool; outputs may lie in one sub-folder (named after the time of the run).
        labels: of `read_labels`.
        batch: images per inference.
        dtype: of ``.bin`` files, which do not say it: ``float32`` or ``float16``.
        limit: score only the first so many labels.

    Raises:
        DataError: no outputs, outputs that are not one row of scores per image, or a label beyond the classes.
    """
    names = list(labels)[:limit]
    places = {name: index for index, name in enumerate(names)}
    truth = np.array([labels[name] for name in names], np.int64)
    seen = np.zeros(len(names), bool)
    broken = np.zeros(len(names), bool)
    rank = np.full(len(names), np.iinfo(np.int64).max)
    classes = 0
    files = _outputs(folder)
    with counted("outputs", len(files)) as progress:
        for done, (path, stem) in enumerate(files, 1):
            rows = _rows(path, batch, dtype)
            if classes and rows.shape[1] != classes:
                raise DataError("offline.other-size", where=str(path), values=rows.shape[1], classes=classes)
            if not classes:
                classes = rows.shape[1]
                if classes < 2 or truth.max() >= classes:
                    raise DataError("offline.classes", where=str(path), values=classes, label=int(truth.max()))
            for image, row in _images(stem, rows, places, batch):
                if seen[image]:
                    raise DataError("offline.image-twice", where=str(path), name=names[image])
                seen[image] = True
                if np.isfinite(row).all():
                    rank[image] = _rank(row, int(truth[image]))
                else:
                    broken[image] = True
            progress(done)
    if not seen.any():
        raise DataError("offline.no-match", where=str(folder), example=files[0][1], label=names[0])
    five = int((rank < 5).sum()) if classes > 5 else None
    return Score(len(names), int((rank < 1).sum()), five, int((~seen).sum()), int(broken.sum()))


def _rank(row: Rows, label: int) -> int:
    """How many classes are at least as good as ``label``: a tie is no recognition unless numpy's argmax picks it."""
    better = row > row[label]
    tied_before = row[:label] == row[label]
    return int(better.sum()) + int(tied_before.sum())


def _outputs(folder: Path) -> list[tuple[Path, str]]:
    """(file, input's name) of output 0 of each inference, in order of names."""
    first = [(path, stem) for (stem, number), path in output_files(folder, _SUFFIXES).items() if number == 0]
    if not first:
        raise DataError("offline.no-outputs", where=str(folder))
    return first


def _rows(path: Path, batch: int, dtype: str) -> Rows:
    """The scores of a file, float64 (batch, classes)."""
    where = str(path)
    if path.stat().st_size > _LARGEST:
        raise DataError("offline.too-large", where=where, limit=_LARGEST >> 20)
    try:
        if path.suffix.lower() == ".npy":
            values = np.load(path, allow_pickle=False).astype(np.float64).ravel()
        elif path.suffix.lower() == ".bin":
            if path.stat().st_size % np.dtype(dtype).itemsize:
                raise ValueError("not a whole number of values")
            values = np.fromfile(path, dtype).astype(np.float64)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = np.array(path.read_text(encoding="ascii").split(), np.float64)
    except (ValueError, TypeError, EOFError, OSError) as error:
        raise DataError("offline.not-numbers", where=where) from error
    if not values.size or values.size % batch:
        raise DataError("offline.not-rows", where=where, values=values.size, batch=batch)
    rows: Rows = values.reshape(batch, -1)
    return rows


def _images(stem: str, rows: Rows, places: dict[str, int], batch: int) -> Iterator[tuple[int, Rows]]:
    """(index of the image, its scores) of each sample that is a labelled image."""
    if stem in places and batch == 1:
        yield places[stem], rows[0]
        return
    numbered = _NUMBERED.match(stem)
    if numbered is None:
        return
    start = int(numbered["number"]) * batch
    for offset, row in enumerate(rows):
        if start + offset < len(places):
            yield start + offset, row
