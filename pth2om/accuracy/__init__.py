"""Accuracy on labelled images: top1/top5, COCO mAP, Dice; and whether a conversion lost any.

Measuring (`measure`) runs a session over a dataset and returns JSON with one entry per image; judging (`drop`,
`reproduces`, `least`, `agreement`) takes such JSON and needs neither the model nor the images.
"""

from __future__ import annotations

from pth2om.accuracy.agreement import agreement
from pth2om.accuracy.judging import VERSION as DIFFERENCE_VERSION
from pth2om.accuracy.judging import can_decide, difference, drop, judge, least, metrics, reproduces
from pth2om.accuracy.measuring import VERSION, measure
from pth2om.accuracy.volumes import class_scores, judged_metrics

__all__ = [
    "DIFFERENCE_VERSION",
    "VERSION",
    "agreement",
    "can_decide",
    "class_scores",
    "difference",
    "drop",
    "judge",
    "judged_metrics",
    "least",
    "measure",
    "metrics",
    "reproduces",
]
