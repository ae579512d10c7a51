"""The typed command line: order, round trips, and ATC's own spellings."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.ascend.atc_options import FLAGS, AtcOptions, shape_text
from pth2om.errors import AtcError

NUMBERS = [name for name in FLAGS if AtcOptions.__annotations__[name].startswith("int")]
SWITCHES = [name for name in FLAGS if AtcOptions.__annotations__[name].startswith("bool")]
TEXTS = [name for name in FLAGS if AtcOptions.__annotations__[name].startswith("str")]


def test_defaults_of_the_project():
    options = AtcOptions(model="m.onnx", output="out/m", soc_version="Ascend310B1")
    assert options.command_line() == [
        "atc",
        "--model=m.onnx",
        "--output=out/m",
        "--soc_version=Ascend310B1",
        "--framework=5",
        "--output_type=FP32",
        "--op_select_implmode=high_precision",
    ]


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--soc-version=Ascend310B1"], "soc_version", "Ascend310B1"),
        (["-framework", "5"], "framework", 5),
        (["--input_shape", "x:1,3,8,8;y:1"], "input_shape", "x:1,3,8,8;y:1"),
        (["--allow_hf32=true"], "allow_hf32", True),
        (["--mode=0", "--mode=3"], "mode", 3),
    ],
)
def test_spellings(words, name, value):
    assert getattr(AtcOptions.from_arguments(words), name) == value


@pytest.mark.parametrize("words", [["model.onnx"], ["--framework=five"], ["--allow_hf32=1"], ["--model"]])
def test_refused(words):
    with pytest.raises(AtcError) as caught:
        AtcOptions.from_arguments(words)
    assert str(caught.value)


def test_unknown_flags_are_kept():
    options = AtcOptions.from_arguments(["--model=m", "--brand_new=1", "--other", "2"])
    assert options.extra == ("--brand_new=1", "--other", "2")
    assert options.command_line()[-3:] == ["--brand_new=1", "--other", "2"]


def test_shapes():
    assert shape_text({"images": (1, 3, None, 640), "size": ()}) == "images:1,3,-1,640;size:"


@given(
    st.dictionaries(st.sampled_from(TEXTS), st.text(st.characters(codec="utf-8", exclude_characters="\0"))),
    st.dictionaries(st.sampled_from(NUMBERS), st.integers(-(2**31), 2**31)),
    st.dictionaries(st.sampled_from(SWITCHES), st.booleans()),
)
def test_round_trips(texts, numbers, switches):
    options = AtcOptions(**{**dict.fromkeys(FLAGS), **texts, **numbers, **switches})
    assert AtcOptions.from_arguments(options.command_line()[1:]) == options
    assert AtcOptions.from_json(json.loads(json.dumps(options.to_json()))) == options
    assert pickle.loads(pickle.dumps(options)) == options
