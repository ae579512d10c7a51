"""Whether a session gives the same for the same feeds.

What draws random numbers while it runs (dropout in training mode, ``torch.rand`` in a forward, RandomNormalLike in a
graph) is another function each time. It is found before anything else is compared: held against its float64 twin or a
moved input, its chance would pass for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pth2om.compare.closeness import Runs
from pth2om.compare.figures import distance
from pth2om.evidence import Judgement, Limit
from pth2om.language import say

if TYPE_CHECKING:
    from pth2om.data.samples import Sample

VERSION = 3

SAME = 5e-7
"""Largest relative L2 between two runs, about four units in the last place of float32: some kernels add up in the order
in which their threads end. On this machine's PyTorch and ONNX Runtime all bits are the same."""


def repeated(session: Runs, sample: Sample, runs: int = 2, *, before: Runs | None = None) -> dict[str, Any]:
    """Run the same feeds several times.

    Args:
        session: what runs.
        sample: what is fed; not zeros alone, which dropout leaves as they are.
        runs: how many times, two at least.
        before: gives the first answer: the session with the memory of its runs so far. All others are computed.

    Returns:
        JSON: ``sample`` (name), ``runs``, ``outputs``: name -> largest relative L2 between the first run and another;
        infinite where the shapes differ, or one of them alone is finite.
    """
    first = {name: np.array(array) for name, array in (before or session).run(sample.feeds).items()}
    largest = dict.fromkeys(first, 0.0)
    for _ in range(runs - 1):
        found = session.run(sample.feeds)
        for name, array in first.items():
            again = np.asarray(found[name]) if name in found else np.empty(0)
            largest[name] = max(largest[name], _apart(array, again))
    return {"sample": sample.names[0], "runs": runs, "outputs": largest}


def _apart(first: np.ndarray[Any, Any], again: np.ndarray[Any, Any]) -> float:
    if first.shape != again.shape:
        return float("inf")
    return distance(first, again)


def restless(measured: Mapping[str, Any]) -> float:
    """The largest relative L2 of any output between two runs."""
    return max(measured["outputs"].values(), default=0.0)


def repeats(measured: Mapping[str, Any]) -> bool:
    """Whether all outputs stay within `SAME`."""
    return restless(measured) <= SAME


def judge_repeats(measured: Mapping[str, Any], role: str) -> Judgement:
    """One judgement on what `repeated` measured.

    Args:
        measured: of `repeated`.
        role: who computes; the first part of the check's name.
    """
    outputs, limit = measured["outputs"], Limit("<=", SAME)
    worst = restless(measured)
    check, details = f"{role}/repeats", dict(measured)
    if repeats(measured):
        return Judgement(check, worst, "", limit, "passed", details=details)
    name = max(outputs, key=lambda name: outputs[name])
    values = {"role": role, "output": name, "sample": measured["sample"], "measured": limit.beside(worst)}
    message = say("compare.not-deterministic", **values)
    return Judgement(check, worst, "", limit, "failed", message=message, details=details)
