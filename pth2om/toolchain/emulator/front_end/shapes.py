"""``--input_shape`` and its companions: static shapes, ranges and gears, with ATC's own quirks.

Rules of ``option_utils.cc`` and ``omg.cc`` (CANN GE sources). Whether a value is read as a range is decided on the raw
string: a ``~`` or ``-1`` anywhere, also inside a name such as ``data-1``, and no dynamic flag beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NoReturn

from pth2om.language import say
from pth2om.toolchain.emulator.front_end.flags import Flags
from pth2om.toolchain.emulator.front_end.texts import AtcFailure, RefusedError, failure

GEAR_FLAGS = ("dynamic_batch_size", "dynamic_image_size", "dynamic_dims")

Range = tuple[int, int]
"""Smallest and largest size of a dimension; -1 as the largest means no bound."""

_SAMPLE = '"input_name1:n1,c1,h1,w1"'
_RANGE_SAMPLE = '"input_name1:n1~n2,c1,h1,w1;input_name2:n3~n4,c2,h2,w2"'
_TWO_PARTS = "The shape must contain two parts: name and value"
_INT64 = 2**63


@dataclass(frozen=True)
class InputShapes:
    """What the command line says of the input shapes.

    Attributes:
        static: name to sizes; -1 only where gears fill it in.
        ranges: name to one range a dimension.
        gears: the profiles of a dynamic flag, each one value per -1.
        by: the dynamic flag that gave them, or empty.
    """

    static: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[Range, ...]] = field(default_factory=dict)
    gears: tuple[tuple[int, ...], ...] = ()
    by: str = ""

    def __bool__(self) -> bool:
        """Whether anything was said."""
        return bool(self.static or self.ranges or self.gears)


def is_range(flags: Flags) -> bool:
    """Whether ``--input_shape`` is read as a range."""
    text = flags["input_shape"]
    return not any(flags[name] for name in GEAR_FLAGS) and ("~" in text or "-1" in text)


def check_flags(flags: Flags) -> InputShapes:
    """The checks that come before the model is read: which flags go together, and the gears' own syntax.

    Returns:
        Gears and the shapes that belong to them, or ranges; nothing for a static shape, which is read later.

    Raises:
        RefusedError: with ATC's code.
    """
    cann = flags.cann
    ranged = is_range(flags) or bool(flags["input_shape_range"])
    chosen = [name for name in GEAR_FLAGS if flags[name]]
    if len(chosen) + ranged > 1:
        raise RefusedError(failure("E10009", cann=cann))
    if chosen:
        if "~" in flags["input_shape"]:
            raise RefusedError(failure("E10040", cann=cann))
        if not flags["input_shape"]:
            raise RefusedError(failure("E10004", "input_shape", cann=cann))
        shapes = parse_static(flags["input_shape"], cann, dynamic=True)
        if chosen[0] == "dynamic_batch_size":
            gears = _batch_gears(flags["dynamic_batch_size"], shapes, cann)
        elif chosen[0] == "dynamic_image_size":
            gears = _image_gears(flags, shapes)
        else:
            gears = _dims_gears(flags["dynamic_dims"], shapes, cann)
        _check_hint(flags, dynamic=True)
        return InputShapes(static=shapes, gears=gears, by=chosen[0])
    _check_hint(flags, dynamic=False)
    if flags["input_shape_range"]:
        return InputShapes(ranges=parse_ranges(flags["input_shape_range"], cann, brackets=True))
    if is_range(flags):
        return InputShapes(ranges=parse_ranges(flags["input_shape"], cann))
    return InputShapes()


def parse_static(text: str, cann: str = "9.x", *, dynamic: bool = False) -> dict[str, tuple[int, ...]]:
    """``name:1,3,640,640;other:`` to sizes; an empty value is a scalar.

    Entries split at ``;``, and the last ``:`` of an entry parts its name from its value.

    Args:
        text: the flag's value; a trailing ``;`` is an error, as it is for ATC.
        cann: whose texts.
        dynamic: whether -1 is taken.

    Raises:
        RefusedError: with ATC's code.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for entry in text.split(";"):
        name, colon, values = entry.rpartition(":")
        if not colon:
            advice = say("atc.trailing-semicolon") if not entry.strip() else say("atc.shape-needs-name", entry=entry)
            problem = failure("E10002", entry, _TWO_PARTS, _SAMPLE, cann=cann, advice=advice)
            raise RefusedError(problem, _unparsed(text, cann))
        sizes = [
            _size(number.strip(), entry, text, cann, dynamic=dynamic) for number in values.split(",") if values.strip()
        ]
        shapes[name.strip()] = tuple(sizes)
    return shapes


def parse_ranges(text: str, cann: str = "9.x", *, brackets: bool = False) -> dict[str, tuple[Range, ...]]:
    """``name:1~8,3,-1,640`` to ranges.

    Args:
        text: the flag's value.
        cann: whose texts.
        brackets: whether the values stand in ``[]``, as in ``--input_shape_range``.

    Raises:
        RefusedError: with ATC's code.
    """
    ranges: dict[str, tuple[Range, ...]] = {}
    for entry in text.split(";"):
        name, colon, values = entry.rpartition(":")
        if not colon:
            _bad_range(text, _TWO_PARTS, cann)
        values = values.strip()
        if brackets:
            if not (values.startswith("[") and values.endswith("]") and values.count("[") == 1):
                _bad_range(text, "The value can only contains a pair of '[]'", cann)
            values = values[1:-1]
        if not name.strip() or not values:
            _bad_range(text, "The shape has a parameter name, whose value cannot be empty", cann)
        if any(letter not in "0123456789 ,~-" for letter in values):
            raise RefusedError(failure("E10002", text, "It is not a digit", _RANGE_SAMPLE, cann=cann))
        ranges[name.strip()] = tuple(_range(part.strip(), text, cann) for part in values.split(","))
    return ranges


def check_gears(shapes: InputShapes, cann: str = "9.x") -> None:
    """The checks of profiles that ATC makes when it prepares the graph (``multi_batch_options.cc``).

    Raises:
        RefusedError: fewer than two, of unequal length, negative or repeated.
    """
    gears = shapes.gears
    if not shapes.by:
        return
    if len(gears) < 2:
        raise RefusedError(failure("E10035", len(gears), 2, cann=cann))
    for first, second in pairwise(gears):
        if len(first) != len(second):
            raise RefusedError(failure("E10037", len(first), len(second), cann=cann))
    negative = next((size for gear in gears for size in gear if size < 0), None)
    if negative is not None:
        raise RefusedError(failure("E10038", negative, cann=cann))
    if len(set(gears)) != len(gears):
        raise RefusedError(failure("E10039", cann=cann))


def _size(number: str, entry: str, text: str, cann: str, *, dynamic: bool) -> int:
    if "." in number:
        problem = failure("E10002", entry, "The float number is unsupported", _SAMPLE, cann=cann)
        raise RefusedError(problem, _unparsed(text, cann))
    digits = number[1:] if number[:1] in ("-", "+") else number
    if not (digits.isascii() and digits.isdigit()):
        if digits[:1].isascii() and digits[:1].isdigit():
            problem = failure("E10002", entry, "It is not a digit", _SAMPLE, cann=cann)
        else:
            problem = failure("E10014", number, "input_shape", cann=cann)
        raise RefusedError(problem, _unparsed(text, cann))
    # Bounded before int(): Python refuses very long numbers with an error of its own.
    size = int(number) if len(digits) < 20 else _INT64
    if not -_INT64 <= size < _INT64:
        raise RefusedError(failure("E10013", number, "input_shape", cann=cann), _unparsed(text, cann))
    if size == 0 or (size < 0 and not dynamic):
        raise RefusedError(failure("E10011", entry, size, cann=cann), _unparsed(text, cann))
    return size


def _unparsed(text: str, cann: str) -> AtcFailure:
    return failure("E10001", text, "input_shape", "failed to parse the input shape.", cann=cann)


def _range(part: str, text: str, cann: str) -> Range:
    if "~" not in part:
        if not _is_number(part):
            _bad_range(text, "The current string cannot be converted to a number", cann)
        size = int(part)
        return (0, -1) if size < 0 else (size, size)
    ends = [end.strip() for end in part.split("~")]
    if len(ends) != 2:
        _bad_range(text, "The format of the shape range is invalid", cann)
    if not all(_is_number(end) for end in ends):
        _bad_range(text, "The current string cannot be converted to a number", cann)
    low, high = (int(end) for end in ends)
    if low < 0 or (high >= 0 and low > high) or high < -1:
        _bad_range(text, "The format of the shape range is invalid", cann)
    return low, high


def _is_number(text: str) -> bool:
    digits = text[1:] if text.startswith("-") else text
    return digits.isascii() and digits.isdigit() and len(digits) < 19


def _bad_range(text: str, reason: str, cann: str) -> NoReturn:
    raise RefusedError(failure("E10048", text, reason, _RANGE_SAMPLE, cann=cann))


def _batch_gears(text: str, shapes: Mapping[str, Sequence[int]], cann: str) -> tuple[tuple[int, ...], ...]:
    found = False
    for sizes in shapes.values():
        if not sizes:
            raise RefusedError(failure("E10012", cann=cann))
        if sizes[0] < 0:
            found = True
        for place, size in enumerate(sizes[1:], 1):
            if size < 0:
                raise RefusedError(failure("E10018", size, place, cann=cann))
    if not found:
        raise RefusedError(failure("E10031", cann=cann))
    if any(letter not in "0123456789," for letter in text):
        raise RefusedError(
            failure("E10003", text, "dynamic_batch_size", 'It can only contain digits and ",".', cann=cann)
        )
    return _groups(text.removesuffix(","), ",", ",", "dynamic_batch_size", cann)


def _image_gears(flags: Flags, shapes: Mapping[str, Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    cann, text = flags.cann, flags["dynamic_image_size"]
    layout = flags["input_format"] or "NCHW"
    if layout not in ("NCHW", "NHWC"):
        reason = "When --dynamic_image_size is set, the input format only supports NCHW or NHWC."
        raise RefusedError(failure("E10003", layout, "input_format", reason, cann=cann))
    places = (2, 3) if layout == "NCHW" else (1, 2)
    dynamic = [sizes for sizes in shapes.values() if any(size < 0 for size in sizes)]
    if not dynamic or any(
        len(sizes) != 4 or tuple(place for place, size in enumerate(sizes) if size < 0) != places for sizes in dynamic
    ):
        raise RefusedError(failure("E10019", cann=cann))
    if any(letter not in "0123456789, ;" for letter in text):
        reason = 'It can only contain digits, "," and ";".'
        raise RefusedError(failure("E10003", text, "dynamic_image_size", reason, cann=cann))
    gears = _groups(text.removesuffix(";"), ";", ",", "dynamic_image_size", cann)
    if any(len(gear) != 2 for gear in gears):
        raise RefusedError(failure("E10020", text, cann=cann))
    return gears


def _dims_gears(text: str, shapes: Mapping[str, Sequence[int]], cann: str) -> tuple[tuple[int, ...], ...]:
    count = sum(size < 0 for sizes in shapes.values() for size in sizes)
    if count == 0:
        reason = "At least one dimension of --input_shape must be -1 when --dynamic_dims is set."
        raise RefusedError(failure("E10001", 0, "--input_shape's dynamic dim num", reason, cann=cann))
    groups = text.removesuffix(";").split(";")
    if not all(group.strip() for group in groups):
        raise RefusedError(failure("E10058", "dynamic_dims", cann=cann))
    for group in groups:
        values = group.split(",")
        if len(values) != count:
            reason = "Each setting needs to be consistent with the number of -1 in the input shape."
            raise RefusedError(failure("E10003", text, "dynamic_dims", reason, cann=cann))
        if not all(value.strip().isascii() and value.strip().isdigit() for value in values):
            raise RefusedError(failure("E10001", text, "--dynamic_dims", "It is not a digit", cann=cann))
    return _groups(text.removesuffix(";"), ";", ",", "dynamic_dims", cann)


def _groups(text: str, outer: str, inner: str, flag: str, cann: str) -> tuple[tuple[int, ...], ...]:
    gears = []
    for group in text.split(outer):
        values = [group] if outer == inner else group.split(inner)
        if not all(value.strip().isdigit() for value in values):
            raise RefusedError(failure("E10014", text, flag, cann=cann))
        if any(len(value.strip()) > 18 for value in values):
            raise RefusedError(failure("E10013", text, flag, cann=cann))
        gears.append(tuple(int(value) for value in values))
    return tuple(gears)


def _check_hint(flags: Flags, *, dynamic: bool) -> None:
    text = flags["input_hint_shape"]
    if not text:
        return
    cann = flags.cann
    if dynamic:
        reason = "input_hint_shape cannot be set together with a dynamic profile."
        raise RefusedError(failure("E10001", text, "--input_hint_shape", reason, cann=cann))
    seen = set()
    for entry in text.removesuffix(";").split(";"):
        index, _, sizes = entry.partition(":")
        inside = sizes.strip()
        numbers = inside[1:-1].split(",") if inside[1:-1].strip() else []
        if (
            not index.strip().isdigit()
            or index.strip() in seen
            or not (inside.startswith("[") and inside.endswith("]"))
            or not all(_is_number(number.strip()) for number in numbers)
        ):
            raise RefusedError(failure("E10014", text, "input_hint_shape", cann=cann))
        seen.add(index.strip())
