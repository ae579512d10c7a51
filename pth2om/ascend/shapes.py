"""``--input_shape`` and ``--input_shape_range``: the one reader of their texts.

Grammar of ``option_utils.cc`` (CANN GE sources): entries split at ``;``, the last ``:`` of an entry parts its name from
its sizes (names may hold colons), sizes split at ``,``, blanks around each are dropped, no size at all is a scalar.
A text is a range when it holds ``~`` or ``-1`` anywhere, also inside a name such as ``data-1``.
"""

from __future__ import annotations

from typing import Literal

from pth2om.errors import GraphError

Range = tuple[int, int]
"""Smallest and largest size of a dimension; -1 as the largest means no bound."""

Kind = Literal[
    "no-name", "empty-entry", "empty-name", "empty-value", "float", "not-digits", "not-number", "too-large",
    "not-positive", "letters", "brackets", "range-form", "range-number",
]  # fmt: skip
"""The kind of error in a text; also the end of its message key, ``ascend.shape-<kind>``."""

_INT64 = 2**63


class ShapeError(GraphError):
    """A text is not a shape.

    Attributes:
        kind: what is wrong.
        entry: the entry concerned, as written.
        word: the size concerned, or empty.
    """

    def __init__(self, kind: Kind, entry: str, word: str = "") -> None:
        super().__init__(f"ascend.shape-{kind}", entry=entry[:80], word=word[:40])
        self.kind, self.entry, self.word = kind, entry, word

    def __reduce__(self) -> tuple[object, ...]:
        return ShapeError, (self.kind, self.entry, self.word)


def is_range(text: str) -> bool:
    """Whether ATC reads a text as ranges."""
    return "~" in text or "-1" in text


def static_shapes(text: str, *, open_sizes: bool = False) -> dict[str, tuple[int, ...]]:
    """``name:1,3,640,640;other:`` to sizes; no size is a scalar.

    Args:
        text: the value; a trailing ``;`` is an error, as it is for ATC.
        open_sizes: whether -1 is taken.

    Raises:
        ShapeError: it is no shape.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in text.split(";"):
        name, colon, values = entry.rpartition(":")
        if not colon:
            raise ShapeError("no-name" if entry.strip() else "empty-entry", entry)
        words = [word.strip() for word in values.split(",") if word.strip()]
        shapes[name.strip()] = tuple(_size(word, entry, open_sizes=open_sizes) for word in words)
    return shapes


def range_shapes(text: str, *, brackets: bool = False) -> dict[str, tuple[Range, ...]]:
    """``name:1~8,3,-1,640`` to ranges.

    Args:
        text: the value.
        brackets: whether the sizes stand in ``[]``, as in ``--input_shape_range``.

    Raises:
        ShapeError: it is no range.
    """
    ranges: dict[str, tuple[Range, ...]] = {}
    for entry in text.split(";"):
        name, colon, values = entry.rpartition(":")
        values = values.strip()
        if not colon:
            raise ShapeError("no-name" if entry.strip() else "empty-entry", entry)
        if brackets:
            if not (values.startswith("[") and values.endswith("]") and values.count("[") == 1):
                raise ShapeError("brackets", entry)
            values = values[1:-1]
        if not name.strip():
            raise ShapeError("empty-name", entry)
        if brackets and not values:
            raise ShapeError("empty-value", entry)
        if any(letter not in "0123456789 ,~-" for letter in values):
            raise ShapeError("letters", entry)
        ranges[name.strip()] = tuple(_range(word.strip(), entry) for word in values.split(",")) if values else ()
    return ranges


def given_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """The sizes of a value of ``--input_shape``, static or ranges; -1 where a size stays open.

    Raises:
        ShapeError: it is neither.
    """
    if not text.strip():
        return {}
    if not is_range(text):
        return static_shapes(text)
    ranges = range_shapes(text)
    return {name: tuple(low if low == high else -1 for low, high in sizes) for name, sizes in ranges.items()}


def _size(word: str, entry: str, *, open_sizes: bool) -> int:
    if "." in word:
        raise ShapeError("float", entry, word)
    digits = word.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        first = word[1:2] if word[:1] in ("-", "+") else word[:1]
        raise ShapeError("not-digits" if first.isascii() and first.isdigit() else "not-number", entry, word)
    # Bounded before int(): Python refuses very long numbers with an error of its own.
    size = int(word) if len(digits) < 20 else _INT64
    if not -_INT64 <= size < _INT64:
        raise ShapeError("too-large", entry, word)
    if size == 0 or (size < 0 and not open_sizes):
        raise ShapeError("not-positive", entry, str(size))
    return size


def _range(word: str, entry: str) -> Range:
    if "~" not in word:
        if not is_number(word):
            raise ShapeError("range-number", entry, word)
        size = int(word)
        return (0, -1) if size < 0 else (size, size)
    ends = [end.strip() for end in word.split("~")]
    if len(ends) != 2:
        raise ShapeError("range-form", entry, word)
    if not all(is_number(end) for end in ends):
        raise ShapeError("range-number", entry, word)
    low, high = (int(end) for end in ends)
    if low < 0 or (high >= 0 and low > high) or high < -1:
        raise ShapeError("range-form", entry, word)
    return low, high


def is_number(text: str) -> bool:
    """Whether a text is a whole number of at most 18 digits, a minus before it or not."""
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 19
