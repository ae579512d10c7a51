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
        forms: of each input, -1 where the gears differ.
        shapes: of what is fed.

    Raises:
        ShapeError: the model has no such gear.
    """
    opened = [given for form, shape in zip(forms, shapes) for size, given in zip(form, shape) if size == -1]
    every = [int(size) for shape in shapes for size in shape]
    gear = {"batch": opened[:1], "hw": opened[:2], "dims": every}[kind]
    if gear not in gears or (kind == "batch" and len(set(opened)) > 1):
        raise ShapeError("gear", given=written(gear), gears=" | ".join(written(each) for each in gears))
    return gear


def written(sizes: Sequence[int]) -> str:
    """``2x3x8x8``, for people."""
    return "x".join(str(size) for size in sizes) or "()"
