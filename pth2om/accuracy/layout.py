"""Whether an output has the form that its decoder reads, and which other form it looks like when it has not.

Checked before anything is scored: a detector whose columns are read in the wrong place still gives boxes and scores,
only meaningless ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from pth2om.errors import DataError

_FRONT = 5
"""Columns before the scores: cx, cy, w, h, objectness."""

_MOST_CLASSES = 2000
"""More score columns than any detection dataset has categories (LVIS: 1203): the boxes lie along that axis."""


def check_detector(shape: Sequence[int], classes: int | None) -> None:
    """Refuse what is not rows of ``cx, cy, w, h, objectness, scores``.

    Args:
        shape: of one image's output.
        classes: categories of the dataset, where they are known.

    Raises:
        DataError: it is something else; the text names the known layout that it looks like.
    """
    if len(shape) == 2 and shape[1] > _FRONT:
        columns = shape[1] - _FRONT
        if columns == classes or (classes is None and columns <= _MOST_CLASSES):
            return
    shown = "x".join(map(str, shape))
    kind = _looks_like(tuple(shape), classes)
    if kind is not None:
        rows = f"(1, boxes, {_FRONT} + {classes})" if classes else "(1, boxes, 5 + classes)"
        raise DataError(f"accuracy.looks-like-{kind}", shape=shown, classes=classes or 0, rows=rows)
    if len(shape) == 2 and shape[1] > _FRONT:
        columns, front = shape[1] - _FRONT, _FRONT
        raise DataError("accuracy.score-columns", shape=shown, columns=columns, front=front, classes=classes or 0)
    raise DataError("accuracy.not-rows", shape=shown)


def _looks_like(shape: tuple[int, ...], classes: int | None) -> str | None:
    if len(shape) in (3, 4):
        own = classes is not None and shape[-1] == _FRONT + classes
        return "raw-head" if own or len(shape) == 3 or shape[-1] > _FRONT else None
    if len(shape) != 2:
        return None
    first, last = shape
    if classes is None:
        return "boxes-last" if last > _FRONT + _MOST_CLASSES else None
    if first == 4 + classes:
        return "no-objectness-boxes-last"
    if first == _FRONT + classes:
        return "boxes-last"
    if last == 4 + classes:
        return "no-objectness"
    return "after-nms" if last in (6, 7) else None


def check_classifier(values: int, classes: int | None) -> None:
    """Refuse an output that has not one value per class of the dataset.

    Args:
        values: of one image.
        classes: of the dataset, where they are known.

    Raises:
        DataError: their numbers differ, or there are fewer than two values.
    """
    if values < 2 or (classes is not None and values < classes):
        raise DataError("accuracy.too-few-classes", outputs=values, classes=classes or 2)
    if classes is not None and values > classes:
        raise DataError("accuracy.too-many-values", outputs=values, classes=classes)


def check_masks(shape: Sequence[int], classes: int) -> None:
    """Refuse what is neither scores (classes, H, W), one channel (1, H, W), nor class numbers (H, W).

    Args:
        shape: of one image's output.
        classes: of the dataset.

    Raises:
        DataError: it is something else.
    """
    shown = "x".join(map(str, shape))
    if len(shape) not in (2, 3):
        raise DataError("accuracy.not-a-mask", shape=shown)
    if len(shape) == 2 or shape[0] in (1, classes):
        return
    if shape[-1] == classes:
        raise DataError("accuracy.looks-like-channels-last", shape=shown, classes=classes)
    raise DataError("accuracy.mask-channels", shape=shown, channels=shape[0], classes=classes)


def check_voxels(shape: Sequence[int], classes: int, tile: Sequence[int]) -> None:
    """Refuse what is not one score per class and voxel of a window.

    Args:
        shape: of one window's output.
        classes: of the dataset.
        tile: the window.

    Raises:
        DataError: it is something else.
    """
    if tuple(shape) == (classes, *tile):
        return
    shown, wanted = "x".join(map(str, shape)), "x".join(map(str, (classes, *tile)))
    raise DataError("accuracy.not-voxels", shape=shown, wanted=wanted, classes=classes)
