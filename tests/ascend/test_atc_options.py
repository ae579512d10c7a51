"""The typed command line: order, defaults and round trips."""

from __future__ import annotations

import json
import pickle

from hypothesis import given
from hypothesis import strategies as st

from pth2om.ascend.atc_options import FLAGS, AtcOptions, shape_text

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


def test_shapes():
    assert shape_text({"images": (1, 3, None, 640), "size": ()}) == "images:1,3,-1,640;size:"


@given(
    st.dictionaries(st.sampled_from(TEXTS), st.text(st.characters(codec="utf-8", exclude_characters="\0"))),
    st.dictionaries(st.sampled_from(NUMBERS), st.integers(-(2**31), 2**31)),
    st.dictionaries(st.sampled_from(SWITCHES), st.booleans()),
)
def test_round_trips(texts, numbers, switches):
    options = AtcOptions(**{**dict.fromkeys(FLAGS), **texts, **numbers, **switches})
    assert AtcOptions.from_json(json.loads(json.dumps(options.to_json()))) == options
    assert pickle.loads(pickle.dumps(options)) == options
