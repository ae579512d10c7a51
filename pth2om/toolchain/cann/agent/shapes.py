"""Feeds against the inputs of a model, whoever runs it."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

Sizes = List[int]


class ShapeError(Exception):
    """Feeds that no gear of the model has, or that are not its inputs.

    Attributes:
        key: ``inputs``, ``gear``, ``size``, ``dtype``.
        values: for the sentence.
    """

    def __init__(self, key: str, **values: Any) -> None:
        super().__init__("%s %s" % (key, values))
        self.key = key
        self.values = values


def in_order(entries: Sequence[Dict[str, Any]], feeds: Dict[str, Any]) -> List[Any]:
    """The arrays of the inputs, in the model's order.

    Args:
        entries: ``name`` and ``dtype`` of each input.
        feeds: name -> array.

    Raises:
        ShapeError: an input is missing, one too many is there, or one has another dtype.
    """
    names = [entry["name"] for entry in entries]
    if sorted(names) != sorted(feeds):
        raise ShapeError("inputs", wanted=", ".join(names), given=", ".join(feeds))
    for entry in entries:
        given = feeds[entry["name"]].dtype.name
        if given != entry["dtype"]:
            raise ShapeError("dtype", name=entry["name"], wanted=entry["dtype"], given=given)
    return [feeds[name] for name in names]


def fits(form: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a shape is one of a form, in which -1 is any size."""
    return len(shape) == len(form) and all(size in (-1, given) for size, given in zip(form, shape))


def gear_of(kind: str, gears: Sequence[Sizes], forms: Sequence[Sizes], shapes: Sequence[Sequence[int]]) -> Sizes:
    """The gear that some shapes ask for.

    Args:
        kind: ``batch``, ``hw`` or ``dims``.
        gears: of a ``batch`` one size each, of ``hw`` height and width, of ``dims`` the sizes of all inputs' axes.
        forms: of each input, -1 where the gears differ; of sizes that are the same in all of them -1 or the size.
        shapes: of what is fed.

    Raises:
        ShapeError: the model has no such gear.
    """
    opened = [[given for size, given in zip(form, shape) if size == -1] for form, shape in zip(forms, shapes)]
    sizes = next((each for each in opened if each), [])  # of the first input in which the gears differ
    if kind == "dims":
        gear = [int(size) for shape in shapes for size in shape]
    else:
        gear = list(gears[0])
        every = list(range(len(gear)))
        differing = [place for place in every if len({each[place] for each in gears}) > 1]
        for place, size in zip(every if len(sizes) >= len(gear) else differing, sizes):
            gear[place] = int(size)
    if gear not in gears or (kind == "batch" and len({size for each in opened for size in each}) > 1):
        raise ShapeError("gear", given=written(gear), gears=" | ".join(written(each) for each in gears))
    return gear


def written(sizes: Sequence[int]) -> str:
    """``2x3x8x8``, for people."""
    return "x".join(str(size) for size in sizes) or "()"
