"""What a file is, by its content: suffixes lie (``.pth`` names seven formats, an HTML page and a git-lfs pointer).

Nothing here imports torch, decompresses, or reads more than a few kilobytes and a zip's directory.
"""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path
from typing import BinaryIO, Literal

from pth2om.errors import CheckpointError

Kind = Literal[
    "torch-zip",
    "torch-legacy",
    "pickle",
    "torchscript",
    "safetensors",
    "onnx",
    "om",
    "torch-tar",
    "torch-package",
    "exported-program",
    "executorch",
    "empty",
    "zeros",
    "lfs-pointer",
    "html",
    "json",
    "truncated-zip",
    "zip",
    "archive",
    "numpy",
    "hdf5",
    "keras",
    "tensorflow",
    "tflite",
    "mindspore",
    "gguf",
    "tensorrt",
    "rknn",
    "ncnn",
    "openvino",
    "image",
    "text",
    "unknown",
]
"""The formats told apart. The first five hold weights that `pth2om.checkpoint.read` reads."""

READABLE: frozenset[Kind] = frozenset({"torch-zip", "torch-legacy", "pickle", "torchscript", "safetensors"})

_HEAD = 4096
_SAFETENSORS_HEADER_LIMIT = 100_000_000
# First pickle of a file written by torch.save before 1.6: protocol 2, then this number as LONG1.
_LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."

_MAGICS: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"IMOD", "om"),
    (0, b"version https://git-lfs", "lfs-pointer"),
    (0, b"\x89HDF\r\n\x1a\n", "hdf5"),
    (4, b"TFL3", "tflite"),
    (4, b"ET12", "executorch"),
    (0, b"GGUF", "gguf"),
    (0, b"ftrt", "tensorrt"),
    (0, b"ptrt", "tensorrt"),
    (0, b"RKNN", "rknn"),
    (0, b"7767517\n", "ncnn"),
    (0, b"7767517\r\n", "ncnn"),
    (0, b"\x93NUMPY", "numpy"),
    (0, b"\x1f\x8b", "archive"),
    (0, b"BZh", "archive"),
    (0, b"\xfd7zXZ\x00", "archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "archive"),
    (0, b"Rar!\x1a\x07", "archive"),
    (0, b"\x28\xb5\x2f\xfd", "archive"),
    (0, b"\x89PNG\r\n", "image"),
    (0, b"\xff\xd8\xff", "image"),
)


def kind_of(path: Path) -> Kind:
    """What ``path`` holds, judged by its bytes.

    Raises:
        CheckpointError: it does not exist, is a folder, or cannot be read.
    """
    if path.is_dir():
        raise CheckpointError("checkpoint.folder", where=str(path), found=_weights_in(path))
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _kind(file, size)
    except FileNotFoundError:
        raise CheckpointError("checkpoint.missing", where=str(path)) from None
    except OSError as error:
        raise CheckpointError("checkpoint.unreadable", where=str(path), reason=error.strerror or str(error)) from None


def _kind(file: BinaryIO, size: int) -> Kind:
    head = file.read(_HEAD)
    if not head:
        return "empty"
    for offset, magic, kind in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return kind
    if head[:2] == b"PK":
        return _zip_kind(file)
    if head[:1] == b"\x80" and len(head) > 1 and 2 <= head[1] <= 5:
        return "torch-legacy" if head[2 : 2 + len(_LEGACY_MAGIC)] == _LEGACY_MAGIC else "pickle"
    if head[257:262] == b"ustar":
        return _tar_kind(file)
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 2 <= header <= min(_SAFETENSORS_HEADER_LIMIT, size):
        return "safetensors"
    return _text_kind(head) or _protobuf_kind(file, size, head) or _tail_kind(file, size, head)


def _weights_in(folder: Path) -> str:
    """Names of a folder's likely weight files, for the error that says it is a folder."""
    suffixes = {".pt", ".pth", ".th", ".ckpt", ".bin", ".safetensors", ".onnx", ".tar", ".jit", ".pkl"}
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in suffixes)
    return ", ".join(names[:8]) or "-"


def _zip_kind(file: BinaryIO) -> Kind:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception:  # noqa: BLE001 - zipfile raises a dozen kinds for hostile bytes; all mean the same here
        return "truncated-zip"
    inner = {name.partition("/")[2] or name for name in names}
    if any(name.split("/")[-1].startswith("serialized_exported_program") for name in names) or (
        "archive_format" in inner and "data.pkl" not in inner
    ):
        return "exported-program"
    if any(name.startswith(".data/") for name in inner) and "data.pkl" not in inner:
        return "torch-package"
    if "data.pkl" in inner:
        scripted = "constants.pkl" in inner or any(name.startswith("code/") for name in inner)
        return "torchscript" if scripted else "torch-zip"
    if "model.weights.h5" in names or {"metadata.json", "config.json"} <= set(names):
        return "keras"
    if names and all(name.endswith(".npy") for name in names):
        return "numpy"
    return "zip"


def _tar_kind(file: BinaryIO) -> Kind:
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            first = {member.name.removeprefix("./") for _, member in zip(range(8), archive, strict=False)}
    except Exception:  # noqa: BLE001 - as for zip
        return "archive"
    return "torch-tar" if {"sys_info", "pickle", "storages"} & first else "archive"


def _text_kind(head: bytes) -> Kind | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lowered = text[:512].lower()
    if lowered.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<script", b"<!--")):
        return "html"
    if lowered.startswith(b"<"):
        return "openvino" if b"<net" in lowered else "html"
    if not head.strip(b"\x00"):
        return "zeros"
    if any(byte < 9 or 13 < byte < 27 for byte in head):
        return None
    return "json" if text[:1] in (b"{", b"[") else "text"


def _protobuf_kind(file: BinaryIO, size: int, head: bytes) -> Kind | None:
    """Tell ONNX, TensorFlow and MindSpore protobufs apart by the top-level fields; None where it is no protobuf."""
    fields = _protobuf_fields(file, size)
    if fields is None:
        return None
    # ONNX ModelProto: ir_version = 1 (varint), graph = 7 (message), opset_import = 8 (message).
    if (7, 2) in fields and fields <= {(1, 0), (5, 0)} | {(number, 2) for number in (2, 3, 4, 6, 7, 8, 14, 20, 25, 26)}:
        return "onnx"
    if fields <= {(1, 2), (2, 2), (4, 2), (3, 0)} and b"Const" in head + b"Placeholder" and (4, 2) in fields:
        return "tensorflow"  # GraphDef: node = 1, library = 2, versions = 4
    if fields == {(1, 0), (2, 2)}:
        return "tensorflow"  # SavedModel: schema version = 1, meta graphs = 2
    if fields == {(1, 2)}:
        return "mindspore"  # Checkpoint: repeated value = 1 {tag = 1, tensor = 2}
    return None


def _protobuf_fields(file: BinaryIO, size: int) -> set[tuple[int, int]] | None:
    """The (number, wire type) pairs of a file's top-level protobuf fields; None unless they end where the file ends."""
    fields: set[tuple[int, int]] = set()
    position = 0
    for _ in range(100_000):
        if position == size:
            return fields
        file.seek(position)
        piece = file.read(20)
        tag, used = _varint(piece)
        value, more = _varint(piece[used:])
        wire = tag & 7
        if used == 0 or tag >> 3 == 0:
            return None
        if wire == 0 and more:
            position += used + more
        elif wire == 2 and more:
            position += used + more + value
        elif wire in (1, 5):
            position += used + (8 if wire == 1 else 4)
        else:
            return None
        if position > size:
            return None
        fields.add((tag >> 3, wire))
    return fields


def _varint(data: bytes) -> tuple[int, int]:
    """A protobuf varint's value and length in bytes; length 0 where there is none."""
    value = 0
    for index, byte in enumerate(data[:10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, index + 1
    return 0, 0


def _tail_kind(file: BinaryIO, size: int, head: bytes) -> Kind:
    if size >= 8:
        file.seek(size - 8)
        if file.read(8) == b"\x57\xfb\x80\x8b\x24\x75\x47\xdb":
            return "tensorflow"  # the index of a TensorFlow checkpoint is a LevelDB table
    # The tensors of an ONNX file cut short still begin like one: ir_version 1..20, then the producer's name.
    if len(head) > 2 and head[0] == 0x08 and 1 <= head[1] <= 20 and head[2] in (0x12, 0x3A):
        return "onnx"
    return "unknown"
