"""Running a session over a dataset, one batch in memory at a time."""

from __future__ import annotations

import functools
import math
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pth2om.accuracy.dice import segmentation_metrics
from pth2om.accuracy.layout import check_classifier, check_detector, check_masks
from pth2om.accuracy.packed import pack, pack_names
from pth2om.data.labelled import Labelled
from pth2om.data.preprocess import Batch, Geometry, Preprocessor, batches
from pth2om.errors import DataError
from pth2om.session import Array, Feeds, Session, TensorSpec, stream
from pth2om.spec import Postprocess

VERSION = 5
"""Of what is measured here: raised when a measurement holds something else."""


_KEPT_BOXES = 1000  # images up to which boxes are kept for pictures; beyond, only what the figure needs
_CHANCE_IMAGES = 1000  # images up to which boxes are held against another image's objects
_DECODED_AT_ONCE = 1 << 18  # numbers of a detector's outputs: some megabytes while they are read
_TOP = 5
_PERFECT: weakref.WeakKeyDictionary[Labelled, float] = weakref.WeakKeyDictionary()
"""What a perfect detector scores on another image's objects: the same for every session that is scored on a dataset."""


def measure(
    session: Session,
    dataset: Labelled,
    preprocessor: Preprocessor | None,
    postprocess: Postprocess,
    *,
    batch: int = 1,
    output: str | None = None,
    feed: str | None = None,
    source: Callable[[], Iterator[Batch]] | None = None,
    seen: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Score a session on a dataset.

    Args:
        session: what runs.
        dataset: the images.
        preprocessor: makes the input; None where `source` gives whole batches.
        postprocess: output -> predictions.
        batch: images per inference.
        output: which output; default the first.
        feed: which input takes the images; default the first.
        source: gives the batches, when they are at hand already.
        seen: told how many images are done.

    Returns:
        JSON: ``kind``, ``version``, ``images``, ``dataset`` (digest), ``metrics`` (percent), and per image what `judge`
        needs, packed; ``nonfinite``: of each image the NaN and infinite numbers among all its outputs;
        ``first_equal`` where images are equal pixel by pixel: the first image equal to each.

    Raises:
        DataError: an image cannot be read, or the output is not what the decoder takes.
    """
    reader = scoring(postprocess.decoder).reader(dataset, postprocess)
    taken = output or session.outputs[0].name
    fed = next((entry for entry in session.inputs if entry.name == feed), None) if feed else session.inputs[0]
    if fed is None:
        raise DataError("accuracy.no-input", name=str(feed), known=", ".join(entry.name for entry in session.inputs))
    # An input of pixels is AIPP's: it normalizes by itself. Values are not made of pixels to be turned back into them.
    raw = source is None and (fed.dtype == np.uint8 or getattr(session, "takes_pixels", False))
    nonfinite: list[npt.NDArray[np.int64]] = []
    declared = next((entry.shape[1:] for entry in session.outputs if entry.name == taken), ())
    whole = tuple(side for side in declared if isinstance(side, int))
    if declared and len(whole) == len(declared):
        reader.check(whole)
    seen_before: dict[int, int] = {}
    first_equal: list[int] = []
    under_way: deque[Batch] = deque()
    if source is None:
        assert preprocessor is not None
        source = functools.partial(batches, dataset, preprocessor, batch, raw=raw)
    make = source

    def feeding() -> Iterator[Feeds]:
        for piece in make():
            under_way.append(piece)
            yield {fed.name: piece.array if raw else _as_input(piece.array, fed), **piece.others}

    for results in stream(session, feeding()):
        piece = under_way.popleft()
        if taken not in results:
            raise DataError("accuracy.no-output", name=taken, known=", ".join(results))
        rows = results[taken]
        if rows.ndim < 1 or len(rows) < piece.count:
            shape = "x".join(map(str, rows.shape))
            raise DataError("accuracy.not-batched", name=taken, shape=shape, count=piece.count)
        reader.check(rows.shape[1:])
        reader.add(rows[: piece.count], piece)
        nonfinite.append(_not_finite(results, piece.count, batch))
        contents = piece.contents or [hash(row.tobytes()) for row in piece.array[: piece.count]]
        for offset, content in enumerate(contents):
            first_equal.append(seen_before.setdefault(content, piece.first + offset))
        if seen is not None:
            seen(piece.first + piece.count)
    measured = {"version": VERSION, "images": len(dataset), "dataset": dataset.digest}
    measured["files"] = pack_names([dataset.file(index) for index in range(len(dataset))])
    measured["nonfinite"] = pack(np.concatenate(nonfinite).astype(np.int32))
    if len(seen_before) < len(first_equal):
        measured["first_equal"] = pack(np.array(first_equal, dtype=np.int32))
    return {**measured, **reader.result()}


def _not_finite(results: Mapping[str, Array], count: int, batch: int) -> npt.NDArray[np.int64]:
    """NaN and infinite numbers in the outputs of each of the first ``count`` images of a batch, int64 (count,).

    Those of an output that has no row per image count for all images.
    """
    found = np.zeros(count, dtype=np.int64)
    for array in results.values():
        if array.dtype.kind not in "fc" or not array.size or _all_finite(array):
            continue
        bad = ~np.isfinite(array)
        if array.ndim and len(array) == batch:
            found += np.count_nonzero(bad[:count].reshape(count, -1), axis=1)
        else:
            found += int(np.count_nonzero(bad))
    return found


def _all_finite(array: npt.NDArray[Any]) -> bool:
    """Whether no number is NaN or infinite; False also where their sum is too large to tell."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()))


def _as_input(array: npt.NDArray[Any], fed: TensorSpec) -> Array:
    if array.dtype == fed.dtype:
        return array
    if fed.dtype.kind != "f" or array.dtype.kind != "f":
        # Cutting normalized values down to integers would score noise.
        raise DataError("accuracy.integer-input", name=fed.name, dtype=str(fed.dtype))
    return array.astype(fed.dtype)


class Reader:
    """A decoder at work: takes outputs batch by batch and keeps what is needed of each image."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse outputs whose ``shape`` of one image is not what the decoder reads."""
        raise NotImplementedError

    def add(self, rows: npt.NDArray[Any], piece: Batch) -> None:
        """One batch's outputs, padding rows already cut off."""
        raise NotImplementedError

    def result(self) -> dict[str, Any]:
        """What was measured."""
        raise NotImplementedError


class _Classes(Reader):
    """Classification: the best five classes of each image and the margin between the first two."""

    def __init__(self, dataset: Labelled, _postprocess: Postprocess) -> None:
        self._dataset = dataset
        self._top: list[npt.NDArray[np.int32]] = []
        self._margin: list[npt.NDArray[np.float32]] = []

    def check(self, shape: tuple[int, ...]) -> None:
        check_classifier(math.prod(shape), self._dataset.classes if self._dataset.has_classes else None)

    def add(self, rows: npt.NDArray[Any], piece: Batch) -> None:  # noqa: ARG002 - the protocol's
        scores = rows.reshape(len(rows), -1)
        wide = scores.astype(np.float64)
        top = np.argsort(-wide, axis=1, kind="stable")[:, :_TOP]
        best = np.take_along_axis(wide, top[:, :2], axis=1)
        with np.errstate(invalid="ignore"):
            margin = best[:, 0] - best[:, 1]
        # An output with NaN predicts nothing, not class 0.
        lost = np.isnan(wide).any(axis=1)
        top[lost] = -1
        self._top.append(top.astype(np.int32))
        self._margin.append(np.where(lost, np.nan, margin).astype(np.float32))

    def result(self) -> dict[str, Any]:
        top, margin = np.concatenate(self._top), np.concatenate(self._margin)
        measured: dict[str, Any] = {"kind": "classification", "top": pack(top), "margin": pack(margin), "metrics": {}}
        measured["unreadable"] = int(np.count_nonzero(top[:, 0] < 0))
        if self._dataset.has_classes:
            labels = self._dataset.labels
            hits = top == labels[:, None]
            measured["labels"] = pack(labels.astype(np.int32))
            measured["metrics"]["top1"] = 100.0 * float(hits[:, 0].mean())
            if top.shape[1] == _TOP:
                measured["metrics"]["top5"] = 100.0 * float(hits.any(axis=1).mean())
        return measured


class _Boxes(Reader):
    """Detection: boxes of each image, matched to its objects at the end."""

    def __init__(self, dataset: Labelled, postprocess: Postprocess) -> None:
        from pth2om.accuracy.detection import Found

        self._dataset = dataset
        self._postprocess = postprocess
        self._found: list[Found] = []
        self._unreadable = 0
        self._waiting: list[tuple[npt.NDArray[Any], tuple[Geometry, ...]]] = []

    def check(self, shape: tuple[int, ...]) -> None:
        check_detector(shape, self._dataset.classes if self._dataset.has_labels else None)

    def add(self, rows: npt.NDArray[Any], piece: Batch) -> None:
        if self._waiting and self._waiting[0][0].shape[1:] != rows.shape[1:]:
            self._decode()
        self._waiting.append((rows, piece.geometries))
        if sum(each.size for each, _ in self._waiting) >= _DECODED_AT_ONCE:
            self._decode()

    def _decode(self) -> None:
        """Read the outputs that wait: small ones are read many at once."""
        from pth2om.accuracy.detection import decode_each

        if not self._waiting:
            return
        rows = np.concatenate([each for each, _ in self._waiting])
        geometries = [geometry for _, of_piece in self._waiting for geometry in of_piece]
        self._waiting.clear()
        if not _all_finite(rows):
            self._unreadable += int(np.count_nonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1)))
        self._found += decode_each(rows, self._postprocess, geometries)

    def result(self) -> dict[str, Any]:
        from pth2om.accuracy import average_precision as precision

        self._decode()
        counts = np.array([len(found.scores) for found in self._found], dtype=np.int64)
        found = precision.Detections(
            counts,
            np.concatenate([found.boxes for found in self._found]),
            np.concatenate([found.scores for found in self._found]).astype(np.float64),
            np.concatenate([found.classes for found in self._found]),
        )
        measured: dict[str, Any] = {"kind": "detection", "metrics": {}, "unreadable": self._unreadable}
        if len(self._found) <= _KEPT_BOXES or not self._dataset.has_labels:
            measured["detections"] = {
                "counts": pack(counts.astype(np.int32)),
                "boxes": pack(found.boxes.astype(np.float32)),
                "scores": pack(found.scores.astype(np.float32)),
                "classes": pack(found.classes.astype(np.int16)),
            }
        if not self._dataset.has_labels:
            return measured
        truths = [self._dataset.annotations(index) for index in range(len(self._dataset))]
        classes = self._dataset.classes or 1
        most = int(found.classes.max(initial=-1)) + 1
        if most > classes:
            raise DataError("accuracy.too-many-classes", outputs=most, classes=classes)
        statistics = precision.evaluate(found, truths, classes)
        measured["metrics"] = {name: 100.0 * value for name, value in statistics.items() if value >= 0}
        measured["matches"] = matches_to_json(precision.match(found, truths, classes))
        measured["chance"] = _by_chance(found, truths, classes)
        if self._dataset not in _PERFECT:
            _PERFECT[self._dataset] = _by_chance(precision.perfect(truths), truths, classes)["mAP50-95"]
        measured["perfect_by_chance"] = _PERFECT[self._dataset]
        return measured


def _by_chance(found: Any, truths: Sequence[Any], classes: int) -> dict[str, float]:  # noqa: ANN401 - Detections, lazily
    """What the same boxes score when each image's are handed to another image, in percent."""
    from pth2om.accuracy import average_precision as precision

    images = min(len(truths), _CHANCE_IMAGES)
    boxes = int(found.counts[:images].sum())
    some = precision.Detections(found.counts[:images], found.boxes[:boxes], found.scores[:boxes], found.classes[:boxes])
    other = precision.exchanged(some)
    figures = 100 * np.nan_to_num(precision.average_precision(precision.match(other, truths[:images], classes))[0])
    return {name: float(figures[part].mean()) for name, part in precision.THRESHOLDS_OF.items()}


def matches_to_json(matches: Any) -> dict[str, Any]:  # noqa: ANN401 - average_precision.Matches, imported lazily
    """`pth2om.accuracy.average_precision.Matches` as JSON: the ten thresholds as bits of one number."""
    bits = (1 << np.arange(len(matches.hit), dtype=np.uint16))[:, None]
    return {
        "image": pack(matches.image.astype(np.int32)),
        "classes": pack(matches.classes.astype(np.int16)),
        "scores": pack(matches.scores.astype(np.float32)),
        "hit": pack((matches.hit * bits).sum(axis=0, dtype=np.uint16)),
        "ignored": pack((matches.ignored * bits).sum(axis=0, dtype=np.uint16)),
        "truths": pack(matches.truths.astype(np.int16)),
    }


def matches_from_json(data: Mapping[str, Any]) -> Any:  # noqa: ANN401 - see matches_to_json
    """The inverse of `matches_to_json`."""
    from pth2om.accuracy import average_precision as precision
    from pth2om.accuracy.packed import unpack

    bits = (1 << np.arange(len(precision.THRESHOLDS), dtype=np.uint16))[:, None]
    return precision.Matches(
        unpack(data["image"]).astype(np.int64),
        unpack(data["classes"]).astype(np.int64),
        unpack(data["scores"]).astype(np.float64),
        (unpack(data["hit"])[None, :] & bits) != 0,
        (unpack(data["ignored"])[None, :] & bits) != 0,
        unpack(data["truths"]).astype(np.int64),
    )


class _Masks(Reader):
    """Segmentation: per image and class the pixels predicted, true, and both.

    The output is scores (N, classes, H, W), one channel of scores above 0.5 (N, 1, H, W), or class numbers (N, H, W).
    A mask of another size is read at the nearest pixel of the output.
    """

    def __init__(self, dataset: Labelled, _postprocess: Postprocess) -> None:
        self._dataset = dataset
        self._counts: list[npt.NDArray[np.int64]] = []
        self._classes = max(dataset.classes or 2, 2)
        self._unreadable = 0

    def check(self, shape: tuple[int, ...]) -> None:
        check_masks(shape, self._classes)

    def add(self, rows: npt.NDArray[Any], piece: Batch) -> None:
        for offset, (row, geometry) in enumerate(zip(rows, piece.geometries, strict=True)):
            predicted = self._predicted(row)
            truth = self._dataset.mask(piece.first + offset)
            y = (np.arange(truth.shape[0]) + 0.5) * geometry.scale_y + geometry.offset_y
            x = (np.arange(truth.shape[1]) + 0.5) * geometry.scale_x + geometry.offset_x
            height, width = piece.array.shape[1:3] if piece.array.dtype == np.uint8 else piece.array.shape[2:]
            inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None, :]
            rows_at = (y * predicted.shape[0] / height).astype(int).clip(0, predicted.shape[0] - 1)
            columns_at = (x * predicted.shape[1] / width).astype(int).clip(0, predicted.shape[1] - 1)
            chosen = predicted[rows_at[:, None], columns_at[None, :]]
            counted = (truth != 255) & inside
            pairs = truth[counted].astype(np.int64), chosen[counted]
            per_class = [
                (pairs[1] == number, pairs[0] == number, (pairs[0] == number) & (pairs[1] == number))
                for number in range(self._classes)
            ]
            self._counts.append(np.array([[np.count_nonzero(part) for part in parts] for parts in per_class]))

    def _predicted(self, row: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        if row.ndim == 3 and row.shape[0] > 1:
            lost = np.isnan(row).any(axis=0) if row.dtype.kind == "f" else np.zeros(row.shape[1:], dtype=bool)
            chosen = np.where(lost, -1, np.argmax(np.nan_to_num(row), axis=0))
        else:
            plane = row[0] if row.ndim == 3 else row
            if plane.dtype.kind == "f":
                lost = np.isnan(plane)
                with np.errstate(invalid="ignore"):
                    chosen = np.where(lost, -1, (plane > 0.5) if row.ndim == 3 else np.rint(np.nan_to_num(plane)))
            else:
                lost, chosen = np.zeros(plane.shape, dtype=bool), plane
        self._unreadable += bool(lost.any())
        return np.asarray(chosen, dtype=np.int64)

    def result(self) -> dict[str, Any]:
        counts = np.stack(self._counts)
        return {
            "kind": "segmentation",
            "counts": pack(counts.astype(np.int64)),
            "unreadable": self._unreadable,
            "metrics": segmentation_metrics(counts),
        }


@dataclass(frozen=True)
class Scoring:
    """How the predictions of one decoder are scored.

    Attributes:
        kind: what `Reader.result` gives as ``kind``, which `pth2om.accuracy.judge` goes by.
        metrics: the figures it gives, in percent; a dataset that names none is judged by the first.
        reader: makes the decoder for a dataset and the spec's ``[postprocess]``.
    """

    kind: str
    metrics: tuple[str, ...]
    reader: Callable[[Labelled, Postprocess], Reader]


SCORINGS: dict[str, Scoring] = {
    "softmax": Scoring("classification", ("top1", "top5"), _Classes),
    "yolov6": Scoring("detection", ("mAP50-95", "mAP50"), _Boxes),
    "argmax": Scoring("segmentation", ("dice", "mIoU"), _Masks),
}
"""Decoders by the name that ``[postprocess]`` gives, with their metrics."""


def scoring(decoder: str) -> Scoring:
    """The scoring of a decoder.

    Raises:
        DataError: no decoder of that name scores anything.
    """
    if decoder not in SCORINGS:
        raise DataError("accuracy.no-decoder")
    return SCORINGS[decoder]


def first_metric(kind: str) -> str:
    """The figure by which a kind of task is judged when nothing else is named."""
    return next(each.metrics[0] for each in SCORINGS.values() if each.kind == kind)
