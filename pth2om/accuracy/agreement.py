"""Agreement with the original where there are no labels: of the first class, or of the boxes worth showing."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pth2om.accuracy.bootstrap import RESAMPLES
from pth2om.accuracy.bounds import LEVEL, TWO_SIDED, binomial_upper, zero_disagreement_bound
from pth2om.accuracy.packed import unpack, unpack_names
from pth2om.accuracy.reference import Lead, distinct, lead_of_answers
from pth2om.errors import DataError
from pth2om.evidence import Judgement, Limit, Verdict
from pth2om.language import say

Floats = npt.NDArray[np.float64]

_CLEAR_SCORE = 0.25  # a detection a person would be shown
_LISTED = 50


@dataclass(frozen=True)
class _Shared:
    """How far two measurements agree.

    Attributes:
        check: what is compared.
        per_image: float64 (images,): share of each image that agrees, 0 to 1.
        measured: over all images, in percent.
        bounds: one-sided at `LEVEL`, in percent.
        interval: two-sided 95 %, in percent.
        lead: of full agreement over an answer that ignores the images.
    """

    check: str
    per_image: Floats
    measured: float
    bounds: tuple[float, float]
    interval: tuple[float, float]
    lead: Lead


def agreement(reference: Mapping[str, Any], candidate: Mapping[str, Any], gate_points: float) -> Judgement:
    """Agreement with the original, judged by its one-sided 95 % bounds.

    Classification: share of images with the same first class, with the Clopper-Pearson bounds of the share that
    differs. Detection: F1 of the candidate's boxes (score 0.25 and more) against the original's, same class, IoU at
    least 0.5. Where the original gives the same answer to nearly every image, or finds nothing, agreement with it shows
    nothing and is not measured.

    Args:
        reference: the original's measurement.
        candidate: the other's, on the same images.
        gate_points: how far below 100 % it may be.
    """
    if reference["kind"] != candidate["kind"] or reference["dataset"] != candidate["dataset"]:
        raise DataError("accuracy.other-images")
    images = distinct(reference)
    names = unpack_names(reference["files"])
    if reference["kind"] == "classification":
        shared = _classes(reference, candidate, images)
    elif reference["kind"] == "detection":
        shared = _boxes(reference, candidate, images)
    else:
        raise DataError("accuracy.no-agreement", kind=str(reference["kind"]))
    wanted = 100 - gate_points
    low, high = shared.bounds
    verdict: Verdict = "passed" if low >= wanted else "failed" if high < wanted else "inconclusive"
    key = {"passed": "agrees", "failed": "disagrees", "inconclusive": "agreement-unsettled"}[verdict]
    # What differs for certain differs, whatever the reference is worth.
    if verdict != "failed" and shared.lead.low <= gate_points:
        verdict, key = "not_measured", f"blind-agreement-{shared.lead.over}"
    per_image = shared.per_image
    worst = [names[index] for index in np.argsort(per_image, kind="stable")[:_LISTED] if per_image[index] < 1]
    values: dict[str, Any] = {"share": round(shared.measured, 2), "low": round(low, 2), "least": wanted}
    values |= {"images": len(images), "high": round(high, 2), "baseline": round(shared.lead.baseline, 2)}
    details: dict[str, Any] = {"images": int(reference["images"]), "differing": worst, "bounds": [low, high]}
    if len(images) < int(reference["images"]):
        details["distinct_images"] = len(images)
    return Judgement(
        shared.check,
        shared.measured,
        "%",
        Limit(">=", wanted),
        verdict,
        interval=shared.interval,
        message=say(f"accuracy.{key}", **values),
        details={**details, "lead": shared.lead.to_json()},
    )


def _classes(reference: Mapping[str, Any], candidate: Mapping[str, Any], images: npt.NDArray[np.intp]) -> _Shared:
    first = unpack(reference["top"])[:, 0], unpack(candidate["top"])[:, 0]
    same = (first[0] == first[1]) & (first[1] >= 0)
    count, agree = len(images), int(np.count_nonzero(same[images]))

    def bounds(level: float) -> tuple[float, float]:
        low = 100 - 100 * binomial_upper(count - agree, count, level)
        return low, 100 * binomial_upper(agree, count, level)

    per_image = same.astype(np.float64)
    measured = 100.0 * float(per_image.mean())
    lead = lead_of_answers(first[0][images])
    return _Shared("top1/agreement", per_image, measured, bounds(LEVEL), bounds(TWO_SIDED), lead)


def _boxes(reference: Mapping[str, Any], candidate: Mapping[str, Any], images: npt.NDArray[np.intp]) -> _Shared:
    from pth2om.accuracy.average_precision import Detections, exchanged

    theirs = _clear(reference["detections"])
    both, total = _found_by_both(theirs, _clear(candidate["detections"]))
    per_image = np.divide(2.0 * both, total, out=np.ones(len(total)), where=total > 0)
    measured = 100.0 * (2.0 * both.sum() / total.sum() if total.sum() else 1.0)
    picks = np.random.default_rng(0).choice(images, (RESAMPLES, len(images)))
    sums = total[picks].sum(axis=1)
    shares = 100 * np.where(sums > 0, 2.0 * both[picks].sum(axis=1) / np.maximum(sums, 1), 1.0)

    def bounds(level: float) -> tuple[float, float]:
        low, high = (float(value) for value in np.quantile(shares, [1 - level, level]))
        # Equal boxes everywhere have no spread: so much is open all the same.
        return min(low, 100 - 100 * zero_disagreement_bound(len(images), level)), high

    other: Detections = exchanged(theirs)
    chance_both, chance_total = _found_by_both(theirs, other)
    # Without a single box, or with a single image, every answer agrees.
    chance = 200.0 * float(chance_both.sum()) / float(chance_total.sum()) if chance_total.sum() else 100.0
    lead = Lead("other-images", chance, 100 - chance, 100 - chance)
    return _Shared("boxes/agreement", per_image, measured, bounds(LEVEL), bounds(TWO_SIDED), lead)


def _found_by_both(theirs: Any, ours: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:  # noqa: ANN401 - Detections
    """Per image, boxes of ``ours`` that match one of ``theirs``, and how many both have; int64 (images,) each."""
    from pth2om.accuracy.average_precision import match

    starts = np.concatenate([[0], np.cumsum(theirs.counts)])
    truths: list[Sequence[Mapping[str, Any]]] = []
    for begin, end in itertools.pairwise(starts):
        rows = range(int(begin), int(end))
        corners = [theirs.boxes[row] for row in rows]
        boxes = [[*corner[:2], *(corner[2:] - corner[:2])] for corner in corners]
        truths.append(
            [
                {"bbox": box, "iscrowd": 0, "class": int(theirs.classes[row])}
                for box, row in zip(boxes, rows, strict=True)
            ]
        )
    classes = int(max(ours.classes.max(initial=0), theirs.classes.max(initial=0))) + 1
    matches = match(ours, truths, classes)
    both = np.bincount(matches.image[matches.hit[0]], minlength=len(truths))
    return both, ours.counts + theirs.counts


def _clear(detections: Mapping[str, Any]) -> Any:  # noqa: ANN401 - average_precision.Detections, imported lazily
    """The detections with a clear score."""
    from pth2om.accuracy.average_precision import Detections

    counts = unpack(detections["counts"]).astype(np.int64)
    boxes, scores, classes = (unpack(detections[name]) for name in ("boxes", "scores", "classes"))
    clear = scores >= _CLEAR_SCORE
    image = np.repeat(np.arange(len(counts)), counts)[clear]
    return Detections(
        np.bincount(image, minlength=len(counts)),
        boxes[clear].astype(np.float64),
        scores[clear].astype(np.float64),
        classes[clear].astype(np.int64),
    )
