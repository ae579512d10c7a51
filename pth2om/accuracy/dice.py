"""Dice from counted pixels or voxels: of a case, of a class, and the mean that a metric's name stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pth2om.accuracy.packed import unpack

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

PER_CLASS = "dice:"
"""Before the name of a class: the metric of that class alone."""


def counted(predicted: npt.NDArray[np.integer[Any]], truth: npt.NDArray[np.integer[Any]], classes: int) -> Counts:
    """Voxels of each class predicted, true, and both, int64 (classes, 3).

    Args:
        predicted: class of each voxel; negative where nothing was predicted.
        truth: class of each voxel, of the same shape; negative where it is not scored.
        classes: how many there are, background included.
    """
    scored = truth >= 0
    ours, theirs = predicted[scored], truth[scored]
    parts = (ours[(ours >= 0) & (ours < classes)], theirs, theirs[ours == theirs])
    return np.stack([np.bincount(part, minlength=classes)[:classes] for part in parts], axis=1).astype(np.int64)


def counted_regions(
    predicted: npt.NDArray[np.integer[Any]],
    truth: npt.NDArray[np.integer[Any]],
    regions: Sequence[Sequence[int]],
) -> Counts:
    """Voxels predicted, true, and both, int64 (1 + regions, 3): of the background, and of each region.

    Args:
        predicted: label of each voxel; negative where nothing was predicted.
        truth: label of each voxel, of the same shape; negative where it is not scored.
        regions: the labels of each region; regions may overlap.
    """
    scored = truth >= 0
    ours, theirs = predicted[scored], truth[scored]
    found = []
    for labels in ((0,), *regions):
        members = np.array(labels, dtype=ours.dtype)
        pair = np.isin(ours, members), np.isin(theirs, members)
        found.append([np.count_nonzero(part) for part in (*pair, pair[0] & pair[1])])
    return np.array(found, dtype=np.int64)


def segmentation_metrics(counts: Counts) -> dict[str, float]:
    """Dice and mean IoU in percent.

    Args:
        counts: (images, classes, 3): pixels predicted, true, both.

    Returns:
        ``dice``: mean over images of the mean over foreground classes that occur in the mask or the prediction (an
        image with neither counts 1); ``mIoU``: of the pixels of all images, mean over the classes that occur.
    """
    total = counts.sum(axis=0)
    union = total[:, 0] + total[:, 1] - total[:, 2]
    occurs = union > 0
    return {
        "dice": 100.0 * float(image_dice(counts).mean()),
        "mIoU": 100.0 * float((total[occurs, 2] / union[occurs]).mean()) if occurs.any() else 0.0,
    }


def class_metrics(counts: Counts, names: Sequence[str]) -> dict[str, float]:
    """Dice of each foreground class in percent, by ``dice:NAME``.

    The mean over the cases in which the class is in the truth or in the prediction, as nnU-Net's evaluation has it; a
    class that occurs in no case has no figure.

    Args:
        counts: (cases, classes, 3).
        names: of the classes, background first.
    """
    found = {}
    for number, name in enumerate(names[1:], 1):
        occurs = counts[:, number, :2].sum(axis=1) > 0
        if occurs.any():
            found[f"{PER_CLASS}{name}"] = 100.0 * float(image_dice(_alone(counts, number)[occurs]).mean())
    return found


def image_dice(counts: Counts | Floats) -> Floats:
    """Dice of each image, fractions, float64 (images,); see `segmentation_metrics`."""
    foreground = counts[:, 1:].astype(np.float64)
    both = foreground[:, :, 0] + foreground[:, :, 1]
    occurs = both > 0
    dice = np.divide(2 * foreground[:, :, 2], both, out=np.zeros_like(both), where=occurs)
    number = occurs.sum(axis=1)
    mean: Floats = np.where(number > 0, dice.sum(axis=1) / np.maximum(number, 1), 1.0)
    return mean


def counts_of(measured: Mapping[str, Any], metric: str) -> Counts | None:
    """What a metric counts: of ``dice:NAME`` only that class against everything else.

    Args:
        measured: of kind segmentation.
        metric: its name.

    Returns:
        int64 (images, classes, 3), of one class (images, 2, 3); None if there is no such metric.
    """
    counts: Counts = unpack(measured["counts"])
    if metric == "dice":
        return counts
    names = list(measured.get("classes", ()))
    name = metric.removeprefix(PER_CLASS)
    if not metric.startswith(PER_CLASS) or name not in names[1:]:
        return None
    return _alone(counts, names.index(name))


def _alone(counts: Counts, number: int) -> Counts:
    """One class and the rest; of the rest the voxels in both are not known, and no Dice asks for them."""
    rest = counts.sum(axis=1) - counts[:, number]
    return np.stack([rest, counts[:, number]], axis=1)
