"""``acl.util``: host memory as Python objects."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from cann_double.device import host
from cann_double.machine import machine

_NUMPY = {
    0: np.bool_, 1: np.int8, 2: np.uint8, 3: np.int16, 5: np.int32, 6: np.uint32, 7: np.int64, 11: np.float32,
    12: np.float64, 23: np.float16,
}  # fmt: skip


def _ptr_to_bytes(address: int, size: int) -> bytes:
    """A copy."""
    found = host(address, size)
    if found is None:
        raise ValueError("no host pointer")
    return bytes(found)


def _bytes_to_ptr(data: bytes) -> int:
    """The address of an object's own memory; whoever asks keeps the object alive."""
    address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
    return int(address or 0)


def numpy_to_ptr(array: Any) -> int:
    """The address of an array's own memory."""
    return int(array.__array_interface__["data"][0])


def ptr_to_numpy(address: int, shape: tuple[int, ...], kind: int) -> Any:
    """A view, by NumPy's number of a type."""
    dtype = np.dtype(_NUMPY[kind])
    found = host(address, int(np.prod(shape)) * dtype.itemsize)
    if found is None:
        raise ValueError("no host pointer")
    return np.frombuffer(found, dtype).reshape(shape)


if not machine()["old_utilities"]:
    # Releases before them have numpy_to_ptr and ptr_to_numpy only; the samples look into dir(acl.util).
    ptr_to_bytes, bytes_to_ptr = _ptr_to_bytes, _bytes_to_ptr
