"""The container of an ``.om``: header, partition tables, and what a file is that is not an OM.

Layout: CANN graph engine, ``framework_types_internal.h``, ``om_file_helper.cc``, ``file_saver.cc``; checked against
files made by CANN 3, 5 and 8.
"""

from __future__ import annotations

from dataclasses import dataclass

from pth2om.errors import OmFileError
from pth2om.omfile.wire import Source

HEADER_SIZE = 256
MAGIC = b"IMOD"
VERSION_OLD = 0x10000000  # before about CANN 5: no model_num, fields after om_ir_version four bytes earlier
_MOST_PARTITIONS = 4096
_MOST_MODELS = 1024

MODEL_DEF, WEIGHTS, TASKS, TBE_KERNELS, AICPU_KERNELS, SO_BINS = range(6)
FLOW_MODEL, FLOW_SUBMODEL, INOUT_INFO = 6, 7, 8
PARTITIONS = {
    MODEL_DEF: "MODEL_DEF",
    WEIGHTS: "WEIGHTS_DATA",
    TASKS: "TASK_INFO",
    TBE_KERNELS: "TBE_KERNELS",
    AICPU_KERNELS: "CUST_AICPU_KERNELS",
    SO_BINS: "SO_BINS",
    FLOW_MODEL: "FLOW_MODEL",
    FLOW_SUBMODEL: "FLOW_SUBMODEL",
    INOUT_INFO: "MODEL_INOUT_INFO",
    9: "STATIC_TASK_DESC",
    10: "DYNAMIC_TASK_DESC",
    11: "TASK_PARAM",
    12: "TILING_DATA",
    20: "PRE_MODEL_DESC",
    21: "PRE_MODEL_SQE",
    22: "PRE_KERNEL_ARGS",
    23: "PRE_MODEL_DESC_EXTEND",
    24: "BUNDLE_MODEL_INFO",
    25: "BUNDLE_MODEL_VAR_INFO",
    26: "CUSTOM_OPS",
}
MODEL_TYPES = {0: "IR", 1: "standard", 2: "tiny", 3: "flow", 4: "lite", 5: "bundle"}


@dataclass(frozen=True)
class Header:
    """The first 256 bytes.

    Attributes:
        version: 0x10000000 before about CANN 5, 0x20000000 since.
        length: bytes after the header, as recorded in the header.
        wide: whether lengths and offsets are 64 bits (since about CANN 6).
        encrypted: the partitions are encrypted and cannot be read.
        checksummed: the file carries a checksum.
        model_type: see `MODEL_TYPES`.
        name: base name of atc's ``--output``, at most 31 bytes.
        ir_version: of the IR; 2 in shipped files.
        models: how many models the file holds, the root included.
        platform_version: e.g. ``1.11.z.0``.
        host_code: the file carries host libraries and is for one operating system and CPU.
        dynamic: a dynamic-shape model.
    """

    version: int
    length: int
    wide: bool
    encrypted: bool
    checksummed: bool
    model_type: int
    name: str
    ir_version: int
    models: int
    platform_version: str
    host_code: bool
    dynamic: bool


@dataclass(frozen=True)
class Partition:
    """One part of the file.

    Attributes:
        kind: number, see `PARTITIONS`.
        start: in the file, in bytes.
        size: in bytes.
    """

    kind: int
    start: int
    size: int

    @property
    def name(self) -> str:
        """``MODEL_DEF``, ...; for an unknown kind, its number."""
        return PARTITIONS.get(self.kind, f"partition {self.kind}")

    @property
    def end(self) -> int:
        """Where it ends in the file."""
        return self.start + self.size


def read_header(source: Source) -> Header:
    """The header of an ``.om``.

    Raises:
        OmFileError: the file is something else (named if recognized), ends early, or its length differs from the
            header's.
    """
    head = source.read(0, min(source.size, HEADER_SIZE))
    if head[:4] != MAGIC:
        raise OmFileError(_what_else(head), where=source.where, start=head[:8].hex(" "))
    if source.size < HEADER_SIZE:
        raise OmFileError("omfile.truncated", where=source.where, at=0, size=HEADER_SIZE, length=source.size)
    head_size, version = source.unpack("II", 4)
    if head_size != HEADER_SIZE:
        raise OmFileError("omfile.wrong-header-size", where=source.where, size=head_size)
    (short,) = source.unpack("I", 76)
    (ir_version, models) = source.unpack("II", 152)
    (long,) = source.unpack("Q", 184)
    old = version == VERSION_OLD or not 1 <= models <= _MOST_MODELS
    length = long or short
    if length != source.size - HEADER_SIZE:
        key = "omfile.shorter-than-said" if length > source.size - HEADER_SIZE else "omfile.longer-than-said"
        raise OmFileError(key, where=source.where, said=length + HEADER_SIZE, size=source.size)
    return Header(
        version=version,
        length=length,
        wide=bool(long),
        encrypted=head[80] != 0,
        checksummed=head[81] != 0,
        model_type=head[82],
        name=_text(head[84:116]),
        ir_version=ir_version,
        models=1 if old else models,
        platform_version=_text(head[156:176] if old else head[160:180]),
        host_code=head[192] == 1,
        dynamic=head[193] == 1,
    )


def read_partitions(source: Source, header: Header) -> tuple[tuple[Partition, ...], ...]:
    """The partitions of each model of the file.

    Raises:
        OmFileError: a table is damaged: more entries than fit, or partitions beyond the end.
    """
    models = []
    at = HEADER_SIZE
    for _ in range(header.models):
        table = _read_table(source, at, wide=header.wide)
        models.append(table)
        at = max((partition.end for partition in table), default=source.size)
    return tuple(models)


def _read_table(source: Source, at: int, *, wide: bool) -> tuple[Partition, ...]:
    (count,) = source.unpack("I", at)
    head, entry = (8, 24) if wide else (4, 12)
    data = at + head + entry * count
    if not 1 <= count <= _MOST_PARTITIONS or data > source.size:
        raise OmFileError("omfile.bad-table", where=source.where, at=at, count=count)
    partitions = []
    begin = data
    for index in range(count):
        place = at + head + entry * index
        if wide:
            kind, _, offset, size = source.unpack("IIQQ", place)
        else:
            kind, offset, size = source.unpack("III", place)
        # The loader adds up the sizes; a table whose offsets differ from that is damaged.
        if data + offset != begin or size > source.size - begin:
            raise OmFileError("omfile.bad-partition", where=source.where, at=place, kind=kind, offset=offset, size=size)
        partitions.append(Partition(kind, begin, size))
        begin += size
    return tuple(partitions)


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace")


def _what_else(head: bytes) -> str:
    """The catalogue key for a file that does not start like an OM."""
    start = head.lstrip()[:64].lower()
    if not head:
        return "omfile.empty"
    if head.startswith(b"PK\x03\x04"):
        # A torch checkpoint is a zip too; its first member is <name>/data.pkl or <name>/version.
        member = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        return "omfile.torch-zip" if member.endswith((b"/data.pkl", b"/version", b"/byteorder")) else "omfile.om2"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "omfile.html"
    if start.startswith(b"version https://git-lfs"):
        return "omfile.lfs-pointer"
    if head.startswith(b"\x80") and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "omfile.pickle"
    if head.startswith((b"\x08", b"\x12", b"\x3a")):
        return "omfile.onnx"
    return "omfile.no-magic"
