"""The calibration data of a spec's model: preprocessed images, ``.bin`` batches, or random numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pth2om.evidence import Finding

if TYPE_CHECKING:
    from pth2om.data import Labelled
    from pth2om.data.normalizing import Preparation
    from pth2om.spec import Input, Preprocess

Feeds = Mapping[str, npt.NDArray[np.generic]]
_RANDOM_BATCHES = 4


@dataclass(frozen=True)
class CalibrationData:
    """Calibration data.

    Attributes:
        name: of the dataset, or of the first folder of bins.
        digest: of its content.
        count: number of batches.
        images: number of images in them.
        feeds: makes the batches; called once for each pass.
        bins: the folders, if the batches are on disk already.
        random: the batches are random numbers.
        findings: about the folders.
    """

    name: str
    digest: str
    count: int
    images: int
    feeds: Callable[[], Iterator[Feeds]]
    bins: tuple[Path, ...] = ()
    random: bool = False
    findings: tuple[Finding, ...] = ()


def from_images(dataset: Labelled, preprocess: Preprocess, fed: str, batch: int, limit: int) -> CalibrationData:
    """Calibration data from the first images of a dataset.

    Args:
        dataset: its labels are not used.
        preprocess: image -> input.
        fed: name of the input for the images.
        batch: images per batch.
        limit: at most so many images.
    """
    from pth2om.data import Preprocessor, batches

    images = min(limit, len(dataset))

    def feeds() -> Iterator[Feeds]:
        for piece in batches(dataset, Preprocessor(preprocess), batch, indices=range(images)):
            yield {fed: piece.array}

    return CalibrationData(dataset.name, dataset.digest, -(-images // batch), images, feeds)


def from_volumes(
    dataset: Labelled, how: Preparation, fed: str, shape: tuple[int, ...], batch: int, limit: int
) -> CalibrationData:
    """Calibration data from the middle windows of the first volumes of a dataset.

    Args:
        dataset: its labels are not used.
        how: order of axes, cropping, normalization.
        fed: name of the input for the windows.
        shape: of a window, channels first.
        batch: windows per batch.
        limit: at most so many windows.
    """
    from pth2om.data.normalizing import prepare, window_of

    count = min(limit, len(dataset))

    def feeds() -> Iterator[Feeds]:
        for start in range(0, count, batch):
            chosen = [min(number, count - 1) for number in range(start, start + batch)]
            windows = [
                window_of(
                    prepare(dataset.volume(index, reorient=how.reorient), how, where=dataset.file(index)), shape[1:]
                )
                for index in chosen
            ]
            yield {fed: np.stack(windows)}

    drawn = json.dumps([how.to_json(), shape])
    digest = hashlib.sha256(f"{dataset.digest}-{drawn}".encode()).hexdigest()
    return CalibrationData(dataset.name, digest, -(-count // batch), count, feeds)


def from_arrays(dataset: Labelled, inputs: Sequence[Input], batch: int, limit: int) -> CalibrationData:
    """Calibration data from the first rows of a dataset of arrays, all inputs of the model."""
    from pth2om.data.arrays import array_batches

    rows = min(limit, len(dataset))

    def feeds() -> Iterator[Feeds]:
        for piece in array_batches(dataset, inputs, batch, rows=rows):
            yield {inputs[0].name: piece.array, **piece.others}

    return CalibrationData(dataset.name, dataset.digest, -(-rows // batch), rows, feeds)


def from_bins(
    folders: Sequence[Path], inputs: Sequence[Input], batch: int, limit: int, digest: Callable[[Path], str]
) -> CalibrationData:
    """Calibration data from ``.bin`` batches.

    Args:
        folders: one per input, or one that contains a folder per input.
        inputs: the spec's.
        batch: images per file.
        limit: at most so many images.
        digest: of a file.

    Raises:
        QuantizeError: the folders or their files do not fit the inputs.
    """
    from pth2om.quantize.bins import InputShape, open_bins

    shapes = [InputShape(entry.name, entry.shape_of(batch), entry.dtype) for entry in inputs]
    opened = open_bins(folders, shapes, max(1, limit // batch))
    files = [path for paths in opened.files.values() for path in paths]
    whole = hashlib.sha256("".join(digest(path) for path in files).encode()).hexdigest()
    count = len(opened)
    return CalibrationData(
        folders[0].name,
        whole,
        count,
        count * batch,
        lambda: iter(opened),
        bins=tuple(folders),
        findings=tuple(opened.findings),
    )


def from_random(inputs: Sequence[Input], batch: int, seed: int) -> CalibrationData:
    """Random numbers in the ranges of the spec's inputs; results based on them are meaningless for the accuracy."""
    from pth2om.export_probe import example

    def feeds() -> Iterator[Feeds]:
        return (example(inputs, batch, seed + number) for number in range(_RANDOM_BATCHES))

    drawn = json.dumps([[entry.model_dump(mode="json") for entry in inputs], batch, seed])
    digest = f"random-{hashlib.sha256(drawn.encode()).hexdigest()}"
    return CalibrationData("random", digest, _RANDOM_BATCHES, _RANDOM_BATCHES * batch, feeds, random=True)
