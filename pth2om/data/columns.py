"""Whether a spec's classes, slices and datasets can belong together: found when the spec is read, before anything runs.

Only what is written down is looked at: ``num_classes``, the index of slices, and the classes in the datasets'
manifests. What only the graph or the data tell is found by the export and by the accuracy question.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from pth2om.data.manifest import load_manifest
from pth2om.errors import DataError, Pth2omError, SpecError
from pth2om.spec import Spec, line_of

_FRONT = {"yolov6": 5}
"""Decoder -> columns before the scores."""

_COUNTED = ("softmax", "yolov6")
"""Decoders with one score for each class. A mask of one class may be one channel or two."""


def check_columns(spec: Spec, calib: Path) -> None:
    """Refuse a spec whose numbers of classes contradict each other.

    Args:
        spec: what was read.
        calib: folder of the datasets' manifests.

    Raises:
        SpecError: two of them differ; with the line of the number.
    """
    decoder, classes = spec.postprocess.decoder, spec.source.num_classes
    datasets = [entry for entry in spec.datasets if entry.metric != "agreement"]
    if not datasets or decoder not in _COUNTED:
        return
    for entry in datasets:
        known = declared_classes(calib / entry.name)
        if None not in (classes, known) and classes != known:
            place = _place(spec, "source", "num_classes")
            raise SpecError("spec.classes", where=place, classes=classes, dataset=entry.name, known=known)
        _check_slices(spec, known if classes is None else classes, _FRONT.get(decoder, 0))


def _check_slices(spec: Spec, classes: int | None, front: int) -> None:
    if classes is None:
        return
    first_output = (spec.export.outputs or ("",))[0]
    for number, part in enumerate(spec.slices):
        columns = _columns(part.index)
        if part.kind != "scores" or columns is None or part.output not in (None, first_output):
            continue
        start, stop = columns
        # A slice may name some of the classes; what goes beyond them, or stops one short of the last from where the
        # scores of a layout without objectness begin, belongs to another layout or number of classes.
        if stop > front + classes or (front and (start, stop) == (front - 1, front - 1 + classes)):
            place = _place(spec, "slices", number, "index")
            raise SpecError(
                "spec.slice-columns",
                where=place,
                name=part.name,
                index=part.index,
                columns=stop,
                front=front,
                classes=classes,
            )


def _columns(index: str) -> tuple[int, int] | None:
    """The first column of a slice of the last axis and the one behind its last, where both are written."""
    start, colon, stop = index.rpartition(",")[2].strip().partition(":")
    try:
        return (int(start or 0), int(stop)) if colon and int(stop) > 0 and "..." in index else None
    except ValueError:
        return None


def declared_classes(folder: Path) -> int | None:
    """The number of classes in a dataset's manifest; None where it has none, or is wrong, which is reported elsewhere.

    Args:
        folder: of the manifest.
    """
    with contextlib.suppress(DataError, Pth2omError):
        manifest = load_manifest(folder)
        named = len(manifest.names) if isinstance(manifest.names, tuple) else 0
        return manifest.classes or named or None
    return None


def _place(spec: Spec, *location: str | int) -> str:
    path = spec.folder / "model.toml"
    try:
        return f"{path}:{line_of(path.read_text(encoding='utf-8-sig'), location)}"
    except (OSError, UnicodeDecodeError):
        return str(path)
