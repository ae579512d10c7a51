"""Protobuf's text format, as far as AIPP configurations use it: messages, scalars, enums, short lists, comments.

Grammar: "Protocol Buffers, Text Format Language Specification". Every token knows its line, so that what is wrong is
named where it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from pth2om.errors import AippError

MOST_CHARACTERS = 2**20
_DEEPEST = 16
_MOST_FIELDS = 20_000

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\f\v]+)
  | (?P<line>\n)
  | (?P<comment>\#[^\n]*)
  | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
  | (?P<number>(?:0[xX][0-9a-fA-F]+|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)(?![A-Za-z0-9_.]))
  | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<sign>[{}<>\[\]:,;-])
    """,
    re.VERBOSE,
)


class Token(NamedTuple):
    """A piece of text: kind ``string``, ``number``, ``word`` or ``sign`` (``end`` at the end), and its line from 1."""

    kind: str
    text: str
    line: int


class Scalar(NamedTuple):
    """A value as it is written: kind ``string``, ``number`` (with its sign) or ``word``."""

    kind: str
    text: str
    line: int


class Field(NamedTuple):
    """``name: value`` or ``name { ... }``; a list is written as several fields."""

    name: str
    value: Scalar | list[Field]
    line: int


def parse(text: str, where: str) -> list[Field]:
    """The fields of a text-format message, in order.

    Args:
        text: the whole file.
        where: its name, for messages.

    Raises:
        AippError: it is not text format; names the line.
    """
    if len(text) > MOST_CHARACTERS:
        raise AippError("aipp.too-long", where=where, most=MOST_CHARACTERS)
    return _Parser(list(_tokens(text.removeprefix("\ufeff"), where)), where).message("end", 0)


def _tokens(text: str, where: str) -> Iterator[Token]:
    at, line, last = 0, 1, ""
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None and text[at] == "=":
            # NAME=VALUE is how other kinds of .cfg files are written.
            raise AippError("aipp.not-a-configuration", where=f"{where}:{line}", name=last)
        if match is None:
            raise AippError("aipp.stray-character", where=f"{where}:{line}", character=text[at])
        kind = match.lastgroup or ""
        if kind == "line":
            line += 1
        elif kind not in ("space", "comment"):
            last = match.group()
            yield Token(kind, last, line)
        at = match.end()
    yield Token("end", "", line)


class _Parser:
    def __init__(self, tokens: list[Token], where: str) -> None:
        self._tokens, self._where, self._at, self._count = tokens, where, 0, 0

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _take(self) -> Token:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _wrong(self, token: Token, expected: str) -> AippError:
        key = "aipp.unexpected-end" if token.kind == "end" else "aipp.unexpected"
        return AippError(key, where=f"{self._where}:{token.line}", found=token.text, expected=expected)

    def message(self, close: str, depth: int) -> list[Field]:
        """Fields up to ``close`` (``}``, ``>`` or ``end``)."""
        if depth > _DEEPEST:
            raise AippError("aipp.too-deep", where=f"{self._where}:{self._next.line}", most=_DEEPEST)
        fields: list[Field] = []
        while self._next.text != close if close != "end" else self._next.kind != "end":
            fields += self._field(depth)
            self._count += 1
            if self._count > _MOST_FIELDS:
                raise AippError("aipp.too-many-fields", where=f"{self._where}:{self._next.line}", most=_MOST_FIELDS)
            if self._next.text in (",", ";"):
                self._take()
        self._take()
        return fields

    def _field(self, depth: int) -> list[Field]:
        name = self._take()
        if name.kind != "word":
            raise self._wrong(name, "a field name")
        colon = self._next.text == ":"
        if colon:
            self._take()
        if self._next.text in ("{", "<"):
            return [Field(name.text, self.message("}" if self._take().text == "{" else ">", depth + 1), name.line)]
        if not colon:
            raise self._wrong(self._next, "':' or '{'")
        if self._next.text != "[":
            return [Field(name.text, self._scalar(), name.line)]
        self._take()
        fields: list[Field] = []
        while self._next.text != "]":
            fields.append(Field(name.text, self._scalar(), self._next.line))
            if self._next.text == ",":
                self._take()
                if self._next.text == "]":
                    raise self._wrong(self._next, "a value")
            elif self._next.text != "]":
                raise self._wrong(self._next, "',' or ']'")
        self._take()
        return fields

    def _scalar(self) -> Scalar:
        token = self._take()
        if token.text == "-":
            value = self._take()
            if value.kind not in ("number", "word"):
                raise self._wrong(value, "a number")
            return Scalar(value.kind, "-" + value.text, value.line)
        if token.kind == "string":
            text = token.text[1:-1]
            while self._next.kind == "string":
                text += self._take().text[1:-1]
            return Scalar("string", text, token.line)
        if token.kind not in ("number", "word"):
            raise self._wrong(token, "a value")
        return Scalar(token.kind, token.text, token.line)
