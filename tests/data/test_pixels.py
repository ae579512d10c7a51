"""Normalized values turned back into the bytes that AIPP takes, by format."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pth2om.data.pixels import PixelFed, unnormalized
from pth2om.data.preprocess import Preprocessor
from pth2om.errors import Absent
from pth2om.session import Provenance, TensorSpec
from pth2om.spec import Preprocess


class Taken:
    """Keeps what it is fed."""

    inputs = (TensorSpec("x", (2, 2, 4, 4), np.dtype(np.uint8)),)
    outputs = ()
    digest = "d"
    provenance = Provenance("emulator", "1", "emulated")

    def run(self, feeds: Any) -> Any:
        return dict(feeds)

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("color", "input_format", "x_first", "wanted"),
    [
        ("RGB", "RGB888_U8", False, [10, 20, 30]),
        ("BGR", "RGB888_U8", False, [30, 20, 10]),
        ("RGB", "XRGB8888_U8", False, [10, 20, 30, 0]),
        ("RGB", "XRGB8888_U8", True, [0, 10, 20, 30]),
        ("GRAY", "YUV400_U8", False, [10]),
        ("GRAY", "RGB888_U8", False, [10, 10, 10]),
        ("GRAY", "XRGB8888_U8", False, [10, 10, 10, 0]),
    ],
)
def test_bytes_of_a_pixel(color: Any, input_format: str, x_first: bool, wanted: list[int]) -> None:
    channels = 1 if color == "GRAY" else 3
    preprocess = Preprocess(size=(2, 4), color=color, scale=1.0, mean=(3.5,) * channels, std=(2.0,) * channels)
    fed = PixelFed(Taken(), preprocess, "x", input_format, x_first=x_first)
    assert fed.inputs[0].shape == (2, channels, 2, 4)
    pixel = (np.array([10.0, 20.0, 30.0])[:channels] - 3.5) / 2.0
    values = np.broadcast_to(pixel[None, :, None, None], (2, channels, 2, 4)).astype(np.float32)
    got = fed.run({"x": values})["x"]
    assert got.dtype == np.uint8
    assert got.shape == (2, 2, 4, len(wanted))
    assert (got == wanted).all()


def test_one_colour_for_four_pixels_cannot_be_made_of_values() -> None:
    with pytest.raises(Absent, match="YUV420SP"):
        PixelFed(Taken(), Preprocess(size=(2, 4)), "x", "YUV420SP_U8")


@pytest.mark.parametrize("input_format", ["RGB888_U8", "XRGB8888_U8"])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
@pytest.mark.parametrize("normalized", [{}, {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}])
def test_pixels_are_taken_in_the_place_of_their_values(color: Any, input_format: str, normalized: Any) -> None:
    preprocess = Preprocess(size=(300, 5), color=color, **normalized)
    fed = PixelFed(Taken(), preprocess, "x", input_format)
    assert fed.takes_pixels
    pixels = np.random.default_rng(0).integers(0, 256, (2, 300, 5, 3), np.uint8)
    values = np.stack([Preprocessor(preprocess).normalize(each) for each in pixels])
    assert np.array_equal(fed.run({"x": pixels})["x"], fed.run({"x": values})["x"])


@pytest.mark.parametrize(
    "further", [{"mean": (1e8, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}, {"color": "GRAY"}, {"extra": "sobel"}]
)
def test_pixels_that_do_not_come_back_from_their_values_are_not_taken(further: Any) -> None:
    assert not PixelFed(Taken(), Preprocess(size=(2, 4), **further), "x").takes_pixels


def test_large_values_are_turned_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    preprocess = Preprocess(size=(9, 4), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    values = np.random.default_rng(0).normal(0, 1, (2, 3, 9, 4)).astype(np.float32)
    whole = unnormalized(values, preprocess)
    wide = values.astype(np.float64) * np.reshape(preprocess.std, (3, 1, 1)) + np.reshape(preprocess.mean, (3, 1, 1))
    assert np.array_equal(whole, np.rint(wide * 255).clip(0, 255))
    monkeypatch.setattr("pth2om.data.pixels._AT_ONCE", 25)
    assert np.array_equal(unnormalized(values, preprocess), whole)
