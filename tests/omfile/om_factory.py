"""Writes small .om files from first principles (struct and hand-made protobuf), independent of the reader."""

from __future__ import annotations

import struct
from pathlib import Path


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while True:
        value, low = value >> 7, value & 0x7F
        out += bytes([low | (0x80 if value else 0)])
        if not value:
            return out


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, data: bytes | str) -> bytes:
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(data)) + data


def entry(field: int, key: bytes | str, value: bytes) -> bytes:
    return message(field, message(1, key) + message(2, value))


def text(value: str) -> bytes:
    return message(2, value)


def strings(*values: str | bytes) -> bytes:
    return message(1, b"".join(message(2, value) for value in values) + number(20, 1))


def ints(*values: int) -> bytes:
    return message(1, message(3, b"".join(varint(value) for value in values)) + number(20, 2))


def bools(*values: bool) -> bytes:
    return message(1, message(4, bytes(values)) + number(20, 4))


def description(dtype: int, shape: tuple[int, ...], layout: str = "NCHW", size: int = 0) -> bytes:
    dims = message(1, b"".join(varint(dim) for dim in shape))
    return number(2, dtype) + message(3, dims) + message(4, layout) + number(10, size)


def operator(
    name: str,
    kind: str,
    inputs: tuple[bytes, ...] = (),
    attributes: bytes = b"",
    sources: tuple[tuple[str, int], ...] = (),
) -> bytes:
    body = message(1, name) + message(2, kind) + attributes
    body += b"".join(message(24, source) + number(25, index) for source, index in sources)
    return body + b"".join(message(33, item) for item in inputs)


def model_def(operators: tuple[bytes, ...], attributes: dict[str, bytes]) -> bytes:
    graph = message(1, "graph") + b"".join(message(6, item) for item in operators)
    return (
        message(1, "model")
        + number(2, 2)
        + message(7, graph)
        + b"".join(entry(11, name, value) for name, value in attributes.items())
    )


def tensor(name: str, shape: tuple[int, ...], dtype: int = 0, layout: int = 0, size: int = 0) -> bytes:
    dims = struct.pack(f"<{len(shape)}q", *shape)
    raw = name.encode()
    return struct.pack("<QiiIIII", size, layout, dtype, len(raw), len(dims), len(dims), 0) + raw + dims + dims


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("<II", kind, len(value)) + value


def inout(inputs: tuple[bytes, ...], outputs: tuple[bytes, ...], *more: bytes) -> bytes:
    return (
        tlv(0, struct.pack("<I", len(inputs)) + b"".join(inputs))
        + tlv(1, struct.pack("<I", len(outputs)) + b"".join(outputs))
        + b"".join(more)
    )


def kernels(*items: tuple[str, bytes]) -> bytes:
    return b"".join(
        struct.pack("<III", 0x5D776EFD, len(name), len(code)) + name.encode() + code for name, code in items
    )


def header(length: int, *, name: str = "model", wide: bool = True, old: bool = False, models: int = 1) -> bytes:
    head = bytearray(256)
    struct.pack_into("<4sII", head, 0, b"IMOD", 256, 0x10000000 if old else 0x20000000)
    if not wide:
        struct.pack_into("<I", head, 76, length)
    head[84 : 84 + len(name)] = name.encode()
    struct.pack_into("<I", head, 152, 2)
    if old:
        head[156:164] = b"1.11.z.0"
    else:
        struct.pack_into("<I", head, 156, models)
        head[160:168] = b"1.11.z.0"
    if wide:
        struct.pack_into("<Q", head, 184, length)
    return bytes(head)


def table(parts: list[tuple[int, int]], *, wide: bool = True) -> bytes:
    out = struct.pack("<II", len(parts), 0) if wide else struct.pack("<I", len(parts))
    offset = 0
    for kind, size in parts:
        out += struct.pack("<IIQQ", kind, 0, offset, size) if wide else struct.pack("<III", kind, offset, size)
        offset += size
    return out


def om(*models: list[tuple[int, bytes]], **options: object) -> bytes:
    wide = bool(options.get("wide", True))
    body = b"".join(
        table([(kind, len(data)) for kind, data in parts], wide=wide) + b"".join(data for _, data in parts)
        for parts in models
    )
    return header(len(body), models=len(models), **options) + body


def sparse_om(path: Path, parts: list[tuple[int, bytes]], weights: int) -> None:
    """An OM whose weights are a hole in the file."""
    sizes = [*((kind, len(data)) for kind, data in parts), (1, weights)]
    start = table(sizes) + b"".join(data for _, data in parts)
    with path.open("wb") as file:
        file.write(header(len(start) + weights) + start)
        file.truncate(256 + len(start) + weights)
