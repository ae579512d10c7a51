"""The data of an offline inference: labels as the ModelZoo's scripts read them, images as numbered ``.bin`` batches.

Inference number k of batch size B takes images k * B and on, in the order of the labels; the last one is filled up with
its last image, which is not counted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pth2om.errors import DataError
from pth2om.escaping import visible
from pth2om.files import replacing, write_text
from pth2om.offline.folders import NumberedFolder
from pth2om.progress import counted

if TYPE_CHECKING:
    from pth2om.data import Batch, Labelled, Preprocessor

LABELS = "val_label.txt"
IMAGES = "images.txt"


def write_labels(folder: Path, labelled: Labelled) -> Path:
    """Write ``val_label.txt``, one class a line, and ``images.txt``, the names of the same images.

    Returns:
        The file of the labels.

    Raises:
        DataError: the images have no classes.
    """
    if not labelled.has_classes:
        raise DataError("data.no-labels", where=str(labelled.folder), name=labelled.name)
    write_text(folder / IMAGES, "".join(f"{visible(labelled.file(k))}\n" for k in range(len(labelled))))
    write_text(folder / LABELS, "".join(f"{label}\n" for label in labelled.labels))
    return folder / LABELS


def numbered_batches(
    labelled: Labelled, preprocessor: Preprocessor, batch: int, done: NumberedFolder, *, raw: bool = False
) -> Iterator[tuple[int, Batch]]:
    """The batches that a folder does not hold yet, with their numbers; images of the others are not decoded.

    Args:
        labelled: the images.
        preprocessor: makes the input.
        batch: images per inference.
        done: what is there already.
        raw: pixels, as AIPP takes them, instead of normalized values.
    """
    from pth2om.data import batches

    for number in range(-(-len(labelled) // batch)):
        if number in done:
            continue
        indices = range(number * batch, min((number + 1) * batch, len(labelled)))
        yield number, next(batches(labelled, preprocessor, batch, indices=indices, raw=raw))


def write_inputs(labelled: Labelled, preprocessor: Preprocessor, batch: int, folder: NumberedFolder) -> None:
    """Write ``input_00000.bin`` and on: float32 (batch, C, H, W), C order; what is there already is kept.

    Raises:
        DataError: there is not enough room, or an image cannot be read.
    """
    total = -(-len(labelled) // batch)
    size = 4 * batch * int(np.prod(preprocessor.shape))
    left = total - folder.kept
    free = shutil.disk_usage(folder.path).free
    if left * size > free:
        raise DataError("offline.no-room", where=str(folder.path), needed=left * size >> 20, free=free >> 20)
    done = folder.kept
    with counted(folder.path.name, total) as seen:
        for number, piece in numbered_batches(labelled, preprocessor, batch, folder):
            with replacing(folder.path / f"{folder.name(number)}.bin") as scratch:
                piece.array.tofile(scratch)
            done += 1
            seen(done)
