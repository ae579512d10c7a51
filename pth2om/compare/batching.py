"""Whether a picture gives in a batch what it gives alone.

A reshape with a batch size of 1 written in, followed by a softmax or a sort, mixes the pictures of a batch without any
error, in PyTorch, ONNX and OM alike, so that comparing these at one batch size sees nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pth2om.compare.closeness import Runs, closeness
from pth2om.compare.judging import DEFAULTS
from pth2om.compare.rounding import Own, allowed
from pth2om.evidence import Judgement, Limit
from pth2om.language import say
from pth2om.session import Array, Feeds

if TYPE_CHECKING:
    from pth2om.data.samples import Sample

VERSION = 1


def against_singles(batched: Runs, single: Runs, sample: Sample) -> dict[str, Any]:
    """Run a batch at once and its pictures one by one.

    The batch axis of an output is the one that is so many times longer; an output without one has to be the same for
    every picture.

    Args:
        batched: takes the whole batch.
        single: takes one picture.
        sample: a batch of at least two.

    Returns:
        JSON: ``samples`` (names); ``outputs``: name -> ``rows`` (relative L2 of each picture), or ``batched`` and
        ``single`` (shapes) where no axis is the batch's.
    """
    count = len(sample.names)
    whole = batched.run(sample.feeds)
    alone = [single.run(sample.row(row)) for row in range(count)]
    outputs: dict[str, Any] = {}
    for place, (name, array) in enumerate(whole.items()):
        ones = [each[name] if name in each else list(each.values())[place] for each in alone]
        axis = _batch_axis(array.shape, ones[0].shape, count)
        if axis is None:
            outputs[name] = {"batched": list(array.shape), "single": list(ones[0].shape)}
            continue
        parts = [array] * count if axis < 0 else np.split(array, count, axis)
        outputs[name] = {"rows": [_distance(one, part) for one, part in zip(ones, parts, strict=True)]}
    return {"samples": list(sample.names), "outputs": outputs}


def against_repeats(batched: Runs, sample: Sample) -> dict[str, Any]:
    """Run a batch at once, and each of its pictures in a batch of nothing but that picture.

    For what is compiled for one batch size. Nothing tells which axis of an output is the batch, so every one that can
    be is tried, and the output is as right as on the best of them; one that is the same whatever is fed is right too.

    Args:
        batched: takes the whole batch.
        sample: a batch of at least two.

    Returns:
        As `against_singles`.
    """
    count = len(sample.names)
    whole = batched.run(sample.feeds)
    rows: dict[str, dict[int, list[float]]] = {
        name: {axis: [] for axis in _splitting(array.shape, count)} for name, array in whole.items()
    }
    for row in range(count):
        repeated: Feeds = sample.row(row, count)
        found = batched.run(repeated)
        for name, by_axis in rows.items():
            for axis, values in by_axis.items():
                if axis < 0:
                    values.append(_distance(whole[name], found[name]))
                    continue
                one = np.split(whole[name], count, axis)[row]
                values.append(max(_distance(one, part) for part in np.split(found[name], count, axis)))
    best = {name: min(by_axis.values(), key=max) for name, by_axis in rows.items()}
    return {"samples": list(sample.names), "outputs": {name: {"rows": values} for name, values in best.items()}}


def _splitting(shape: tuple[int, ...], count: int) -> list[int]:
    """The axes that may be the batch, and -1 for none."""
    return [-1, *(axis for axis, size in enumerate(shape) if size and size % count == 0)]


def _batch_axis(batched: tuple[int, ...], single: tuple[int, ...], count: int) -> int | None:
    """The axis that is ``count`` times longer; -1 where the shapes are equal; None where neither holds."""
    if batched == single:
        return -1
    if len(batched) != len(single):
        return None
    differing = [axis for axis, (many, one) in enumerate(zip(batched, single, strict=True)) if many != one]
    (axis, *more) = differing
    return axis if not more and batched[axis] == count * single[axis] else None


def _distance(one: Array, part: Array) -> float:
    """Relative L2; infinite where one side alone is finite."""
    values, _ = closeness(one, part.reshape(one.shape))
    if values["new_nonfinite"] or values["lost_nonfinite"]:
        return float("inf")
    return values["relative_l2"] or 0.0


def judge_batch(
    measured: Mapping[str, Any], role: str, *, half: bool, largest: float | None = None, own: Own | None = None
) -> list[Judgement]:
    """One judgement per output.

    The sample of zeros does not count beside others: some networks multiply its rounding without bound.

    Args:
        measured: of `against_singles` or `against_repeats`.
        role: who computes; the first part of each check's name.
        half: whether in fp16 or INT8.
        largest: largest relative L2 that the spec accepts of this session; the default limit where that is larger.
        own: the original's own rounding, up to which a difference is excused (`pth2om.compare.rounding`).
    """
    default = DEFAULTS["float" if half else "torch~onnx"]["relative_l2"]
    limit = Limit("<=", max(default, largest or 0.0))
    names = measured["samples"]
    judgements = []
    for output, found in measured["outputs"].items():
        check = f"{role}/batch/{output}"
        values: dict[str, Any] = {"output": output, "role": role, "count": len(names)}
        if "rows" not in found:
            shapes = {side: "x".join(map(str, found[side])) or "scalar" for side in ("batched", "single")}
            message = say("compare.batch-shape", **values, **shapes)
            judgements.append(Judgement(check, None, "", limit, "failed", message=message, details=dict(found)))
            continue
        own_rows = (own or {}).get(output, {})
        rows = dict(zip(names, found["rows"], strict=True))
        judged = {name: value for name, value in rows.items() if name != "zeros"} or rows
        counted = {
            name: value
            for name, value in judged.items()
            if limit.holds(value) or not _excused(own_rows.get(name, {}), value, limit, half=half)
        }
        if not counted:
            message = say("compare.batch-rounding", **values)
            judgements.append(
                Judgement(check, None, "", limit, "inconclusive", message=message, details={"rows": rows})
            )
            continue
        sample = max(counted, key=lambda name: counted[name])
        worst, details = counted[sample], {"worst": sample, "rows": rows}
        if limit.holds(worst):
            judgements.append(Judgement(check, worst, "", limit, "passed", details=details))
            continue
        message = say("compare.batch-mixed", **values, sample=sample, measured=limit.beside(worst))
        judgements.append(Judgement(check, worst, "", limit, "failed", message=message, details=details))
    return judgements


def _excused(own: Mapping[str, float | None], value: float, limit: Limit, *, half: bool) -> bool:
    bound = allowed(own, "relative_l2", limit, half=half)
    return bound is not None and value <= bound
