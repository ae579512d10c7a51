"""Whether accuracy is what it was: judged from per-image measurements, on the same images.

A drop is *passed* when its one-sided 95 % upper bound is within the gate, *failed* when its lower bound is beyond it,
and *inconclusive* when the images are too few to tell; then the message names how many would settle it. The interval of
a judgement is those two bounds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pth2om.accuracy.bounds import (
    LEVEL,
    binomial_upper,
    drop_interval,
    images_to_settle,
    least_images,
    rounded_up,
    zero_disagreement_bound,
)
from pth2om.accuracy.packed import unpack, unpack_names
from pth2om.errors import DataError
from pth2om.evidence import Judgement, Limit, Verdict
from pth2om.language import Message, say

VERSION = 1
RESAMPLES = 1000

_LISTED = 50
_FIRST_METRIC = {"classification": "top1", "detection": "mAP50-95", "segmentation": "dice"}
_THRESHOLDS = {"mAP50-95": slice(None), "mAP50": slice(0, 1), "mAP75": slice(5, 6)}
_CLEAR_SCORE = 0.25  # a detection a person would be shown; for lists of differing images and for agreement
_CLOSE_MARGIN = 1e-3


def metrics(measured: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a measurement, in percent."""
    return {name: float(value) for name, value in measured["metrics"].items()}


def can_decide(images: int, gate_points: float) -> tuple[bool, Message | None]:
    """Whether so many images could ever show a drop within the gate.

    Even without a single disagreement the true drop can be up to ``1 - 0.05^(1/n)``: 2.1 points at n = 141, 0.46 at
    650.

    Returns:
        The answer, and the warning when it is no.
    """
    bound = 100 * zero_disagreement_bound(images)
    if bound <= gate_points:
        return True, None
    needed = least_images(gate_points / 100)
    values: dict[str, Any] = {"images": images, "bound": round(bound, 2), "gate": gate_points, "needed": needed}
    return False, say("accuracy.never-decides" if gate_points > 0 else "accuracy.no-gate-of-zero", **values)


def reproduces(
    measured: Mapping[str, Any], expected: float, tolerance: float = 0.0, *, metric: str, exact_files: bool = True
) -> Judgement:
    """Whether PyTorch scores what it is known to score on exactly these files.

    Args:
        measured: of the PyTorch session.
        expected: the known figure in percent.
        tolerance: accepted distance in percent points, of both figures rounded to two decimals.
        metric: which figure.
        exact_files: whether the data is what the figure belongs to (`Labelled.exact`).
    """
    score = _figure(measured, metric)
    # Known figures have two decimals; the limit stays the one that was written.
    distance = round(abs(round(score, 2) - round(expected, 2)), 2)
    limit = Limit("<=", tolerance)
    details: dict[str, Any] = {"score": score, "expected": expected, "close": close_calls(measured)}
    check = f"{metric}/expected"
    if not exact_files:
        message = say("accuracy.other-files", metric=metric, score=round(score, 2), expected=expected)
        return Judgement(check, distance, "points", limit, "not_measured", message=message, details=details)
    verdict: Verdict = "passed" if limit.holds(distance) else "failed"
    values: dict[str, Any] = {"metric": metric, "score": round(score, 3), "expected": expected, "tolerance": tolerance}
    message = say(f"accuracy.{'reproduced' if verdict == 'passed' else 'not-reproduced'}", **values)
    return Judgement(check, distance, "points", limit, verdict, message=message, details=details)


def least(measured: Mapping[str, Any], minimum: float | None, *, metric: str) -> Judgement:
    """The figure itself, against the least that is accepted (None: shown, not judged)."""
    score = _figure(measured, metric)
    details = {"metrics": metrics(measured), "images": measured["images"], "unreadable": measured.get("unreadable", 0)}
    if minimum is None:
        return Judgement(f"{metric}/score", score, "%", None, "shown", details=details)
    limit = Limit(">=", minimum)
    verdict: Verdict = "passed" if limit.holds(score) else "failed"
    message = None if verdict == "passed" else say("accuracy.too-low", metric=metric, score=score, minimum=minimum)
    return Judgement(f"{metric}/score", score, "%", limit, verdict, message=message, details=details)


def close_calls(measured: Mapping[str, Any]) -> list[str]:
    """Images whose two best outputs are closer than 1e-3: they may flip from one machine to another."""
    if measured["kind"] != "classification":
        return []
    margin = unpack(measured["margin"])
    names = unpack_names(measured["files"])
    return [names[index] for index in np.flatnonzero(margin < _CLOSE_MARGIN)[:_LISTED]]


# ---------------------------------------------------------------------------------------------------- the drop


def drop(
    reference: Mapping[str, Any],
    candidate: Mapping[str, Any],
    gate_points: float,
    *,
    metric: str | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Judgement:
    """Whether the candidate lost at most ``gate_points`` against the reference on the same images.

    `difference` does the work and can be kept; `judge` judges what it returned.

    Raises:
        DataError: they were not measured on the same images.
    """
    return judge(difference(reference, candidate, metric=metric, seed=seed, resamples=resamples), gate_points)


def difference(
    reference: Mapping[str, Any],
    candidate: Mapping[str, Any],
    *,
    metric: str | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """The drop with its bounds, as JSON: all in percent points.

    Classification: exact or score bounds of paired proportions (`pth2om.accuracy.bounds`). Detection and segmentation:
    percentiles of a paired bootstrap over images, the upper one never below what n images without any difference would
    leave open, because a bootstrap of equal results has no width at all.

    Raises:
        DataError: not the same images, or the metric was not measured.
    """
    kind = reference["kind"]
    if kind != candidate["kind"] or reference["dataset"] != candidate["dataset"]:
        raise DataError("accuracy.other-images")
    if reference["images"] != candidate["images"]:
        raise DataError("accuracy.other-images")
    name = metric or _FIRST_METRIC[kind]
    result: dict[str, Any] = {
        "version": VERSION,
        "metric": name,
        "images": reference["images"],
        "reference": _figure(reference, name),
        "candidate": _figure(candidate, name),
        "unreadable": candidate.get("unreadable", 0),
        "seed": seed,
    }
    if kind == "classification":
        return {**result, **_paired(reference, candidate, name)}
    if kind == "segmentation":
        figures = _resampled_dice(reference, candidate, resamples, seed)
        changed = _changed_masks(reference, candidate)
    else:
        figures = _resampled_precision(reference, candidate, name, resamples, seed)
        changed = _changed_detections(reference, candidate)
    return {**result, **_bootstrapped(result, figures), "resamples": resamples, "changed": changed}


def judge(difference: Mapping[str, Any], gate_points: float) -> Judgement:
    """Judge what `difference` returned against a gate in percent points."""
    images, measured = int(difference["images"]), float(difference["drop"])
    low, high = difference["interval"]
    verdict: Verdict = "passed" if high <= gate_points else "failed" if low > gate_points else "inconclusive"
    values: dict[str, Any] = {
        "metric": difference["metric"],
        "reference": round(difference["reference"], 2),
        "candidate": round(difference["candidate"], 2),
        "drop": round(measured, 2),
        "low": round(low, 2),
        "high": round(high, 2),
        "gate": gate_points,
        "images": images,
        "level": round(100 * LEVEL),
    }
    needed = None
    if verdict == "inconclusive":
        needed = _needed(difference, gate_points)
        values["needed"] = needed
    suffix = {"passed": "kept", "failed": "lost", "inconclusive": "unsettled" if needed else "unsettleable"}[verdict]
    return Judgement(
        f"{difference['metric']}/drop",
        measured,
        "points",
        Limit("<=", gate_points),
        verdict,
        interval=(float(low), float(high)),
        message=say(f"accuracy.{suffix}", **values),
        details={**difference, "images_needed": needed},
        seed=int(difference["seed"]) if difference["method"] == "bootstrap" else None,
    )


def _needed(difference: Mapping[str, Any], gate_points: float) -> int | None:
    images = int(difference["images"])
    if difference["method"] != "bootstrap":
        return images_to_settle(len_of(difference, "lost"), len_of(difference, "gained"), images, gate_points / 100)
    measured, (low, high) = float(difference["drop"]), difference["bootstrap"]
    room = gate_points - measured
    if abs(room) < 1e-9:
        return None
    # The width shrinks with the square root of the number of images.
    width = high - measured if room > 0 else measured - low
    wanted = images * (width / room) ** 2
    if room > 0:
        wanted = max(wanted, least_images(gate_points / 100))
    return rounded_up(max(wanted, images + 1))


def len_of(difference: Mapping[str, Any], name: str) -> int:
    """How many images a classification difference lost or gained (the lists themselves are cut off)."""
    return int(difference[f"{name}_count"])


def _paired(reference: Mapping[str, Any], candidate: Mapping[str, Any], metric: str) -> dict[str, Any]:
    labels = unpack(reference["labels"])[:, None]
    top = {"top1": 1, "top5": 5}[metric]
    tops = unpack(reference["top"])[:, :top], unpack(candidate["top"])[:, :top]
    before, after = ((part == labels).any(axis=1) for part in tops)
    lost, gained = np.flatnonzero(before & ~after), np.flatnonzero(~before & after)
    low, high, method = drop_interval(len(lost), len(gained), len(labels))
    names = unpack_names(reference["files"])

    def listed(which: npt.NDArray[np.intp]) -> list[dict[str, Any]]:
        return [
            {
                "image": int(index),
                "file": names[index],
                "label": int(labels[index, 0]),
                "reference": int(tops[0][index, 0]),
                "candidate": int(tops[1][index, 0]),
            }
            for index in which[:_LISTED]
        ]

    return {
        "drop": 100.0 * (len(lost) - len(gained)) / len(labels),
        "interval": [100 * low, 100 * high],
        "method": method,
        "lost_count": len(lost),
        "gained_count": len(gained),
        "lost": listed(lost),
        "gained": listed(gained),
        "changed_count": int(np.count_nonzero(tops[0][:, 0] != tops[1][:, 0])),
    }


def _bootstrapped(
    result: Mapping[str, Any], figures: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
) -> dict[str, Any]:
    lost = 100 * (figures[0] - figures[1])
    # A resampling without a single object has no figure.
    lost = lost[np.isfinite(lost)]
    low, high = (float(value) for value in np.quantile(lost, [1 - LEVEL, LEVEL])) if lost.size else (-100.0, 100.0)
    measured = result["reference"] - result["candidate"]
    floor = 100 * zero_disagreement_bound(int(result["images"]))
    interval = [min(low, measured), max(high, measured, floor)]
    return {"drop": measured, "interval": interval, "bootstrap": [low, high], "method": "bootstrap"}


def _resampled_precision(
    reference: Mapping[str, Any], candidate: Mapping[str, Any], metric: str, resamples: int, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    from pth2om.accuracy.average_precision import resampled
    from pth2om.accuracy.measuring import matches_from_json

    if metric not in _THRESHOLDS:
        raise DataError("accuracy.no-metric", metric=metric, known=", ".join(_THRESHOLDS))
    both = matches_from_json(reference["matches"]), matches_from_json(candidate["matches"])
    return resampled(*both, _THRESHOLDS[metric], resamples=resamples, seed=seed)


def _resampled_dice(
    reference: Mapping[str, Any], candidate: Mapping[str, Any], resamples: int, seed: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    from pth2om.accuracy.measuring import image_dice

    before, after = (image_dice(unpack(part["counts"])) for part in (reference, candidate))
    stream = np.random.default_rng(seed)
    means = [
        (before[picks].mean(), after[picks].mean())
        for picks in (stream.integers(0, len(before), len(before)) for _ in range(resamples))
    ]
    figures = np.array(means, dtype=np.float64)
    return figures[:, 0], figures[:, 1]


def _changed_detections(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Images where the number of objects found (IoU 0.5, clear score) or of false alarms differs, worst first."""
    counts = []
    for part in (reference, candidate):
        matches = part["matches"]
        clear = unpack(matches["scores"]) >= _CLEAR_SCORE
        image = unpack(matches["image"])[clear]
        hit, ignored = (unpack(matches[name])[clear] & 1 != 0 for name in ("hit", "ignored"))
        images = part["images"]
        found = np.bincount(image[hit & ~ignored], minlength=images)
        wrong = np.bincount(image[~hit & ~ignored], minlength=images)
        counts.append((found, wrong))
    lost, alarms = counts[0][0] - counts[1][0], counts[1][1] - counts[0][1]
    names = unpack_names(reference["files"])
    order = np.argsort(-(np.abs(lost) + np.abs(alarms)), kind="stable")
    return [
        {"image": int(index), "file": names[index], "lost": int(lost[index]), "false_alarms": int(alarms[index])}
        for index in order[:_LISTED]
        if lost[index] or alarms[index]
    ]


def _changed_masks(reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> list[dict[str, Any]]:
    from pth2om.accuracy.measuring import image_dice

    before, after = (image_dice(unpack(part["counts"])) for part in (reference, candidate))
    names = unpack_names(reference["files"])
    order = np.argsort(-np.abs(before - after), kind="stable")[:_LISTED]
    return [
        {"image": int(index), "file": names[index], "reference": float(before[index]), "candidate": float(after[index])}
        for index in order
        if before[index] != after[index]
    ]


# ---------------------------------------------------------------------------------------------------- no labels


def agreement(reference: Mapping[str, Any], candidate: Mapping[str, Any], gate_points: float) -> Judgement:
    """Agreement with PyTorch where there are no labels: of the first class, or of the boxes a person would be shown.

    Classification: share of images with the same first class, with the Clopper-Pearson bounds of the share that
    differs. Detection: F1 of the candidate's boxes (score 0.25 and more) against PyTorch's, same class, IoU at least
    0.5.

    Args:
        reference: PyTorch's measurement.
        candidate: the other's, on the same images.
        gate_points: how far below 100 % it may be.
    """
    if reference["kind"] != candidate["kind"] or reference["dataset"] != candidate["dataset"]:
        raise DataError("accuracy.other-images")
    images = int(reference["images"])
    names = unpack_names(reference["files"])
    if reference["kind"] == "classification":
        check = "top1/agreement"
        first = unpack(reference["top"])[:, 0], unpack(candidate["top"])[:, 0]
        share = (first[0] == first[1]) & (first[1] >= 0)
        differs = int(np.count_nonzero(~share))
        per_image = share.astype(np.float64)
        measured = 100.0 * float(per_image.mean())
        bounds = 100 - 100 * binomial_upper(differs, images), 100 * binomial_upper(images - differs, images)
    elif reference["kind"] == "detection":
        check = "boxes/agreement"
        per_image, measured, bounds = _box_agreement(reference, candidate)
    else:
        raise DataError("accuracy.no-agreement", kind=str(reference["kind"]))
    least_share = 100 - gate_points
    verdict: Verdict = "passed" if bounds[0] >= least_share else "failed" if bounds[1] < least_share else "inconclusive"
    worst = [names[index] for index in np.argsort(per_image, kind="stable")[:_LISTED] if per_image[index] < 1]
    values = {"share": round(measured, 2), "low": round(bounds[0], 2), "least": least_share, "images": images}
    key = {"passed": "agrees", "failed": "disagrees", "inconclusive": "agreement-unsettled"}[verdict]
    return Judgement(
        check,
        measured,
        "%",
        Limit(">=", least_share),
        verdict,
        interval=(float(bounds[0]), float(bounds[1])),
        message=say(f"accuracy.{key}", **values),
        details={"images": images, "differing": worst},
    )


def _box_agreement(
    reference: Mapping[str, Any], candidate: Mapping[str, Any]
) -> tuple[npt.NDArray[np.float64], float, tuple[float, float]]:
    """F1 per image, over all images in percent, and its bounds."""
    from pth2om.accuracy.average_precision import Detections, match

    ours, theirs = (_clear(part["detections"]) for part in (candidate, reference))
    starts = np.concatenate([[0], np.cumsum(theirs[0])])
    truths: list[Sequence[Mapping[str, Any]]] = []
    for begin, end in itertools.pairwise(starts):
        rows = range(int(begin), int(end))
        corners = [theirs[1][row].astype(float) for row in rows]
        boxes = [[*corner[:2], *(corner[2:] - corner[:2])] for corner in corners]
        truths.append(
            [{"bbox": box, "iscrowd": 0, "class": int(theirs[3][row])} for box, row in zip(boxes, rows, strict=True)]
        )
    classes = int(max(ours[3].max(initial=0), theirs[3].max(initial=0))) + 1
    matches = match(
        Detections(ours[0], ours[1].astype(float), ours[2].astype(float), ours[3].astype(np.int64)), truths, classes
    )
    images = len(truths)
    both = np.bincount(matches.image[matches.hit[0]], minlength=images)
    total = ours[0] + theirs[0]
    per_image = np.divide(2.0 * both, total, out=np.ones(images), where=total > 0)
    measured = 100.0 * (2.0 * both.sum() / total.sum() if total.sum() else 1.0)
    stream = np.random.default_rng(0)
    picks = stream.integers(0, images, (RESAMPLES, images))
    sums = total[picks].sum(axis=1)
    shares = 100 * np.where(sums > 0, 2.0 * both[picks].sum(axis=1) / np.maximum(sums, 1), 1.0)
    low, high = (float(value) for value in np.quantile(shares, [1 - LEVEL, LEVEL]))
    return per_image, measured, (min(low, 100 - 100 * zero_disagreement_bound(images)), high)


def _clear(detections: Mapping[str, Any]) -> tuple[npt.NDArray[Any], ...]:
    """Counts, boxes, scores, classes of the detections with a clear score."""
    counts = unpack(detections["counts"]).astype(np.int64)
    boxes, scores, classes = (unpack(detections[name]) for name in ("boxes", "scores", "classes"))
    clear = scores >= _CLEAR_SCORE
    image = np.repeat(np.arange(len(counts)), counts)[clear]
    return np.bincount(image, minlength=len(counts)), boxes[clear], scores[clear], classes[clear]


def _figure(measured: Mapping[str, Any], metric: str) -> float:
    value = measured["metrics"].get(metric)
    if value is None or math.isnan(value):
        raise DataError("accuracy.no-metric", metric=metric, known=", ".join(measured["metrics"]) or "-")
    return float(value)
