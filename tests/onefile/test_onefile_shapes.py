"""The shapes that are typed as for atc: the spec's gears made of them give atc the same line back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.errors import ConvertError
from pth2om.onefile import Options
from pth2om.onefile.shapes import Shapes, shapes_of
from pth2om.spec import Input

FOUND = {"x": (1, 3, 8, 8)}


def inputs(shapes: Shapes) -> list[Input]:
    return [Input(name=name, shape=sizes[1:], axes=shapes.axes.get(name, ())) for name, sizes in shapes.inputs.items()]


@st.composite
def lines(draw: st.DrawFn) -> tuple[str, str]:
    """``--input_shape`` and ``--dynamic_dims``: some sizes of some inputs open, the batch of all or of none."""
    batched = draw(st.booleans())
    ranks = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    opened = [[batched, *draw(st.lists(st.booleans(), min_size=rank, max_size=rank))] for rank in ranks]
    if not any(any(axes) for axes in opened):
        opened[0][1] = True
    gears = draw(st.integers(2, 4))
    batches = draw(st.lists(st.integers(1, 9), min_size=gears, max_size=gears))
    columns = []
    for axes in opened:
        rest = [draw(st.lists(st.integers(1, 9), min_size=gears, max_size=gears)) for each in axes[1:] if each]
        columns += [batches] * axes[0] + rest
    shape = ";".join(
        f"in{number}:{','.join('-1' if each else '1' if not axis else '5' for axis, each in enumerate(axes))}"
        for number, axes in enumerate(opened)
    )
    groups = [",".join(str(column[gear]) for column in columns) for gear in range(gears)]
    return shape, ";".join(groups)


@given(lines())
def test_gears_give_the_typed_line_back(line: tuple[str, str]) -> None:
    shape, dims = line
    groups = tuple(tuple(map(int, group.split(","))) for group in dims.split(";"))
    options = Options(input_shape=shape, dynamic_dims=groups)
    if len(set(groups)) < len(groups):
        with pytest.raises(ConvertError, match="E10039"):
            shapes_of(options, {})
        return
    shapes = shapes_of(options, {})
    assert shapes.gears is not None
    assert shapes.gears.input_shape(inputs(shapes), shapes.batch) == shape
    assert shapes.gears.flags(inputs(shapes)) == {"dynamic_dims": dims}
    shapes.gears.check(inputs(shapes))


def test_the_other_kinds() -> None:
    batches = shapes_of(Options(dynamic_batch_size=(1, 4)), FOUND)
    assert (batches.inputs, batches.gears and batches.gears.batch) == ({"x": (4, 3, 8, 8)}, (1, 4))
    typed = Options(input_shape="x:-1,3,8,8", dynamic_batch_size=(1, 4))
    assert shapes_of(typed, {}) == batches
    images = shapes_of(Options(dynamic_image_size=((8, 8), (6, 10))), FOUND)
    assert images.inputs == {"x": (1, 3, 6, 10)}
    assert shapes_of(Options(input_shape="x:1,3,-1,-1", dynamic_image_size=((8, 8), (6, 10))), {}) == images
    ranged = shapes_of(Options(input_shape="ids:1~8,4~32;mask:1~8,4~32"), {})
    assert ranged.gears is not None
    assert ranged.gears.range == {"batch": "1~8", "dim1": "4~32"}
    assert ranged.gears.input_shape(inputs(ranged), 1) == "ids:1~8,4~32;mask:1~8,4~32"
    assert shapes_of(Options(input_shape="a:2,3;b:2x4"), FOUND) == Shapes({"a": (2, 3), "b": (2, 4)})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(input_shape="x:-1,3,8,8"), "leaves a size open"),
        (Options(input_shape="x:1~4,-1"), "leaves a size open"),
        (Options(input_shape="x:0,3"), "no --input-shape"),
        (Options(input_shape="x:1,3;x:1,3"), "no --input-shape"),
        (Options(input_shape="x:1,3;y:2,3"), "different first sizes"),
        (Options(input_shape="x:1,-1;y:-1,3", dynamic_dims=((4, 4), (8, 8))), "different first sizes"),
        (Options(input_shape="x:1,3,8,8", dynamic_batch_size=(1, 2)), "E10031"),
        (Options(input_shape="x:-1,3,8,-1", dynamic_batch_size=(1, 2)), "E10018"),
        (Options(input_shape="x:-1,3,-1,-1", dynamic_image_size=((8, 8), (4, 4))), "E10019"),
        (Options(input_shape="x:1,3", dynamic_image_size=((8, 8), (4, 4))), "E10019"),
        (Options(dynamic_dims=((1,), (2,))), "one value for each -1"),
        (Options(input_shape="x:1,-1,-1", dynamic_dims=((1,), (2,))), "has 1 value"),
        (Options(dynamic_batch_size=(4,)), "E10035"),
        (Options(dynamic_batch_size=(4, 4)), "E10039"),
        (Options(input_shape="x:8~2,4"), "1~8"),
    ],
)
def test_what_is_refused(options: Options, says: str) -> None:
    with pytest.raises(ConvertError, match=says):
        shapes_of(options, FOUND)
