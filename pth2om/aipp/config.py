"""An AIPP configuration: ``InsertNewOps`` of ``insert_op.proto``, parsed and written.

Fields, types and defaults: "ATC guide, AIPP configuration"; CANN graph engine, ``graph_metadef/proto/insert_op.proto``.
"""

from __future__ import annotations

import difflib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from pth2om.aipp.text import MOST_CHARACTERS, Field, Scalar, parse
from pth2om.errors import AippError
from pth2om.files import write_text

Value = bool | int | float | str

MODES = {"undefined": 0, "static": 1, "dynamic": 2}
FORMATS = {
    "UNDEFINED": 0, "YUV420SP_U8": 1, "XRGB8888_U8": 2, "RGB888_U8": 3, "YUV400_U8": 4, "NC1HWC0DI_FP16": 5,
    "NC1HWC0DI_S8": 6, "ARGB8888_U8": 7, "YUYV_U8": 8, "YUV422SP_U8": 9, "AYUV444_U8": 10, "RAW10": 11, "RAW12": 12,
    "RAW16": 13, "RAW24": 14, "RGB16": 15, "RGB20": 16, "RGB24": 17, "RGB8_IR": 18, "RGB16_IR": 19, "RGB24_IR": 20,
}  # fmt: skip
SUPPORTED_FORMATS = ("YUV420SP_U8", "XRGB8888_U8", "RGB888_U8", "YUV400_U8")

_CHANNELS = range(4)
_MATRIX = tuple(f"matrix_r{row}c{column}" for row in range(3) for column in range(3))
FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "aipp_mode": "mode",
        "related_input_rank": "uint",
        "related_input_name": "string",
        "input_edge_idx": "uint*",
        "max_src_image_size": "uint",
        "support_rotation": "bool",
        "input_format": "format",
        "src_image_size_w": "int",
        "src_image_size_h": "int",
        "csc_switch": "bool",
        "rbuv_swap_switch": "bool",
        "ax_swap_switch": "bool",
        "single_line_mode": "bool",
        "cpadding_value": "float",
        "crop": "bool",
        "load_start_pos_w": "int",
        "load_start_pos_h": "int",
        "crop_size_w": "int",
        "crop_size_h": "int",
        "resize": "bool",
        "resize_output_w": "int",
        "resize_output_h": "int",
        "padding": "bool",
        "left_padding_size": "int",
        "right_padding_size": "int",
        "top_padding_size": "int",
        "bottom_padding_size": "int",
        "padding_value": "float",
        **dict.fromkeys(_MATRIX, "int*"),
        **{f"output_bias_{channel}": "int*" for channel in range(3)},
        **{f"input_bias_{channel}": "int*" for channel in range(3)},
        **{f"mean_chn_{channel}": "int" for channel in _CHANNELS},
        **{f"min_chn_{channel}": "float" for channel in _CHANNELS},
        **{f"var_reci_chn_{channel}": "float*" for channel in _CHANNELS},
        "raw_rgbir_to_f16_n": "uint",
    }
)
"""Field to kind, in the order in which `write_config` writes them; ``*``: declared repeated, one value is allowed."""

_WORDS = {"true": True, "t": True, "True": True, "1": True, "false": False, "f": False, "False": False, "0": False}


@dataclass(frozen=True)
class AippOp:
    """One ``aipp_op``.

    Attributes:
        values: what is written, field to its values; several only where a repeated field is written several times.
        lines: where each is written first; not compared.
        line: of the ``aipp_op`` itself.
    """

    values: Mapping[str, tuple[Value, ...]]
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)
    line: int = field(default=0, compare=False)

    @classmethod
    def of(cls, **values: Value) -> AippOp:
        """An operator with these fields."""
        return cls({name: (values[name],) for name in FIELDS if name in values})

    def has(self, name: str) -> bool:
        """Whether the field is written."""
        return name in self.values

    def text(self, name: str) -> str:
        """A string or enum field; empty when it is not written."""
        value = self.values.get(name, ("",))[-1]
        return value if isinstance(value, str) else ""

    def flag(self, name: str) -> bool:
        """A bool field; false when it is not written."""
        return bool(self.values.get(name, (False,))[-1])

    def integer(self, name: str, default: int = 0) -> int:
        """An integer field."""
        return int(self.values.get(name, (default,))[-1])

    def number(self, name: str, default: float = 0.0) -> float:
        """A float field, rounded to float32 as protobuf stores it."""
        return float(struct.unpack("<f", struct.pack("<f", self.values.get(name, (default,))[-1]))[0])

    @property
    def dynamic(self) -> bool:
        """``aipp_mode: dynamic``: the parameters come with each inference."""
        return self.text("aipp_mode") == "dynamic"

    @property
    def rank(self) -> int:
        """Which input of the model it is for."""
        return self.integer("related_input_rank")


@dataclass(frozen=True)
class AippConfig:
    """A configuration: one operator for each image input.

    Attributes:
        ops: the operators, as written.
        where: the file, for messages; not compared.
    """

    ops: tuple[AippOp, ...]
    where: str = field(default="", compare=False)

    @cached_property
    def by_rank(self) -> Mapping[int, AippOp]:
        """Input number to its operator; the first of two for the same input."""
        return {op.rank: op for op in reversed(self.ops)}

    def op(self, rank: int = 0) -> AippOp:
        """The operator for an input.

        Raises:
            AippError: there is none.
        """
        if rank not in self.by_rank:
            raise AippError("aipp.no-op-for-rank", where=self.where or None, rank=rank)
        return self.by_rank[rank]


def read_config(path: Path) -> AippConfig:
    """Read a configuration file.

    Raises:
        AippError: it cannot be read or parsed; names the line.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_CHARACTERS + 1)
    except OSError as error:
        raise AippError("aipp.unreadable", where=str(path), reason=error.strerror or str(error)) from None
    # Comments are often in a Chinese encoding or cut in mid-character; nothing outside them may be beyond ASCII anyway.
    return parse_config(raw.decode("utf-8", "replace"), str(path))


def parse_config(text: str, where: str = "aipp.cfg") -> AippConfig:
    """Parse a configuration.

    Args:
        text: the file's text.
        where: its name, for messages.

    Raises:
        AippError: not text format, an unknown field, or a value of the wrong kind; names the line.
    """
    ops = []
    for item in parse(text, where):
        if item.name == "multi_shape_op":
            raise AippError("aipp.multi-shape", where=f"{where}:{item.line}")
        if item.name != "aipp_op":
            if item.name in FIELDS:
                raise AippError("aipp.outside", where=f"{where}:{item.line}", name=item.name)
            raise _unknown(item, where, ("aipp_op",))
        if isinstance(item.value, Scalar):
            raise AippError("aipp.not-a-message", where=f"{where}:{item.line}", name=item.name)
        ops.append(_op(item.value, where, item.line))
    if not ops:
        raise AippError("aipp.no-op", where=where)
    return AippConfig(tuple(ops), where)


def write_config(config: AippConfig) -> str:
    """The configuration as text that `parse_config` reads back to an equal one; fields in a fixed order."""
    blocks = []
    for op in config.ops:
        lines = [f"    {name}: {_written(value)}" for name in FIELDS if name in op.values for value in op.values[name]]
        blocks.append("\n".join(("aipp_op {", *lines, "}")))
    return "\n".join(blocks) + "\n"


def save_config(config: AippConfig, path: Path) -> None:
    """Write the configuration to a file, whole or not at all.

    Raises:
        AippError: the file cannot be written.
    """
    try:
        write_text(path, write_config(config))
    except OSError as error:
        raise AippError("aipp.unwritable", where=str(path), reason=error.strerror or str(error)) from None


def _op(fields: Sequence[Field], where: str, line: int) -> AippOp:
    values: dict[str, tuple[Value, ...]] = {}
    lines: dict[str, int] = {}
    for item in fields:
        kind = FIELDS.get(item.name)
        if kind is None:
            raise _unknown(item, where, tuple(FIELDS))
        if not isinstance(item.value, Scalar):
            raise AippError("aipp.not-a-value", where=f"{where}:{item.line}", name=item.name)
        if item.name in values and not kind.endswith("*"):
            raise AippError("aipp.twice", where=f"{where}:{item.line}", name=item.name, first=lines[item.name])
        values[item.name] = (*values.get(item.name, ()), _value(item.name, kind.rstrip("*"), item.value, where))
        lines.setdefault(item.name, item.line)
    return AippOp(values, lines, line)


def _unknown(item: Field, where: str, names: Sequence[str]) -> AippError:
    place = f"{where}:{item.line}"
    if item.name == "rotation_angle":
        return AippError("aipp.rotation-angle", where=place)
    if not isinstance(item.value, Scalar) or names != ("aipp_op",):
        nearest = difflib.get_close_matches(item.name, names, 1, cutoff=0.6)
        if nearest:
            return AippError("aipp.unknown-field-nearest", where=place, name=item.name, nearest=nearest[0])
        return AippError("aipp.unknown-field", where=place, name=item.name)
    return AippError("aipp.not-a-configuration", where=place, name=item.name)


def _value(name: str, kind: str, scalar: Scalar, where: str) -> Value:
    if kind in ("mode", "format"):
        words = MODES if kind == "mode" else FORMATS
        for word, number in words.items():
            if scalar.text == (word if scalar.kind == "word" else str(number)):
                return word
        valid = "static, dynamic" if kind == "mode" else ", ".join(SUPPORTED_FORMATS)
        raise AippError("aipp.not-a-choice", where=f"{where}:{scalar.line}", name=name, value=scalar.text, valid=valid)
    value: Value | None = None
    if kind == "string":
        value = scalar.text if scalar.kind == "string" else None
    elif kind == "bool":
        value = _WORDS.get(scalar.text) if scalar.kind in ("word", "number") else None
    elif kind == "float":
        value = _float(scalar)
    elif scalar.kind == "number":
        value = _integer(scalar.text, -(2**31) if kind == "int" else 0, 2**31 - 1 if kind == "int" else 2**32 - 1)
    if value is None:
        raise AippError(
            "aipp.wrong-kind", where=f"{where}:{scalar.line}", name=name, value=scalar.text, kind=_KINDS[kind]
        )
    return value


_KINDS = {"bool": "true/false", "int": "int32", "uint": "uint32", "float": "float", "string": '"text"'}


def _integer(text: str, least: int, most: int) -> int | None:
    digits = text.removeprefix("-").lower()
    octal = len(digits) > 1 and digits.startswith("0") and digits.isdigit()
    try:
        value = int(digits, 8 if octal else 16 if digits.startswith("0x") else 10)
    except ValueError:
        return None
    value = -value if text.startswith("-") else value
    return value if least <= value <= most else None


def _float(scalar: Scalar) -> float | None:
    if scalar.kind == "string":
        return None
    text = scalar.text.lower()
    if scalar.kind == "word" and text.removeprefix("-") not in ("inf", "infinity", "nan"):
        return None
    if text.removeprefix("-").startswith("0x"):
        return None
    try:
        value = float(text.removesuffix("f") if scalar.kind == "number" else text)
    except ValueError:
        return None
    # Protobuf stores a float32; what does not fit becomes infinity there.
    return value if abs(value) < 3.4028235677973366e38 else float("-inf" if value < 0 else "inf")


def _written(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value if value in MODES or value in FORMATS else f'"{value}"'
    return repr(value)
