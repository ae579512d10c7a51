"""Described tensors become torch tensors: bounded, in this machine's byte order, floats as float32."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pth2om.checkpoint.archives import ITEM_SIZES, extent
from pth2om.checkpoint.inert import Array, PickleError, Storage, Tensor

if TYPE_CHECKING:
    import torch

# Each number format of NumPy that is only bytes; object, structured and datetime types are not.
_ARRAY_TYPE = re.compile(r"^[<>|=]?(b1|[biu][1248]|f[248]|c(8|16))$")


def is_tensor(value: object) -> bool:
    """Whether ``value`` is a tensor in any of its guises: described, array, or torch's own."""
    if isinstance(value, Tensor):
        return True
    if isinstance(value, Array):
        return bool(value.data) or value.problem is not None
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "dtype") and hasattr(value, "shape")


def problem(value: Any) -> str | None:  # noqa: ANN401 - a tensor in any guise
    """Why the numbers of a tensor cannot be read; None where they can."""
    if isinstance(value, Tensor | Array):
        return value.problem
    if value.is_quantized:
        return "quantized tensor"
    if value.layout is not _torch().strided:
        return f"{value.layout} tensor"
    return "meta tensor" if value.is_meta else None


def size(value: Any) -> int:  # noqa: ANN401 - a tensor in any guise
    """Its number of elements, without reading them."""
    count = 1
    for length in value.shape:
        if not isinstance(length, int) or length < 0:
            raise PickleError("an array whose shape is no shape")
        count *= length
    return count


class Reader:
    """Reads described tensors; each storage once, however many tensors view it.

    Args:
        block: gives a storage's bytes.
        big_endian: whether they are stored big end first.
        budget: bytes of float32 that may be made in all; views that need no conversion are free.
    """

    def __init__(self, block: Callable[[Storage], bytearray], *, big_endian: bool, budget: int) -> None:
        self._block = block
        self._big_endian = big_endian
        self._budget = budget
        self._storages: dict[Storage, torch.Tensor] = {}

    def tensor(self, value: Any) -> torch.Tensor:  # noqa: ANN401 - a tensor in any guise
        """``value`` as a torch tensor; half, double, bfloat16 and float8 become float32.

        Raises:
            PickleError: it reaches beyond its storage, or all of them together need more memory than the file warrants.
        """
        if isinstance(value, Tensor):
            raw = self._view(value)
        elif isinstance(value, Array):
            raw = self._array(value)
        else:
            raw = value.detach()
        torch = _torch()
        if not raw.dtype.is_floating_point or raw.dtype == torch.float32:
            return raw
        self._budget -= raw.numel() * 4
        if self._budget < 0:
            raise PickleError("its tensors are far larger than the file")
        return raw.to(torch.float32)

    def _view(self, described: Tensor) -> torch.Tensor:
        torch = _torch()
        if described.storage is None:
            raise PickleError(described.problem or "tensor without storage")
        dtype = getattr(torch, described.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise PickleError(f"this PyTorch has no {described.dtype}")
        itemsize = ITEM_SIZES[described.dtype]
        flat = self._storage(described.storage, itemsize // 2 if dtype.is_complex else itemsize)
        if extent(described) * itemsize > flat.numel():
            raise PickleError("a tensor reaches beyond its storage")
        typed = (
            flat[: flat.numel() // itemsize * itemsize].view(dtype) if flat.numel() else flat.new_empty(0, dtype=dtype)
        )
        return typed.as_strided(described.shape, described.stride, described.offset if extent(described) else 0)

    def _storage(self, storage: Storage, word: int) -> torch.Tensor:
        """The bytes of a storage in this machine's order, as a flat uint8 tensor."""
        torch = _torch()
        if storage not in self._storages:
            data = self._block(storage)
            if self._big_endian and word > 1:
                swapped = np.frombuffer(data, dtype=f"u{word}").byteswap()
                data = bytearray(swapped.tobytes())
            flat = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
            self._storages[storage] = flat
        return self._storages[storage]

    def _array(self, array: Array) -> torch.Tensor:
        if array.problem or not _ARRAY_TYPE.match(array.dtype):
            raise PickleError(f"an array of type {array.dtype or array.problem}")
        dtype = np.dtype(array.dtype)
        if size(array) * dtype.itemsize != len(array.data):
            raise PickleError("an array whose bytes do not fill its shape")
        values = np.frombuffer(array.data, dtype).reshape(array.shape, order="F" if array.fortran else "C")
        tensor: torch.Tensor = _torch().from_numpy(values.astype(dtype.newbyteorder("="), order="C", copy=True))
        return tensor


def number(array: Array) -> int | float | bool | None:
    """A NumPy scalar as Python's number; None where it is none."""
    if array.shape != () or array.problem or not _ARRAY_TYPE.match(array.dtype) or "c" in array.dtype:
        return None
    dtype = np.dtype(array.dtype)
    if dtype.itemsize != len(array.data):
        return None
    plain: int | float | bool = np.frombuffer(array.data, dtype)[0].item()
    return plain


def _torch() -> Any:  # noqa: ANN401 - the module, imported when first needed
    import torch

    return torch
