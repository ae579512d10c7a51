"""Normalized values turned back into the bytes that AIPP takes, by format."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pth2om.data.pixels import PixelFed
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
