"""Calibration data: recipes with comments, batches in number order, wrong sizes named."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from pth2om.errors import QuantizeError
from pth2om.quantize import bins
from pth2om.quantize import recipe as recipes

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
