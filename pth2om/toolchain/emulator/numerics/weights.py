"""Constants of a model: read one at a time, rounded, and written inline or to one data file beside the bands."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from pth2om.errors import GraphError, ToolchainError
from pth2om.onnxfile.reading import ExternalData
from pth2om.onnxfile.writing import refer

DATA_FILE = "weights.data"
_SMALL = 1024  # bytes that stay inline in a model whose weights are external
_ALIGN = 64

Array = npt.NDArray[np.generic]


def is_external(tensor: TensorProto) -> bool:
    """Whether a tensor's bytes are in another file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def read(tensor: TensorProto, folder: Path) -> Array:
    """A tensor's values, from the model or from its external file.

    Args:
        tensor: an initializer.
        folder: of the model; external data may not lie outside it.

    Raises:
        ToolchainError: the external file is outside, missing, or too short.
    """
    if not is_external(tensor):
        return numpy_helper.to_array(tensor)
    try:
        data = ExternalData(folder, str(folder)).bytes(tensor)
    except GraphError as error:
        raise ToolchainError(error.message.key, where=str(folder), **error.message.values) from None
    assert data is not None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    # Mapped, not read: a model may be larger than memory.
    return np.frombuffer(data, dtype).reshape(tuple(tensor.dims))


class WeightFile:
    """Where large constants go: inline, or, for models with external data, one file that both bands share.

    Args:
        folder: of the compiled model.
        external: whether to use the file.
    """

    def __init__(self, folder: Path, external: bool) -> None:
        self._path = folder / DATA_FILE
        self._file: BinaryIO | None = None
        self._external = external
        self._written: dict[tuple[str, bytes], tuple[int, int]] = {}

    def tensor(self, name: str, values: Array) -> TensorProto:
        """An initializer of ``values``."""
        if not self._external or values.nbytes < _SMALL or values.dtype == object:
            return numpy_helper.from_array(np.asarray(values), name)
        data = np.ascontiguousarray(values)
        content = memoryview(cast("Any", data.reshape(-1).view(np.uint8)))
        identity = (str(data.dtype), hashlib.sha256(content).digest())
        place = self._written.get(identity)
        if place is None:
            if self._file is None:
                self._file = self._path.open("wb")
            self._file.write(b"\0" * (-self._file.tell() % _ALIGN))
            place = (self._file.tell(), data.nbytes)
            self._file.write(content)
            self._written[identity] = place
        tensor = TensorProto(name=name, data_type=onnx.helper.np_dtype_to_tensor_dtype(data.dtype), dims=data.shape)
        refer(tensor, DATA_FILE, *place)
        return tensor

    def close(self) -> None:
        """Finish the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
