"""Accuracy as a question: images whose outputs are not finite, whatever the score says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pth2om.accuracy import measure
from pth2om.data import Preprocessor, open_dataset
from pth2om.questions.accuracy import _broken
from pth2om.session import Provenance, TensorSpec
from pth2om.spec import Postprocess, Preprocess


class Told:
    """A session whose first output scores every image alike, and whose second holds a bad number for some."""

    inputs = (TensorSpec("x", (None, 3, 4, 4), np.dtype("float32")),)
    outputs = (TensorSpec("y", (None, 3), np.dtype("float32")), TensorSpec("extra", (None, 2), np.dtype("float32")))
    provenance = Provenance("test", "1", "host")

    def __init__(self, bad: dict[int, float]) -> None:
        self.bad = bad
        self.digest = str(bad)
        self.done = 0

    def run(self, feeds):
        count = len(feeds["x"])
        extra = np.ones((count, 2), np.float32)
        for image, value in self.bad.items():
            if 0 <= image - self.done < count:
                extra[image - self.done, 1] = value
        self.done += count
        return {"y": np.tile(np.float32([1, 2, 3]), (count, 1)), "extra": extra}


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory):
    folder: Path = tmp_path_factory.mktemp("calib") / "dots"
    folder.mkdir()
    (folder / "dataset.toml").write_text('kind = "npz"\nnames = ["a", "b", "c"]\n')
    images = np.arange(7 * 48, dtype=np.uint8).reshape(7, 4, 4, 3)
    np.savez(folder / "dots.npz", x=images, y=np.arange(7) % 3)
    return open_dataset("dots", calib_root=folder.parent)


@pytest.mark.parametrize(
    ("reference", "candidate", "measured"),
    [
        ({}, {}, 0),
        ({}, {5: np.nan}, 1),
        ({}, {0: np.inf, 6: -np.inf}, 2),
        ({5: np.nan}, {5: np.nan}, 0),
        ({4: np.nan}, {5: np.nan}, 1),
        ({4: np.nan}, {}, 0),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_an_image_that_became_nan_fails_whatever_the_score(dots, reference, candidate, measured, batch):
    preprocess = Preprocess(size=(4, 4))
    before, after = (
        measure(Told(bad), dots, Preprocessor(preprocess), Postprocess(decoder="softmax"), batch=batch)
        for bad in (reference, candidate)
    )
    assert before["metrics"] == after["metrics"]
    judged = _broken(before, after, "om")
    assert (judged.check, judged.measured, judged.verdict) == (
        "om/unreadable",
        measured,
        "failed" if measured else "passed",
    )
    assert judged.details["reference"] == len(reference)
    if measured:
        assert f"{measured} of 7" in str(judged.message)
