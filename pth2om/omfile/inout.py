"""MODEL_INOUT_INFO: inputs and outputs as type-length-value records, the cheapest way to list them.

Layout: CANN graph engine, ``base/common/model/model_introduction.cc`` and ``ge_model_inout_types.h``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from pth2om.errors import OmFileError
from pth2om.omfile.container import Partition
from pth2om.omfile.wire import Source

_MOST_TENSORS = 65536
_MOST_BYTES = 2**20  # of one record; a real one has a few hundred

DTYPES = {
    0: "FLOAT", 1: "FLOAT16", 2: "INT8", 3: "INT32", 4: "UINT8", 6: "INT16", 7: "UINT16", 8: "UINT32", 9: "INT64",
    10: "UINT64", 11: "DOUBLE", 12: "BOOL", 13: "STRING", 16: "COMPLEX64", 17: "COMPLEX128", 27: "BF16", 29: "INT4",
    30: "UINT1", 31: "INT2", 32: "UINT2",
}  # fmt: skip
"""The C++ ``ge::DataType`` numbers of these records; they differ from the proto enum's."""
FORMATS = {0: "NCHW", 1: "NHWC", 2: "ND", 3: "NC1HWC0", 4: "FRACTAL_Z", 27: "NDHWC", 30: "NCDHW", 32: "NDC1HWC0"}


@dataclass(frozen=True)
class OmTensor:
    """One input or output of an OM.

    Attributes:
        name: an output's is ``node:index:tensor name``.
        shape: -1 where it is dynamic.
        dtype: GE's name: ``FLOAT``, ``FLOAT16``, ``UINT8``, ...
        format: ``NCHW``, ``NHWC``, ``ND``, ...
        size: bytes of its buffer.
        aipp_shape: the second shape that an AIPP input records; empty without AIPP.
        ranges: smallest and largest size of each dynamic axis; -1 means unbounded.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    format: str
    size: int
    aipp_shape: tuple[int, ...] = ()
    ranges: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class InOut:
    """What the partition holds.

    Attributes:
        batches: batch gears.
        image_sizes: (height, width) gears.
        dims: gears of ``--dynamic_dims``.
        data_order: names of the inputs in the order of the gears' values.
    """

    inputs: tuple[OmTensor, ...] = ()
    outputs: tuple[OmTensor, ...] = ()
    batches: tuple[int, ...] = ()
    image_sizes: tuple[tuple[int, ...], ...] = ()
    dims: tuple[tuple[int, ...], ...] = ()
    dynamic_output_shapes: tuple[str, ...] = ()
    data_order: tuple[str, ...] = field(default=())


def read_inout(source: Source, partition: Partition) -> InOut:
    """The records of a MODEL_INOUT_INFO partition.

    Raises:
        OmFileError: a length points outside its record.
    """
    values: dict[int, object] = {}
    at = partition.start
    while at < partition.end:
        if partition.end - at < 8:
            raise _bad(source, at)
        kind, length = source.unpack("II", at)
        at += 8
        if length > partition.end - at or length > _MOST_BYTES:
            raise _bad(source, at)
        record = _Record(source, at, source.read(at, length))
        if kind in (0, 1):
            values[kind] = record.tensors()
        elif kind == 2:
            values[kind] = record.numbers(record.count(8), "Q")
        elif kind in (3, 4):
            sizes = record.numbers(record.count(4), "I")
            values[kind] = tuple(record.numbers(size, "q") for size in sizes)
        elif kind in (5, 6):
            sizes = record.numbers(record.count(4), "I")
            values[kind] = tuple(record.text(size) for size in sizes)
        at += length
    names = ("inputs", "outputs", "batches", "image_sizes", "dims", "dynamic_output_shapes", "data_order")
    return InOut(**{name: values[kind] for kind, name in enumerate(names) if kind in values})  # type: ignore[arg-type]  # each kind has its field


class _Record:
    """Reads the values of one record from front to back."""

    def __init__(self, source: Source, start: int, data: bytes) -> None:
        self._source, self._start, self._data, self._at = source, start, data, 0

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise _bad(self._source, self._start + self._at)
        self._at += size
        return self._data[self._at - size : self._at]

    def count(self, least: int) -> int:
        """A count of items of at least ``least`` bytes each."""
        (count,) = struct.unpack("<I", self._take(4))
        if count > _MOST_TENSORS or count * least > len(self._data) - self._at:
            raise _bad(self._source, self._start + self._at)
        return int(count)

    def numbers(self, count: int, kind: str) -> tuple[int, ...]:
        return struct.unpack(f"<{count}{kind}", self._take(count * struct.calcsize("<" + kind)))

    def text(self, size: int) -> str:
        return self._take(size).decode("utf-8", "replace")

    def tensors(self) -> tuple[OmTensor, ...]:
        return tuple(self._tensor() for _ in range(self.count(32)))

    def _tensor(self) -> OmTensor:
        size, layout, dtype, *lengths = struct.unpack("<QiiIIII", self._take(32))
        name = self.text(lengths[0])
        if any(length % 8 for length in lengths[1:3]) or lengths[3] % 16:
            raise _bad(self._source, self._start + self._at)
        shape = self.numbers(lengths[1] // 8, "q")
        second = self.numbers(lengths[2] // 8, "q")
        bounds = self.numbers(lengths[3] // 8, "q")
        return OmTensor(
            name=name,
            shape=shape,
            dtype=DTYPES.get(dtype, str(dtype)),
            format=FORMATS.get(layout & 0xFF, str(layout)),  # the higher bytes hold the sub-format
            size=size,
            aipp_shape=second if second != shape else (),
            ranges=tuple(zip(bounds[::2], bounds[1::2], strict=True)),
        )


def _bad(source: Source, at: int) -> OmFileError:
    return OmFileError("omfile.bad-inout", where=source.where, at=at)
