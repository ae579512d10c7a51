"""Datasets of arrays: one array an input, rows padded to the input's shape, a filled up last batch not counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pth2om.accuracy import measure
from pth2om.data import open_dataset
from pth2om.data.arrays import array_batches, row_of
from pth2om.data.labelled import Labelled
from pth2om.data.samples import samples
from pth2om.errors import DataError, SpecError
from pth2om.session import Provenance, TensorSpec
from pth2om.spec import Input, Postprocess, Spec, load

IDS = Input(name="ids", shape=(4,), dtype="int64", axes=("seq",))
MASK = Input(name="mask", shape=(4,), dtype="float32")


def dataset(folder: Path, **arrays: Any) -> Labelled:
    place = folder / "texts"
    place.mkdir(exist_ok=True)
    (place / "dataset.toml").write_text('kind = "arrays"\nfile = "t.npz"\nnames = ["no", "yes"]\n')
    np.savez(place / "t.npz", **arrays)
    return open_dataset("texts", calib_root=folder)


def five(folder: Path) -> Labelled:
    ids = np.arange(15).reshape(5, 3)
    return dataset(folder, ids=ids, mask=np.ones((5, 3), np.float32), y=np.array([0, 1, 0, 1, 1]))


class FirstOdd:
    """Answers "yes" where the first token is odd; shows what it was fed."""

    inputs = (TensorSpec("ids", (2, 4), np.dtype(np.int64)), TensorSpec("mask", (2, 4), np.dtype(np.float32)))
    outputs = (TensorSpec("y", (2, 2), np.dtype(np.float32)),)
    digest = "d"
    provenance = Provenance("onnxruntime", "1", "host")

    def __init__(self) -> None:
        self.fed: list[dict[str, Any]] = []

    def run(self, feeds: Any) -> dict[str, Any]:
        self.fed.append(feeds)
        odd = feeds["ids"][:, 0] % 2
        return {"y": np.stack([1 - odd, odd], 1).astype(np.float32)}

    def close(self) -> None: ...


def test_rows_are_padded_with_zeros_and_the_last_batch_is_not_counted(tmp_path: Path) -> None:
    found = five(tmp_path)
    session = FirstOdd()
    measured = measure(
        session,
        found,
        None,
        Postprocess(),
        batch=2,
        source=lambda: array_batches(found, (IDS, MASK), 2),
    )
    assert measured["images"] == 5
    # First tokens are 0, 3, 6, 9, 12: the last is "no" where "yes" is right. Its copy in the sixth row is not counted.
    assert measured["metrics"]["top1"] == 80.0
    assert [fed["ids"].tolist() for fed in session.fed] == [
        [[0, 1, 2, 0], [3, 4, 5, 0]],
        [[6, 7, 8, 0], [9, 10, 11, 0]],
        [[12, 13, 14, 0], [12, 13, 14, 0]],
    ]
    assert all(fed["mask"].dtype == np.float32 and fed["mask"][0].tolist() == [1, 1, 1, 0] for fed in session.fed)


def test_real_rows_of_all_inputs_are_compared(tmp_path: Path) -> None:
    spec = Spec.model_construct(inputs=(IDS, MASK), preprocess=None, volume=None)
    drawn = samples(spec, five(tmp_path), batch=1, seed=0, real=2, random=0, zeros=0)
    assert [sample.feeds["ids"].tolist() for sample in drawn] == [[[0, 1, 2, 0]], [[6, 7, 8, 0]]]
    assert drawn.names[0] == "real-0 (t.npz[0])"


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (Input(name="other", shape=(4,)), "no array 'other'; it has: ids, mask"),
        (Input(name="ids", shape=(2,), dtype="int64"), "at most 2"),
        (Input(name="ids", shape=(4, 1), dtype="int64"), "at most 4x1"),
        (Input(name="mask", shape=(4,), dtype="int64"), "takes int64"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, entry: Input, says: str) -> None:
    with pytest.raises(DataError, match=says):
        row_of(five(tmp_path), entry, 0)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"y": np.zeros(2, int)}, "input"),
        ({"ids": np.zeros((2, 3)), "mask": np.zeros((3, 3))}, "same number of rows"),
        ({"ids": np.array(["a", "b"])}, "of numbers"),
        ({"ids": np.zeros((2, 3)), "y": np.zeros(3, int)}, "3"),
        ({"ids": np.zeros((2, 3)), "y": np.zeros(2)}, "float64"),
        ({"ids": np.zeros((2, 3)), "y": np.array([0, 2])}, "2"),
        ({"ids": np.array([None, {}], dtype=object)}, "unreadable|cannot be read|Object arrays"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        dataset(tmp_path, **arrays)


def test_a_spec_says_that_its_dataset_holds_arrays(tmp_path: Path) -> None:
    head = 'task = "tensor"\n[source]\ncheckpoint = "a.pth"\n'
    inputs = '[[inputs]]\nname = "ids"\nshape = [4]\n[[inputs]]\nname = "mask"\nshape = [4]\n'
    data = '[[datasets]]\nname = "texts"\nmetric = "top1"\narrays = {}\n'
    (tmp_path / "model.toml").write_text(head + inputs + data.format("true"))
    assert load(tmp_path).datasets[0].arrays
    (tmp_path / "model.toml").write_text(head + inputs + data.format("false"))
    with pytest.raises(SpecError, match="arrays = true"):
        load(tmp_path)
