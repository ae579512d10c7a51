"""Closeness: do two sessions give the same outputs on the same inputs?

Measuring (`measure`) runs both and returns JSON; judging (`judge`) holds it against the limits of a pair of sessions.
"""

from __future__ import annotations

from pth2om.compare.closeness import VERSION, measure, worse
from pth2om.compare.judging import DEFAULTS, Pair, judge, limits
from pth2om.compare.rounding import Own, own_rounding

__all__ = ["DEFAULTS", "VERSION", "Own", "Pair", "judge", "limits", "measure", "own_rounding", "worse"]
