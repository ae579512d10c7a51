"""Offline inference here: a session over a dataset, its outputs in the files that msame would write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pth2om.errors import DataError
from pth2om.files import replacing
from pth2om.offline.folders import NumberedFolder
from pth2om.offline.preparing import numbered_batches
from pth2om.progress import counted

if TYPE_CHECKING:
    from pth2om.data import Labelled, Preprocessor
    from pth2om.session import Array, Session

FORMS = ("BIN", "TXT")


def run_outputs(
    session: Session,
    labelled: Labelled,
    preprocessor: Preprocessor,
    folder: NumberedFolder,
    *,
    batch: int,
    feed: str,
    form: str = "BIN",
    title: str = "",
) -> None:
    """Run all images; one batch is in memory at a time, and what the folder holds already is not run again.

    Args:
        session: what runs.
        labelled: the images.
        preprocessor: makes the input.
        folder: gets ``input_00000_output_0.bin`` and on, one file an output.
        batch: images per inference.
        feed: the input that takes the images.
        form: ``BIN`` (the output's dtype, C order) or ``TXT``.
        title: of the progress.

    Raises:
        DataError: an image cannot be read, or the session takes no such input.
        ToolchainError: the session fails.
    """
    fed = next((entry for entry in session.inputs if entry.name == feed), None)
    if fed is None or len(session.inputs) != 1:
        raise DataError("offline.one-input", known=", ".join(entry.name for entry in session.inputs), feed=feed)
    raw = fed.dtype == np.uint8
    total, done = -(-len(labelled) // batch), folder.kept
    with counted(title or folder.path.name, total) as seen:
        for number, piece in numbered_batches(labelled, preprocessor, batch, folder, raw=raw):
            results = session.run({fed.name: np.ascontiguousarray(piece.array.astype(fed.dtype, copy=False))})
            # Output 0 last: a number counts as done when that is there.
            for place, array in reversed(list(enumerate(results.values()))):
                _write(folder.path / f"{folder.name(number)}_output_{place}", np.asarray(array), form)
            done += 1
            seen(done)


def _write(path: Path, array: Array, form: str) -> None:
    with replacing(path.with_name(f"{path.name}.{form.lower()}")) as scratch:
        if form == "BIN":
            np.ascontiguousarray(array).tofile(scratch)
        else:
            values: Any = array.ravel()
            scratch.write_text(" ".join(str(value) for value in values) + "\n", encoding="ascii")
