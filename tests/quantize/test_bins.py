"""Calibration data: recipes with comments, batches in number order, wrong sizes named."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pth2om.errors import QuantizeError
from pth2om.quantize import bins
from pth2om.quantize import preprocessing as recipes
from pth2om.spec import Preprocess

RECIPE = """{
  # the workflow's own comments, with "quotes" and a # sign
  "det_pre_params": {
    "img_root": "images",      # relative to this file
    "fixed_scale": false,
    "batch_size": 2,
    "des_channels": 3, "des_height": 4, "des_width": 6, // size
    "is_BGR2RGB": %s,
    "means": [10, 20, 30], "stds": [2, 4, 5],
  }
}"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for number in (1, 2, 10):
        pixels = np.full((8, 12, 3), (number, 100, 200), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"im{number}.png")
    return tmp_path


@pytest.mark.parametrize(("rgb", "order"), [("true", [0, 1, 2]), ("false", [2, 1, 0])])
def test_recipe_with_comments_makes_the_batches_it_says(folder, rgb, order):
    (folder / "pre.json").write_text(RECIPE % rgb)
    recipe = recipes.read_recipe(folder / "pre.json")
    assert recipe.batch == 2
    batches = bins.ImageBatches(recipe.images, recipe.preprocess, recipe.batch)
    assert [path.name for path in batches.files] == ["im1.png", "im2.png", "im10.png"]
    first, second = list(batches)
    pixel = np.asarray([1, 100, 200], np.float32)[order]
    wanted = (pixel - [10, 20, 30]) / [2, 4, 5]
    assert np.allclose(first["input"][0, :, 0, 0], wanted)
    assert first["input"].shape == second["input"].shape == (2, 3, 4, 6)
    assert np.array_equal(second["input"][0], second["input"][1]), "the last batch is filled up"


def test_gray_and_unit_pixels(folder):
    table = {"des_channels": 1, "des_height": 4, "des_width": 4, "means": [0.5], "stds": [0.5], "fixed_scale": True}
    (folder / "pre.json").write_text(json.dumps({"x": {"det_pre_params": table}}))
    recipe = recipes.read_recipe(folder / "pre.json")
    assert [finding.rule for finding in recipe.findings] == ["bins.unit-pixels"]
    batch = next(iter(bins.ImageBatches(folder / "images", recipe.preprocess, 1)))["input"]
    assert batch.shape == (1, 1, 4, 4)
    assert -1 <= batch.min() <= batch.max() <= 1


@pytest.mark.parametrize(
    "change",
    [
        {"des_channels": 2},
        {"stds": [0, 1, 1]},
        {"means": [1, 2]},
        {"batch_size": 0},
        {"des_height": "4"},
        {"img_root": 3},
    ],
)
def test_wrong_values_are_named(tmp_path, change):
    table = {"des_height": 4, "des_width": 4, "means": [1, 2, 3], "stds": [1, 2, 3], **change}
    (tmp_path / "pre.json").write_text(json.dumps({"det_pre_params": table}))
    with pytest.raises(QuantizeError, match=next(iter(change))):
        recipes.read_recipe(tmp_path / "pre.json")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": 1}', '{"det_pre_params": 3}', "\x00"])
def test_what_is_no_recipe_is_refused(tmp_path, text):
    (tmp_path / "pre.json").write_text(text)
    with pytest.raises(QuantizeError):
        recipes.read_recipe(tmp_path / "pre.json")


def test_written_bins_sort_as_text_and_come_back(tmp_path):
    def batches():
        for number in range(12):
            yield {"a": np.full((2, 3), number, np.float32), "b/c": np.full((2, 1), number, np.int64)}

    written = bins.write_bins(batches(), tmp_path / "bins")
    assert written.batches == 12
    record = json.loads(written.record.read_text())
    assert record["inputs"][1] == {"name": "b/c", "folder": "b_c", "dtype": "int64", "shape": [2, 1]}
    assert not list((tmp_path / "bins").glob("*.json")), "amct_onnx takes every file of the folder for a batch"
    shapes = [bins.InputShape("a", (2, 3)), bins.InputShape("b/c", (2, 1), "int64")]
    back = bins.open_bins([tmp_path / "bins"], shapes)
    assert not back.findings
    assert len(back) == 12
    assert [int(batch["a"][0, 0]) for batch in back] == list(range(12))
    assert [int(batch["b/c"][0, 0]) for batch in back] == list(range(12))


def test_unpadded_names_are_read_in_number_order_with_a_warning(tmp_path):
    for number in (10, 2, 1):
        np.full((1, 2), number, np.float32).tofile(tmp_path / f"batch{number}.bin")
    back = bins.open_bins([tmp_path], [bins.InputShape("x", (None, 2))])
    assert [int(batch["x"][0, 0]) for batch in back] == [1, 2, 10]
    assert [finding.rule for finding in back.findings] == ["bins.text-order"]
    assert "batch2.bin" in str(back.findings[0].message)


@pytest.mark.parametrize(
    ("count", "dtype", "said"),
    [
        (0, "float32", "empty"),
        (3, "float16", "float16"),
        (3, "uint8", "uint8"),
        (12, "float32", "4 images"),
        (5, "uint8", "5 bytes"),
    ],
)
def test_wrong_sizes_are_named_with_a_guess(tmp_path, monkeypatch, count, dtype, said):
    monkeypatch.setenv("PTH2OM_LANG", "en")
    np.zeros((1, 3), np.float32).tofile(tmp_path / "batch_0.bin")
    np.zeros(count, dtype).tofile(tmp_path / "batch_1.bin")
    with pytest.raises(QuantizeError) as caught:
        bins.open_bins([tmp_path], [bins.InputShape("x", (1, 3))])
    assert "batch_1.bin" in str(caught.value)
    assert said in str(caught.value)


def test_uneven_inputs_and_used_folders_are_refused(tmp_path):
    for name, count in (("a", 2), ("b", 1)):
        (tmp_path / name).mkdir()
        for number in range(count):
            np.zeros(1, np.float32).tofile(tmp_path / name / f"{number}.bin")
    shapes = [bins.InputShape("a", (1,)), bins.InputShape("b", (1,))]
    with pytest.raises(QuantizeError, match="a: 2"):
        bins.open_bins([tmp_path], shapes)
    with pytest.raises(QuantizeError):
        bins.write_bins([{"x": np.zeros(1)}], tmp_path / "a")
    with pytest.raises(QuantizeError):
        bins.write_bins([{"x": np.zeros(1)}, {"x": np.zeros(2)}], tmp_path / "c")
    assert not (tmp_path / "c").exists()
    assert not list(tmp_path.glob(".c*"))


def test_the_record_beside_bins_is_held_against_the_model(tmp_path):
    bins.write_bins([{"x": np.zeros((1, 2), np.int32)}], tmp_path / "b")
    with pytest.raises(QuantizeError) as caught:
        bins.open_bins([tmp_path / "b"], [bins.InputShape("x", (1, 2))])
    assert caught.value.message.key == "bins.record-differs"
    assert len(bins.open_bins([tmp_path / "b"], [bins.InputShape("x", (1, 2), "int32")])) == 1


def test_writing_streams():
    """A thousand batches pass through without being held: each is gone before the next is made."""
    alive, most = set(), 0

    class Tracked(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def batches():
        nonlocal most
        for _ in itertools.repeat(None, 50):
            value = np.zeros((1, 4), np.float32).view(Tracked)
            alive.add(id(value))
            most = max(most, len(alive))
            yield {"x": value}
            del value

    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        bins.write_bins(batches(), Path(folder) / "out")
    assert most <= 3


def reference(picture, fixed_scale, channels, rgb, means, stds, size):
    """The workflow's preprocessing, written down anew: PIL, then one pixel formula."""
    height, width = size
    if fixed_scale:
        ratio = min(height / picture.height, width / picture.width)
        inner = (round(picture.width * ratio), round(picture.height * ratio))
        resized = Image.new("RGB", (width, height), (114, 114, 114))
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        resized.paste(picture.resize(inner, Image.Resampling.BILINEAR), (left, top))
    else:
        resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    if channels == 1:
        planes = np.asarray(resized.convert("L"), np.float64)[None]
    else:
        planes = np.moveaxis(np.asarray(resized, np.float64), 2, 0)
        planes = planes if rgb else planes[::-1]
    column = (-1, 1, 1)
    return (planes - np.reshape(means, column)) / np.reshape(stds, column)


@pytest.mark.parametrize("fixed_scale", [True, False])
@pytest.mark.parametrize(("channels", "rgb"), [(3, True), (3, False), (1, True)])
def test_pixels_are_those_of_an_independent_preprocessing(tmp_path, fixed_scale, channels, rgb):
    pixels = np.random.default_rng(0).integers(0, 256, (11, 17, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    means, stds = ([103.5, 116.3, 123.7][:channels], [57.4, 57.1, 58.4][:channels])
    table = {
        "fixed_scale": fixed_scale, "des_channels": channels, "des_height": 20, "des_width": 24,
        "is_BGR2RGB": rgb, "means": means, "stds": stds,
    }  # fmt: skip
    (tmp_path / "pre.json").write_text(json.dumps({"det_pre_params": table}))
    recipe = recipes.read_recipe(tmp_path / "pre.json")
    (batch,) = bins.ImageBatches(tmp_path, recipe.preprocess, 1)
    wanted = reference(Image.fromarray(pixels), fixed_scale, channels, rgb, means, stds, (20, 24))
    assert np.abs(batch["input"][0] - wanted).max() < 1e-5


def key_of(call, *arguments):
    with pytest.raises(QuantizeError) as caught:
        call(*arguments)
    assert str(caught.value)
    return caught.value.message.key


def test_a_record_of_another_shape_is_refused_though_the_sizes_agree(tmp_path):
    bins.write_bins([{"x": np.zeros((1, 4, 4, 3), np.float32)}], tmp_path / "b")
    assert key_of(bins.open_bins, [tmp_path / "b"], [bins.InputShape("x", (1, 3, 4, 4))]) == "bins.record-differs"
    assert key_of(bins.open_bins, [tmp_path / "b"], [bins.InputShape("x", (None, 3, 4, 4))]) == "bins.record-differs"
    back = bins.open_bins([tmp_path / "b"], [bins.InputShape("x", (None, None, None, 3))])
    assert back.inputs[0].shape == (1, 4, 4, 3), "the record fills what sizes alone cannot tell"


def test_folders_are_matched_by_name_and_records_by_input(tmp_path):
    shapes = [bins.InputShape("left/a", (1, 2)), bins.InputShape("b", (1, 2)), bins.InputShape("ids", (2,), "int64")]

    def batches():
        for number in range(3):
            pair = np.full((1, 2), number, np.float32)
            yield {"left/a": pair, "b": pair + 10, "ids": np.full(2, number + 20)}

    bins.write_bins(batches(), tmp_path / "all")
    places = [tmp_path / "all" / name for name in ("left_a", "b", "ids")]
    for order in itertools.permutations(places):
        back = bins.open_bins(order, shapes)
        assert back.folders == places
        first = next(iter(back))
        assert [int(first[name].flat[0]) for name in ("left/a", "b", "ids")] == [0, 10, 20]
    for name in ("left_a", "b", "ids"):
        (tmp_path / "all" / name).rename(tmp_path / "all" / f"{name}_copy")
        bins.write_bins(({"b": batch["b"]} for batch in batches()), tmp_path / "own" / name)
    wrong = [tmp_path / "own" / "left_a", *places[1:]]
    assert key_of(bins.open_bins, [wrong[0], tmp_path / "own" / "b", tmp_path / "all" / "ids_copy"], shapes) == (
        "bins.other-input"
    )


def test_inputs_whose_names_become_the_same_folder_stay_apart(tmp_path):
    names = ["a/b", "a_b", "a:b"]
    bins.write_bins([{name: np.full(2, n, np.float32) for n, name in enumerate(names)}], tmp_path / "b")
    back = bins.open_bins([tmp_path / "b"], [bins.InputShape(name, (2,)) for name in names])
    assert [batch[name][0] for batch in back for name in names] == [0, 1, 2]


def test_a_file_in_the_records_place_is_not_overwritten(folder):
    (folder / "pre.json").write_text(RECIPE % "true")
    recipe = recipes.read_recipe(folder / "pre.json")
    batches = bins.ImageBatches(folder / "images", recipe.preprocess, 2)
    assert key_of(bins.write_bins, batches, folder / "pre") == "bins.record-in-the-way"
    assert (folder / "pre.json").read_text() == RECIPE % "true"
    assert not (folder / "pre").exists()
    record = json.loads(bins.write_bins(batches, folder / "out").record.read_text())
    assert record["images"] == ["im1.png", "im2.png", "im10.png"]
    assert bins.open_bins([folder / "out"], [bins.InputShape("x", (2, 3, 4, 6))], 1).images == ["im1.png", "im2.png"]


def test_a_full_disk_is_told_in_words(tmp_path, monkeypatch):
    class Full(np.ndarray):
        def tofile(self, *_):
            raise OSError("24 requested and 8 written")

    monkeypatch.setattr(np, "ascontiguousarray", lambda array: array.view(Full))
    with pytest.raises(QuantizeError, match="8 written"):
        bins.write_bins([{"x": np.zeros(6, np.float32)}], tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_what_else_lies_in_the_folder_is_named(tmp_path, folder):
    shape = [bins.InputShape("x", (2,))]
    (tmp_path / "b").mkdir()
    np.zeros(2, np.float32).tofile(tmp_path / "b" / "0.bin")
    np.save(tmp_path / "b" / "1.npy", np.zeros(2))
    (finding,) = bins.open_bins([tmp_path / "b"], shape).findings
    assert finding.rule == "bins.other-files"
    assert "1.npy" in str(finding.message)
    (tmp_path / "b" / "0.bin").unlink()
    assert key_of(bins.open_bins, [tmp_path / "b"], shape) == "bins.only-arrays"
    assert key_of(bins.open_bins, [folder / "images"], shape) == "bins.only-images"


def test_images_in_one_folder_per_class_are_taken_in_turn(tmp_path):
    for name in ("n1/2.png", "n1/10.png", "n2/1.png", "n2/deep/3.png", ".hidden/4.png"):
        (tmp_path / "i" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "i" / name)
    batches = bins.ImageBatches(tmp_path / "i", Preprocess(size=(4, 4)), 1)
    assert batches.images == ["n1/2.png", "n2/1.png", "n1/10.png", "n2/deep/3.png"]
    assert [finding.rule for finding in batches.findings] == ["bins.sub-folders"]
    Image.new("RGB", (4, 4)).save(tmp_path / "i" / "top.png")
    batches = bins.ImageBatches(tmp_path / "i", Preprocess(size=(4, 4)), 1)
    assert batches.images == ["top.png"]
    assert [finding.rule for finding in batches.findings] == ["bins.sub-folders-unread"]


@pytest.mark.parametrize(
    ("shapes", "key"),
    [
        ([bins.InputShape("x", (1, 3, 4, 6))], None),
        ([bins.InputShape("x", (None, None, None, None))], None),
        ([bins.InputShape("x", (1, 3, 6, 4))], "bins.recipe-differs"),
        ([bins.InputShape("x", (1, 1, 4, 6))], "bins.recipe-differs"),
        ([bins.InputShape("x", (1, 4, 6, 3))], "bins.recipe-differs"),
        ([bins.InputShape("x", (1, 72))], "bins.recipe-differs"),
        ([bins.InputShape("x", (1, 3, 4, 6), "uint8")], "bins.recipe-differs"),
        ([bins.InputShape("x", (1, 3, 4, 6)), bins.InputShape("y", (1,))], "bins.one-input"),
    ],
)
def test_a_recipe_that_does_not_fit_the_model_is_refused(shapes, key):
    preprocess = Preprocess(size=(4, 6))
    if key is None:
        assert bins.image_input(shapes, preprocess, "r").name == "x"
    else:
        assert key_of(bins.image_input, shapes, preprocess, "r") == key


def test_the_command_writes_beside_the_current_folder(folder, monkeypatch, capsys):
    from pth2om import cli

    monkeypatch.setenv("PTH2OM_LANG", "en")
    (folder / "pre.json").write_text(RECIPE % "true")
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    assert cli.main(["bins", "--preprocess", "../pre.json", "-o", "."]) == 0
    assert sorted(path.name for path in (folder / "here").iterdir()) == ["batch_0000.bin", "batch_0001.bin"]
    assert (folder / "here.json").is_file()
    assert cli.main(["bins", "--preprocess", "../pre.json", "-o", "b", "--batch", "0"]) == 1
    assert "'--batch' = 0" in capsys.readouterr().err
    assert cli.main(["bins", "../images", "--preprocess", "../pre.json", "-o", "b", "--batch", "1"]) == 0
    assert "3 batches of 1x3x4x6" in capsys.readouterr().out
    shape = [bins.InputShape("x", (1, 3, 4, 6))]
    assert len(bins.open_bins([bins.Path("b")], shape)) == 3
    monkeypatch.chdir("b")
    assert len(bins.open_bins([bins.Path()], shape)) == 3


def test_a_batch_beyond_memory_and_a_scalar_of_the_wrong_size_are_refused(folder):
    preprocess = Preprocess(size=(65536, 65536))
    assert key_of(bins.ImageBatches, folder / "images", preprocess, 1) == "bins.batch-too-large"
    (folder / "b").mkdir()
    np.zeros(3, np.float32).tofile(folder / "b" / "0.bin")
    assert key_of(bins.open_bins, [folder / "b"], [bins.InputShape("x", ())]) == "bins.wrong-size"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 99999) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
_KEYS = (
    "img_root",
    "fixed_scale",
    "batch_size",
    "des_channels",
    "des_height",
    "des_width",
    "is_BGR2RGB",
    "means",
    "stds",
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(_KEYS), _JSON))
def test_no_recipe_fails_otherwise_than_in_words(tmp_path, table):
    (tmp_path / "pre.json").write_text(json.dumps({"det_pre_params": {"des_height": 4, "des_width": 4, **table}}))
    try:
        recipe = recipes.read_recipe(tmp_path / "pre.json")
    except QuantizeError:
        return
    assert recipe.batch >= 1
    assert len(recipe.preprocess.mean) == len(recipe.preprocess.std) == recipes.image_shape(recipe.preprocess)[0]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(_JSON | st.fixed_dictionaries({"batches": st.just(1), "inputs": st.lists(st.fixed_dictionaries(
    {"shape": st.lists(_JSON, max_size=3)}, optional={"dtype": _JSON, "name": _JSON, "folder": _JSON}), max_size=2)},
    optional={"images": _JSON}))  # fmt: skip
def test_no_record_fails_otherwise_than_in_words(tmp_path, record):
    (tmp_path / "b").mkdir(exist_ok=True)
    np.zeros(2, np.float32).tofile(tmp_path / "b" / "0.bin")
    (tmp_path / "b.json").write_text(json.dumps(record))
    try:
        assert len(bins.open_bins([tmp_path / "b"], [bins.InputShape("x", (None, 2))])) == 1
    except QuantizeError:
        return
