"""What ``--input-shape`` and the gears of a conversion come to: inputs, names of their axes, and `pth2om.spec.Gears`.

Everything is written as for atc: ``-1`` where gears fill in a size, ``1~8`` for a range, and one value of
``--dynamic-dims`` for each ``-1``. A spec names axes instead; open axes that have the same sizes in every gear get one
name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pth2om.errors import ConvertError
from pth2om.spec import Gears

if TYPE_CHECKING:
    from pth2om.onefile.options import Options

_SIZES = re.compile(r"(-1|[0-9]{1,9}(~[0-9]{1,9})?)([,x](-1|[0-9]{1,9}(~[0-9]{1,9})?))*")
OPEN = "-1"


@dataclass(frozen=True)
class Shapes:
    """The shapes of a conversion.

    Attributes:
        inputs: name -> sizes with the batch, at the gear that is exported: the last.
        gears: what the OM serves; None for one shape.
        axes: names of the axes behind the batch, of inputs that have open ones.
    """

    inputs: Mapping[str, tuple[int, ...]]
    gears: Gears | None = None
    axes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """The first size, the same for all inputs."""
        return next(iter(self.inputs.values()))[0]


def shapes_of(options: Options, found: Mapping[str, tuple[int, ...]]) -> Shapes:
    """The shapes that are asked for.

    Args:
        options: ``input_shape`` and the gears.
        found: the inputs of the file, with the batch; they hold where ``input_shape`` says nothing.

    Raises:
        ConvertError: the texts are not of that form, contradict each other, or the gears do not fit the inputs.
    """
    written: Mapping[str, tuple[str, ...]] = {name: tuple(map(str, sizes)) for name, sizes in found.items()}
    if options.input_shape is not None:
        written = sizes_of(options.input_shape)
    if options.dynamic_batch_size:
        shapes = _batches(options, written)
    elif options.dynamic_image_size:
        shapes = _images(options, written)
    elif options.dynamic_dims:
        shapes = _dims(options, written)
    elif any("~" in size for sizes in written.values() for size in sizes):
        shapes = _ranges(written)
    else:
        if any(OPEN in sizes for sizes in written.values()):
            raise ConvertError("convert.open-size", text=str(options.input_shape))
        shapes = Shapes({name: tuple(map(int, sizes)) for name, sizes in written.items()})
    if len({sizes[0] for sizes in shapes.inputs.values()}) > 1:
        raise ConvertError("convert.batches-differ", text=options.input_shape or str(dict(shapes.inputs)))
    return shapes


def sizes_of(text: str) -> dict[str, tuple[str, ...]]:
    """The sizes of ``name:1,3,-1,-1;other:1~8,80``; the last ``:`` of a part separates name and sizes.

    Raises:
        ConvertError: it is not of that form, or a size is zero.
    """
    shapes: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, _, sizes = part.rpartition(":")
        if not name or name in shapes or not _SIZES.fullmatch(sizes):
            raise ConvertError("convert.input-shape", text=text)
        shapes[name] = tuple(re.split("[,x]", sizes))
    if not shapes or any(not int(end) for sizes in shapes.values() for size in sizes for end in size.split("~")):
        raise ConvertError("convert.input-shape", text=text)
    return shapes


def _batches(options: Options, written: Mapping[str, tuple[str, ...]]) -> Shapes:
    given = options.dynamic_batch_size
    if options.input_shape is not None:
        for name, sizes in written.items():
            if sizes[0] != OPEN or OPEN in sizes[1:] or any("~" in size for size in sizes):
                raise ConvertError("convert.open-batch", name=name, sizes=",".join(sizes))
    inputs = {name: (given[-1], *map(int, sizes[1:])) for name, sizes in written.items()}
    return Shapes(inputs, _gears(batch=given))


def _images(options: Options, written: Mapping[str, tuple[str, ...]]) -> Shapes:
    given = options.dynamic_image_size
    inputs = {}
    for name, sizes in written.items():
        picture = len(sizes) == 4
        if options.input_shape is not None:
            wanted = (*sizes[:2], OPEN, OPEN) if picture else sizes
            if sizes != wanted or OPEN in sizes[: 2 if picture else None] or any("~" in size for size in sizes):
                raise ConvertError("convert.open-picture", name=name, sizes=",".join(sizes))
        inputs[name] = (*map(int, sizes[:2]), *given[-1]) if picture else tuple(map(int, sizes))
    if not any(len(sizes) == 4 for sizes in inputs.values()):
        raise ConvertError("convert.no-picture", names=", ".join(inputs))
    return Shapes(inputs, _gears(image=given))


def _dims(options: Options, written: Mapping[str, tuple[str, ...]]) -> Shapes:
    given = options.dynamic_dims
    places = [(name, axis) for name, sizes in written.items() for axis, size in enumerate(sizes) if size == OPEN]
    if options.input_shape is None or not places:
        raise ConvertError("convert.dims-need-shape")
    for group in given:
        if len(group) != len(places):
            raise ConvertError(
                "convert.dims-count", text=",".join(map(str, group)), given=len(group), wanted=len(places)
            )
    columns = {place: tuple(group[number] for group in given) for number, place in enumerate(places)}
    names = _named(written, columns)
    points = [{names[place]: column[number] for place, column in columns.items()} for number in range(len(given))]
    inputs = {
        name: tuple(
            columns[name, axis][-1] if (name, axis) in columns else _whole(size, options)
            for axis, size in enumerate(sizes)
        )
        for name, sizes in written.items()
    }
    return Shapes(inputs, _gears(dims=points), _axes(written, names))


def _ranges(written: Mapping[str, tuple[str, ...]]) -> Shapes:
    columns: dict[tuple[str, int], tuple[int, ...]] = {}
    for name, sizes in written.items():
        for axis, size in enumerate(sizes):
            if size == OPEN:
                raise ConvertError("convert.open-size", text=f"{name}:{','.join(sizes)}")
            if "~" in size:
                columns[name, axis] = tuple(map(int, size.split("~")))
    names = _named(written, columns)
    ranges = {names[place]: f"{low}~{high}" for place, (low, high) in columns.items()}
    inputs = {
        name: tuple(int(size.split("~")[-1]) for size in sizes)  # exported at the larger end, the last that is tested
        for name, sizes in written.items()
    }
    return Shapes(inputs, _gears(range=ranges), _axes(written, names))


def _named(
    written: Mapping[str, tuple[str, ...]], columns: Mapping[tuple[str, int], tuple[int, ...]]
) -> dict[tuple[str, int], str]:
    """A name for each open axis: ``batch`` for the first of each input, one for all others of equal sizes."""
    names: dict[tuple[str, int], str] = {}
    firsts = {columns.get((name, 0)) for name in written}
    if len(firsts) > 1:
        raise ConvertError("convert.batches-differ", text="; ".join(f"{n}:{','.join(s)}" for n, s in written.items()))
    known: dict[tuple[tuple[int, ...], int], str] = {}
    for name, axis in columns:
        if axis == 0:
            names[name, axis] = "batch"
            continue
        column = columns[name, axis]
        # The axes of one input differ in name, also where they have the same sizes: a square picture.
        earlier = sum(columns[name, other] == column for other in range(1, axis) if (name, other) in columns)
        if (column, earlier) not in known:
            free = f"dim{axis}" if f"dim{axis}" not in known.values() else f"dim{axis}_{len(known)}"
            known[column, earlier] = free
        names[name, axis] = known[column, earlier]
    return names


def _axes(written: Mapping[str, tuple[str, ...]], names: Mapping[tuple[str, int], str]) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(names.get((name, axis), f"fixed{axis}") for axis in range(1, len(sizes)))
        for name, sizes in written.items()
        if any((name, axis) in names for axis in range(1, len(sizes)))
    }


def _whole(size: str, options: Options) -> int:
    if "~" in size:
        raise ConvertError("convert.contradiction", reason=f"--dynamic-dims; {options.input_shape}")
    return int(size)


def _gears(**kinds: Sequence[object] | Mapping[str, str]) -> Gears:
    try:
        return Gears(**kinds)  # type: ignore[arg-type]  # validated by pydantic
    except ValidationError as error:
        reason = str(error).split("Value error, ")[-1].split(" [type=")[0]
        raise ConvertError("convert.contradiction", reason=reason) from None
