"""Whether accuracy is what it was: judged from per-image measurements, on the same images.

A drop is *passed* when its one-sided 95 % upper bound is within the gate, *failed* when its one-sided 95 % lower bound
is beyond it, and *inconclusive* when the images are too few to tell; then the message names how many would settle it.
It is *not measured* when the reference is no better than an answer that ignores the images
(`pth2om.accuracy.reference`).

The interval of a judgement is the two-sided 95 % interval, which is shown; the bounds that decided are in its details.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pth2om.accuracy import reference as references
from pth2om.accuracy.bootstrap import LEAST_IMAGES, RESAMPLES, Resampled, mean_drop, precision_drop
from pth2om.accuracy.bounds import (
    LEVEL,
    TWO_SIDED,
    drop_bounds,
    images_to_settle,
    least_images,
    rounded_up,
    zero_disagreement_bound,
)
from pth2om.accuracy.dice import PER_CLASS, Counts, counts_of, image_dice
from pth2om.accuracy.measuring import first_metric
from pth2om.accuracy.packed import unpack, unpack_names
from pth2om.accuracy.reference import Lead
from pth2om.errors import DataError
from pth2om.evidence import Judgement, Limit, Verdict
from pth2om.language import Message, say

VERSION = 3
"""Of how a difference is computed from two measurements."""

_FEW_IMAGES = 30
_LISTED = 50
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
    """The figure itself, against the least that is accepted and against answers that ignore the images.

    Args:
        measured: of a session.
        minimum: least accepted figure in percent; None: the figure is shown, but still fails when it is no better than
            an answer that ignores the images.
        metric: which figure.
    """
    score = _figure(measured, metric)
    details = {"metrics": metrics(measured), "images": measured["images"], "unreadable": measured.get("unreadable", 0)}
    details |= _repetitions(measured)
    ahead = references.lead(measured, metric)
    details["lead"] = ahead.to_json()
    check = f"{metric}/score"
    limit = None if minimum is None else Limit(">=", minimum)
    if limit is not None and not limit.holds(score):
        message = say("accuracy.too-low", metric=metric, score=score, minimum=minimum)
        return Judgement(check, score, "%", limit, "failed", message=message, details=details)
    if ahead.low <= 0:
        # A handful of images cannot show a lead that is there, and some data cannot show any.
        few = ahead.lead > 0 and len(references.distinct(measured)) < _FEW_IMAGES
        unclear: Verdict = "inconclusive" if few or ahead.over in references.DATA else "failed"
        blind = _blind(metric, score, ahead, measured)
        return Judgement(check, score, "%", Limit(">", ahead.baseline), unclear, message=blind, details=details)
    verdict: Verdict = "shown" if limit is None else "passed"
    return Judgement(check, score, "%", limit, verdict, message=_repeated(measured), details=details)


def _repetitions(measured: Mapping[str, Any]) -> dict[str, Any]:
    """What in the data makes a figure say less than the number of images suggests; nothing where there is nothing."""
    found: dict[str, Any] = {}
    distinct = len(references.distinct(measured))
    if distinct < int(measured["images"]):
        found["distinct_images"] = distinct
    only = references.one_class(measured)
    if only is not None:
        found["only_class"] = only
    return found


def _repeated(measured: Mapping[str, Any]) -> Message | None:
    found = _repetitions(measured)
    if "distinct_images" in found:
        return say("accuracy.repeated-images", images=int(measured["images"]), distinct=found["distinct_images"])
    return None


def _blind(metric: str, score: float, ahead: Lead, measured: Mapping[str, Any]) -> Message:
    """The message that a figure is no better than an answer that ignores the images."""
    return say(
        f"accuracy.no-better-than-{ahead.over}",
        metric=metric,
        score=round(score, 2),
        baseline=round(ahead.baseline, 2),
        lead=round(ahead.lead, 2),
        low=round(ahead.low, 2),
        images=int(measured["images"]),
        distinct=len(references.distinct(measured)),
    )


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
    level: float = LEVEL,
) -> dict[str, Any]:
    """The drop with its bounds, as JSON: all in percent points.

    Classification: exact or score bounds of paired proportions (`pth2om.accuracy.bounds`). Detection and segmentation:
    a corrected paired bootstrap over images (`pth2om.accuracy.bootstrap`), its upper end never below ``floor``, what n
    images without any difference leave open, because a bootstrap of equal results has no width at all. Images that
    are equal pixel by pixel count once in every bound.

    Args:
        reference: measurement of the original.
        candidate: of the other, on the same images.
        metric: which figure; default the first of its kind.
        seed: of the resampling.
        resamples: how many.
        level: of the one-sided ``bounds``; ``interval`` is the two-sided 95 % interval whatever the level.

    Raises:
        DataError: not the same images, or the metric was not measured.
    """
    kind = reference["kind"]
    if kind != candidate["kind"] or reference["dataset"] != candidate["dataset"]:
        raise DataError("accuracy.other-images")
    if reference["images"] != candidate["images"]:
        raise DataError("accuracy.other-images")
    name = metric or first_metric(kind)
    images = references.distinct(reference)
    result: dict[str, Any] = {
        "version": VERSION,
        "metric": name,
        "images": reference["images"],
        **_both(reference, candidate, name),
        "unreadable": candidate.get("unreadable", 0),
        "seed": seed,
        "level": level,
        **_repetitions(reference),
    }
    if kind == "classification":
        found = _paired(reference, candidate, name, images, level)
        return {**result, **found, "lead": references.lead(reference, name).to_json()}
    measured = result["reference"] - result["candidate"]
    if kind == "segmentation":
        if name.startswith(PER_CLASS):
            images = _with_class(reference, candidate, name, images)
            result["images"] = len(images)
        drop = _dice_drop(reference, candidate, name, measured, images, resamples, seed)
        changed = _changed_masks(reference, candidate, name)
    else:
        drop = _precision_drop(reference, candidate, name, measured, images, resamples, seed)
        changed = _changed_detections(reference, candidate)
    return {
        **result,
        **bootstrapped(drop, len(images), level),
        "lead": references.lead(reference, name).to_json(),
        "resamples": resamples,
        "changed": changed,
    }


def judge(difference: Mapping[str, Any], gate_points: float) -> Judgement:
    """Judge what `difference` returned against a gate in percent points."""
    images, measured = int(difference["images"]), float(difference["drop"])
    distinct = int(difference.get("distinct_images", images))
    low, high = difference["bounds"]
    verdict: Verdict = "passed" if high <= gate_points else "failed" if low > gate_points else "inconclusive"
    if verdict == "passed" and difference["method"] == "class-bootstrap" and distinct < LEAST_IMAGES:
        verdict = "inconclusive"
    ahead = Lead.from_json(difference["lead"])
    # What is lost for certain is lost, whatever the reference is worth.
    if verdict != "failed" and ahead.low <= gate_points:
        verdict = "not_measured"
    needed = None
    if verdict == "inconclusive":
        needed = _needed(difference, gate_points)
    return Judgement(
        f"{difference['metric']}/drop",
        measured,
        "points",
        Limit("<=", gate_points),
        verdict,
        interval=(float(difference["interval"][0]), float(difference["interval"][1])),
        message=_told(difference, gate_points, verdict, needed, ahead),
        details={**difference, "images_needed": needed},
        seed=int(difference["seed"]) if difference["method"] != "exact" and "resamples" in difference else None,
    )


def _told(
    difference: Mapping[str, Any], gate_points: float, verdict: Verdict, needed: int | None, ahead: Lead
) -> Message:
    images = int(difference["images"])
    distinct = int(difference.get("distinct_images", images))
    low, high = difference["bounds"]
    values: dict[str, Any] = {
        "metric": difference["metric"],
        "reference": round(difference["reference"], 2),
        "candidate": round(difference["candidate"], 2),
        "drop": round(float(difference["drop"]), 2),
        "low": round(low, 2),
        "high": round(high, 2),
        "gate": gate_points,
        "images": distinct,
        "level": round(100 * difference["level"], 1),
    }
    if verdict == "not_measured":
        over = {"baseline": round(ahead.baseline, 2), "lead": round(ahead.lead, 2), "lead_low": round(ahead.low, 2)}
        return say(f"accuracy.blind-{ahead.over}", **values | over)
    if verdict == "failed":
        return say("accuracy.lost", **values)
    if verdict == "passed":
        return say("accuracy.kept-floor" if high == difference.get("floor") else "accuracy.kept", **values)
    if difference["method"] == "class-bootstrap" and distinct < LEAST_IMAGES and high <= gate_points:
        return say("accuracy.few-images", **values, least=LEAST_IMAGES, needed=needed)
    return say(f"accuracy.{'unsettled' if needed else 'unsettleable'}", **values, needed=needed)


def _needed(difference: Mapping[str, Any], gate_points: float) -> int | None:
    images, level = int(difference["images"]), float(difference["level"])
    if "bootstrap" not in difference:
        lost, gained = (len_of(difference, name) for name in ("lost", "gained"))
        distinct = int(difference.get("distinct_images", images))
        return images_to_settle(lost, gained, distinct, gate_points / 100, level)
    measured, (low, high) = float(difference["drop"]), difference["bootstrap"]
    room = gate_points - measured
    if abs(room) < 1e-9:
        return None
    # The width shrinks with the square root of the number of images.
    width = high - measured if room > 0 else measured - low
    wanted = images * (width / room) ** 2
    if room > 0:
        wanted = max(wanted, least_images(gate_points / 100, level), LEAST_IMAGES)
    return rounded_up(max(wanted, images + 1))


def len_of(difference: Mapping[str, Any], name: str) -> int:
    """How many images a classification difference lost or gained (the lists themselves are cut off)."""
    return int(difference[f"{name}_count"])


def _paired(
    reference: Mapping[str, Any],
    candidate: Mapping[str, Any],
    metric: str,
    images: npt.NDArray[np.intp],
    level: float,
) -> dict[str, Any]:
    labels = unpack(reference["labels"])[:, None]
    top = {"top1": 1, "top5": 5}[metric]
    tops = unpack(reference["top"])[:, :top], unpack(candidate["top"])[:, :top]
    before, after = ((part == labels).any(axis=1) for part in tops)
    all_lost, all_gained = int(np.count_nonzero(before & ~after)), int(np.count_nonzero(~before & after))
    once = np.zeros(len(labels), dtype=bool)
    once[images] = True
    lost, gained = np.flatnonzero(before & ~after & once), np.flatnonzero(~before & after & once)
    low, high, method = drop_bounds(len(lost), len(gained), len(images), level)
    shown = drop_bounds(len(lost), len(gained), len(images), TWO_SIDED)
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
        "drop": 100.0 * (all_lost - all_gained) / len(labels),
        "bounds": [100 * low, 100 * high],
        "interval": [100 * shown[0], 100 * shown[1]],
        "method": method,
        "lost_count": len(lost),
        "gained_count": len(gained),
        "lost": listed(lost),
        "gained": listed(gained),
        "changed_count": int(np.count_nonzero(tops[0][:, 0] != tops[1][:, 0])),
    }


def bootstrapped(drop: Resampled, images: int, level: float) -> dict[str, Any]:
    """Bounds at ``level``, the two-sided 95 % interval, and what no difference at all would leave open."""
    floor = 100 * zero_disagreement_bound(images, level)
    low, high = drop.bounds(level)
    shown = drop.bounds(TWO_SIDED)
    return {
        "drop": drop.measured,
        "bounds": [max(low, -100.0), min(max(high, floor), 100.0)],
        "interval": [
            max(shown[0], -100.0),
            min(max(shown[1], 100 * zero_disagreement_bound(images, TWO_SIDED)), 100.0),
        ],
        "bootstrap": [max(low, -100.0), min(high, 100.0)],
        "floor": floor,
        "method": "class-bootstrap" if drop.by_class else "bootstrap",
    }


def _precision_drop(
    reference: Mapping[str, Any],
    candidate: Mapping[str, Any],
    metric: str,
    measured: float,
    images: npt.NDArray[np.intp],
    resamples: int,
    seed: int,
) -> Resampled:
    from pth2om.accuracy.average_precision import THRESHOLDS_OF
    from pth2om.accuracy.measuring import matches_from_json

    if metric not in THRESHOLDS_OF:
        raise DataError("accuracy.no-metric", metric=metric, known=", ".join(THRESHOLDS_OF))
    both = matches_from_json(reference["matches"]), matches_from_json(candidate["matches"])
    return precision_drop(*both, measured, THRESHOLDS_OF[metric], images=images, resamples=resamples, seed=seed)


def _dice_drop(
    reference: Mapping[str, Any],
    candidate: Mapping[str, Any],
    metric: str,
    measured: float,
    images: npt.NDArray[np.intp],
    resamples: int,
    seed: int,
) -> Resampled:
    before, after = (image_dice(_counts(part, metric)[images]) for part in (reference, candidate))
    return mean_drop(100 * (before - after), measured, resamples=resamples, seed=seed)


def _both(reference: Mapping[str, Any], candidate: Mapping[str, Any], metric: str) -> dict[str, float]:
    """The figures that are compared; of one class over the cases in which either has it, so that they are paired."""
    sides = {"reference": reference, "candidate": candidate}
    if not metric.startswith(PER_CLASS):
        return {side: _figure(part, metric) for side, part in sides.items()}
    images = _with_class(reference, candidate, metric, references.distinct(reference))
    return {side: 100.0 * float(image_dice(_counts(part, metric)[images]).mean()) for side, part in sides.items()}


def _counts(measured: Mapping[str, Any], metric: str) -> Counts:
    found = counts_of(measured, metric)
    if found is None:
        raise DataError("accuracy.no-metric", metric=metric, known="dice")
    return found


def _with_class(
    reference: Mapping[str, Any], candidate: Mapping[str, Any], metric: str, images: npt.NDArray[np.intp]
) -> npt.NDArray[np.intp]:
    """Those of the images in which the class is in the truth or in either prediction: the others say nothing of it."""
    occurs = sum(_counts(part, metric)[:, 1, :2].sum(axis=1) for part in (reference, candidate))
    found: npt.NDArray[np.intp] = images[np.asarray(occurs)[images] > 0]
    if not found.size:
        raise DataError("accuracy.class-never", metric=metric)
    return found


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


def _changed_masks(reference: Mapping[str, Any], candidate: Mapping[str, Any], metric: str) -> list[dict[str, Any]]:
    before, after = (image_dice(_counts(part, metric)) for part in (reference, candidate))
    names = unpack_names(reference["files"])
    order = np.argsort(-np.abs(before - after), kind="stable")[:_LISTED]
    return [
        {"image": int(index), "file": names[index], "reference": float(before[index]), "candidate": float(after[index])}
        for index in order
        if before[index] != after[index]
    ]


def _figure(measured: Mapping[str, Any], metric: str) -> float:
    value = measured["metrics"].get(metric)
    if value is None or math.isnan(value):
        raise DataError("accuracy.no-metric", metric=metric, known=", ".join(measured["metrics"]) or "-")
    return float(value)
