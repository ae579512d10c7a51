"""Gears in a spec: what they become for atc, their names, and what is refused when the spec is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.errors import SpecError
from pth2om.spec import Gears, Input, Spec, load
from pth2om.toolchain.emulator.front_end.flags import lex
from pth2om.toolchain.emulator.front_end.shapes import check_flags, check_gears

PICTURE = Input(name="x", shape=(3, 8, 8))
TEXT = tuple(Input(name=name, shape=(32,), dtype="int64", axes=("seq",)) for name in ("ids", "mask"))


def spec(tmp_path: Path, variants: str, inputs: str = 'name = "x"\nshape = [3, 8, 8]') -> Spec:
    folder = tmp_path / "m"
    folder.mkdir(exist_ok=True)
    head = f'task = "tensor"\n[source]\ncheckpoint = "a.pth"\n[[inputs]]\n{inputs}\n'
    (folder / "model.toml").write_text(f'{head}[[variants]]\nprecision = "fp16"\n{variants}\n')
    return load(folder)


def test_one_variant_a_gear(tmp_path: Path) -> None:
    found = spec(tmp_path, 'gears.batch = [1, 2, 4]\n[[variants]]\nprecision = "origin"\nbatch = 3')
    assert [variant.name for variant in found.variants] == [
        "fp16-gears1_2_4-bs1",
        "fp16-gears1_2_4-bs2",
        "fp16-gears1_2_4-bs4",
        "origin-bs3",
    ]
    assert {variant.om for variant in found.variants} == {"fp16-gears1_2_4", "origin-bs3"}
    assert [shape.name for shape in found.shapes] == ["bs3", "gears1_2_4-bs1", "gears1_2_4-bs2", "gears1_2_4-bs4"]
    assert found.batches == (3,)
    # What is checked again stays what it is.
    assert Spec.model_validate(found.model_dump()).variants == found.variants


def test_a_gear_changes_the_sizes_of_inputs_and_picture(tmp_path: Path) -> None:
    found = spec(tmp_path, "gears.image = [[8, 8], [6, 10]]\n[preprocess]\nsize = [8, 8]")
    second = found.variants[1]
    assert (second.name, second.shape.of(PICTURE)) == ("fp16-gears8x8_6x10-6x10", (1, 3, 6, 10))
    assert found.at(second.shape).inputs[0].shape == (3, 6, 10)
    assert found.at(second.shape).preprocess.size == (6, 10)
    assert second.twin.name == "fp16-bs1"


@pytest.mark.parametrize(
    ("gears", "inputs", "shape", "flags"),
    [
        (Gears(batch=(1, 8)), (PICTURE,), "x:-1,3,8,8", {"dynamic_batch_size": "1,8"}),
        (Gears(image=((8, 8), (6, 10))), (PICTURE,), "x:2,3,-1,-1", {"dynamic_image_size": "8,8;6,10"}),
        (Gears(dims=({"seq": 16}, {"seq": 32})), TEXT, "ids:2,-1;mask:2,-1", {"dynamic_dims": "16,16;32,32"}),
        (
            Gears(dims=({"batch": 1, "seq": 32}, {"seq": 16, "batch": 4})),
            TEXT,
            "ids:-1,-1;mask:-1,-1",
            {"dynamic_dims": "1,32,1,32;4,16,4,16"},
        ),
        (Gears(range={"batch": "1~8", "seq": "4 ~ 32"}), TEXT, "ids:1~8,4~32;mask:1~8,4~32", {}),
    ],
)
def test_what_atc_is_given(gears: Gears, inputs: tuple[Input, ...], shape: str, flags: dict[str, str]) -> None:
    assert (gears.input_shape(inputs, 2), gears.flags(inputs)) == (shape, flags)
    # The front end, written from ATC's sources, reads the same gears back.
    words = [f"--input_shape={shape}", *(f"--{name}={value}" for name, value in flags.items())]
    read = check_flags(lex(["--framework=5", "--input_format=NCHW", *words], "9.x"))
    check_gears(read)
    assert len(read.gears) == (len(gears.points) if flags else 0)


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ("gears.batch = [4]", "E10035"),
        ("gears.batch = [1, 2, 1]", "E10039"),
        ("gears.batch = [1, 2]\ngears.image = [[8, 8], [4, 4]]", "E10009"),
        ("gears.batch = [1, 2]\ngears.range = {batch = \"1~2\"}", "E10009"),
        (f"gears.batch = {list(range(1, 102))}", "E10036"),
        ("gears.dims = [{seq = 1}, {width = 2}]", "E10037"),
        ("gears.dims = [{seq = 1}, {seq = 2}]", "E10001"),
        ("gears.batch = [0, 2]", "1"),
        ("gears.range = {batch = \"8~1\"}", "1~8"),
        ("gears.range = {batch = \"-1\"}", "1~8"),
        ("gears = {}", "one of batch, image, dims and range"),
        ("gears.batch = [1, 2]\ngear = 1", "gear"),
        ("gears.dims = [{batch = 1}, {batch = 2}]\naipp = true", "E10001"),
        ("gears.range = {batch = \"1~2\"}\naipp = true", "gears.batch and gears.image only"),
        ("gears.batch = [1, 2]\n[[variants]]\nprecision = \"fp16\"\ngears.batch = [1, 2]", "listed twice"),
        ("gears.size = [1, 2]", "size"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, variants: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec(tmp_path, variants)
    assert said in caught.value.message.render()


def test_int8_and_aipp_go_with_gears(tmp_path: Path) -> None:
    found = spec(
        tmp_path, 'gears.batch = [1, 2]\n[[variants]]\nprecision = "int8"\ngears.image = [[8, 8], [4, 4]]\naipp = true'
    )
    assert [variant.name for variant in found.variants[2:]] == [
        "int8-gears8x8_4x4-8x8-aipp",
        "int8-gears8x8_4x4-4x4-aipp",
    ]


def test_image_gears_need_a_picture(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="E10019"):
        spec(tmp_path, "gears.image = [[8, 8], [4, 4]]", 'name = "x"\nshape = [8]')


def test_names_of_axes(tmp_path: Path) -> None:
    for axes, said in (('["a"]', "axes has 1 names"), ('["a", "a", "b"]', "differ"), ('["a", "batch", "b"]', "differ")):
        with pytest.raises(SpecError, match=said):
            spec(tmp_path, "", f'name = "x"\nshape = [3, 8, 8]\naxes = {axes}')
    plain = Input(name="x", shape=(3,)).model_dump(mode="json")
    assert "axes" not in plain  # the keys of what was stored before stay
    assert Input(name="x", shape=(3,), axes=("c",)).model_dump(mode="json")["axes"] == ["c"]


SIZES = st.lists(st.integers(1, 9999), min_size=2, max_size=100, unique=True)


@given(SIZES, SIZES)
def test_names_are_short_words_for_k_and_differ(one: list[int], other: list[int]) -> None:
    from _pytest.mark.expression import Expression

    names = [Gears(batch=tuple(sizes)).name for sizes in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    for name in names:
        word = f"fp16-{name}-bs1"
        assert len(name) <= 48
        assert Expression.compile(f"{word} and not int8").evaluate(word.__eq__)
