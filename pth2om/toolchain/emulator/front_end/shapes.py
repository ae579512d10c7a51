"""``--input_shape`` and its companions: static shapes, ranges and gears, with ATC's own quirks.

Rules of ``option_utils.cc`` and ``omg.cc`` (CANN GE sources). Whether a value is read as a range is decided on the raw
string: a ``~`` or ``-1`` anywhere, also inside a name such as ``data-1``, and no dynamic flag beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pth2om.ascend.shapes import Kind, Range, ShapeError, is_number, range_shapes, static_shapes
from pth2om.ascend.shapes import is_range as is_range_text
from pth2om.toolchain.emulator.front_end.flags import Flags
from pth2om.toolchain.emulator.front_end.texts import AtcFailure, AtcRefusedError, failure

GEAR_FLAGS = ("dynamic_batch_size", "dynamic_image_size", "dynamic_dims")

_SAMPLE = '"input_name1:n1,c1,h1,w1"'
_RANGE_SAMPLE = '"input_name1:n1~n2,c1,h1,w1;input_name2:n3~n4,c2,h2,w2"'
_TWO_PARTS = "The shape must contain two parts: name and value"
_STATIC_REASONS: Mapping[Kind, str] = {
    "no-name": _TWO_PARTS,
    "empty-entry": _TWO_PARTS,
    "float": "The float number is unsupported",
    "not-digits": "It is not a digit",
}
_RANGE_REASONS: Mapping[Kind, str] = {
    "no-name": _TWO_PARTS,
    "empty-entry": _TWO_PARTS,
    "brackets": "The value can only contains a pair of '[]'",
    "empty-value": "The shape has a parameter name, whose value cannot be empty",
    "range-form": "The format of the shape range is invalid",
    "range-number": "The current string cannot be converted to a number",
}
_ADVISED: frozenset[Kind] = frozenset({"no-name", "empty-entry", "not-number", "not-digits", "letters", "float"})
"""Faults of which pth2om says more than ATC does."""


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
    return not any(flags[name] for name in GEAR_FLAGS) and is_range_text(flags["input_shape"])


def check_flags(flags: Flags) -> InputShapes:
    """The checks that come before the model is read: which flags go together, and the gears' own syntax.

    Returns:
        Gears and the shapes that belong to them, or ranges; nothing for a static shape, which is read later.

    Raises:
        AtcRefusedError: with ATC's code.
    """
    cann = flags.cann
    ranged = is_range(flags) or bool(flags["input_shape_range"])
    chosen = [name for name in GEAR_FLAGS if flags[name]]
    if len(chosen) + ranged > 1:
        raise AtcRefusedError(failure("E10009", cann=cann))
    if chosen:
        if "~" in flags["input_shape"]:
            raise AtcRefusedError(failure("E10040", cann=cann))
        if not flags["input_shape"]:
            raise AtcRefusedError(failure("E10004", "input_shape", cann=cann))
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
    """`pth2om.ascend.shapes.static_shapes` in ATC's words.

    Raises:
        AtcRefusedError: with ATC's code.
    """
    try:
        return static_shapes(text, open_sizes=dynamic)
    except ShapeError as error:
        raise AtcRefusedError(_static_failure(error, cann), _unparsed(text, cann)) from None


def parse_ranges(text: str, cann: str = "9.x", *, brackets: bool = False) -> dict[str, tuple[Range, ...]]:
    """`pth2om.ascend.shapes.range_shapes` in ATC's words.

    Raises:
        AtcRefusedError: with ATC's code.
    """
    try:
        return range_shapes(text, brackets=brackets)
    except ShapeError as error:
        advice = error.message if error.kind in _ADVISED or "[" in error.entry else None
        if error.kind in ("letters", "empty-name"):
            reason = "It is not a digit" if error.kind == "letters" else "The input name is empty"
            raise AtcRefusedError(failure("E10002", text, reason, _RANGE_SAMPLE, cann=cann, advice=advice)) from None
        reason = _RANGE_REASONS[error.kind]
        raise AtcRefusedError(failure("E10048", text, reason, _RANGE_SAMPLE, cann=cann, advice=advice)) from None


def check_gears(shapes: InputShapes, cann: str = "9.x") -> None:
    """The checks of profiles that ATC makes when it prepares the graph (``multi_batch_options.cc``).

    Raises:
        AtcRefusedError: fewer than two, of unequal length, negative or repeated.
    """
    gears = shapes.gears
    if not shapes.by:
        return
    if len(gears) < 2:
        raise AtcRefusedError(failure("E10035", len(gears), 2, cann=cann))
    for first, second in pairwise(gears):
        if len(first) != len(second):
            raise AtcRefusedError(failure("E10037", len(first), len(second), cann=cann))
    negative = next((size for gear in gears for size in gear if size < 0), None)
    if negative is not None:
        raise AtcRefusedError(failure("E10038", negative, cann=cann))
    if len(set(gears)) != len(gears):
        raise AtcRefusedError(failure("E10039", cann=cann))


def _static_failure(error: ShapeError, cann: str) -> AtcFailure:
    advice = error.message if error.kind in _ADVISED or "[" in error.entry or "(" in error.entry else None
    if error.kind == "too-large":
        return failure("E10013", error.word, "input_shape", cann=cann, advice=advice)
    if error.kind == "not-number":
        return failure("E10014", error.word, "input_shape", cann=cann, advice=advice)
    if error.kind == "not-positive":
        return failure("E10011", error.entry, error.word, cann=cann, advice=advice)
    return failure("E10002", error.entry, _STATIC_REASONS[error.kind], _SAMPLE, cann=cann, advice=advice)


def _unparsed(text: str, cann: str) -> AtcFailure:
    return failure("E10001", text, "input_shape", "failed to parse the input shape.", cann=cann)


def _batch_gears(text: str, shapes: Mapping[str, Sequence[int]], cann: str) -> tuple[tuple[int, ...], ...]:
    found = False
    for sizes in shapes.values():
        if not sizes:
            raise AtcRefusedError(failure("E10012", cann=cann))
        if sizes[0] >= 0:
            continue
        found = True
        for place, size in enumerate(sizes[1:], 1):
            if size < 0:
                raise AtcRefusedError(failure("E10018", size, place, cann=cann))
    if not found:
        raise AtcRefusedError(failure("E10031", cann=cann))
    if any(letter not in "0123456789," for letter in text):
        raise AtcRefusedError(
            failure("E10003", text, "dynamic_batch_size", 'It can only contain digits and ",".', cann=cann)
        )
    return _groups(text.removesuffix(","), ",", ",", "dynamic_batch_size", cann)


def _image_gears(flags: Flags, shapes: Mapping[str, Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    cann, text = flags.cann, flags["dynamic_image_size"]
    layout = flags["input_format"] or "NCHW"
    if layout not in ("NCHW", "NHWC"):
        reason = "When --dynamic_image_size is set, the input format only supports NCHW or NHWC."
        raise AtcRefusedError(failure("E10003", layout, "input_format", reason, cann=cann))
    places = (2, 3) if layout == "NCHW" else (1, 2)
    dynamic = [sizes for sizes in shapes.values() if any(size < 0 for size in sizes)]
    if not dynamic or any(
        len(sizes) != 4 or tuple(place for place, size in enumerate(sizes) if size < 0) != places for sizes in dynamic
    ):
        raise AtcRefusedError(failure("E10019", cann=cann))
    if any(letter not in "0123456789, ;" for letter in text):
        reason = 'It can only contain digits, "," and ";".'
        raise AtcRefusedError(failure("E10003", text, "dynamic_image_size", reason, cann=cann))
    gears = _groups(text.removesuffix(";"), ";", ",", "dynamic_image_size", cann)
    if any(len(gear) != 2 for gear in gears):
        raise AtcRefusedError(failure("E10020", text, cann=cann))
    return gears


def _dims_gears(text: str, shapes: Mapping[str, Sequence[int]], cann: str) -> tuple[tuple[int, ...], ...]:
    count = sum(size < 0 for sizes in shapes.values() for size in sizes)
    if count == 0:
        reason = "At least one dimension of --input_shape must be -1 when --dynamic_dims is set."
        raise AtcRefusedError(failure("E10001", 0, "--input_shape's dynamic dim num", reason, cann=cann))
    groups = text.removesuffix(";").split(";")
    for group in groups:
        values = group.split(",")
        if len(values) != count:
            reason = "Each setting needs to be consistent with the number of -1 in the input shape."
            raise AtcRefusedError(failure("E10003", text, "dynamic_dims", reason, cann=cann))
        if not all(values):
            raise AtcRefusedError(failure("E10058", "dynamic_dims", cann=cann))
        if not all(value.isascii() and value.isdigit() for value in values):
            raise AtcRefusedError(failure("E10001", text, "--dynamic_dims", "It is not a digit", cann=cann))
    return _groups(text.removesuffix(";"), ";", ",", "dynamic_dims", cann)


def _groups(text: str, outer: str, inner: str, flag: str, cann: str) -> tuple[tuple[int, ...], ...]:
    gears = []
    for group in text.split(outer):
        values = [group] if outer == inner else group.split(inner)
        if not all(value.strip().isdigit() for value in values):
            raise AtcRefusedError(failure("E10014", text, flag, cann=cann))
        if any(len(value.strip()) > 18 for value in values):
            raise AtcRefusedError(failure("E10013", text, flag, cann=cann))
        gears.append(tuple(int(value) for value in values))
    return tuple(gears)


def _check_hint(flags: Flags, *, dynamic: bool) -> None:
    text = flags["input_hint_shape"]
    if not text:
        return
    cann = flags.cann
    if dynamic:
        reason = "input_hint_shape cannot be set together with a dynamic profile."
        raise AtcRefusedError(failure("E10001", text, "--input_hint_shape", reason, cann=cann))
    seen = set()
    for entry in text.removesuffix(";").split(";"):
        index, _, sizes = entry.partition(":")
        inside = sizes.strip()
        numbers = inside[1:-1].split(",") if inside[1:-1].strip() else []
        if (
            not index.strip().isdigit()
            or index.strip() in seen
            or not (inside.startswith("[") and inside.endswith("]"))
            or not all(is_number(number.strip()) for number in numbers)
        ):
            raise AtcRefusedError(failure("E10014", text, "input_hint_shape", cann=cann))
        seen.add(index.strip())
