"""From scores to labels: the best class of each voxel, or the regions that it belongs to, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int16]

Decide = Callable[[Iterable[Floats]], Labels]
"""The scores of one head after the other -> the label of every voxel; -1 where a score is NaN."""


def best_class(heads: Iterable[Floats]) -> Labels:
    """The head with the largest score, int16; the first of several.

    Args:
        heads: float32, one array of voxels after the other.
    """
    most: Floats | None = None
    found: Labels = np.zeros(0, dtype=np.int16)
    lost: npt.NDArray[np.bool_] = np.zeros(0, dtype=bool)
    for number, scores in enumerate(heads):
        if most is None:
            most, found = scores.copy(), np.zeros(scores.shape, dtype=np.int16)
            lost = np.isnan(scores)
            continue
        better = scores > most
        found[better] = number
        np.copyto(most, scores, where=better)
        lost |= np.isnan(scores)
    found[lost] = -1
    return found


def in_order(order: Sequence[int]) -> Decide:
    """What nnU-Net makes of regions: where a head says more than one half, its label is written over those before it.

    Args:
        order: the label of each head.
    """

    def decide(heads: Iterable[Floats]) -> Labels:
        from scipy.special import expit

        found: Labels | None = None
        lost: npt.NDArray[np.bool_] = np.zeros(0, dtype=bool)
        for label, scores in zip(order, heads, strict=True):
            if found is None:
                found, lost = np.zeros(scores.shape, dtype=np.int16), np.zeros(scores.shape, dtype=bool)
            found[expit(scores) > 0.5] = label
            lost |= np.isnan(scores)
        if found is None:
            return np.zeros(0, dtype=np.int16)
        found[lost] = -1
        return found

    return decide
