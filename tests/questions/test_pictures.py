"""Pictures of gates: which images are chosen, whose predictions are drawn, and how they reach the run's folder."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pth2om.accuracy import difference, judge, measure
from pth2om.data import Labelled, Preprocessor, open_dataset
from pth2om.evidence import GateRecord
from pth2om.questions import overlay
from pth2om.questions import pictures as showing
from pth2om.questions.pictures import Side
from pth2om.session import Provenance, TensorSpec
from pth2om.spec import Postprocess, Preprocess

SIZE = 32
PREPROCESS = Preprocess(size=(SIZE, SIZE), scale=1)
CLASSES = Postprocess()
BOXES = Postprocess(decoder="yolov6")


class Told:
    """A session that looks its answers up by the first pixel of each image, and counts what it was asked."""

    def __init__(self, answers: np.ndarray, ground: str = "host") -> None:
        self.answers = answers
        self.inputs = (TensorSpec("image", (None, 3, SIZE, SIZE), np.dtype("float32")),)
        self.outputs = (TensorSpec("out", (None,), np.dtype("float32")),)
        self.digest, self.provenance = "0" * 64, Provenance("test", "0", ground)
        self.asked: list[int] = []

    def run(self, feeds):
        numbers = feeds["image"][:, 0, 0, 0].astype(int)
        self.asked += numbers.tolist()
        return {"out": self.answers[numbers]}

    def close(self) -> None: ...
    def __enter__(self):
        return self

    def __exit__(self, *_) -> None: ...


def pixels(count: int) -> np.ndarray:
    images = np.zeros((count, SIZE, SIZE, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return images


@pytest.fixture
def animals(tmp_path: Path) -> Labelled:
    folder = tmp_path / "calib" / "animals"
    folder.mkdir(parents=True)
    (folder / "dataset.toml").write_text('kind = "npz"\nclasses = 3\nnames = ["cat", "dog", "frog"]\n')
    np.savez(folder / "animals.npz", x=pixels(30), y=np.arange(30) % 3)
    return open_dataset("animals", calib_root=tmp_path / "calib")


@pytest.fixture
def squares(tmp_path: Path) -> Labelled:
    folder = tmp_path / "calib" / "squares"
    folder.mkdir(parents=True)
    (folder / "dataset.toml").write_text('kind = "coco"\nlabels = "boxes.json"\nimages = "images"\n')
    (folder / "images").mkdir()
    boxes = []
    for number, image in enumerate(pixels(9)):
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        boxes.append({"id": number + 1, "image_id": number, "category_id": 7, "bbox": [8, 8, 16, 16], "area": 256})
    for box in boxes:
        box["iscrowd"] = 0
    listed = [{"id": n, "file_name": f"{n}.png", "width": SIZE, "height": SIZE} for n in range(9)]
    names = [{"id": 7, "name": "square"}]
    (folder / "boxes.json").write_text(json.dumps({"images": listed, "annotations": boxes, "categories": names}))
    return open_dataset("squares", calib_root=tmp_path / "calib")


def scored(session: Told, labelled: Labelled, postprocess: Postprocess) -> dict:
    measured = measure(session, labelled, Preprocessor(PREPROCESS), postprocess)
    session.asked.clear()
    return measured


def logits(predicted: np.ndarray, margin: np.ndarray | float = 1.0) -> np.ndarray:
    return (np.eye(3)[predicted] * np.broadcast_to(margin, len(predicted))[:, None]).astype(np.float32)


class Spied:
    """What was drawn, before it became pixels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tiles, self.wrong, self.panels = [], [], []
        grid, sheet = overlay.draw_classification, overlay.draw_detections

        def grids(tiles, *, wrong):
            self.tiles, self.wrong = list(tiles), list(wrong)
            return grid(tiles, wrong=wrong)

        def sheets(image, panels):
            self.panels.append(panels)
            return sheet(image, panels)

        monkeypatch.setattr(overlay, "draw_classification", grids)
        monkeypatch.setattr(overlay, "draw_detections", sheets)


def test_disagreements_come_first_then_the_closest_calls(
    animals: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = np.arange(30) % 3
    changed = truth.copy()
    changed[[4, 22]] = 0
    margins = np.linspace(3, 1, 30)  # the last images are the closest calls
    torch, onnx, om = Told(logits(truth)), Told(logits(truth)), Told(logits(changed, margins), "emulated")
    sides = [
        Side("PyTorch", torch, scored(torch, animals, CLASSES), 1),
        Side("ONNX", onnx, None, 4),
        Side("OM", om, scored(om, animals, CLASSES), 1),
    ]
    spied = Spied(monkeypatch)
    folder = tmp_path / "made"
    folder.mkdir()
    showing.draw(folder, sides, animals, PREPROCESS, CLASSES, {})
    chosen = [int(image[0, 0, 0]) for image, _ in spied.tiles]
    assert chosen == [22, 4, 29, 28, 27, 26, 25, 24, 23, 21, 20, 19]
    assert dict(zip(chosen, spied.wrong, strict=True))[4] == [3]
    assert next(words for image, words in spied.tiles if image[0, 0, 0] == 4) == [
        "label: dog", "PyTorch: dog", "ONNX: dog", "OM: cat",
    ]  # fmt: skip
    assert (torch.asked, om.asked) == ([], [])
    assert set(onnx.asked) == set(chosen)
    (only,) = showing.listed(folder)
    data = Path(only["file"]).read_bytes()
    assert len(data) <= overlay.MOST_BYTES
    Image.open(io.BytesIO(data)).verify()
    values = only["caption"]["values"]
    assert (values["count"], values["shown"], values["rest"], values["title"]) == (2, 2, 10, "OM")


def test_a_session_alone_is_held_against_the_labels(
    animals: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted = np.arange(30) % 3
    predicted[7] = 2
    torch = Told(logits(predicted))
    spied = Spied(monkeypatch)
    showing.draw(
        tmp_path, [Side("PyTorch", torch, scored(torch, animals, CLASSES), 1)], animals, PREPROCESS, CLASSES, {}
    )
    assert spied.tiles[0][1] == ["label: dog", "PyTorch: frog"]
    assert spied.wrong[0] == [1]
    assert not any(spied.wrong[1:])
    assert showing.listed(tmp_path)[0]["caption"]["key"] == "showing.alone"


def rows(found: np.ndarray) -> np.ndarray:
    """One row a picture, in input pixels: the square where `found`, else a score below what is shown."""
    answers = np.zeros((len(found), 1, 6), np.float32)
    answers[:, 0] = (16, 16, 16, 16, 1, 0.9)
    answers[~found, 0, 5] = 0.1
    return answers


def test_changed_images_are_drawn_with_the_boxes_of_every_side(
    squares: Labelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = np.ones(9, bool)
    lost = everything.copy()
    lost[[5, 8]] = False
    torch, onnx, om = Told(rows(everything)), Told(rows(everything)), Told(rows(lost), "emulated")
    before, after = scored(torch, squares, BOXES), scored(om, squares, BOXES)
    details = judge(difference(before, after, metric="mAP50"), 1.0).details
    spied = Spied(monkeypatch)
    sides = [Side("PyTorch", torch, before, 1), Side("ONNX", onnx, None, 2), Side("OM", om, after, 1)]
    showing.draw(tmp_path, sides, squares, PREPROCESS, BOXES, details)
    listed = showing.listed(tmp_path)
    assert [entry["caption"]["values"]["file"] for entry in listed] == ["5.png", "8.png", "0.png", "1.png"]
    assert listed[0]["caption"]["key"] == "showing.changed"
    assert listed[0]["caption"]["values"]["found"] == "-1"
    assert listed[2]["caption"]["key"] == "showing.detections"
    assert onnx.asked[:2] == [5, 8]
    titles = [title for title, *_ in spied.panels[0]]
    assert titles == ["labels", "PyTorch", "ONNX", "OM (emulated)"]
    assert [list(labels) for _, _, labels, _ in spied.panels[0]] == [["square"], ["square"], ["square"], []]
    for _, boxes, _, _ in spied.panels[2]:
        assert np.allclose(boxes, [[8, 8, 24, 24]], atol=0.5)


def test_pictures_are_carried_into_the_run(tmp_path: Path) -> None:
    stored = tmp_path / "store" / "1.webp"
    stored.parent.mkdir()
    stored.write_bytes(b"RIFF picture")
    pictures = [{"file": str(stored), "caption": "a"}, {"file": str(tmp_path / "gone.webp"), "caption": "b"}]
    details = {"dataset": "../up", "pictures": pictures, "n": 1}
    row = GateRecord(
        "a model", "fp16-bs1", None, "accuracy", "om/top1/drop", 1.0, "points", None, "shown", "host", details=details
    )
    run = tmp_path / "run"
    carried = showing.carry(row, run)
    (only,) = carried.details["pictures"]
    assert only["file"].startswith("pictures/")
    assert (run / only["file"]).resolve().is_relative_to(run / "pictures")
    assert (run / only["file"]).read_bytes() == stored.read_bytes()
    assert carried.details["n"] == 1
    assert row.details["pictures"] == pictures


def test_pictures_of_one_gate_on_two_grounds_have_two_names(tmp_path: Path) -> None:
    """Merged, they lie in one folder: what an emulator drew is never shown as a device's."""
    files = []
    for ground, soc in (("emulated", "Ascend310B1"), ("double", "Ascend310B1"), ("emulated", "Ascend310P3")):
        stored = tmp_path / f"{ground}-{soc}.webp"
        stored.write_bytes(f"RIFF {ground} {soc}".encode())
        row = GateRecord(
            "a" * 300, "fp16-bs1", soc, "accuracy", "om/top1/drop", 1.0, "points", None, "shown", ground,
            details={"pictures": [{"file": str(stored), "caption": "a"}]},
        )  # fmt: skip
        (entry,) = showing.carry(row, tmp_path / "run").details["pictures"]
        files.append(entry["file"])
        assert (tmp_path / "run" / entry["file"]).read_bytes() == stored.read_bytes()
    assert len(set(files)) == 3


def test_classes_of_disagreements_are_named() -> None:
    lost = [{"image": 3, "file": "x", "label": 0, "reference": 1, "candidate": -1}]
    details = {"lost": lost, "gained": [], "lost_count": 1}
    named = showing.named(details, ["cat", "dog"])
    assert named["lost"] == [{"image": 3, "file": "x", "label": "cat", "reference": "dog", "candidate": "NaN"}]
    assert showing.named(details, [])["lost"] == lost
    assert showing.named({"lost": [{"label": 5}]}, ["cat"])["lost"] == [{"label": 5}]
    assert lost[0]["label"] == 0


def test_only_boxes_and_classes_are_drawn() -> None:
    assert showing.drawable({"kind": "detection"})
    assert not showing.drawable({"kind": "segmentation"})
