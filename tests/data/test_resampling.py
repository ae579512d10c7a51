"""Resampling, cropping, normalization and the way back against nnunetv2's own (``data/README.md``)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pth2om.data.normalizing import Preparation, Prepared, prepare
from pth2om.data.plans import DatasetJson, Plans, read_dataset_json, read_plans
from pth2om.data.resampling import Method, Resampling, resample, separate_axis, size_at
from pth2om.data.volumes import Volume
from pth2om.errors import DataError
from pth2om.segmentation import whole
from pth2om.segmentation.deciding import best_class, in_order
from pth2om.spec import Channel
from pth2om.spec import Volume as Table

CASES = range(6)


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data" / "nnunet_resampled.npz") as data:
        return {name: data[name] for name in data.files}


def case(
    reference: dict[str, np.ndarray], number: int, folder: Path
) -> tuple[Plans, DatasetJson, Preparation, Prepared]:
    about = json.loads(bytes(reference[f"{number}/about"]))
    for name in ("plans", "dataset"):
        (folder / f"{name}.json").write_text(json.dumps(about[name]), encoding="utf-8")
    plans, dataset = read_plans(folder / "plans.json"), read_dataset_json(folder / "dataset.json")
    how = Preparation(
        plans.channels, plans.transpose, plans.spacing, resampling=plans.resampling, regions=dataset.regions
    )
    volume = Volume(reference[f"{number}/volume"][None], tuple(about["spacing"]))
    return plans, dataset, how, prepare(volume, how)


@pytest.mark.parametrize("number", CASES)
def test_volumes_are_prepared_as_nnunetv2_prepares_them(
    reference: dict[str, np.ndarray], number: int, tmp_path: Path
) -> None:
    wanted = reference[f"{number}/prepared"]
    found = case(reference, number, tmp_path)[-1]
    assert found.values.shape[1:] == wanted.shape != found.inside
    assert np.abs(found.values[0] - wanted).max() <= 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("number", CASES)
def test_scores_come_back_to_the_labels_of_nnunetv2(
    reference: dict[str, np.ndarray], number: int, tmp_path: Path
) -> None:
    plans, dataset, how, prepared = case(reference, number, tmp_path)
    logits = reference[f"{number}/logits"].astype(np.float32)
    flat = len(plans.patch) == 2
    size = logits.shape[2:] if flat else logits.shape[1:]
    planes = iter(range(logits.shape[1]))

    def net(windows: np.ndarray) -> np.ndarray:  # one window is the whole volume, or one plane of it
        assert windows.shape[2:] == size
        return logits[None, :, next(planes)] if flat else logits[None]

    decide = best_class if dataset.regions is None else in_order(dataset.regions.order)
    found = whole.segment(prepared, size, net, Table(), resampling=how.resampling, decide=decide)
    back = [plans.transpose.index(axis) for axis in range(3)]
    assert np.array_equal(found.transpose(back), reference[f"{number}/labels"])


def test_the_recorded_cases_hold_every_kind(reference: dict[str, np.ndarray]) -> None:
    about = [json.loads(bytes(reference[f"{number}/about"])) for number in CASES]
    tables = [each["plans"]["configurations"]["c"] for each in about]
    assert {len(table["patch_size"]) for table in tables} == {2, 3}
    assert {table["resampling_fn_data"] for table in tables} == {
        "resample_data_or_seg_to_shape",
        "resample_torch_fornnunet",
    }
    assert {"regions_class_order" in each["dataset"] for each in about} == {True, False}
    spacings = [(each["spacing"], max(each["spacing"]) / min(each["spacing"])) for each in about]
    assert {ratio > 3 for _, ratio in spacings} == {True, False}


SPACING = st.sampled_from([0.5, 0.79, 1.0, 2.5, 5.0])


@given(st.lists(st.integers(2, 9), min_size=3, max_size=3), st.tuples(*[SPACING] * 3), st.tuples(*[SPACING] * 3))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("function", ["spline", "torch"])
def test_linear_ramps_stay_ramps(function: str, size: list[int], now: tuple, then: tuple) -> None:
    """Interpolation of any order but 0 keeps a straight line between its ends: checked against the formula itself."""
    method = Method(function, 1, separate_z=False)
    try:
        target = size_at(size, now, then, where="case")
    except DataError:
        assert min(round(old / new * side) for old, new, side in zip(now, then, size, strict=True)) < 1
        return
    slopes = np.array([1.0, -2.0, 3.0])
    found = resample(np.tensordot(slopes, np.indices(size), 1).astype(np.float32)[None], target, now, then, method)[0]
    places = []
    for old, new in zip(size, target, strict=True):
        places.append(np.clip(old / new * (np.arange(new) + 0.5) - 0.5, 0, old - 1))
    wanted = np.tensordot(slopes, np.stack(np.meshgrid(*places, indexing="ij")), 1)
    assert np.abs(found - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize(
    ("now", "then", "method", "axis"),
    [
        ((5.0, 1.0, 1.0), (1.0, 1.0, 1.0), Method(), 0),
        ((1.0, 1.0, 1.0), (1.0, 1.0, 5.0), Method(), 2),  # where the volume is even, the other spacing decides
        ((5.0, 1.0, 1.0), (1.0, 1.0, 5.0), Method(), 0),
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), Method(), None),  # three times is not yet coarse
        ((0.24, 1.25, 1.25), (1.0, 1.0, 1.0), Method(), None),  # two coarse axes are no stack of planes
        ((5.0, 1.0, 1.0), (1.0, 1.0, 1.0), Method(separate_z=False), None),
        ((1.0, 2.0, 1.0), (1.0, 1.0, 1.0), Method(separate_z=True), 1),
        ((3.0, 1.0, 1.0), (1.0, 1.0, 1.0), Method(threshold=2.0), 0),
    ],
)
def test_which_axis_is_taken_apart(now: tuple, then: tuple, method: Method, axis: int | None) -> None:
    assert separate_axis(now, then, method) == axis


def test_planes_along_a_coarse_axis_are_copies() -> None:
    values = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)
    found = resample(values, (8, 6, 6), (5.0, 1.0, 1.0), (2.5, 1.0, 1.0), Method())
    assert np.array_equal(found[0], values[0].repeat(2, axis=0))


def test_v1_normalizes_what_it_has_resampled() -> None:
    values = np.random.default_rng(0).standard_normal((1, 6, 7, 8)).astype(np.float32) * 9 + 50
    volume, even = Volume(values, (2.0, 1.0, 1.0)), (1.0, 1.0, 1.0)
    found = prepare(volume, Preparation((Channel(),), spacing=even, resampling=Resampling(first=True))).values
    assert found.shape == (1, 12, 7, 8)
    assert abs(float(found.mean(dtype=np.float64))) < 1e-5
    assert float(found.std(dtype=np.float64)) == pytest.approx(1, abs=1e-5)
    after = prepare(volume, Preparation((Channel(),), spacing=even)).values
    assert float(after.std(dtype=np.float64)) < 0.99  # interpolation has smoothed what was normalized before


@pytest.mark.parametrize("spacing", [(1e-30, 1.0, 1.0), (0.0, 1.0, 1.0), (1e30, 1.0, 1.0), (math.nan, 1.0, 1.0)])
def test_a_spacing_that_cannot_be_is_refused(spacing: tuple[float, ...]) -> None:
    volume = Volume(np.ones((1, 4, 4, 4), np.float32), spacing)
    with pytest.raises(DataError) as caught:
        prepare(volume, Preparation((Channel(),), spacing=(1.0, 1.0, 1.0)), where="case_7")
    assert caught.value.message.key == "data.resampled-size"
    assert "case_7" in str(caught.value)
