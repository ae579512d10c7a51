"""Volumes in nnU-Net's folders: read in its order of axes, or refused in a sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from pth2om.data import Labelled, open_dataset
from pth2om.data.volumes import IGNORED, read_file
from pth2om.errors import DataError

nibabel = pytest.importorskip("nibabel")


def nifti(path: Path, values: np.ndarray, spacing: tuple[float, ...] = (0.5, 1.0, 2.0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, np.diag([*spacing, 1.0]))
    nibabel.save(image, path)
    return path


def dataset(calib: Path, text: str = "", about: object = None) -> Labelled:
    folder = calib / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.toml").write_text(f'kind = "volumes"\n{text}')
    if about is not None:
        (folder / "dataset.json").write_text(json.dumps(about))
    return open_dataset("raw", calib_root=calib)


ABOUT = {"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}, "channel_names": {"0": "T1", "1": "T2"}}


def test_channels_labels_and_spacing(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(np.int16)
    truth = (values % 4).astype(np.uint8)
    for case in ("b", "a"):
        nifti(tmp_path / "raw/imagesTs" / f"{case}_0000.nii.gz", values)
        nifti(tmp_path / "raw/imagesTs" / f"{case}_0001.nii.gz", values * 2)
        nifti(tmp_path / "raw/labelsTs" / f"{case}.nii.gz", truth)
    found = dataset(tmp_path, about=ABOUT)
    assert [found.file(index) for index in range(2)] == ["a", "b"]
    assert (found.names, found.classes, found.has_volumes) == (("background", "a", "b"), 3, True)
    volume = found.volume(0)
    assert volume.values.shape == (2, 4, 3, 2)  # the file's last axis first, as nnU-Net has it
    assert np.array_equal(volume.values[1], 2 * values.transpose(2, 1, 0))
    assert volume.spacing == (2.0, 1.0, 0.5)
    labels = found.truth(0)
    assert np.array_equal(labels == IGNORED, truth.transpose(2, 1, 0) == 3)
    assert labels.max() == 2
    before = found.digest
    nifti(tmp_path / "raw/labelsTs" / "b.nii.gz", truth * 0)
    assert dataset(tmp_path).digest != before
    with pytest.raises(DataError) as caught:
        found.image(0)
    assert "[volume]" in str(caught.value)


def test_one_file_and_scaled_labels(tmp_path: Path) -> None:
    """A single volume beside its labels, which NIfTI keeps as numbers with a slope."""
    nifti(tmp_path / "raw/t1.nii.gz", np.ones((2, 2, 2), np.float32))
    image = nibabel.Nifti1Image(np.eye(2, dtype=np.float32)[None].repeat(2, 0), np.eye(4))
    image.header.set_data_dtype(np.uint8)
    nibabel.save(image, tmp_path / "raw/mask.nii.gz")
    found = dataset(tmp_path, 'images = "t1.nii.gz"\nlabels = "mask.nii.gz"\nclasses = 2')
    assert len(found) == 1
    assert found.truth(0).sum() == 4


@pytest.mark.parametrize(
    ("files", "labels", "key"),
    [
        ([], [], "data.absent"),
        (["a_0000", "a_0001", "b_0000"], ["a", "b"], "data.volume-channel"),
        (["a_0000", "b_0000"], ["a"], "data.volume-unlabelled"),
        (["a_0000", "a"], ["a"], "data.volume-twice"),
    ],
)
def test_folders_that_do_not_fit(tmp_path: Path, files: list[str], labels: list[str], key: str) -> None:
    for name in files:
        nifti(tmp_path / "raw/imagesTs" / f"{name}.nii.gz", np.ones((2, 2, 2), np.float32))
    for name in labels:
        nifti(tmp_path / "raw/labelsTs" / f"{name}.nii.gz", np.ones((2, 2, 2), np.uint8))
    with pytest.raises(DataError) as caught:
        dataset(tmp_path, "classes = 2")
    assert caught.value.message.key == key


@pytest.mark.parametrize(("value", "key"), [(5, "data.volume-label"), (0.5, "data.volume-label-fraction")])
def test_labels_of_no_class(tmp_path: Path, value: float, key: str) -> None:
    nifti(tmp_path / "raw/imagesTs/a_0000.nii.gz", np.ones((2, 2, 2), np.float32))
    nifti(tmp_path / "raw/labelsTs/a.nii.gz", np.full((2, 2, 2), value, np.float32))
    with pytest.raises(DataError) as caught:
        dataset(tmp_path, "classes = 2").truth(0)
    assert caught.value.message.key == key


def test_broken_files_are_a_sentence(tmp_path: Path) -> None:
    good = nifti(tmp_path / "good.nii", np.ones((2, 3, 4), np.float32)).read_bytes()
    cases = {
        "empty.nii": b"",
        "text.nii.gz": b"hello",
        "cut.nii": good[:360],
        "cut.nii.gz": gzip.compress(good)[:-20],
        "huge.nii": good[:40] + np.array([3, 30000, 30000, 30000, 1, 1, 1, 1], "<i2").tobytes() + good[56:],
        "noise.nii": bytes(range(256)) * 4,
        "object.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" + b" " * 60,
        "short.npy": b"\x93NUMPY\x01\x00",
    }
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_file(path)
        assert str(path) in str(caught.value), name
    np.save(tmp_path / "flat.npy", np.ones((3, 3)))
    nifti(tmp_path / "nan_0000.nii.gz", np.full((2, 2, 2), np.nan, np.float32))
    with pytest.raises(DataError) as caught:
        read_file(tmp_path / "flat.npy")
    assert caught.value.message.key == "data.volume-rank"


def test_a_volume_with_nan_is_refused(tmp_path: Path) -> None:
    nifti(tmp_path / "raw/imagesTs/a_0000.nii.gz", np.full((2, 2, 2), np.nan, np.float32))
    with pytest.raises(DataError) as caught:
        dataset(tmp_path, 'labels = ""\nclasses = 2').volume(0)
    assert caught.value.message.key == "data.volume-not-finite"


def test_without_nibabel_the_row_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pth2om.errors import Absent

    path = nifti(tmp_path / "a.nii.gz", np.ones((2, 2, 2), np.float32))
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    with pytest.raises(Absent) as caught:
        read_file(path)
    assert "pth2om[nifti]" in str(caught.value)


def test_volumes_are_turned_to_right_anterior_superior(tmp_path: Path) -> None:
    """Against indexing by hand: the file runs left, inferior, anterior."""
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    affine = np.array([[-1.0, 0, 0, 0], [0, 0, 2, 0], [0, -3, 0, 0], [0, 0, 0, 1]])
    (tmp_path / "a").mkdir()
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "a" / "t.nii.gz")
    found, spacing = read_file(tmp_path / "a" / "t.nii.gz", reorient=True)
    right_anterior_superior = values[::-1, ::-1].transpose(0, 2, 1)
    assert np.array_equal(found, right_anterior_superior.transpose(2, 1, 0))
    assert spacing == (3.0, 2.0, 1.0)
