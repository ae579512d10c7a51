"""The one reader of input shapes: its grammar, its errors, and that everyone who reads shapes agrees."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om import cli
from pth2om.ascend.shapes import ShapeError, given_shapes, range_shapes, static_shapes
from pth2om.toolchain.emulator.front_end.shapes import parse_ranges, parse_static
from pth2om.toolchain.emulator.front_end.texts import AtcRefusedError

TEXTS = st.text(st.sampled_from("x:;,~-+1234567890.[] ab"), max_size=40)


def test_static_shapes() -> None:
    assert static_shapes("images:1,3,640,640; a:b:2;s:") == {"images": (1, 3, 640, 640), "a:b": (2,), "s": ()}
    assert static_shapes("x:-1,3", open_sizes=True) == {"x": (-1, 3)}


def test_ranges() -> None:
    assert range_shapes("x:1~8,3,-1,5~5;s:") == {"x": ((1, 8), (3, 3), (0, -1), (5, 5)), "s": ()}
    assert range_shapes("x:[1~8,3]", brackets=True) == {"x": ((1, 8), (3, 3))}
    assert given_shapes("x:1~8,3;y:2,5~5") == {"x": (-1, 3), "y": (2, 5)}
    assert given_shapes(" ") == {}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("x", "no-name"),
        ("1,3,640,640", "no-name"),
        ("x:1,3;", "empty-entry"),
        ("x:1.5", "float"),
        ("x:+1,3", "not-digits"),
        ("x:1x3x640x640", "not-digits"),
        ("x:[1,3,640,640]", "not-number"),
        ("x:n,3", "not-number"),
        ("x:99999999999999999999", "too-large"),
        ("x:0", "not-positive"),
        ("x:-2", "not-positive"),
        ("x:[1~8,3]", "letters"),
        ("x:1~2~3", "range-form"),
        ("x:8~1", "range-form"),
        ("x:1~,3", "range-number"),
        (":1~2", "empty-name"),
    ],
)
def test_what_is_wrong_is_named(text: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ShapeError) as refused:
        given_shapes(text)
    assert refused.value.kind == kind
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)
    if "~" not in text:
        assert cli.main(["fix", "absent.onnx", f"--input-shape={text}"]) == 1
        assert refused.value.message.render() in capsys.readouterr().err


@given(TEXTS)
def test_the_front_end_reads_what_the_others_read(text: str) -> None:
    for parse, read in ((parse_static, static_shapes), (parse_ranges, range_shapes)):
        try:
            expected = read(text)
        except ShapeError:
            with pytest.raises(AtcRefusedError):
                parse(text)
        else:
            assert parse(text) == expected
