"""Closeness: do two sessions give the same outputs on the same inputs?

Measuring (`measure`) runs both and returns JSON; judging (`judge`) holds it against the limits of a pair of sessions.
`compare` does both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pth2om.compare.closeness import VERSION, measure, worse
from pth2om.compare.judging import DEFAULTS, Pair, judge, limits
from pth2om.compare.rounding import Own, own_rounding
from pth2om.spec import Gates, Slice

if TYPE_CHECKING:
    from pth2om.data.samples import Sample
    from pth2om.evidence import Judgement
    from pth2om.session import Session

__all__ = ["DEFAULTS", "VERSION", "Own", "Pair", "compare", "judge", "limits", "measure", "own_rounding", "worse"]


def compare(
    reference: Session,
    candidate: Session,
    samples: Iterable[Sample],
    *,
    pair: Pair = "torch~onnx",
    gates: Gates | None = None,
    slices: Sequence[Slice] = (),
) -> list[Judgement]:
    """Whether ``candidate`` computes what ``reference`` computes, slice by slice, on the same samples.

    Args:
        reference: the side that is taken for right.
        candidate: the side that is judged.
        samples: what both are fed.
        pair: whose default limits hold: ``torch~onnx`` those of float32 rounding, the others those of fp16.
        gates: limits that differ from the defaults.
        slices: named parts of the outputs that are judged on their own.

    Returns:
        One judgement per slice and limit, of the worst row.

    Raises:
        DataError: a slice names no output or selects nothing.
    """
    return judge(measure(reference, candidate, samples, slices), pair=pair, gates=gates or Gates())
