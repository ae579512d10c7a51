"""A colour conversion keeps black, grey and white, or there is a finding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pth2om import aipp
from pth2om.aipp.arithmetic import convert
from pth2om.aipp.csc import RGB_TO_GREY, RGB_TO_YUV, STANDARDS, YUV_TO_BGR, YUV_TO_GREY, YUV_TO_RGB, Matrix, settings

TABLES = {
    "YUV420SP_U8": [*(table[name] for table in (YUV_TO_RGB, YUV_TO_BGR) for name in STANDARDS), YUV_TO_GREY],
    "RGB888_U8": [*RGB_TO_YUV.values(), RGB_TO_GREY],
    "XRGB8888_U8": list(RGB_TO_YUV.values()),
}


def config(form: str, matrix: Matrix, bias: tuple[int, int, int]) -> aipp.AippConfig:
    side = "input" if form.startswith("YUV") else "output"
    numbers = [f"matrix_r{r}c{c}: {value}" for r, row in enumerate(matrix) for c, value in enumerate(row)]
    numbers += [f"{side}_bias_{place}: {value}" for place, value in enumerate(bias)]
    size = "src_image_size_w: 16 src_image_size_h: 16 csc_switch: true"
    return aipp.parse_config(f"aipp_op {{ aipp_mode: static input_format: {form} {size} {' '.join(numbers)} }}")


def shifted(form: str, matrix: Matrix, bias: tuple[int, int, int]) -> bool:
    return "aipp.colour-shift" in [found.rule for found in aipp.findings(config(form, matrix, bias))]


@pytest.mark.parametrize("form", TABLES)
def test_every_matrix_of_the_guide_with_its_own_bias(form: str) -> None:
    for item in TABLES[form]:
        assert not shifted(form, item.matrix, item.bias), item


@pytest.mark.parametrize("form", ["YUV420SP_U8", "RGB888_U8"])
def test_every_matrix_with_the_bias_of_the_other_range(form: str) -> None:
    for item in TABLES[form]:
        if item.bias == (0, 0, 0):
            continue
        other = (0, 128, 128) if item.bias[0] else (16, 128, 128)
        assert shifted(form, item.matrix, other), item
        assert shifted(form, item.matrix, (item.bias[0], 0, 0)), item


@given(st.sampled_from(TABLES["YUV420SP_U8"][:8]), st.tuples(*[st.integers(0, 255)] * 3))
def test_found_exactly_where_grey_pictures_change(item, bias: tuple[int, int, int]) -> None:
    """The same question put to the arithmetic itself: is a grey picture still grey, black black and white white?"""
    op = config("YUV420SP_U8", item.matrix, bias).op(0)
    wanted = settings(op, (16, 16))
    kept = False
    for low, high in ((16, 235), (0, 255)):
        pixels = np.array([[[[low, 128, 128], [high, 128, 128]]]], np.uint8)
        black, white = convert(pixels, wanted, nearest=False)[0, 0].astype(int)
        near = bool((black <= 4).all() and (white >= 251).all())
        # Clipping hides how far beyond white a value lies: the unclipped sums are compared too.
        gain = (np.array(item.matrix) @ (np.array([high, 128, 128]) - np.array(bias))) >> 8
        dark = (np.array(item.matrix) @ (np.array([low, 128, 128]) - np.array(bias))) >> 8
        kept = kept or (near and bool((gain <= 259).all() and (dark >= -4).all()))
    assert shifted("YUV420SP_U8", item.matrix, bias) == (not kept)


@pytest.mark.parametrize(
    ("body", "rules"),
    [
        ("input_format: AYUV444_U8 resize: true", {"aipp.limit-resize", "aipp.unsupported-format"}),
        ("input_format: RAW10", {"aipp.unsupported-format"}),
        ("input_format: RGB888_U8 crop: true", {"aipp.crop-without-source"}),
        ("input_format: RGB888_U8 crop: true crop_size_w: 8 crop_size_h: 8", {"aipp.crop-without-source"}),
        ("input_format: RGB888_U8 crop: true src_image_size_w: 64 src_image_size_h: 64", set()),
    ],
)
def test_formats_of_no_aipp_and_crops_of_no_size(body: str, rules: set[str]) -> None:
    parsed = aipp.parse_config(f"aipp_op {{ aipp_mode: static {body} }}")
    assert {found.rule for found in aipp.findings(parsed, model_hw=(8, 8))} == rules
    refused = aipp.refusals(parsed, inputs=[("x", (1, 3, 8, 8))], soc="Ascend310B1")
    assert bool(refused) == bool(rules - {"aipp.crop-without-source"})
