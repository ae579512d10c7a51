"""Datasets of arrays, of kind ``arrays``: one array an input, such as the tokens of sentences and their mask.

A row that is shorter than the input is filled up with zeros: the sentences of a text are padded to the gear's length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pth2om.data.preprocess import Batch
from pth2om.errors import DataError
from pth2om.session import Array

if TYPE_CHECKING:
    from pth2om.data.labelled import Labelled
    from pth2om.spec import Input


def row_of(dataset: Labelled, entry: Input, index: int) -> Array:
    """One row of an input, of the input's shape and dtype.

    Args:
        dataset: of kind ``arrays``.
        entry: the input.
        index: of the row.

    Raises:
        DataError: there is no array of that name, its rank or dtype is another, or it is longer than the input.
    """
    row = dataset.array(entry.name)[index]
    where = f"{dataset.file(index)}: {entry.name}"
    wanted = np.dtype(entry.dtype)
    if not np.can_cast(row.dtype, wanted, "same_kind") and not (row.dtype.kind in "iu" and wanted.kind in "iu"):
        raise DataError("data.array-dtype", where=where, has=str(row.dtype), wanted=entry.dtype)
    if row.ndim != len(entry.shape) or any(size > most for size, most in zip(row.shape, entry.shape, strict=True)):
        has, most = ("x".join(map(str, sizes)) for sizes in (row.shape, entry.shape))
        raise DataError("data.array-shape", where=where, has=has or "1", wanted=most)
    fill = [(0, most - size) for size, most in zip(row.shape, entry.shape, strict=True)]
    return np.pad(row, fill).astype(wanted)


def array_batches(
    dataset: Labelled, inputs: Sequence[Input], batch: int, *, rows: int | None = None
) -> Iterator[Batch]:
    """The dataset in batches for all inputs, one at a time; the last is filled up with its last row.

    Args:
        dataset: of kind ``arrays``.
        inputs: of the model, at the shapes that are fed.
        batch: rows per inference.
        rows: how many, from the first on; default all.

    Raises:
        DataError: see `row_of`; or an input has no batch axis.
    """
    for entry in inputs:
        if not entry.batched:
            raise DataError("data.array-shared", where=entry.name)
    count = len(dataset) if rows is None else min(rows, len(dataset))
    for start in range(0, count, batch):
        chosen = list(range(start, min(start + batch, count)))
        filled = chosen + chosen[-1:] * (batch - len(chosen))
        first, *others = (np.stack([row_of(dataset, entry, index) for index in filled]) for entry in inputs)
        named = {entry.name: array for entry, array in zip(inputs[1:], others, strict=True)}
        yield Batch(start, len(chosen), first, (), named)
