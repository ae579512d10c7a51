"""AMCT's record file (``ScaleOffsetRecord``) and any other protobuf text: read, checked and written back.

Text-proto is read without its schema: a message is a list of (name, value) pairs in file order, so files of newer
schemas survive a round trip.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Union

import numpy as np

from pth2om.errors import QuantizeError

Scalar = Union[str, int, float, bool, "Word"]
Message = list[tuple[str, Union[Scalar, "Message"]]]
_TOKEN = re.compile(
    r"""(?P<space>[\s]+|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)[fF]?(?![\w.]))
      | (?P<word>[-+]?[A-Za-z_][\w.]*)
      | (?P<mark>[{}<>:,;\[\]])""",
    re.VERBOSE,
)
_LARGEST_FILE = 1 << 28
_DEEPEST = 64
_LONGEST_NUMBER = 400  # characters; Python refuses to convert 4,300 digits, and no scale needs them
_LARGEST = 3.4e38  # of the schema's float


class Word(str):
    """An enum value or another word without quotes; it is written back without quotes."""

    __slots__ = ()


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def read_text(path: Path) -> str:
    """A text file of bounded size.

    Raises:
        QuantizeError: missing, too large or not UTF-8.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise QuantizeError("quantize.text-too-large", where=str(path))
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QuantizeError(
            "quantize.unreadable-text", where=str(path), reason=getattr(error, "strerror", None) or str(error)
        ) from None


def parse(text: str, where: str = "") -> Message:
    """Protobuf text as nested (name, value) pairs.

    Raises:
        QuantizeError: not protobuf text; the message gives the line.
    """
    tokens = _tokens(text, where)
    message, position = _fields(tokens, 0, "", where, 0)
    assert position == len(tokens)
    return message


def _tokens(text: str, where: str) -> list[_Token]:
    tokens, position, line = [], 0, 1
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise QuantizeError(
                "quantize.not-text-proto", where=f"{where}:{line}", found=text[position : position + 20]
            )
        kind = match.lastgroup or ""
        if kind == "space":
            line += match.group().count("\n")
        else:
            tokens.append(_Token(kind, match.group(), line))
        position = match.end()
    return tokens


def _fail(tokens: Sequence[_Token], position: int, where: str) -> QuantizeError:
    token = tokens[position] if position < len(tokens) else None
    line = token.line if token else (tokens[-1].line if tokens else 1)
    found = token.text if token else "end of file"
    return QuantizeError("quantize.not-text-proto", where=f"{where}:{line}", found=found[:40])


def _fields(tokens: Sequence[_Token], position: int, closing: str, where: str, depth: int) -> tuple[Message, int]:
    if depth > _DEEPEST:
        raise _fail(tokens, position, where)
    message: Message = []
    while True:
        if position >= len(tokens):
            if closing:
                raise _fail(tokens, position, where)
            return message, position
        token = tokens[position]
        if token.text == closing and token.kind == "mark":
            return message, position + 1
        if token.kind != "word":
            raise _fail(tokens, position, where)
        position = _field(tokens, position, message, where, depth)


def _field(tokens: Sequence[_Token], position: int, message: Message, where: str, depth: int) -> int:
    """Read one ``name: value`` or ``name { ... }``, append it and return the position of the next."""
    name = tokens[position].text
    position += 1
    colon = position < len(tokens) and tokens[position].text == ":"
    position += colon
    if position >= len(tokens):
        raise _fail(tokens, position, where)
    token = tokens[position]
    if token.kind == "mark" and token.text in "{<":
        value, position = _fields(tokens, position + 1, "}" if token.text == "{" else ">", where, depth + 1)
        message.append((name, value))
    elif token.kind == "mark" and token.text == "[" and colon:
        position += 1
        while position < len(tokens) and tokens[position].text != "]":
            if tokens[position].text == ",":
                position += 1
                continue
            message.append((name, _scalar(tokens, position, where)))
            position += 1
        if position >= len(tokens):
            raise _fail(tokens, position, where)
        position += 1
    elif colon:
        message.append((name, _scalar(tokens, position, where)))
        position += 1
        while position < len(tokens) and tokens[position].kind == "string" and isinstance(message[-1][1], str):
            # Adjacent strings are joined, as in C.
            message[-1] = (name, str(message[-1][1]) + str(_scalar(tokens, position, where)))
            position += 1
    else:
        raise _fail(tokens, position, where)
    if position < len(tokens) and tokens[position].text in (",", ";"):
        position += 1
    return position


def _scalar(tokens: Sequence[_Token], position: int, where: str) -> Scalar:
    token = tokens[position]
    if token.kind == "string":
        return _unescape(token.text[1:-1])
    if token.kind == "word":
        if token.text in ("true", "false"):
            return token.text == "true"
        if token.text.lstrip("+-").lower() in ("inf", "infinity", "nan"):
            return float(token.text)
        return Word(token.text)
    if token.kind == "number":
        text = token.text
        if len(text) > _LONGEST_NUMBER:
            raise _fail(tokens, position, where)
        if "x" in text.lower():
            return int(text, 16)
        if re.fullmatch(r"[-+]?\d+", text):
            return int(text)
        return float(text.rstrip("fF"))
    raise _fail(tokens, position, where)


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
_WRITTEN = {value: f"\\{name}" for name, value in _ESCAPES.items() if name != "'"}


def _unescape(text: str) -> str:
    def letter(match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 8) & 0xFF)
        return _ESCAPES.get(match[2], match[0])

    return re.sub(r"\\(?:([0-7]{1,3})|(.))", letter, text)


def _escape(match: re.Match[str]) -> str:
    return _WRITTEN.get(match[0]) or f"\\{ord(match[0]):03o}"


def render(message: Message, indent: int = 0) -> str:
    """Protobuf text of what `parse` returns; floats as FP32, which is what the schema holds."""
    lines = []
    pad = "  " * indent
    for name, value in message:
        if isinstance(value, list):
            lines.append(f"{pad}{name} {{\n{render(value, indent + 1)}{pad}}}\n")
        else:
            lines.append(f"{pad}{name}: {_text(value)}\n")
    return "".join(lines)


def _text(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Word):
        return str(value)
    if isinstance(value, str):
        return '"' + re.sub(r'[\x00-\x1f\x7f"\\]', _escape, value) + '"'
    if isinstance(value, float):
        return str(np.float32(value)) if abs(value) < 3e38 else str(value)
    return str(value)


# -------------------------------------------------------------------------------------------------------- the records


@dataclass(frozen=True)
class Record:
    """One layer's entry of a record file.

    Attributes:
        scale_d, offset_d: of its activation; None if only the weight is recorded.
        scale_w, offset_w: of its weight, 1 or Cout values; offsets are zero.
        shift_bit: 1 or Cout values, or none.
        other: fields of newer schemas, kept unchanged.
    """

    scale_d: float | None
    offset_d: int | None
    scale_w: tuple[float, ...] = ()
    offset_w: tuple[int, ...] = ()
    shift_bit: tuple[int, ...] = ()
    other: tuple[tuple[str, object], ...] = field(default_factory=tuple)


def read_records(path: Path) -> dict[str, Record]:
    """Layer name -> record.

    Raises:
        QuantizeError: not a record file, or a value breaks AMCT's rules: ``scale > 0``, ``offset_d`` in -128..127,
            ``offset_w`` 0, ``shift_bit`` 0..16, as many weight offsets as scales.
    """
    message = parse(read_text(path), str(path))
    found: dict[str, Record] = {}
    for name, value in message:
        if name != "record" or not isinstance(value, list):
            continue
        key = next((entry for label, entry in value if label == "key" and isinstance(entry, str)), None)
        body = next((entry for label, entry in value if label == "value" and isinstance(entry, list)), None)
        if key is None or body is None:
            raise QuantizeError("quantize.record-incomplete", where=str(path), layer=str(key))
        found[key] = _record(body, key, str(path))
    if not found:
        raise QuantizeError("quantize.no-records", where=str(path))
    return found


def _record(body: Message, key: str, where: str) -> Record:
    known = ("scale_d", "offset_d", "scale_w", "offset_w", "shift_bit")
    values: dict[str, list[float]] = {name: [] for name in known}
    other = []
    for name, value in body:
        if name in values:
            number = _number(value, whole=name in ("offset_d", "offset_w", "shift_bit"))
            if number is None:
                raise QuantizeError("quantize.record-value", where=where, layer=key, name=name, value=str(value)[:40])
            values[name].append(number)
        else:
            other.append((name, value))
    record = Record(
        scale_d=float(values["scale_d"][-1]) if values["scale_d"] else None,
        offset_d=int(values["offset_d"][-1]) if values["offset_d"] else None,
        scale_w=tuple(float(value) for value in values["scale_w"]),
        offset_w=tuple(int(value) for value in values["offset_w"]),
        shift_bit=tuple(int(value) for value in values["shift_bit"]),
        other=tuple(other),
    )
    _check(record, key, where)
    return record


def _number(value: object, *, whole: bool) -> float | None:
    """A finite number that the schema can hold, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        return None
    return None if whole and value != int(value) else float(value)


def _check(record: Record, key: str, where: str) -> None:
    def refuse(name: str, value: float) -> QuantizeError:
        return QuantizeError("quantize.record-value", where=where, layer=key, name=name, value=str(value))

    if record.scale_d is not None and not record.scale_d > 0:
        raise refuse("scale_d", record.scale_d)
    if record.offset_d is not None and not -128 <= record.offset_d <= 127:
        raise refuse("offset_d", record.offset_d)
    for value in record.scale_w:
        if not value > 0:
            raise refuse("scale_w", value)
    for number in record.offset_w:
        if number != 0:
            raise refuse("offset_w", number)
    for number in record.shift_bit:
        if not 0 <= number <= 16:
            raise refuse("shift_bit", number)
    if record.offset_w and len(record.offset_w) != len(record.scale_w):
        raise refuse("offset_w", len(record.offset_w))


def render_records(records: Mapping[str, Record]) -> str:
    """A record file's text."""
    message: Message = []
    for key, record in records.items():
        body: Message = []
        if record.scale_d is not None:
            body.append(("scale_d", record.scale_d))
        if record.offset_d is not None:
            body.append(("offset_d", record.offset_d))
        body += _repeated("scale_w", record.scale_w)
        body += _repeated("offset_w", record.offset_w)
        body += _repeated("shift_bit", record.shift_bit)
        body += list(record.other)  # type: ignore[arg-type]  # lines of text
        message.append(("record", [("key", key), ("value", body)]))
    return render(message)


def _repeated(name: str, values: Iterable[float]) -> Message:
    return [(name, value) for value in values]
