"""What the values of a floating-point constant span: its largest value, and whether FP16 would change it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from onnx import TensorProto

FP16_MAX = 65504.0
"""Largest finite FP16 value."""
FP16_WHOLE = 2048
"""Up to here every whole number is an FP16 value."""

_LIMIT_BYTES = 256 * 2**20
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}


@dataclass(frozen=True)
class FloatRange:
    """What the values of a floating-point constant span.

    Attributes:
        top: the largest absolute value that is finite.
        infinite: whether one is infinite.
        nan: whether one is NaN.
        rounded: whether all are whole numbers and fp16 changes one of them.
        scalar: the only value's size, where there is one.
    """

    top: float
    infinite: bool
    nan: bool
    rounded: bool
    scalar: float | None


def float_range(tensor: TensorProto) -> FloatRange | None:
    """The span of a constant's values; None for other types, external or empty ones."""
    values = _floats(tensor)
    if values is None or not values.size:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        low, high = float(values.min()), float(values.max())
    scalar = abs(float(values[0])) if values.size == 1 else None
    if np.isfinite(low) and np.isfinite(high):
        top = max(abs(low), abs(high))
        rounded = FP16_WHOLE < top <= FP16_MAX and _whole_and_rounded(values)
        return FloatRange(top, False, False, rounded, scalar)
    finite = values[np.isfinite(values)]
    top = float(np.abs(finite).max()) if finite.size else 0.0
    return FloatRange(top, bool(np.isinf(values).any()), bool(np.isnan(values).any()), False, scalar)


def _floats(tensor: TensorProto) -> npt.NDArray[Any] | None:
    """The values of a floating-point constant inside the file, without a further copy where they are raw."""
    kind = _DTYPES.get(tensor.data_type)
    if kind is None or tensor.data_location == 1 or tensor.ByteSize() > _LIMIT_BYTES:
        return None
    if tensor.HasField("raw_data"):
        raw = tensor.raw_data
        return np.frombuffer(raw, kind, len(raw) // kind.itemsize)
    if tensor.data_type == 10:
        # Typed fp16 values are kept as their bits, in whole numbers.
        bits = np.fromiter((value & 0xFFFF for value in tensor.int32_data), np.uint16, len(tensor.int32_data))
        return bits.view(np.float16)
    values: Sequence[float] = tensor.float_data if tensor.data_type == 1 else tensor.double_data
    return np.fromiter(values, kind, len(values))


def _whole_and_rounded(values: npt.NDArray[Any]) -> bool:
    if not np.array_equal(values, np.rint(values)):
        return False
    return not np.array_equal(values.astype(np.float16).astype(np.float64), values.astype(np.float64))
