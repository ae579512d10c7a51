"""Cropping and normalization against nnU-Net v1 and v2 themselves (``data/README.md``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pth2om.data.normalizing import Preparation, prepare, window_of
from pth2om.data.volumes import Volume
from pth2om.errors import DataError
from pth2om.spec import Channel

CT = {"normalization": "ct", "mean": 310.5, "std": 100.25, "low": 120.0, "high": 500.0}
SCHEMES = {
    "zscore": {},
    "zscore-masked": {"masked": True},
    "ct": CT,
    "rescale01": {"normalization": "rescale01"},
    "none": {"normalization": "none"},
    "v1-nonCT": {},
    "v1-nonCT-masked": {"masked": True},
    "v1-CT-masked": {**CT, "masked": True},
}


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data" / "nnunet_normalized.npz") as data:
        return {name: data[name] for name in data.files}


@pytest.mark.parametrize("name", SCHEMES)
def test_as_nnunet_normalizes(reference: dict[str, np.ndarray], name: str) -> None:
    volume = Volume(reference["volume"], ())
    found = prepare(volume, Preparation((Channel(**SCHEMES[name]),)))
    assert [[part.start, part.stop] for part in found.box] == reference["box"].tolist()
    assert found.size == reference["volume"].shape[1:]
    assert np.abs(found.values - reference[name]).max() <= 2e-5 * np.abs(reference[name]).max()


def test_pixels_are_divided_by_255(reference: dict[str, np.ndarray]) -> None:
    inside = tuple(slice(low, high) for low, high in reference["box"])
    whole = np.zeros_like(reference["volume"])
    whole[(0, *inside)] = np.clip(reference["volume"][(0, *inside)], 0, 255)
    found = prepare(Volume(whole, ()), Preparation((Channel(normalization="rgb01"),), crop=False))
    assert np.array_equal(found.values[(slice(None), *inside)], reference["rgb01"])


def test_axes_are_taken_in_the_plans_order_and_nothing_of_the_input_changes() -> None:
    values = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4) + 1
    kept = values.copy()
    how = Preparation((Channel(normalization="none"),), transpose=(2, 0, 1), spacing=(3.0, 1.0, 2.0))
    found = prepare(Volume(values, (1.0, 2.0, 3.0)), how)
    assert found.size == (4, 2, 3)
    assert np.array_equal(found.values[0], values[0].transpose(2, 0, 1))
    prepare(Volume(values, ()), Preparation((Channel(),)))
    assert np.array_equal(values, kept)


def test_an_empty_volume_is_kept_whole() -> None:
    found = prepare(Volume(np.zeros((1, 3, 4, 5), np.float32), ()), Preparation((Channel(masked=True),)))
    assert found.values.shape == (1, 3, 4, 5)
    assert not found.values.any()


@pytest.mark.parametrize(
    ("volume", "how", "key"),
    [
        (Volume(np.ones((2, 3, 3, 3), np.float32), ()), Preparation((Channel(),)), "data.volume-channels"),
    ],
)
def test_what_the_net_was_not_trained_on_is_refused(volume: Volume, how: Preparation, key: str) -> None:
    with pytest.raises(DataError) as caught:
        prepare(volume, how, where="case_7")
    assert caught.value.message.key == key
    assert "case_7" in str(caught.value)


def test_the_middle_window() -> None:
    values = np.arange(4 * 6 * 5, dtype=np.float32).reshape(1, 4, 6, 5)
    prepared = prepare(Volume(values, ()), Preparation((Channel(normalization="none"),), crop=False))
    assert np.array_equal(window_of(prepared, (2, 2, 5))[0], values[0, 1:3, 2:4])
    assert np.array_equal(window_of(prepared, (2, 2))[0], values[0, 2, 2:4, 1:3])
    wide = window_of(prepared, (6, 6, 5))[0]
    assert np.array_equal(wide[1:5], values[0])
    assert not wide[0].any()
    assert not wide[5].any()
