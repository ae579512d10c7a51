"""A whole volume through a network that takes windows: the label of every voxel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pth2om.data.normalizing import Prepared
from pth2om.data.resampling import USUAL, Resampling, resample
from pth2om.segmentation import window
from pth2om.segmentation.deciding import Decide, best_class
from pth2om.segmentation.window import Floats, Predict, Slab
from pth2om.spec import Volume

VERSION = 2


def segment(
    prepared: Prepared,
    tile: Sequence[int],
    predict: Predict,
    table: Volume,
    *,
    resampling: Resampling = USUAL,
    decide: Decide = best_class,
    batch: int = 1,
    seen: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.int16]:
    """The label of every voxel, int16, of the whole volume; -1 where a score is NaN, 0 where it was cut away.

    Scores of a volume that was resampled get its own spacing back before they are compared, as in nnU-Net; for that
    the whole map is kept, float32 of every head. Otherwise only as much of it is kept as a window is deep.

    Args:
        prepared: normalized, maybe cropped and resampled.
        tile: the network's input without batch and channels; one of two axes runs over the planes of the first axis.
        predict: the network.
        table: step, weights and mirrored axes.
        resampling: how scores are resampled; default nnU-Net's usual way.
        decide: from scores to labels; default the best class.
        batch: windows that `predict` takes at once.
        seen: told how many windows of how many are done.

    Raises:
        DataError: the network returns another shape, or a sum is not finite.
    """
    values, inside = prepared.values, prepared.inside
    found = np.zeros(prepared.size, dtype=np.int16)
    size = values.shape[1:]

    def pieces(part: Floats, told: Callable[[int, int], None] | None) -> Iterator[Slab]:
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

    def planes() -> Iterator[Iterator[Slab]]:
        for number in range(size[0]):
            yield pieces(values[:, number], None)
            if seen is not None:
                seen(number + 1, size[0])

    flat = len(tile) < len(size)
    if size == inside and flat:
        for number, slabs in enumerate(planes()):
            found[prepared.box][number] = window.labels(slabs, size[1:], decide)[0]
    elif size == inside:
        found[prepared.box] = window.labels(pieces(values, seen), size, decide)[0]
    else:
        scores = (
            np.stack([window.stitched(slabs, size[1:]) for slabs in planes()], axis=1)
            if flat
            else window.stitched(pieces(values, seen), size)
        )
        way = resampling.scores
        heads = (resample(head[None], inside, prepared.spacing, prepared.original, way)[0] for head in scores)
        found[prepared.box] = decide(heads)
    return found
