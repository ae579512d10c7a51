"""Whole volumes through a session: counted as a plain loop counts, in every order of axes, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pth2om.accuracy import volumes
from pth2om.accuracy.packed import unpack
from pth2om.data import Labelled, open_dataset
from pth2om.data.normalizing import Preparation
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
