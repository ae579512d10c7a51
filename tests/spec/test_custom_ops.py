"""Declarations of custom operators: what they may say, and what follows for shapes and limits."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.ascend.custom_ops import broken_limits, find, output_shapes
from pth2om.errors import SpecError
from pth2om.spec import load
from pth2om.spec.custom_ops import evaluate, names

SPEC = """\
task = "tensor"
[source]
onnx = "m.onnx"
[[inputs]]
name = "x"
shape = [4]
[[custom_ops]]
domain = "acme"
op_type = "Gate"
inputs = [{ name = "x", dtypes = ["float32"], shape = "rows columns" }]
outputs = [{ name = "y", dtype = "float32", shape = "rows columns*2" }]
limits = [{ of = "columns", most = 64 }]
"""


def read(folder: Path, text: str) -> str:
    (folder / "model.toml").write_text(text, encoding="utf-8")
    try:
        load(folder)
    except SpecError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", ""),
        ("columns*2", "heads*2", "names 'heads', which is no size of an input"),
        ("columns*2", "columns**2", "is no size"),
        ("columns*2", "f(columns)", "is no size"),
        ('of = "columns"', 'of = "__import__"', "which is no size of an input"),
        (", most = 64", "", "needs most, least or multiple"),
        ('domain = "acme"', 'domain = "ai.onnx"', "a domain of its own"),
        ('domain = "acme"', 'domain = "a::b"', "custom_ops.0.domain"),
        ('["float32"]', '["float31"]', "'float31' is not a value"),
        ('"rows columns"', '"rows *"', "neither a name nor a number"),
        ('op_type = "Gate"', 'op_type = "Gate"\nstandard_opsets = [13, 8]', "13 is after 8"),
        ('op_type = "Gate"', 'op_type = "Gate"\nbody = "gate:f"', "custom_ops.0.body"),
        ("[source]", '[export]\nexporter = "dynamo"\n[source]', "needs [export] exporter"),
    ],
)
def test_a_wrong_declaration_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = SPEC.replace(old, new) if old else SPEC
    got = read(tmp_path, text)
    assert said in got, got
    assert bool(said) is bool(got), got


def test_an_operator_is_listed_once(tmp_path: Path) -> None:
    assert "is listed twice" in read(tmp_path, SPEC + SPEC[SPEC.index("[[custom_ops]]") :])


@given(st.text(max_size=30))
def test_no_text_becomes_code(text: str) -> None:
    try:
        found = list(names(text))
    except ValueError:
        with pytest.raises(ValueError, match="is no size"):
            evaluate(text, {})
        return
    value = evaluate(text, dict.fromkeys(found, 3))
    assert value is None or isinstance(value, int)


def test_expressions_are_whole_numbers() -> None:
    sizes = {"a": 7, "b": 2, "c": 0}
    assert [evaluate(text, sizes) for text in ("a*b+1", "(a-b)//b", "a//c", "d*2", "12")] == [15, 2, None, None, 12]
    assert evaluate("*".join(["a"] * 60), sizes) is None  # beyond any size


def test_shapes_and_limits_of_the_operator_that_comes_along() -> None:
    msda = find("npu", "MultiScaleDeformableAttn")
    assert msda is not None
    assert find("", "MultiScaleDeformableAttn") is msda
    assert find("other", msda.op_type) is None
    value, sampled = (2, 400, 8, 32), (2, 300, 8, 1, 4, 2)
    shapes = [value, (1, 2), (1,), sampled, sampled[:-1]]
    assert output_shapes(msda, shapes) == ([(2, 300, 256)], [])
    assert output_shapes(msda, [None, *shapes[1:]]) == ([(2, 300, -1)], [])
    assert output_shapes(msda, [(2, 400, 4, 32), *shapes[1:]])[1] != []  # heads differ
    assert broken_limits(msda, shapes) == []


@pytest.mark.parametrize(
    ("levels", "points", "heads", "embed", "broken"),
    [
        (8, 8, 8, 256, []),
        (5, 13, 8, 32, ["points*levels"]),
        (1, 4, 9, 32, ["heads"]),
        (1, 4, 8, 264, ["embed"]),
        (1, 4, 8, 36, ["embed"]),
        (13, 5, 16, 4, ["points*levels", "heads", "embed"]),
    ],
)
def test_each_limit_of_the_kernel(levels: int, points: int, heads: int, embed: int, broken: list[str]) -> None:
    msda = find("npu", "MultiScaleDeformableAttn")
    assert msda is not None
    weights = (1, 5, heads, levels, points)
    shapes = [(1, 99, heads, embed), (levels, 2), (levels,), (*weights, 2), weights]
    assert [name for name, _, _ in broken_limits(msda, shapes)] == broken
