"""Whether a picture gives in a batch what it gives alone, and whether the other pictures of the batch reach it.

A reshape with a batch size of 1 written in, followed by a softmax or a sort, mixes the pictures of a batch without any
error, in PyTorch, ONNX and OM alike, so that comparing these at one batch size sees nothing. Two measurements find it:

* `against_singles`: a picture of the batch against the original model on that picture alone. Kernels sum in another
  order for another batch size, so the limit is a small multiple of what one ulp of the input makes of that output.
* `others_replaced`: the same session and batch size, the picture in its place, the other pictures replaced. Nothing
  but them has changed, so the picture's own output must not move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pth2om.compare.closeness import Runs
from pth2om.compare.figures import distance
from pth2om.compare.rounding import BOTH, HALF, Moved
from pth2om.evidence import Judgement, Limit, Verdict
from pth2om.language import say
from pth2om.session import Array

if TYPE_CHECKING:
    from pth2om.data.samples import Sample

VERSION = 4

SUMMED = 2.0**-19
"""Least relative L2 that a picture may differ from itself alone, 16 units in the last place of float32: what another
order of summation gives where one ulp of the input happens to change nothing."""

STILL = 2.0**-21
"""Largest relative L2 that an output may move while its own picture stays: four units in the last place of float32.
Measured 0 for convmixer-digits, resnet20 and yolov6-shapes in PyTorch, ONNX Runtime and the emulated fp16 and INT8,
and for yolov6lite in PyTorch and ONNX Runtime; other models were not measured."""

_MOVES = 2


def against_singles(batched: Runs, single: Runs, sample: Sample) -> dict[str, Any]:
    """Run a batch at once and its pictures one by one, and each of these again with its input moved by one ulp.

    The batch axis of an output is the one that is so many times longer; an output without one has to be the same for
    every picture.

    Args:
        batched: takes the whole batch.
        single: takes one picture.
        sample: a batch of at least two.

    Returns:
        JSON: ``samples`` (names); ``outputs``: name -> ``rows`` (relative L2 of each picture) and ``own`` (relative L2
        of the single picture and itself moved), or ``batched`` and ``single`` (shapes) where no axis is the batch's.
    """
    count = len(sample.names)
    whole = batched.run(sample.feeds)
    pictures = [sample.row(row) for row in range(count)]
    alone = [single.run(picture) for picture in pictures]
    moved = [[Moved(single, seed).run(picture) for seed in range(_MOVES)] for picture in pictures]
    outputs: dict[str, Any] = {}
    for place, (name, array) in enumerate(whole.items()):
        ones = [_taken(each, name, place) for each in alone]
        axis = _batch_axis(array.shape, ones[0].shape, count)
        if axis is None:
            outputs[name] = {"batched": list(array.shape), "single": list(ones[0].shape)}
            continue
        parts = [array] * count if axis < 0 else np.split(array, count, axis)
        outputs[name] = {
            "rows": [distance(one, part.reshape(one.shape)) for one, part in zip(ones, parts, strict=True)],
            "own": [
                max(distance(one, _taken(each, name, place).reshape(one.shape)) for each in several)
                for one, several in zip(ones, moved, strict=True)
            ],
        }
    return {"samples": list(sample.names), "outputs": outputs}


def others_replaced(session: Runs, sample: Sample, *, before: Runs | None = None) -> dict[str, Any]:
    """Run a batch, and again with some of its pictures replaced by something very different, the rest in their places.

    Which are replaced follows the bits of their numbers, so that each picture stays once while any other is replaced:
    two runs for a batch of 2, four for 4, six for 8. Nothing tells which axis of an output is the batch, so every one
    that can be is tried, and the output is as right as on the best of them; one that is the same whatever is fed is
    right too.

    Args:
        session: takes the whole batch.
        sample: a batch of at least two.
        before: answers the batch itself: the session with the memory of its runs so far.

    Returns:
        JSON: ``samples`` (names); ``outputs``: name -> ``rows``: the largest relative L2 between the picture's output
        and itself while others were replaced.
    """
    count = len(sample.names)
    whole = {name: np.array(array) for name, array in (before or session).run(sample.feeds).items()}
    found = [(kept, session.run(_replaced(sample, kept, number))) for number, kept in enumerate(_kept(count))]
    outputs = {}
    for name, array in whole.items():
        best = [math.inf] * count
        for axis in _splitting(array.shape, count):
            rows = [0.0] * count
            for kept, others in found:
                for row in kept:
                    pair = [_part(each, axis, row, count) for each in (array, others[name])]
                    rows[row] = max(rows[row], distance(*pair))
            best = min(best, rows, key=max)
            if not any(best):
                break
        outputs[name] = {"rows": best}
    return {"samples": list(sample.names), "outputs": outputs}


def _kept(count: int) -> list[list[int]]:
    """Which rows stay, run by run: those with a bit of their number set, and those without it."""
    bits = range(max(1, (count - 1).bit_length()))
    sets = [[row for row in range(count) if (row >> bit & 1) == value] for bit in bits for value in (0, 1)]
    return [kept for kept in sets if kept]


def _replaced(sample: Sample, kept: list[int], seed: int) -> dict[str, Array]:
    """The feeds with all rows but ``kept`` replaced.

    Floats by noise of several times their size; whole numbers by values that occur in the batch, since an index has to
    stay one.
    """
    stream = np.random.default_rng(seed)
    feeds = {}
    for name, array in sample.feeds.items():
        if name in sample.shared:
            feeds[name] = array
            continue
        others = np.ones(len(array), dtype=bool)
        others[kept] = False
        changed = np.array(array)
        shape = (int(others.sum()), *array.shape[1:])
        if array.dtype.kind == "f":
            peak = float(np.abs(np.nan_to_num(array)).max(initial=0.0)) or 1.0
            # Uniform in -2.5..4.5 peaks: drawn in a fifth of the time of a normal distribution.
            changed[others] = (peak * (7 * stream.random(shape, dtype=np.float32) - 2.5)).astype(array.dtype)
        else:
            changed[others] = stream.choice(array.ravel(), shape)
        feeds[name] = changed
    return feeds


def _part(array: Array, axis: int, row: int, count: int) -> Array:
    return array if axis < 0 else np.split(array, count, axis)[row]


def _taken(outputs: Mapping[str, Array], name: str, place: int) -> Array:
    return outputs[name] if name in outputs else list(outputs.values())[place]


def _splitting(shape: tuple[int, ...], count: int) -> list[int]:
    """The axes that may be the batch, and -1 for none."""
    return [*(axis for axis, size in enumerate(shape) if size and size % count == 0), -1]


def _batch_axis(batched: tuple[int, ...], single: tuple[int, ...], count: int) -> int | None:
    """The axis that is ``count`` times longer; -1 where the shapes are equal; None where neither holds."""
    if batched == single:
        return -1
    if len(batched) != len(single):
        return None
    differing = [axis for axis, (many, one) in enumerate(zip(batched, single, strict=True)) if many != one]
    (axis, *more) = differing
    return axis if not more and batched[axis] == count * single[axis] else None


def judge_batch(measured: Mapping[str, Any], role: str, half: float | None = None) -> list[Judgement]:
    """One judgement per output of what `against_singles` measured.

    Each picture has a limit of its own, a multiple of its rounding; the worst is the one that is furthest beyond it. A
    picture of which nothing but rounding is left decides nothing, and neither does the sample of zeros beside others:
    a library may sum equal numbers exactly where another does not.

    Args:
        measured: of `against_singles`.
        role: who computes; the first part of each check's name.
        half: of what computes in fp16, the relative L2 that it may have; its rounding counts accordingly.
    """
    least, factor = (SUMMED, BOTH) if half is None else (half, HALF)
    names = measured["samples"]
    judgements = []
    for output, found in measured["outputs"].items():
        check = f"{role}/batch/{output}"
        values: dict[str, Any] = {"output": output, "role": role, "count": len(names)}
        if "rows" not in found:
            shapes = {side: "x".join(map(str, found[side])) or "scalar" for side in ("batched", "single")}
            message = say("compare.batch-shape", **values, **shapes)
            limit = Limit("<=", least)
            judgements.append(Judgement(check, None, "", limit, "failed", message=message, details=dict(found)))
            continue
        limits = [max(least, factor * own) for own in found["own"]]
        judged = [row for row, name in enumerate(names) if name != "zeros"] or list(range(len(names)))
        counted = [row for row in judged if limits[row] < 1]
        details: dict[str, Any] = {"rows": dict(zip(names, found["rows"], strict=True))}
        details["own_rounding"] = dict(zip(names, found["own"], strict=True))
        if not counted:
            message = say("compare.batch-rounding", **values)
            judgements.append(Judgement(check, None, "", None, "inconclusive", message=message, details=details))
            continue
        row = max(counted, key=lambda row: found["rows"][row] / limits[row])
        worst, limit = found["rows"][row], Limit("<=", _two_digits(limits[row]))
        details["worst"] = names[row]
        if limit.holds(worst):
            judgements.append(Judgement(check, worst, "", limit, "passed", details=details))
            continue
        message = say("compare.batch-mixed", **values, sample=names[row], measured=limit.beside(worst))
        judgements.append(Judgement(check, worst, "", limit, "failed", message=message, details=details))
    return judgements


def judge_replaced(measured: Mapping[str, Any], role: str, restless: float = 0.0) -> list[Judgement]:
    """One judgement per output of what `others_replaced` measured.

    Args:
        measured: of `others_replaced`.
        role: who computes; the first part of each check's name.
        restless: relative L2 between two runs of the same feeds, where a device's kernels do not repeat their bits.
    """
    names = measured["samples"]
    limit = Limit("<=", max(STILL, 2 * restless))
    judgements = []
    for output, found in measured["outputs"].items():
        row = max(range(len(names)), key=lambda row: found["rows"][row])
        worst = found["rows"][row]
        verdict: Verdict = "passed" if limit.holds(worst) else "failed"
        values = {"role": role, "output": output, "count": len(names), "sample": names[row]}
        message = None
        if verdict == "failed":
            message = say("compare.batch-reached", **values, measured=limit.beside(worst))
        details = {"worst": names[row], "rows": dict(zip(names, found["rows"], strict=True))}
        judgements.append(
            Judgement(f"{role}/apart/{output}", worst, "", limit, verdict, message=message, details=details)
        )
    return judgements


def _two_digits(value: float) -> float:
    """Rounded up to two significant digits: a limit is read by people."""
    scale = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / scale) * scale
