"""Specs: everything wrong in one is said with its line and the nearest valid word."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om.errors import SpecError
from pth2om.spec import line_of, load

GOOD = """\
task = "detection"

[source]
checkpoint = "net.pth"
num_classes = 4

[[inputs]]
name = "images"
shape = [3, 64, 96]

[export]
opsets = [17, 13]

[preprocess]
size = [64, 96]
resize = "letterbox"

[[slices]]
name = "boxes"
index = "..., :4"
kind = "boxes"

[[slices]]
name = "scores"
index = "..., 5:"
kind = "scores"

[variants]
precision = ["fp16", "int8"]
batch = [1, 4]

[[datasets]]
name = "shapes"
metric = "mAP50"

[gates]
drop = 1.0

[gates.slices.scores]
cosine = 0.999
"""


def write(folder: Path, text: str) -> Path:
    model = folder / "net"
    model.mkdir(exist_ok=True)
    (model / "model.toml").write_text(text, encoding="utf-8")
    return model


def test_a_good_spec(tmp_path: Path) -> None:
    spec = load(write(tmp_path, GOOD))
    assert spec.name == "net"
    assert [variant.name for variant in spec.variants] == ["fp16-bs1", "fp16-bs4", "int8-bs1", "int8-bs4"]
    assert spec.batches == (1, 4)
    assert spec.export.opsets == (17, 13)
    with pytest.raises(ValueError, match="frozen"):
        spec.task = "tensor"


@pytest.mark.parametrize(
    "written", [GOOD.encode(), b"\xef\xbb\xbf" + GOOD.encode(), GOOD.replace("\n", "\r\n").encode()]
)
def test_a_spec_keeps_the_bytes_it_was_read_from(tmp_path: Path, written: bytes) -> None:
    folder = write(tmp_path, "")
    (folder / "model.toml").write_bytes(written)
    spec = load(folder)
    assert spec.text.encode() == written
    assert spec.digest == hashlib.sha256(written).hexdigest()
    assert spec.at(spec.shapes[0]).digest == spec.digest


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("checkpoint = ", "chekpoint = ", 4, ["chekpoint", "Did you mean 'checkpoint'"]),
        ('task = "detection"', 'task = "detecton"', 1, ["Did you mean 'detection'"]),
        ("task =", "taks =", 1, ["Did you mean 'task'"]),
        ("shape = [3, 64, 96]", "shape = [3, -64, 96]", 9, ["inputs.0.shape.1", "-64"]),
        ("shape = [3, 64, 96]", 'shape = "3x64"', 9, ["inputs.0.shape"]),
        ("opsets = [17, 13]", "opsets = [21]", 12, ["21", "18"]),
        ('kind = "scores"', 'kind = "score"', 26, ["Did you mean 'scores'"]),
        ('index = "..., 5:"', 'indx = "..., 5:"', 25, ["Did you mean 'index'"]),
        ('precision = ["fp16", "int8"]', 'precision = ["fp16", "int9"]', 29, ["Did you mean 'int8'"]),
        ('metric = "mAP50"', 'metric = "map50"', 34, ["map50", "mAP50"]),
        ("drop = 1.0", "drop = -1.0", 37, ["gates.drop"]),
        ("cosine = 0.999", "cosin = 0.999", 40, ["Did you mean 'cosine'"]),
        ("num_classes = 4", "num_classes = 0", 5, ["num_classes"]),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, old: str, new: str, line: int, words: list[str]) -> None:
    assert old in GOOD
    model = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(SpecError) as caught:
        load(model)
    text = str(caught.value)
    assert text.startswith(f"{model / 'model.toml'}:{line}: ")
    for word in words:
        assert word in text
    assert caught.value.render("zh") != text


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("size = [64, 96]", "size = [64, 64]", "shape"),
        ("[gates.slices.scores]", "[gates.slices.score]", "score"),
        ("drop = 1.0", 'drop = 1.0\nreference_fps = { "fp16-bs2" = 10.0 }', "fp16-bs2"),
        ('checkpoint = "net.pth"', 'checkpoint = "net.pth"\nonnx = "net.onnx"', "not both"),
        ('checkpoint = "net.pth"', "", "the net alone"),
        ("batch = [1, 4]", "batch = [1, 1]", "twice"),
        # Scoring feeds images to one input: a second one would stay empty.
        ("[export]", '[[inputs]]\nname = "other"\nshape = [3, 64, 96]\n\n[export]', "nothing to other"),
        ("size = [64, 96]", "size = [64, 96]\nmean = [0.5, 0.5, 0.5]", "mean"),
    ],
)
def test_contradictions_are_named(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert old in GOOD
    with pytest.raises(SpecError, match=reason):
        load(write(tmp_path, GOOD.replace(old, new)))


@pytest.mark.parametrize("text", ["task = ", 'task = "a"\ntask = "b"', "[a\n", "\x00"])
def test_broken_toml_is_said_with_its_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError, match=r"model\.toml:\d+: "):
        load(write(tmp_path, text))


def test_other_things_that_are_not_a_spec(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="does not exist"):
        load(tmp_path / "nothing")
    model = write(tmp_path, "")
    (model / "model.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError):
        load(model)
    with pytest.raises(SpecError, match="folder's name"):
        load(write(tmp_path, 'name = "x"\n' + GOOD))


def test_variants_by_name(tmp_path: Path) -> None:
    text = GOOD.replace('[variants]\nprecision = ["fp16", "int8"]\nbatch = [1, 4]\n', "")
    spec = load(write(tmp_path, 'variants = ["int8-bs2", "fp16-bs1-aipp"]\n' + text))
    assert [(each.precision, each.batch, each.aipp) for each in spec.variants] == [
        ("int8", 2, False),
        ("fp16", 1, True),
    ]
    with pytest.raises(SpecError, match=r"model\.toml:1: .*like fp16-bs1"):
        load(write(tmp_path, 'variants = ["int8"]\n' + text))


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    model = write(tmp_path, "")
    (model / "model.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load(model).task == "detection"


@given(st.text(max_size=200), st.lists(st.one_of(st.text(max_size=5), st.integers(0, 3)), max_size=4))
def test_line_of_is_always_a_line(text: str, location: list[str | int]) -> None:
    assert 1 <= line_of(text, location) <= max(1, len(text.splitlines()))


@given(st.text(max_size=60), st.integers(0, len(GOOD)))
def test_mutated_specs_give_a_spec_or_a_spec_error(tmp_path_factory, text: str, at: int) -> None:
    model = write(tmp_path_factory.mktemp("spec"), GOOD[:at] + text + GOOD[at:])
    try:
        load(model)
    except SpecError as error:
        assert str(error)  # noqa: PT017 - loading may also succeed


@pytest.mark.parametrize(
    ("line", "en", "zh"),
    [
        ('skip = "head"', "'quantize.skip' = 'head': it must be a list: [...].", "应为列表：[...]"),
        ('images = "all"', "it must be an integer", "应为整数"),
        ("images = 0", "it must be at least 1", "不能小于 1"),
        ('max_drop = "1%"', "it must be a number", "应为数值"),
        ('random = "perhaps"', "it must be true or false", "应为 true 或 false"),
        ("config = 3", "it must be text in quotes", "应为带引号的文本"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told_in_the_readers_language(tmp_path: Path, line: str, en: str, zh: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(write(tmp_path, f"{GOOD}\n[quantize]\n{line}\n"))
    assert en in caught.value.render("en")
    assert zh in caught.value.render("zh")
