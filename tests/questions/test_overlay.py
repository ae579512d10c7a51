from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from pth2om.questions import overlay as pictures

RNG = np.random.default_rng(7)


def opened(picture):
    data = pictures.encode(picture)
    assert len(data) <= pictures.MOST_BYTES
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def flat(height=240, width=320, colour=(128, 128, 128)):
    return np.full((height, width, 3), colour, dtype=np.uint8)


def coloured(pixels):
    """How many pixels are clearly not grey."""
    return int((pixels.max(axis=2) - pixels.min(axis=2) > 60).sum())


def test_one_panel_a_session_and_a_box_only_where_it_was_found():
    box = np.array([[40.0, 60.0, 200.0, 180.0]])
    none = np.zeros((0, 4))
    panels = [("PyTorch", box, ["cat"], [0.9]), ("OM (emulated)", none, [], [])]
    pixels = opened(pictures.draw_detections(flat(), panels))
    assert pixels.shape[1] == 320 * 2 + 6
    assert coloured(pixels[:, :320]) > 300
    assert coloured(pixels[:, 330:]) == 0


def test_a_box_lies_where_its_coordinates_say():
    box = [[80.0, 60.0, 240.0, 180.0]]
    pixels = opened(pictures.draw_detections(flat(), [("a", box, ["cat"], None)]))[22:, :320]
    edge = np.abs(pixels - 128).sum(axis=2) > 60
    assert edge[100:140, 79:84].any(axis=1).all()
    assert edge[100:140, 236:242].any(axis=1).all()
    assert not edge[100:140, 90:230].any()
    assert not edge[200:, :].any()


def test_the_same_class_has_the_same_colour_in_every_panel():
    box = [[80.0, 60.0, 240.0, 180.0]]
    first = opened(pictures.draw_detections(flat(), [("a", box, ["cat"], None), ("b", box, ["cat"], None)]))
    left, right = first[122, 80:82], first[122, 326 + 80 : 326 + 82]
    assert np.abs(left.mean(axis=0) - right.mean(axis=0)).max() < 40


def test_boxes_outside_inverted_and_not_finite():
    boxes = np.array([[-50, -50, 900, 900], [200, 180, 40, 60], [np.nan, 0, 1, 1], [np.inf, 0, 1, 1]])
    opened(pictures.draw_detections(flat(), [("a", boxes, list("abcd"), [0.1, np.nan, 0.3, 0.4])]))


def test_noise_of_any_size_stays_below_the_bound():
    noise = RNG.integers(0, 256, (600, 800, 3), dtype=np.uint8)
    panels = [(str(index), np.zeros((0, 4)), [], None) for index in range(4)]
    opened(pictures.draw_detections(noise, panels))
    opened(pictures.draw_classification([(noise, ["truth a", "OM b"])] * 12))
    assert len(pictures.encode(Image.fromarray(noise), 2_000)) <= 2_000


def test_without_webp_a_jpeg(monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    sheet = pictures.draw_detections(flat(), [("a", np.zeros((0, 4)), [], None)])
    assert pictures.encode(sheet).startswith(b"\xff\xd8\xff")
    opened(sheet)


def test_letters_the_font_lacks_become_numbers(monkeypatch):
    monkeypatch.setattr(pictures, "_cjk_font", lambda: None)
    names = pictures._Names(["cat", "人物", "椅子", "人物"])
    assert [names.of(word) for word in ("cat", "人物", "椅子")] == ["cat", "#2", "#3"]
    opened(pictures.draw_detections(flat(), [("人物", [[1, 2, 90, 80]], ["人物"], [0.5])]))
    opened(pictures.draw_classification([(flat(32, 32), ["人物", "\U0001f600", "\x1b[0m"])]))


def test_a_grid_of_classifications_has_all_its_tiles():
    tiles = [(flat(32, 32, (200, 20, 20)), ["truth cat", "PyTorch cat 0.51", "OM dog 0.50"])] * 7
    pixels = opened(pictures.draw_classification(tiles, columns=3))
    red = (pixels[:, :, 0] > 150) & (pixels[:, :, 1] < 80)
    assert red.sum() == pytest.approx(7 * 128 * 128, rel=0.03)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(ValueError, match="uint8"):
        pictures.draw_detections(image, [])


def test_boxes_without_labels_are_refused():
    with pytest.raises(ValueError, match="labels"):
        pictures.draw_detections(flat(), [("a", np.zeros((2, 4)), ["one"], None)])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.lists(st.text(max_size=12), max_size=4))
def test_any_size_and_any_names(height, width, labels):
    boxes = RNG.uniform(-10, 800, (len(labels), 4))
    opened(pictures.draw_detections(flat(height, width), [("a", boxes, labels, None)]))


@pytest.mark.parametrize("most", [110_000, 90_000, 75_000, 65_000, 60_000, 50_000, 20_000, 9_000])
def test_the_best_quality_that_fits(most):
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    picture = Image.fromarray(noise.repeat(2, 0).repeat(2, 1))
    sizes = {}
    for quality in pictures._QUALITIES:
        out = io.BytesIO()
        picture.save(out, "WEBP", quality=quality, method=2)
        sizes[quality] = out.getvalue()
    best = next((found for found in sizes.values() if len(found) <= most), None)
    found = pictures.encode(picture, most)
    assert len(found) <= most
    assert best is None or found == best
