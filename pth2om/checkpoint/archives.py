"""The containers torch.save wrote over the years, scanned before anything is read from them.

A scan walks the pickle as data (see `pickles`) and checks every declared size against the bytes that are there: storage
against record, tensor against storage. Only then is memory taken. It needs no torch.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from pth2om.checkpoint.formats import Kind
from pth2om.checkpoint.inert import PickleError, Storage, Tensor, is_plain
from pth2om.checkpoint.pickles import Unpickler
from pth2om.errors import CheckpointError, first_line

ITEM_SIZES = {
    "float32": 4,
    "float64": 8,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "bool": 1,
    "complex64": 8,
    "complex128": 16,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
}
"""Bytes of one element, by torch's name of the type."""

EXPANSION = 32
"""A zip may declare at most this many times its own size, plus `_SLACK`: torch.save does not compress at all."""

_SLACK = 64 << 20
_LOCAL_HEADER = struct.Struct("<4s22xHH")


@dataclass
class Scan:
    """A checkpoint file that has been looked through, its numbers not yet read.

    Attributes:
        tree: what the pickle holds, as data.
        classes: classes and functions it names that stand for no plain data, in order.
        block: gives the bytes of a storage; checked to be ``count * item size`` long.
        big_endian: whether numbers are stored big end first.
        operators: TorchScript calls in the archive's code that reach outside it (``torch.save``...).
    """

    tree: Any
    classes: tuple[str, ...]
    block: Callable[[Storage], bytearray]
    big_endian: bool = False
    operators: tuple[str, ...] = field(default=())


@contextlib.contextmanager
def scanned(path: Path, kind: Kind) -> Iterator[Scan]:
    """The scan of a file of a pickle's kind; `Scan.block` works inside the ``with`` only.

    Raises:
        CheckpointError: it is truncated, damaged, or declares sizes that are not there.
    """
    try:
        with path.open("rb") as file:
            if kind in ("torch-zip", "torchscript"):
                with zipfile.ZipFile(file) as archive:
                    yield _scan_zip(path, file, archive)
            else:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                    yield _scan_legacy(view) if kind == "torch-legacy" else _scan_pickle(view)
    except PickleError as error:
        raise CheckpointError("checkpoint.bad-pickle", where=str(path), reason=str(error)) from None
    except (zipfile.BadZipFile, NotImplementedError, struct.error, zlib.error, EOFError) as error:
        raise CheckpointError("checkpoint.damaged", where=str(path), reason=first_line(error)) from None


def extent(tensor: Tensor) -> int:
    """How many elements of its storage a tensor reaches over, counted from the storage's start."""
    if 0 in tensor.shape:
        return 0
    return tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride, strict=True)) + 1


def _check(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        if tensor.storage is None:
            continue
        if tensor.dtype not in ITEM_SIZES:
            raise PickleError(f"element type {tensor.dtype!r} is not known")
        have = tensor.storage.count * ITEM_SIZES[tensor.storage.dtype]
        if extent(tensor) * ITEM_SIZES[tensor.dtype] > have:
            raise PickleError(f"a tensor of shape {list(tensor.shape)} reaches beyond its {have} bytes")


def _foreign(names: dict[str, None]) -> tuple[str, ...]:
    # TorchScript's own types are compiled code of the archive, nothing Python could import.
    return tuple(name for name in names if not is_plain(name) and not name.startswith("__torch__."))


# --- zip --------------------------------------------------------------------------------------------------------


def _scan_zip(path: Path, file: BinaryIO, archive: zipfile.ZipFile) -> Scan:
    size = path.stat().st_size
    entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > EXPANSION * size + _SLACK:
        raise CheckpointError("checkpoint.zip-bomb", where=str(path), size=size)
    by_name = {entry.filename: entry for entry in entries}
    if len(by_name) != len(entries):
        # Two readers may pick different ones, so what is checked here need not be what torch reads.
        raise zipfile.BadZipFile("two records of the same name")
    main = next((entry for entry in entries if entry.filename.partition("/")[2] == "data.pkl"), None)
    if main is None:
        raise zipfile.BadZipFile("no data.pkl")
    prefix = main.filename.removesuffix("data.pkl")
    checked = any(entry.CRC for entry in entries)

    def record(entry: zipfile.ZipInfo) -> bytearray:
        return _record(file, archive, entry, size, checked=checked)

    reader = Unpickler(io.BytesIO(record(main)))
    tree = reader.load()
    for storage in reader.storages:
        entry = by_name.get(f"{prefix}data/{storage.key}")
        if entry is None:
            raise zipfile.BadZipFile(f"record data/{storage.key} is missing")
        if entry.file_size != storage.count * ITEM_SIZES[storage.dtype]:
            raise zipfile.BadZipFile(f"record data/{storage.key} has {entry.file_size} bytes, not what was declared")
    _check(reader.tensors)
    order = by_name.get(f"{prefix}byteorder")
    return Scan(
        tree,
        _foreign(reader.names),
        lambda storage: record(by_name[f"{prefix}data/{storage.key}"]),
        big_endian=order is not None and bytes(record(order)) == b"big",
        operators=_reaching_out(record(entry) for entry in entries if entry.filename.startswith(f"{prefix}code/")),
    )


def _record(file: BinaryIO, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, size: int, *, checked: bool) -> bytearray:
    """The bytes of one record; its checksum is verified unless the archive was written without any.

    ``torch.serialization.set_crc32_options(False)`` leaves every checksum 0, and zipfile alone would refuse those.
    """
    if entry.flag_bits & 1:
        raise zipfile.BadZipFile("the archive is encrypted")
    if entry.compress_type != zipfile.ZIP_STORED:
        return bytearray(archive.read(entry))
    if entry.file_size != entry.compress_size or entry.header_offset + entry.file_size > size:
        raise zipfile.BadZipFile(f"record {entry.filename} reaches beyond the file")
    file.seek(entry.header_offset)
    signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"record {entry.filename} has no header")
    file.seek(name + extra, io.SEEK_CUR)
    data = bytearray(entry.file_size)
    if cast("io.BufferedReader", file).readinto(data) != entry.file_size:
        raise zipfile.BadZipFile(f"record {entry.filename} is cut short")
    if checked and zlib.crc32(data) != entry.CRC:
        raise zipfile.BadZipFile(f"record {entry.filename} does not match its checksum")
    return data


def _reaching_out(sources: Iterator[bytearray]) -> tuple[str, ...]:
    """TorchScript calls that read or write files: a script is a program, and these reach outside its tensors."""
    calls = (b"torch.save(", b"torch.from_file(", b"aten::save", b"aten::from_file")
    return tuple(sorted({call.decode().rstrip("(") for source in sources for call in calls if call in source}))


# --- before zip -------------------------------------------------------------------------------------------------


def _scan_legacy(view: mmap.mmap) -> Scan:
    """Magic number, protocol, system, the object, the storages' keys; then each storage's count and bytes."""
    Unpickler(cast("BinaryIO", view)).load()
    Unpickler(cast("BinaryIO", view)).load()
    system = Unpickler(cast("BinaryIO", view)).load()
    reader = Unpickler(cast("BinaryIO", view))
    tree = reader.load()
    keys = Unpickler(cast("BinaryIO", view)).load()
    if not isinstance(keys, list):
        raise PickleError("no list of storages")
    declared: dict[str, Storage] = {}
    for storage in reader.storages:
        if declared.setdefault(storage.key, storage) != storage:
            raise PickleError(f"storage {storage.key} is declared twice, differently")
    big_endian = isinstance(system, dict) and system.get("little_endian") is False
    places: dict[str, tuple[int, int]] = {}
    for raw in keys:
        key = raw.decode("ascii", "replace") if isinstance(raw, bytes) else str(raw)
        found = declared.get(key)
        if found is None:
            raise PickleError(f"storage {key} belongs to no tensor")
        storage = found
        header = view.read(8)
        length = storage.count * ITEM_SIZES[storage.dtype]
        # The count is written in the machine's own byte order.
        if int.from_bytes(header, "big" if big_endian else "little") != storage.count:
            raise PickleError(f"storage {key} has another length than declared")
        if view.tell() + length > len(view):
            raise PickleError(
                f"it ends inside storage {key}: {len(view)} bytes, at least {view.tell() + length} expected"
            )
        places[key] = (view.tell(), length)
        view.seek(length, io.SEEK_CUR)
    missing = next((key for key in declared if key not in places), None)
    if missing is not None:
        raise PickleError(f"storage {missing} is missing")
    _check(reader.tensors)

    def block(storage: Storage) -> bytearray:
        start, length = places[storage.key]
        return bytearray(view[start : start + length])

    return Scan(tree, _foreign(reader.names), block, big_endian)


def _scan_pickle(view: mmap.mmap) -> Scan:
    """A plain pickle (``pickle.dump`` of arrays, Paddle's .pdparams): no storages outside it."""
    reader = Unpickler(cast("BinaryIO", view))
    tree = reader.load()
    if reader.storages:
        raise PickleError("tensors without their storages")
    for tensor in reader.tensors:
        storage = tensor.storage
        if storage and len(reader.embedded.get(storage.key, b"")) != storage.count * ITEM_SIZES[storage.dtype]:
            raise PickleError(f"storage {storage.key} has another length than declared")
    _check(reader.tensors)

    def block(storage: Storage) -> bytearray:
        return bytearray(reader.embedded[storage.key])

    return Scan(tree, _foreign(reader.names), block)
