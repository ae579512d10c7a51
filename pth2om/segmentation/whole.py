"""A whole volume through a network that takes windows: the class of every voxel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pth2om.data.normalizing import Prepared
from pth2om.segmentation import window
from pth2om.segmentation.window import Predict, Slab
from pth2om.spec import Volume

VERSION = 1


def segment(
    prepared: Prepared,
    tile: Sequence[int],
    predict: Predict,
    table: Volume,
    *,
    batch: int = 1,
    seen: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.int16]:
    """The best class of every voxel, int16, of the whole volume; -1 where a score is NaN, 0 where it was cut away.

    Args:
        prepared: normalized, maybe cropped.
        tile: the network's input without batch and channels; one of two axes runs over the planes of the first axis.
        predict: the network.
        table: step, weights and mirrored axes.
        batch: windows that `predict` takes at once.
        seen: told how many windows of how many are done.

    Raises:
        DataError: the network returns another shape, or a sum is not finite.
    """
    values = prepared.values
    best = np.zeros(prepared.size, dtype=np.int16)
    size = values.shape[1:]

    def pieces(part: window.Floats, told: Callable[[int, int], None] | None) -> Iterator[Slab]:
        return window.slabs(
            part,
            tile,
            predict,
            step=table.step,
            gaussian=table.gaussian,
            mirror=table.mirror,
            batch=batch,
            seen=told,
        )

    if len(tile) == len(size):
        best[prepared.box] = window.labels(pieces(values, seen), size)[0]
        return best
    inside = best[prepared.box]
    for number in range(size[0]):
        inside[number] = window.labels(pieces(values[:, number], None), size[1:])[0]
        if seen is not None:
            seen(number + 1, size[0])
    return best
