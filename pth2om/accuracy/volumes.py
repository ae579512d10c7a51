"""Running a session over labelled volumes by a sliding window; Dice of each case and class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pth2om.accuracy.bootstrap import RESAMPLES, mean_drop
from pth2om.accuracy.bounds import TWO_SIDED
from pth2om.accuracy.dice import (
    PER_CLASS,
    class_metrics,
    counted,
    counted_regions,
    counts_of,
    image_dice,
    segmentation_metrics,
)
from pth2om.accuracy.layout import check_voxels
from pth2om.accuracy.packed import pack, pack_names
from pth2om.data.labelled import Labelled
from pth2om.errors import DataError
from pth2om.evidence import Judgement
from pth2om.session import Session
from pth2om.spec import Volume

if TYPE_CHECKING:
    from pth2om.data.normalizing import Preparation
    from pth2om.segmentation.window import Floats

VERSION = 2
"""Of what is measured here: raised when a measurement holds something else."""


def measure(
    session: Session,
    dataset: Labelled,
    how: Preparation,
    table: Volume,
    *,
    batch: int = 1,
    output: str | None = None,
    feed: str | None = None,
    seen: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Segment every volume of a dataset and count its voxels.

    Args:
        session: what runs; its input has one shape.
        dataset: the volumes.
        how: order of axes, cropping, normalization, spacing; and the regions, where the net has them.
        table: the windows.
        batch: windows per inference.
        output: which output holds the scores; default the first.
        feed: which input takes the windows; default the first.
        seen: told how many cases are done; of a single case how many windows of how many.

    Returns:
        JSON as of `pth2om.accuracy.measure`, of kind segmentation: ``counts`` (cases, classes, 3), ``classes`` (their
        names; with regions the background and theirs), and in ``metrics`` besides ``dice`` and ``mIoU`` the Dice of
        each.

    Raises:
        DataError: a volume or its labels cannot be used, or the output is not scores of the classes or regions.
    """
    # Here, for who judges what was measured before needs none of them.
    from pth2om.data.normalizing import prepare
    from pth2om.segmentation import whole
    from pth2om.segmentation.deciding import best_class, in_order

    taken = output or session.outputs[0].name
    fed = next((entry for entry in session.inputs if entry.name == (feed or session.inputs[0].name)), None)
    if fed is None:
        raise DataError("accuracy.no-input", name=str(feed), known=", ".join(entry.name for entry in session.inputs))
    tile = tuple(side for side in fed.shape[2:] if side is not None)
    regions = how.regions
    names = _names(dataset, how.names) if regions is None else ["background", *regions.names]
    heads = len(names) if regions is None else len(regions.names)
    decide = best_class if regions is None else in_order(regions.order)
    nonfinite = np.zeros(len(dataset), dtype=np.int32)
    unreadable, counts = 0, []

    def predict(tiles: Floats) -> Floats:
        results = session.run({fed.name: tiles.astype(fed.dtype)})
        if taken not in results:
            raise DataError("accuracy.no-output", name=taken, known=", ".join(results))
        scores = results[taken]
        check_voxels(scores.shape[1:], heads, tile)
        nonfinite[case] += np.count_nonzero(~np.isfinite(scores))
        found = scores.astype(np.float32)
        return _probabilities(found) if how.softmax else found

    for case in range(len(dataset)):
        prepared = prepare(dataset.volume(case, reorient=how.reorient), how, where=dataset.file(case))
        truth = dataset.truth(case, reorient=how.reorient).transpose(how.transpose)
        if truth.shape != prepared.size:
            sizes = {"labels": "x".join(map(str, truth.shape)), "size": "x".join(map(str, prepared.size))}
            raise DataError("data.volume-truth-size", where=dataset.file(case), **sizes)
        windows = seen if len(dataset) == 1 else None
        found = whole.segment(
            prepared, tile, predict, table, resampling=how.resampling, decide=decide, batch=batch, seen=windows
        )
        unreadable += bool((found < 0).any())
        if regions is None:
            counts.append(counted(found, truth, len(names)))
        else:
            counts.append(counted_regions(found, truth, regions.labels))
        if seen is not None and windows is None:
            seen(case + 1)
    return {
        "version": VERSION,
        "kind": "segmentation",
        "images": len(dataset),
        "dataset": dataset.digest,
        "files": pack_names([dataset.file(index) for index in range(len(dataset))]),
        "classes": names,
        **_figures(np.stack(counts), names),
        "nonfinite": pack(nonfinite),
        "unreadable": unreadable,
    }


def _figures(counts: Any, names: list[str]) -> Mapping[str, Any]:  # noqa: ANN401 - an array
    return {"counts": pack(counts), "metrics": {**segmentation_metrics(counts), **class_metrics(counts, names)}}


def _probabilities(scores: Floats) -> Floats:
    """Softmax over the heads (windows, heads, ...)."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: Floats = powers / powers.sum(axis=1, keepdims=True)
    return found


def _names(dataset: Labelled, own: Sequence[str]) -> list[str]:
    """The dataset's names of the classes; without them the model's own, where the numbers do not contradict."""
    if dataset.names:
        return list(dataset.names)
    if own and dataset.classes in (None, len(own)):
        return list(own)
    if dataset.classes is None:
        raise DataError("accuracy.no-classes", where=dataset.name)
    return ["background", *(f"class {number}" for number in range(1, dataset.classes))]


def judged_metrics(measured: Mapping[str, Any], metric: str) -> list[str]:
    """The metrics by which a measurement is judged: the dataset's own, and of volumes that of each class too."""
    classes = [name for name in measured["metrics"] if name.startswith(PER_CLASS)] if metric == "dice" else []
    return [metric, *classes]


def class_scores(measured: Mapping[str, Any], judgements: Sequence[Judgement], seed: int) -> list[Judgement]:
    """The figures of a measurement of volumes with their two-sided 95 % intervals, from resampled cases.

    Args:
        measured: of one session.
        judgements: of its scores; those of ``dice`` get the interval.
        seed: of the resampling.

    Returns:
        The judgements, and one figure per class, shown and not judged.
    """
    if "classes" not in measured:
        return list(judgements)
    found = [
        replace(each, interval=_interval(measured, "dice", seed), seed=seed) if each.check == "dice/score" else each
        for each in judgements
    ]
    for metric in judged_metrics(measured, "dice")[1:]:
        value = float(measured["metrics"][metric])
        interval = _interval(measured, metric, seed)
        found.append(Judgement(f"{metric}/score", value, "%", None, "shown", interval=interval, seed=seed))
    return found


def _interval(measured: Mapping[str, Any], metric: str, seed: int) -> tuple[float, float] | None:
    counts = counts_of(measured, metric)
    if counts is None:
        return None
    if metric.startswith(PER_CLASS):
        counts = counts[counts[:, 1, :2].sum(axis=1) > 0]
    if len(counts) < 2:
        return None  # one case shows no spread
    dice = 100 * image_dice(counts)
    low, high = mean_drop(dice, float(dice.mean()), resamples=RESAMPLES, seed=seed).bounds(TWO_SIDED)
    return max(low, 0.0), min(high, 100.0)
