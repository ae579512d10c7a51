"""Reading ``.npz`` files: all arrays of one, or its images and labels; sizes are bounded and nothing is unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pth2om.data.manifest import Manifest
from pth2om.errors import DataError, first_line

_ARRAY_BYTES = 16 << 30


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an ``.npz``.

    Raises:
        DataError: it is too large, or cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _ARRAY_BYTES:
            raise DataError("data.too-large", where=str(path), size=size, limit=_ARRAY_BYTES)
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise DataError("data.npz-unreadable", where=str(path), reason=first_line(error)) from None


def read_images(path: Path, manifest: Manifest) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64] | None]:
    """The images of a dataset, uint8, and their labels where it has some.

    Raises:
        DataError: see `load_arrays`; or the arrays are no images and labels.
    """
    data = load_arrays(path)
    if manifest.x not in data:
        raise DataError("data.npz-key", where=str(path), key=manifest.x, known=", ".join(data))
    pixels, labels = data[manifest.x], data.get(manifest.y)
    shape = "x".join(map(str, pixels.shape))
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3)):
        raise DataError("data.npz-images", where=f"{path}[{manifest.x}]", dtype=str(pixels.dtype), shape=shape)
    if labels is None:
        return pixels, None
    if labels.dtype.kind not in "iu" or labels.ndim not in (1, 3):
        raise DataError(
            "data.npz-labels",
            where=f"{path}[{manifest.y}]",
            dtype=str(labels.dtype),
            shape="x".join(map(str, labels.shape)),
        )
    if len(labels) != len(pixels):
        raise DataError("data.label-count", where=str(path), labels=len(labels), images=len(pixels))
    if labels.ndim == 3 and labels.shape[1:] != pixels.shape[1:3]:
        raise DataError("data.mask-size", where=str(path), mask=str(labels.shape[1:]), image=str(pixels.shape[1:3]))
    return pixels, labels.astype(np.int64)
