"""Whether a reference says anything about the images: how far its score is above an answer that never looks at them.

A drop against a reference that scores like a constant, or like chance, shows nothing: a broken candidate drops as
little. So each measurement is held against answers that do not depend on the image:

* classification: always the most frequent class of the labels (for top5 the five most frequent), which no answer that
  ignores the image beats in expectation, chance included;
* detection: the model's own boxes, each image's handed to another image;
* segmentation: every pixel of one class, and the model's own areas laid down anywhere;
* agreement: the reference's own most frequent answer, or its boxes handed to another image.

The reference's lead over them has a one-sided lower bound. A drop is judged only where that bound is above the gate:
then a candidate that does not look at the images would fail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pth2om.accuracy.bounds import LEVEL, binomial_upper, drop_bounds, normal_quantile
from pth2om.accuracy.dice import counts_of, image_dice
from pth2om.accuracy.packed import unpack

Over = Literal["constant", "other-images", "one-class", "same-objects", "areas"]

DATA: tuple[Over, ...] = ("one-class", "same-objects")
"""Where no model could be ahead: the images cannot tell a model that looks at them from one that does not."""

_SAME_OBJECTS = 95.0
"""mAP from which the annotations of other images serve as well as an image's own."""


@dataclass(frozen=True)
class Lead:
    """How far a reference is above an answer that ignores the image; in percent points.

    Attributes:
        over: which answer that is.
        baseline: what it scores, in percent.
        lead: the reference's score less that.
        low: its one-sided lower bound at `LEVEL`.
    """

    over: Over
    baseline: float
    lead: float
    low: float

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Lead:
        """The inverse of `to_json`."""
        return cls(data["over"], float(data["baseline"]), float(data["lead"]), float(data["low"]))


def distinct(measured: Mapping[str, Any]) -> npt.NDArray[np.intp]:
    """The images of a measurement, of those with equal pixels only the first, intp (N,)."""
    if "first_equal" not in measured:
        return np.arange(int(measured["images"]))
    first = unpack(measured["first_equal"])
    return np.flatnonzero(first == np.arange(len(first)))


def lead(measured: Mapping[str, Any], metric: str) -> Lead:
    """The lead of a measurement's figure.

    Args:
        measured: of the reference.
        metric: which figure.
    """
    if measured["kind"] == "classification":
        return _over_constant(measured, metric)
    if measured["kind"] == "segmentation":
        return _over_masks(measured, metric)
    return _over_other_images(measured, metric)


def one_class(measured: Mapping[str, Any]) -> int | None:
    """The class that all labels have, where there is only one."""
    if "labels" not in measured:
        return None
    labels = unpack(measured["labels"])
    return int(labels[0]) if labels.size and (labels == labels[0]).all() else None


def _over_constant(measured: Mapping[str, Any], metric: str) -> Lead:
    top = {"top1": 1, "top5": 5}[metric]
    images = distinct(measured)
    labels = unpack(measured["labels"])[images]
    right = (unpack(measured["top"])[images, :top] == labels[:, None]).any(axis=1)
    values, counts = np.unique(labels, return_counts=True)
    frequent = values[np.argsort(-counts, kind="stable")[:top]]
    constant = np.isin(labels, frequent)
    ahead, behind = int(np.count_nonzero(right & ~constant)), int(np.count_nonzero(~right & constant))
    low = drop_bounds(ahead, behind, len(images))[0]
    share = 100.0 * float(constant.mean())
    over: Over = "one-class" if len(values) == 1 else "constant"
    return Lead(over, share, 100.0 * (ahead - behind) / len(images), 100 * low)


def _over_other_images(measured: Mapping[str, Any], metric: str) -> Lead:
    from pth2om.accuracy.average_precision import THRESHOLDS_OF
    from pth2om.accuracy.bootstrap import precision
    from pth2om.accuracy.measuring import matches_from_json

    score, chance = float(measured["metrics"][metric]), float(measured["chance"].get(metric, 0.0))
    images = distinct(measured)
    ahead = score - chance if abs(score - chance) > 1e-9 else 0.0
    # One image is its own other image; resampled it shows no spread.
    low = -100.0
    if len(images) > 1:
        own = precision(matches_from_json(measured["matches"]), ahead, THRESHOLDS_OF[metric], images=images)
        low = max(own.bounds(LEVEL)[0], -100.0)
    same = float(measured.get("perfect_by_chance", 0.0)) >= _SAME_OBJECTS
    return Lead("same-objects" if same else "other-images", chance, ahead, low)


def _over_masks(measured: Mapping[str, Any], metric: str) -> Lead:
    found = counts_of(measured, metric)
    counts = (unpack(measured["counts"]) if found is None else found)[distinct(measured)]
    own = image_dice(counts)
    true, total = counts[:, :, 1], counts[:, :, 1].sum(axis=1)
    best: tuple[float, Over, npt.NDArray[np.float64]] | None = None
    for answer in range(counts.shape[1] + 1):
        tried = np.zeros_like(counts, dtype=np.float64)
        tried[:, :, 1] = true
        if answer < counts.shape[1]:
            over: Over = "constant"
            tried[:, answer, 0], tried[:, answer, 2] = total, true[:, answer]
        else:
            over = "areas"
            tried[:, :, 0] = counts[:, :, 0]
            tried[:, :, 2] = counts[:, :, 0] * true / np.maximum(total, 1)[:, None]
        dice = image_dice(tried)
        if best is None or float(dice.mean()) > best[0]:
            best = float(dice.mean()), over, dice
    assert best is not None
    ahead = 100 * (own - best[2])
    error = float(ahead.std(ddof=1)) / math.sqrt(len(ahead)) if len(ahead) > 1 else math.inf
    low = float(ahead.mean()) - normal_quantile(LEVEL) * error
    return Lead(best[1], 100 * best[0], float(ahead.mean()), max(low, -100.0))


def lead_of_answers(first: npt.NDArray[np.integer[Any]]) -> Lead:
    """How far full agreement is above always giving the reference's most frequent answer.

    Args:
        first: the reference's answers, (images,).
    """
    counts = np.unique(first, return_counts=True)[1]
    most, images = int(counts.max()), len(first)
    low = 100 - 100 * binomial_upper(most, images)
    return Lead("constant", 100.0 * most / images, 100.0 * (images - most) / images, low)
