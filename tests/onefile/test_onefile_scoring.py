"""``pth2om convert --dataset``: what a folder holds says how the model is scored; mAP and Dice as in acceptance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pth2om
from pth2om import spec as specs
from pth2om.data.normalizing import preparation
from pth2om.drafting.start import start
from pth2om.errors import ConvertError, Pth2omError
from pth2om.onefile import Options, wording
from pth2om.onefile.advice import after_refusal
from pth2om.onefile.scoring import dataset_for

ROOT = Path(__file__).parents[2]
PICTURE = np.zeros((4, 4, 3), dtype=np.uint8)


def folder_of(place: Path, *files: str) -> Path:
    for name in files:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.fromarray(PICTURE).save(path)
        else:
            path.write_text("{}")
    return place


@pytest.mark.parametrize(
    ("files", "metric", "manifest"),
    [
        (("a/1.png", "b/2.png"), "top1", 'kind = "folders"\n'),
        (("1.png", "val_label.txt"), "top1", 'kind = "images"\n'),
        (("1.png", "instances.json"), "mAP50-95", 'kind = "coco"\n'),
        (("val2017/1.png", "instances.json"), "mAP50-95", 'kind = "coco"\nimages = "val2017"\n'),
        (("1.png", "masks/1.png"), "dice", 'kind = "masks"\nclasses = 4\n'),
        (("pictures/1.png", "masks/1.png"), "dice", 'kind = "masks"\nimages = "pictures"\nclasses = 4\n'),
        (("imagesTs/a_0000.npy", "labelsTs/a.npy"), "dice", 'kind = "volumes"\n'),
    ],
)
def test_what_lies_in_a_folder_says_how_it_is_scored(
    tmp_path: Path, files: tuple[str, ...], metric: str, manifest: str
) -> None:
    found = dataset_for("own", folder_of(tmp_path, *files), None, "tensor", 4)
    assert (found.dataset.metric, found.manifest) == (metric, manifest)
    assert found.volumes == ("imagesTs" in files[0])
    assert any(message.key == "convert.task-of-labels" for message in found.said)


@pytest.mark.parametrize(
    ("files", "task", "key"),
    [
        (("readme.txt",), None, "convert.no-labels"),
        (("1.png",), None, "convert.no-labels"),
        (("imagesTs/a_0000.npy",), None, "convert.no-labels"),
        (("1.png", "instances.json"), "classification", "convert.scores-task"),
        (("a/1.png",), "detection", "convert.scores-task"),
    ],
)
def test_other_folders_are_refused_and_lead_on(
    tmp_path: Path, files: tuple[str, ...], task: str | None, key: str
) -> None:
    with pytest.raises(ConvertError) as caught:
        dataset_for("own", folder_of(tmp_path / "data", *files), task, "tensor")
    assert caught.value.message.key == key
    options = Options(task=task, dataset=tmp_path / "data")
    line = after_refusal(caught.value, Path("m.pt"), "Ascend310B1", options)
    assert line.startswith("pth2om convert ")
    assert "--task" not in line


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with nnU-Net's files beside them, and two labelled volumes at twice the net's spacing along one axis."""
    nibabel = pytest.importorskip("nibabel", reason="NIfTI needs nibabel")
    place = tmp_path_factory.mktemp("drawn")
    model = ROOT / "models" / "nnunet3d"
    for file in (model / "weights" / "nnunet3d.pth", model / "plans.json", model / "dataset.json"):
        (place / file.name).write_bytes(file.read_bytes())
    stream = np.random.default_rng(0)
    for name in ("imagesTs", "labelsTs"):
        (place / "data" / name).mkdir(parents=True)
    x, y, z = np.indices((18, 18, 9))
    for number in range(2):
        ball = (x - 8) ** 2 + (y - 9) ** 2 + (2 * z - 8 - number) ** 2 < 25
        values = (stream.standard_normal(ball.shape) * 0.2 + ball * 2 + 1).astype(np.float32)
        for folder, array in (("imagesTs", values), ("labelsTs", ball.astype(np.uint8))):
            suffix = "_0000" if folder == "imagesTs" else ""
            image = nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0]))
            nibabel.save(image, place / "data" / folder / f"case{number}{suffix}.nii.gz")
    return place


def test_dice_of_volumes_is_asked_printed_and_recorded(volumes: Path, tmp_path: Path) -> None:
    options = Options(
        template=str(ROOT / "models" / "nnunet3d" / "net.py"),
        dataset=volumes / "data",
        output=tmp_path / "out",
        save_spec=tmp_path / "models",
        validate_onnx=False,
    )
    done = pth2om.convert(volumes / "nnunet3d.pth", None, options)
    assert done.status == 0, done.failed
    (drop,) = [gate for gate in done.gates if gate.check == "onnx/dice/drop"]
    assert drop.details["reference"] == drop.details["candidate"] > 50
    assert drop.ground == "host"
    assert drop.verdict == "inconclusive"  # two cases decide nothing, and no one calls that passed
    lines = list(wording.lines(done))
    (line,) = [each for each in lines if each.startswith("bs1 dice on 2 volumes: reference ")]
    assert "95 % interval" in line
    assert "on this host" in line
    assert any(each.startswith("bs1 dice:ball on 2 volumes") for each in lines)
    assert not any(" images" in each for each in lines)
    record = json.loads(done.files["conversion"].read_text())
    (kept,) = [gate for gate in record["gates"] if gate["check"] == "onnx/dice/drop"]
    assert (kept["verdict"], kept["ground"], kept["interval"]) == ("inconclusive", "host", list(drop.interval))
    # pytest asks the same: the saved spec has the same dataset, metric and windows.
    spec = specs.load(tmp_path / "models" / "nnunet3d")
    assert [(entry.name, entry.metric) for entry in spec.datasets] == [("nnunet3d-images", "dice")]
    assert spec.volume is not None
    assert (tmp_path / "calib" / "nnunet3d-images" / "dataset.toml").read_text() == 'kind = "volumes"\n'


def test_volumes_without_plans_are_refused(volumes: Path, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "net.pth").write_bytes((volumes / "nnunet3d.pth").read_bytes())
    options = Options(
        template=str(ROOT / "models" / "nnunet3d" / "net.py"), dataset=volumes / "data", size=(16, 16, 16)
    )
    with pytest.raises(ConvertError) as caught:
        pth2om.convert(tmp_path / "alone" / "net.pth", None, options)
    assert caught.value.message.key == "convert.volumes-need"
    assert not list(tmp_path.glob("*-converted"))


BOXES = """
TEMPLATE_NAME = "boxes"
import torch
from torch import nn


class Net(nn.Module):
    \"\"\"One box a picture in the middle, surer where it is bright: rows cx, cy, w, h, objectness, two scores.\"\"\"

    def __init__(self):
        super().__init__()
        self.size = nn.Parameter(torch.tensor([8.0, 8.0, 8.0, 8.0]))

    def forward(self, x):
        mean = x.mean((2, 3)).clamp(0, 1)
        box = self.size.expand(x.shape[0], 4)
        return torch.cat([box, torch.ones_like(mean[:, :1]), mean[:, :2]], 1)[:, None]


def build(num_classes=2, pretrained=False):
    return Net()
"""


def test_map_of_boxes_is_asked(tmp_path: Path) -> None:
    import torch

    (tmp_path / "net.py").write_text(BOXES.replace('\\"', '"'))
    torch.save({"size": torch.tensor([8.0, 8.0, 8.0, 8.0])}, tmp_path / "net.pt")
    stream = np.random.default_rng(1)
    data = tmp_path / "boxes"
    data.mkdir()
    images, annotations = [], []
    for number in range(8):
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[..., number % 2] = stream.integers(150, 250)
        Image.fromarray(pixels).save(data / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 16, "height": 16})
        box = {"id": number, "image_id": number, "category_id": number % 2 + 1, "bbox": [4, 4, 8, 8], "area": 64}
        annotations.append({**box, "iscrowd": 0})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    labels = {"images": images, "annotations": annotations, "categories": categories}
    (data / "instances.json").write_text(json.dumps(labels))
    options = Options(template=str(tmp_path / "net.py"), size=(16,), scale=255.0, dataset=data, output=tmp_path / "out")
    done = pth2om.convert(tmp_path / "net.pt", None, options)
    (drop,) = [gate for gate in done.gates if gate.check == "onnx/mAP50-95/drop"]
    assert drop.details["reference"] == drop.details["candidate"] == pytest.approx(100, abs=1)
    assert any(line.startswith("bs1 mAP50-95 on 8 images: reference ") for line in wording.lines(done))


@pytest.mark.parametrize(
    ("plans", "dataset", "key", "word"),
    [
        ("{", None, "data.json-unreadable", "--size"),
        ("swapped", None, "data.plans-unknown", "--size"),
        ("cascade", None, "data.plans-cascade", "--configuration 3d_lowres"),
        (None, {"labels": {"background": 0, "ball": 1}}, "data.plans-differ", "--size"),
        (None, {"labels": {"background": 0, "all": [1, 2]}}, "data.dataset-json-order", "--size"),
    ],
)
def test_files_of_nnunet_that_do_not_fit_lead_on(
    volumes: Path, tmp_path: Path, plans: str | None, dataset: object, key: str, word: str
) -> None:
    for file in ("nnunet3d.pth", "plans.json", "dataset.json"):
        (tmp_path / file).write_bytes((volumes / file).read_bytes())
    whole = json.loads((tmp_path / "plans.json").read_text())
    options = Options(template=str(ROOT / "models" / "nnunet3d" / "net.py"))
    if plans == "cascade":
        whole["configurations"]["second"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
        options = Options(template=options.template, configuration="second")
        plans = json.dumps(whole)
    elif plans == "swapped":
        plans = (tmp_path / "dataset.json").read_text()
    if plans is not None:
        (tmp_path / "plans.json").write_text(plans)
    if dataset is not None:
        (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(Pth2omError) as caught:
        pth2om.convert(tmp_path / "nnunet3d.pth", None, options)
    assert caught.value.message.key == key
    line = after_refusal(caught.value, tmp_path / "nnunet3d.pth", None, options)
    assert word in line
    assert not list(tmp_path.glob("*-converted"))


def test_regions_have_a_head_each_and_the_background_none(volumes: Path, tmp_path: Path) -> None:
    for file in ("nnunet3d.pth", "plans.json"):
        (tmp_path / file).write_bytes((volumes / file).read_bytes())
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "deep": 3}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "regions_class_order": [1, 2, 3]}))
    net = ROOT / "models" / "nnunet3d" / "net.py"
    start("own", tmp_path / "nnunet3d.pth", models=tmp_path / "models", net=net)
    spec = specs.load(tmp_path / "models" / "own")
    assert spec.source.num_classes == 3
    regions = preparation(spec).regions
    assert regions is not None
    assert regions.names == ("whole", "core", "deep")
