"""The models we trained ourselves: their data is as recorded, training works, the weights are small and good."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pth2om.data import Preprocessor, open_dataset
from pth2om.spec import load

ROOT = Path(__file__).parents[2]


def module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.parent.name.replace("-", "_") + path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shapes() -> ModuleType:
    return module_at(ROOT / "calib" / "shapes" / "make.py")


@pytest.fixture(scope="module")
def training() -> ModuleType:
    return module_at(ROOT / "models" / "yolov6-shapes" / "train.py")


@pytest.mark.nightly
def test_training_shapes_are_as_recorded(shapes: ModuleType) -> None:
    assert shapes.COUNTS["train"] <= 1000
    assert shapes.digest(shapes.pictures("train")) == shapes.SHA256["train"]


def test_boxes_enclose_what_is_drawn(shapes: ModuleType) -> None:
    """Each shape alone: what lies inside its distance field spans its box, to a pixel."""
    for seed in range(40):
        dice = shapes._Dice("train", 10_000 + seed)
        box, window, distance = shapes._place(dice, 300, 300, [])
        rows, columns = np.nonzero(distance < 0)
        found = (
            columns.min() + window[1].start,
            rows.min() + window[0].start,
            columns.max() + 1 + window[1].start,
            rows.max() + 1 + window[0].start,
        )
        # Sharp tips cover less than half of their last pixels.
        slack = 3.5 if shapes.CLASSES[box.kind] in ("star", "triangle") else 1.5
        inside = min(box.left, box.top) > 0 and max(box.right, box.bottom) < 300
        if inside:
            assert np.abs(np.array(found) - np.array(box[1:])).max() <= slack, (seed, box, found)


def test_made_held_out_set_is_as_recorded(shapes: ModuleType) -> None:
    """What the recipe wrote, read back as an acceptance run reads it, has the recorded sha256."""
    data = open_dataset("shapes", calib_root=ROOT / "calib")
    assert len(data) == shapes.COUNTS["held-out"] == 300
    assert data.names == shapes.CLASSES

    def read(index: int) -> tuple[np.ndarray, list]:
        boxes = []
        for entry in data.annotations(index):
            x, y, width, height = entry["bbox"]
            boxes.append(shapes.Box(entry["class"], x, y, x + width, y + height))
        return data.image(index), boxes

    assert shapes.digest(read(index) for index in range(len(data))) == shapes.SHA256["held-out"]


def test_twenty_steps_of_training_shapes(training: ModuleType) -> None:
    torch.manual_seed(training.SEED)
    spec = load(training.HERE)
    module = training.net.build(5, **spec.source.arguments)
    training.prepare(module)
    data = training.pictures(spec, 32)
    losses = training.train(module, data, 20)
    assert len(losses) == 20
    assert np.isfinite(losses).all()
    assert np.mean(losses[-4:]) < 0.95 * np.mean(losses[:4])
    assert not module.training


def test_assignment_by_hand(training: ModuleType) -> None:
    """Two boxes, cells inside each; a cell in both goes to the one its prediction overlaps more."""
    middles = torch.tensor([[4.0, 4.0], [12.0, 4.0], [20.0, 4.0], [60.0, 60.0]])
    wanted = torch.tensor([[[0.0, 0.0, 16.0, 8.0], [8.0, 0.0, 24.0, 8.0], [0.0, 0.0, 0.0, 0.0]]])
    kinds = torch.tensor([[0, 1, -1]])
    boxes = torch.tensor([[[0.0, 0, 16, 8], [9, 0, 24, 8], [8, 0, 24, 8], [50, 50, 70, 70]]])
    scores = torch.full((1, 4, 2), 0.5)
    training.TOP_CANDIDATES, before = 3, training.TOP_CANDIDATES
    try:
        number, fit = training.assign(scores, boxes, middles, kinds, wanted)
    finally:
        training.TOP_CANDIDATES = before
    assert number.tolist() == [[0, 1, 1, -1]]
    assert fit[0, 0].item() == pytest.approx(1.0, abs=1e-4)
    assert fit[0, 2].item() == pytest.approx(1.0, abs=1e-4)
    assert 0 < fit[0, 1] < 1
    assert fit[0, 3] == 0


def test_overlap_by_hand(training: ModuleType) -> None:
    a, b = torch.tensor([0.0, 0, 4, 4]), torch.tensor([2.0, 2, 6, 6])
    assert training.overlap(a, b).item() == pytest.approx(4 / 28)
    assert training.overlap(a, b, generalized=True).item() == pytest.approx(4 / 28 - 8 / 36)
    far = torch.tensor([10.0, 10, 12, 12])
    assert training.overlap(a, far).item() == 0
    assert training.overlap(a, far, generalized=True).item() == pytest.approx(-(144 - 20) / 144)


def test_twenty_steps_of_training_digits() -> None:
    digits = pytest.importorskip("sklearn.datasets")
    assert digits is not None
    training = module_at(ROOT / "models" / "convmixer-digits" / "train.py")
    made = module_at(ROOT / "calib" / "digits" / "make.py")
    (pixels, labels), held_out = made.digits()
    assert made.digest(held_out) == made.SHA256
    bundled = np.load(ROOT / "calib" / "digits" / "digits.npz")
    assert np.array_equal(bundled["x"], held_out[0])
    assert np.array_equal(bundled["y"], held_out[1])
    torch.manual_seed(0)
    spec = load(training.HERE)
    module = training.net.build(10, **spec.source.arguments)
    images = training.placed(spec, pixels[:200])
    losses = training.train(module, images, torch.from_numpy(labels[:200].astype(np.int64)), 20)
    assert np.mean(losses[-4:]) < 0.95 * np.mean(losses[:4])


@pytest.mark.parametrize(("name", "largest"), [("yolov6-shapes", 2_000_000), ("convmixer-digits", 1_000_000)])
def test_bundled_weights_are_small_and_as_named(name: str, largest: int) -> None:
    spec = load(ROOT / "models" / name)
    file = spec.folder / "weights" / str(spec.source.checkpoint)
    content = file.read_bytes()
    assert len(content) <= largest
    assert hashlib.sha256(content).hexdigest() == spec.source.sha256
    assert spec.datasets[0].min_score is not None


def test_bundled_digits_score(repository: Path) -> None:
    from pth2om.checkpoint import load_module

    spec = load(repository / "models" / "convmixer-digits")
    assert spec.preprocess is not None
    net = (spec.folder / str(spec.source.net)).resolve()
    loaded = load_module(spec, spec.folder / "weights" / str(spec.source.checkpoint), net=net)
    data = open_dataset("digits", calib_root=repository / "calib")
    preprocess = Preprocessor(spec.preprocess)
    images = np.stack([preprocess(data.image(index))[0] for index in range(len(data))])
    with torch.inference_mode():
        best = loaded.module(torch.from_numpy(images)).argmax(1).numpy()
    assert abs(int((best == data.labels).sum()) - 593) <= 1
