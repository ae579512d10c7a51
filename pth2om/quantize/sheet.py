"""A contact sheet of calibration images as the net sees them: resized, cut and in the channel order that it is fed."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pth2om.data.pixels import unnormalized
from pth2om.errors import QuantizeError
from pth2om.files import write_bytes
from pth2om.quantize.bins import ImageBatches
from pth2om.spec import Preprocess

if TYPE_CHECKING:
    from PIL import Image

COUNT = 12
_TILE = 160
_GAP = 4
_ACROSS = 4


def write_sheet(folder: Path, preprocess: Preprocess, destination: Path, count: int = COUNT) -> int:
    """Write a PNG of the first images of a folder after their preprocessing.

    The normalization is undone, so that the picture shows resize, crop, letterbox and channel order; channel 0 is drawn
    red, so a net that is fed BGR shows blue faces. An appended channel is drawn grey beside its image.

    Args:
        folder: images.
        preprocess: what is done to each.
        destination: the PNG.
        count: at most so many images.

    Returns:
        How many images are on it.

    Raises:
        QuantizeError: the folder has no images, or the file cannot be written.
    """
    from PIL import Image

    batches = ImageBatches(folder, preprocess, 1, limit=count)
    tiles = [_tile(batch[batches.name][0], preprocess) for batch in batches]
    wide, tall = tiles[0].size
    rows = math.ceil(len(tiles) / _ACROSS)
    size = (_GAP + min(_ACROSS, len(tiles)) * (wide + _GAP), _GAP + rows * (tall + _GAP))
    sheet = Image.new("RGB", size, "white")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, _ACROSS)
        sheet.paste(tile, (_GAP + column * (wide + _GAP), _GAP + row * (tall + _GAP)))
    data = io.BytesIO()
    sheet.save(data, "PNG")
    try:
        write_bytes(destination, data.getvalue())
    except OSError as error:
        reason = error.strerror or str(error)
        raise QuantizeError("quantize.not-writable", where=str(destination), reason=reason) from None
    return len(tiles)


def pixels(array: npt.NDArray[np.float32], preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """Undo the normalization of one image.

    Args:
        array: (channels, height, width), as the net is fed.
        preprocess: what made it.

    Returns:
        (height, width, channels), 0..255; an appended channel, which lies between 0 and 1, likewise.
    """
    own = 1 if preprocess.color == "GRAY" else 3
    further = np.clip(np.rint(array[own:] * 255.0), 0, 255).astype(np.uint8)
    whole: npt.NDArray[np.uint8] = np.concatenate([unnormalized(array[None, :own], preprocess)[0], further])
    return whole.transpose(1, 2, 0)


def _tile(array: npt.NDArray[np.float32], preprocess: Preprocess) -> Image.Image:
    from PIL import Image

    seen = pixels(array, preprocess)
    own = 1 if preprocess.color == "GRAY" else 3
    parts = [seen[:, :, 0].repeat(3).reshape(*seen.shape[:2], 3) if own == 1 else seen[:, :, :3]]
    parts += [np.repeat(seen[:, :, index : index + 1], 3, axis=2) for index in range(own, seen.shape[2])]
    picture = Image.fromarray(np.concatenate(parts, axis=1))
    factor = _TILE / max(seen.shape[:2])
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BILINEAR)
