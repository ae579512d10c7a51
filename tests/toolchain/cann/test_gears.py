"""The gear that feeds ask for, whatever the description of the inputs leaves open."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.toolchain.cann.agent.shapes import ShapeError, gear_of

_SIDES = st.integers(1, 9)
_PAIRS = st.lists(st.tuples(_SIDES, _SIDES), min_size=1, max_size=5, unique=True)


def open_axes(gears: list[list[int]], *, whole: bool) -> list[bool]:
    """Which sizes of a gear a form leaves open: those that differ, or all, as an OM writes it."""
    return [whole or len({gear[place] for gear in gears}) > 1 for place in range(len(gears[0]))]


@given(gears=_PAIRS, whole=st.booleans(), beside=st.booleans(), data=st.data())
def test_the_gear_of_a_picture_is_found(
    gears: list[tuple[int, int]], *, whole: bool, beside: bool, data: st.DataObject
) -> None:
    """Also where all of them have the same height, or there is one alone, or another input has no gears."""
    rows = [list(gear) for gear in gears]
    wanted = data.draw(st.sampled_from(rows))
    opened = open_axes(rows, whole=whole)
    form = [2, 3, *(-1 if is_open else size for is_open, size in zip(opened, wanted, strict=True))]
    forms, shapes = [form], [[2, 3, *wanted]]
    if beside:
        forms, shapes = [[2, 5], *forms], [[2, 5], *shapes]
    assert gear_of("hw", rows, forms, shapes) == wanted
    if any(opened):
        other = [2, 3, *(size + 100 for size in wanted)]
        with pytest.raises(ShapeError, match="gear"):
            gear_of("hw", rows, forms, [*shapes[:-1], other])


@given(sizes=st.lists(_SIDES, min_size=1, max_size=4, unique=True), whole=st.booleans(), data=st.data())
def test_the_gear_of_a_batch_is_that_of_every_input(sizes: list[int], *, whole: bool, data: st.DataObject) -> None:
    gears = [[size] for size in sizes]
    wanted = data.draw(st.sampled_from(sizes))
    batch = -1 if open_axes(gears, whole=whole)[0] else wanted
    forms = [[batch, 3, 8, 8], [batch, 5], [7]]
    assert gear_of("batch", gears, forms, [[wanted, 3, 8, 8], [wanted, 5], [7]]) == [wanted]
    if batch == -1:
        with pytest.raises(ShapeError, match="gear"):
            gear_of("batch", gears, forms, [[wanted, 3, 8, 8], [wanted + 1, 5], [7]])


@given(st.lists(st.lists(_SIDES, min_size=4, max_size=4), min_size=1, max_size=4))
def test_the_gear_of_dims_is_every_size(gears: list[list[int]]) -> None:
    for gear in gears:
        assert gear_of("dims", gears, [[-1, 2], [-1, -1]], [gear[:2], gear[2:]]) == gear
    with pytest.raises(ShapeError, match="gear"):
        gear_of("dims", gears, [[-1, 2], [-1, -1]], [[99, 2], [1, 1]])
