"""The sliding window against numbers of nnunetv2 (``data/README.md``), and that no more is kept than needed."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pth2om.errors import DataError
from pth2om.segmentation import window

DATA = Path(__file__).parent / "data"
TILE = (8, 6, 4)


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(DATA / "nnunet_window.npz") as data:
        return dict(data)


def network(tiles: np.ndarray) -> np.ndarray:
    ramp = np.linspace(0, 1, tiles.shape[-1], dtype=np.float32)
    means = tiles.mean(axis=(1, 2, 3, 4), keepdims=True, dtype=np.float64).astype(np.float32)
    return np.concatenate([tiles * ramp, tiles * tiles - np.float32(0.5) * means], axis=1)


def whole(volume: np.ndarray, **options) -> np.ndarray:
    pieces = list(window.slabs(volume, TILE, network, **options))
    assert [piece.start for piece in pieces] == list(np.cumsum([0, *(piece.scores.shape[1] for piece in pieces[:-1])]))
    return np.concatenate([piece.scores for piece in pieces], axis=1)


def test_200_windows_step_as_nnunetv2() -> None:
    lines = (DATA / "nnunet_steps.txt").read_text(encoding="ascii").splitlines()
    assert len(lines) == 200
    for line in lines:
        size, tile, step, wanted = line.split()
        found = window.steps([int(n) for n in size.split(",")], [int(n) for n in tile.split(",")], float(step))
        assert hashlib.sha256(json.dumps(found, separators=(",", ":")).encode()).hexdigest()[:16] == wanted, line


def test_weights_are_those_of_nnunetv2(reference: dict[str, np.ndarray]) -> None:
    assert np.array_equal(window.weights((12, 9, 5)), reference["gaussian_half"].astype(np.float32))
    assert np.abs(window.weights((12, 9, 5), half=False) - reference["gaussian_float"]).max() <= 1e-6
    assert window.weights((160, 3, 3)).min() > 0


@pytest.mark.parametrize(
    ("name", "options"),
    [("plain", {}), ("mirrored", {"mirror": (0, 1, 2)}), ("flat", {"gaussian": False, "step": 0.7})],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_maps_are_those_of_nnunetv2(reference: dict[str, np.ndarray], name: str, options: dict, batch: int) -> None:
    found = whole(reference["volume"], batch=batch, **options)
    assert np.abs(found - reference[name]).max() <= 1e-6


def test_small_volumes_are_padded_as_nnunetv2_pads(reference: dict[str, np.ndarray]) -> None:
    found = whole(np.ascontiguousarray(reference["volume"][:, :5, :, :3]))
    assert found.shape == reference["padded"].shape
    assert np.abs(found - reference["padded"]).max() <= 1e-6


def covering(whole: int, part: int, step: float) -> np.ndarray:
    """How many tiles cover each voxel of an axis; a short axis has one, padded."""
    places = window.steps([max(whole, part)], [part], step)[0]
    return np.array([sum(whole < part or at <= voxel < at + part for at in places) for voxel in range(whole)])


@given(st.integers(1, 20), st.integers(1, 9), st.integers(1, 20), st.integers(1, 9), st.floats(0.05, 1.0))
@settings(max_examples=60, deadline=None)
def test_what_a_pointwise_network_gives_is_kept(a: int, tile_a: int, b: int, tile_b: int, step: float) -> None:
    volume = np.random.default_rng(a * 31 + b).standard_normal((2, a, b)).astype(np.float32)
    pieces = window.slabs(volume, (tile_a, tile_b), lambda tiles: tiles * 3, step=step)
    found = np.concatenate([piece.scores for piece in pieces], axis=1)
    assert found.shape == volume.shape
    covers = [covering(whole, part, step) for whole, part in ((a, tile_a), (b, tile_b))]
    terms = np.outer(*covers)
    # n products are summed, n weights are summed, and the sums divided: at most 2n roundings of one sign's numbers.
    assert (np.abs(found - volume * 3) <= 2 * (terms + 1) * 2.0**-24 * np.abs(volume * 3)).all()


def test_labels_and_lost_voxels() -> None:
    volume = np.zeros((1, 6, 4, 4), dtype=np.float32)
    volume[0, 2] = 1
    volume[0, 5, 0, 0] = np.nan

    def scores(tiles: np.ndarray) -> np.ndarray:
        return np.concatenate([np.full_like(tiles, 0.5), tiles], axis=1)

    best, lost = window.labels(window.slabs(volume, (2, 4, 4), scores), (6, 4, 4))
    assert (best[2] == 1).all()
    assert lost == 1
    assert best[5, 0, 0] == -1
    assert np.count_nonzero(best == 0) == 6 * 16 - 16 - 1


def test_memory_does_not_grow_with_the_first_axis() -> None:
    def peak(depth: int) -> int:
        volume = np.zeros((1, depth, 24, 24), dtype=np.float32)
        tracemalloc.start()
        for _ in window.slabs(volume, (8, 24, 24), lambda tiles: np.repeat(tiles, 5, axis=1)):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    window.weights((8, 24, 24))
    assert peak(96) <= 1.05 * peak(24) + 20_000


@pytest.mark.parametrize(
    ("options", "shape", "key"),
    [
        ({"step": 0.0}, (1, 9, 9), "bad-step"),
        ({"mirror": (2,)}, (1, 9, 9), "bad-mirror"),
    ],
)
def test_wrong_windows_are_explained(options: dict, shape: tuple[int, ...], key: str) -> None:
    with pytest.raises(DataError) as caught:
        list(window.slabs(np.zeros(shape, np.float32), (3, 3), lambda tiles: tiles, **options))
    assert caught.value.message.key == f"segmentation.{key}"


def test_a_network_of_another_size_or_with_infinities_is_refused() -> None:
    volume = np.zeros((1, 9, 9), dtype=np.float32)
    with pytest.raises(DataError) as caught:
        list(window.slabs(volume, (4, 4), lambda tiles: tiles[..., :2]))
    assert caught.value.message.key == "segmentation.wrong-scores"
    with pytest.raises(DataError) as caught:
        list(window.slabs(volume, (4, 4), lambda tiles: tiles + np.float32(np.inf)))
    assert caught.value.message.key == "segmentation.infinite"
    assert window.steps((110,), (64,), 0.5) == [[0, 23, 46]]
