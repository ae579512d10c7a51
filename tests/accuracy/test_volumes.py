"""Whole volumes through a session: counted as a plain loop counts, in every order of axes, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from pth2om.accuracy import volumes
from pth2om.accuracy.packed import unpack
from pth2om.data import Labelled, open_dataset
from pth2om.data.normalizing import Preparation
from pth2om.data.plans import Regions, read_dataset_json
from pth2om.data.resampling import Method, Resampling
from pth2om.data.volumes import Volume as Read
from pth2om.errors import DataError
from pth2om.session import Provenance, TensorSpec
from pth2om.spec import Channel, Volume

RAW = Preparation((Channel(normalization="none"),))


class Threshold:
    """Says class 1 where a voxel is above 1, class 2 above 2; takes windows of one shape, so many at once."""

    digest = "threshold"
    provenance = Provenance("a test", "1", "host")

    def __init__(self, tile: tuple[int, ...], batch: int = 1, classes: int = 3) -> None:
        shape = (batch, 1, *tile)
        self.inputs = (TensorSpec("x", shape, np.dtype("float32")),)
        self.outputs = (TensorSpec("y", (batch, classes, *tile), np.dtype("float32")),)
        self._shape, self._classes, self.fed = shape, classes, 0

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert feeds["x"].shape == self._shape
        self.fed += 1
        limits = np.arange(self._classes).reshape(1, -1, *[1] * (len(self._shape) - 2))
        return {"y": (-np.abs(feeds["x"] - limits)).astype(np.float32)}

    def close(self) -> None:
        pass


@pytest.fixture
def dataset(tmp_path: Path) -> Labelled:
    """Three volumes of classes themselves, and labels that differ from them in known places; the last is cropped."""
    folder = tmp_path / "own"
    for name in ("imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True)
    (folder / "dataset.toml").write_text('kind = "volumes"\nnames = ["background", "ball", "box"]\n')
    stream = np.random.default_rng(2)
    for number, size in enumerate(((6, 7, 5), (3, 4, 9), (8, 8, 8))):
        values = stream.integers(0, 3, size).astype(np.int16)
        if number == 2:
            values[:3] = 0
        truth = np.where(stream.random(size) < 0.2, stream.integers(0, 3, size), values).astype(np.uint8)
        np.save(folder / "imagesTs" / f"c{number}.npy", values)
        np.save(folder / "labelsTs" / f"c{number}.npy", truth)
    return open_dataset("own", calib_root=tmp_path)


def by_hand(dataset: Labelled) -> np.ndarray:
    found = []
    for number in range(len(dataset)):
        values, truth = dataset.volume(number).values[0], dataset.truth(number)
        found.append(
            [[(values == c).sum(), (truth == c).sum(), ((values == c) & (truth == c)).sum()] for c in range(3)]
        )
    return np.array(found)


@pytest.mark.parametrize("tile", [(4, 4, 4), (4, 4)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_counts_are_those_of_a_loop(
    dataset: Labelled, tile: tuple[int, ...], batch: int, transpose: tuple[int, ...]
) -> None:
    how = Preparation(RAW.channels, transpose=transpose)
    mirror = tuple(range(len(tile))) if batch == 1 else ()
    found = volumes.measure(Threshold(tile, batch), dataset, how, Volume(mirror=mirror), batch=batch)
    assert np.array_equal(unpack(found["counts"]), by_hand(dataset))
    assert found["classes"] == ["background", "ball", "box"]
    assert found["images"] == 3
    assert not unpack(found["nonfinite"]).any()


def test_scores_of_other_classes_and_labels_of_another_size_are_refused(dataset: Labelled) -> None:
    with pytest.raises(DataError) as caught:
        volumes.measure(Threshold((4, 4, 4), classes=5), dataset, RAW, Volume())
    assert caught.value.message.key == "accuracy.not-voxels"
    np.save(dataset.folder / "labelsTs" / "c1.npy", np.zeros((3, 4, 8), np.uint8))
    with pytest.raises(DataError) as caught:
        volumes.measure(Threshold((4, 4, 4)), dataset, RAW, Volume())
    assert caught.value.message.key == "data.volume-truth-size"


def test_progress_is_of_cases_and_of_a_single_case_of_windows(dataset: Labelled) -> None:
    seen: list[tuple[int, ...]] = []
    volumes.measure(Threshold((4, 4, 4)), dataset, RAW, Volume(), seen=lambda *done: seen.append(done))
    assert seen == [(1,), (2,), (3,)]
    one = open_dataset("own", calib_root=dataset.folder.parent, subset=1)
    seen.clear()
    session = Threshold((4, 4, 4))
    volumes.measure(session, one, RAW, Volume(), seen=lambda *done: seen.append(done))
    assert seen[-1] == (session.fed, session.fed)


class Overlapping(Threshold):
    """Three regions of labels 1..3: above 0, above 1, above 2; logits, as nnU-Net's heads without softmax."""

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": np.concatenate([feeds["x"] - limit for limit in (0.5, 1.5, 2.5)], axis=1).astype(np.float32)}


def test_regions_are_scored_one_by_one(tmp_path: Path) -> None:
    stream = np.random.default_rng(4)
    folder = tmp_path / "own"
    for name in ("imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True)
    values = stream.integers(0, 4, (6, 7, 5)).astype(np.int16)
    truth = np.where(stream.random(values.shape) < 0.3, stream.integers(0, 4, values.shape), values).astype(np.uint8)
    np.save(folder / "imagesTs" / "c.npy", values)
    np.save(folder / "labelsTs" / "c.npy", truth)
    (folder / "dataset.toml").write_text('kind = "volumes"\n')
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "deep": 3}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "regions_class_order": [1, 2, 3]}))
    regions = read_dataset_json(folder / "dataset.json").regions
    how = Preparation(RAW.channels, regions=regions)
    found = volumes.measure(Overlapping((4, 4, 4)), open_dataset("own", calib_root=tmp_path), how, Volume())
    for name, first in (("whole", 1), ("core", 2), ("deep", 3)):
        ours, theirs = values >= first, truth >= first
        dice = 200 * np.count_nonzero(ours & theirs) / (np.count_nonzero(ours) + np.count_nonzero(theirs))
        assert found["metrics"][f"dice:{name}"] == pytest.approx(dice)
    assert found["metrics"]["dice"] == pytest.approx(
        np.mean([found["metrics"][f"dice:{name}"] for name in ("whole", "core", "deep")])
    )
    # In another order the first head would paint over the others.
    wrong = Preparation(RAW.channels, regions=Regions(regions.names, regions.labels, (3, 2, 1)))
    assert (
        volumes.measure(Overlapping((4, 4, 4)), open_dataset("own", calib_root=tmp_path), wrong, Volume())["metrics"]
        != found["metrics"]
    )


def test_dice_is_of_the_volumes_own_grid(dataset: Labelled, monkeypatch: pytest.MonkeyPatch) -> None:
    """At twice the net's spacing the net sees eight voxels for one; the labels are compared as they lie."""
    plain = dataset.volume
    monkeypatch.setattr(dataset, "volume", lambda *which, **how: Read(plain(*which, **how).values, (2.0, 2.0, 2.0)))
    nearest = Resampling(Method(order=0), Method(order=0))
    how = Preparation(RAW.channels, spacing=(1.0, 1.0, 1.0), resampling=nearest)
    session = Threshold((4, 4, 4))
    found = volumes.measure(session, dataset, how, Volume(step=1.0))
    assert np.array_equal(unpack(found["counts"]), by_hand(dataset))
    cubes = [np.prod([-(-2 * side // 4) for side in size]) for size in ((6, 7, 5), (4, 4, 9), (5, 8, 8))]
    assert session.fed == sum(cubes)


def test_v1_adds_probabilities_where_windows_overlap() -> None:
    scores = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32) * 50
    found = volumes._probabilities(scores)
    assert np.abs(found - softmax(scores.astype(np.float64), axis=1)).max() <= 1e-6
