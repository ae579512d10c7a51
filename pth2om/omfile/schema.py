"""``ge.proto.ModelDef`` as tables, and its decoding into plain values.

Field numbers: CANN graph engine, ``graph_metadef/proto/ge_ir.proto``. Fields that the tables do not name are skipped,
as protobuf does.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from pth2om.errors import OmFileError
from pth2om.omfile.wire import DEEPEST, FIXED32, LENGTH, VARINT, Field, Source, fields, packed, signed


class Slot(NamedTuple):
    """One field of a message.

    Attributes:
        name: as in the proto file.
        kind: ``int``, ``uint``, ``float``, ``bool``, ``string``, ``bytes``, ``dtype``, the name of a message, or
            ``map:<message>`` with string keys.
        repeated: whether it is a list.
    """

    name: str
    kind: str
    repeated: bool = False


def _slots(text: str) -> dict[int, Slot]:
    """``name:kind=number`` words; ``kind*`` is repeated."""
    slots = {}
    for word in text.split():
        declaration, _, number = word.rpartition("=")
        name, _, kind = declaration.partition(":")
        slots[int(number)] = Slot(name, kind.rstrip("*"), kind.endswith("*"))
    return slots


MESSAGES: dict[str, dict[int, Slot]] = {
    "ModelDef": _slots("name:string=1 version:uint=2 custom_version:string=3 graph:GraphDef*=7 attr:map:AttrDef=11"),
    "GraphDef": _slots("name:string=1 input:string*=4 output:string*=5 op:OpDef*=6 attr:map:AttrDef=11"),
    "OpDef": _slots(
        "name:string=1 type:string=2 input:string*=5 attr:map:AttrDef=10 has_out_attr:bool=20 id:int=21"
        " stream_id:int=22 input_name:string*=23 src_name:string*=24 src_index:int*=25 dst_name:string*=26"
        " dst_index:int*=27 input_i:int*=28 output_i:int*=29 workspace:int*=30 workspace_bytes:int*=31"
        " is_input_const:bool*=32 input_desc:TensorDescriptor*=33 output_desc:TensorDescriptor*=34"
        " subgraph_name:string*=35"
    ),
    "TensorDescriptor": _slots(
        "name:string=1 dtype:dtype=2 shape:ShapeDef=3 layout:string=4 attr:map:AttrDef=5 has_out_attr:bool=9"
        " size:int=10 weight_size:int=11 reuse_input:bool=12 output_tensor:bool=13 device_type:string=14"
        " input_tensor:bool=15 real_dim_cnt:int=16 reuse_input_index:int=17 data_offset:int=18 cmps_size:int=19"
        " cmps_tab:bytes=20 cmps_tab_offset:int=21"
    ),
    "ShapeDef": _slots("dim:int*=1"),
    "TensorDef": _slots("desc:TensorDescriptor=1 data:bytes=2"),
    "AttrDef": _slots(
        "list:ListValue=1 s:bytes=2 i:int=3 f:float=4 b:bool=5 bt:bytes=7 func:NamedAttrs=10 td:TensorDescriptor=11"
        " t:TensorDef=12 g:GraphDef=13 list_list_int:ListListInt=14 dt:dtype=15 list_list_float:ListListFloat=16"
        " expression:string=17"
    ),
    "ListValue": _slots(
        "s:bytes*=2 i:int*=3 f:float*=4 b:bool*=5 bt:bytes*=7 td:TensorDescriptor*=8 t:TensorDef*=9 g:GraphDef*=10"
        " na:NamedAttrs*=11 dt:dtype*=12 val_type:uint=20"
    ),
    "ListListInt": _slots("list_list_i:ListInt*=1"),
    "ListInt": _slots("list_i:int*=1"),
    "ListListFloat": _slots("list_list_f:ListFloat*=1"),
    "ListFloat": _slots("list_f:float*=1"),
    "NamedAttrs": _slots("name:string=1 attr:map:AttrDef=2"),
}

_DTYPE_NAMES = """
UNDEFINED FLOAT FLOAT16 INT8 UINT8 INT16 UINT16 INT32 INT64 UINT32 UINT64 BOOL DOUBLE STRING DUAL_SUB_INT8
DUAL_SUB_UINT8 COMPLEX64 COMPLEX128 QINT8 QINT16 QINT32 QUINT8 QUINT16 RESOURCE STRING_REF DUAL VARIANT BF16 INT4
UINT1 INT2 UINT2 COMPLEX32 HIFLOAT8 FLOAT8_E5M2 FLOAT8_E4M3FN FLOAT8_E8M0 FLOAT6_E3M2 FLOAT6_E2M3 FLOAT4_E2M1
FLOAT4_E1M2 HIFLOAT4
"""
_DTYPES = _DTYPE_NAMES.split()
"""Names of the proto enum, by number."""


def dtype_name(number: int) -> str:
    """``FLOAT16`` for 2, ...; the number itself when it is unknown."""
    return _DTYPES[number] if 0 <= number < len(_DTYPES) else str(number)


def decode(source: Source, start: int, end: int, message: str, depth: int = 0) -> dict[str, Any]:
    """The message at ``start:end`` as a dict of the fields it sets; maps become dicts, bytes stay bytes.

    Raises:
        OmFileError: the bytes are not such a message.
    """
    if depth > DEEPEST:
        raise OmFileError("omfile.too-deep", where=source.where, at=start, most=DEEPEST)
    slots = MESSAGES[message]
    values: dict[str, Any] = {}
    for field in fields(source, start, end):
        slot = slots.get(field.number)
        if slot is None:
            continue
        if slot.kind.startswith("map:"):
            key, value = _entry(source, field, slot.kind[4:], depth)
            values.setdefault(slot.name, {})[key] = value
        elif not slot.repeated:
            values[slot.name] = _value(source, field, slot.kind, depth)
        elif field.wire == LENGTH and slot.kind in _PACKABLE:
            values.setdefault(slot.name, []).extend(_packed(source, field, slot.kind))
        else:
            values.setdefault(slot.name, []).append(_value(source, field, slot.kind, depth))
    return values


_PACKABLE = frozenset({"int", "uint", "float", "bool", "dtype"})


def _value(source: Source, field: Field, kind: str, depth: int) -> Any:  # noqa: ANN401 - a value of any kind
    if kind in ("int", "uint", "bool", "dtype"):
        if field.wire != VARINT:
            raise OmFileError("omfile.not-protobuf", where=source.where, at=field.start)
        return _number(field.value, kind)
    if kind == "float":
        if field.wire != FIXED32:
            raise OmFileError("omfile.not-protobuf", where=source.where, at=field.start)
        return struct.unpack("<f", field.value.to_bytes(4, "little"))[0]
    if field.wire != LENGTH:
        raise OmFileError("omfile.not-protobuf", where=source.where, at=field.start)
    if kind == "bytes":
        return source.read(field.start, field.end - field.start)
    if kind == "string":
        return source.read(field.start, field.end - field.start).decode("utf-8", "replace")
    return decode(source, field.start, field.end, kind, depth + 1)


def _entry(source: Source, field: Field, kind: str, depth: int) -> tuple[bytes, Any]:
    """One entry of a map: key 1, value 2. Keys stay bytes: compressed attribute names are not text."""
    if field.wire != LENGTH:
        raise OmFileError("omfile.not-protobuf", where=source.where, at=field.start)
    key, value = b"", {}
    for part in fields(source, field.start, field.end):
        if part.number == 1 and part.wire == LENGTH:
            key = source.read(part.start, part.end - part.start)
        elif part.number == 2:
            value = _value(source, part, kind, depth)
    return key, value


def _packed(source: Source, field: Field, kind: str) -> list[Any]:
    if kind == "float":
        raw = source.read(field.start, field.end - field.start)
        if len(raw) % 4:
            raise OmFileError("omfile.not-protobuf", where=source.where, at=field.start)
        return list(struct.unpack(f"<{len(raw) // 4}f", raw))
    return [_number(value, kind) for value in packed(source, field.start, field.end)]


def _number(value: int, kind: str) -> int | bool | str:
    if kind == "bool":
        return value != 0
    if kind == "dtype":
        return dtype_name(value)
    return signed(value) if kind == "int" else value
