"""Arrays inside JSON: compressed, base64, with dtype and shape; small enough for one measurement per image."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_LARGEST = 4 << 30


def pack(array: npt.NDArray[Any]) -> dict[str, Any]:
    """A JSON object that `unpack` turns back into the same array, bit for bit; little endian."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    data = base64.b64encode(zlib.compress(little.tobytes(), 6)).decode("ascii")
    return {"dtype": little.dtype.str, "shape": list(array.shape), "zlib": data}


def unpack(packed: Mapping[str, Any]) -> npt.NDArray[Any]:
    """The inverse of `pack`; the array is writable.

    Raises:
        ValueError: it is not what `pack` wrote.
    """
    dtype, shape = np.dtype(packed["dtype"]), tuple(int(side) for side in packed["shape"])
    size = dtype.itemsize * math.prod(shape)
    if dtype.hasobject or size > _LARGEST or min(shape, default=0) < 0:
        raise ValueError(f"{dtype} {shape} is not a packed array")
    unzip = zlib.decompressobj()
    raw = unzip.decompress(base64.b64decode(packed["zlib"]), size + 1)
    if len(raw) != size:
        raise ValueError(f"{len(raw)} bytes for {dtype} {shape}")
    return np.frombuffer(bytearray(raw), dtype=dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def pack_names(names: Sequence[str]) -> str:
    """Many names as one string."""
    return base64.b64encode(zlib.compress("\0".join(names).encode(), 6)).decode("ascii")


def unpack_names(packed: str) -> list[str]:
    """The inverse of `pack_names`."""
    text = zlib.decompress(base64.b64decode(packed)).decode()
    return text.split("\0") if text else []
