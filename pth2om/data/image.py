"""Decoding one image file to RGB pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pth2om.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.uint8]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
"""Endings that count as images when a folder is listed (compared in lower case)."""


def decode(path: Path, *, index: int | None = None) -> Pixels:
    """The pixels of an image file, the right way up.

    The EXIF orientation is applied; grayscale, palette, CMYK and 16-bit images become 8-bit RGB; an alpha channel is
    dropped, as the usual training loaders do.

    Args:
        path: the file.
        index: its number in a dataset, for the message.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        DataError: the file is missing, is not an image, is cut off, or is larger than Pillow's safety limit.
    """
    from PIL import Image, ImageOps

    number = "" if index is None else f" #{index}"
    try:
        with Image.open(path) as opened:
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            return np.array(_to_rgb(upright), dtype=np.uint8, order="C")
    except FileNotFoundError:
        raise DataError("data.image-missing", where=f"{path}{number}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, MemoryError) as error:
        # Pillow raises any of these for a damaged file, depending on the format.
        reason = " ".join(str(error).split()).replace(repr(str(path)), "").strip() or type(error).__name__
        raise DataError("data.image-unreadable", where=f"{path}{number}", reason=reason) from None


def _to_rgb(image: Image) -> Image:
    from PIL import Image as Pillow

    if image.mode.startswith(("I;16", "I")):
        # Pillow clips 16-bit values at 255 instead of scaling them; 65535 / 257 = 255.
        wide = np.asarray(image).astype(np.int64)
        if wide.min(initial=0) < 0 or wide.max(initial=0) > 65535:
            raise ValueError(f"pixel values {wide.min()}..{wide.max()} are not 16-bit")
        return Pillow.fromarray(((wide + 128) // 257).astype(np.uint8), "L").convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known white")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    if image.mode == "LA":
        return image.convert("L").convert("RGB")
    return image.convert("RGB")
