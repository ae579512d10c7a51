"""A folder of labelled data that the model is scored on: its manifest, and the table of the spec that names it.

What the labels are says how the model is scored: the class of a picture by top1, boxes by mAP, masks and labelled
volumes by Dice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pth2om.data.sources import is_image
from pth2om.errors import ConvertError
from pth2om.files import is_file, is_folder, is_there
from pth2om.language import Message, say
from pth2om.spec import Dataset, Task

_LABELS, _BOXES, _MASKS, _VOLUMES, _TRUTHS = "val_label.txt", "instances.json", "masks", "imagesTs", "labelsTs"
_METRICS: Mapping[Task, str] = {"classification": "top1", "detection": "mAP50-95", "segmentation": "dice"}


@dataclasses.dataclass(frozen=True)
class Scored:
    """How a model is scored on a folder.

    Attributes:
        dataset: the table of the spec.
        manifest: text of ``calib/<name>/dataset.toml``.
        task: what such labels are for.
        volumes: whether it holds volumes, and no pictures.
        said: for the terminal.
    """

    dataset: Dataset
    manifest: str
    task: Task
    volumes: bool
    said: tuple[Message, ...]


def dataset_name(model: str) -> str:
    """The name of the dataset of a model."""
    return f"{model}-images"


def dataset_for(name: str, folder: Path, task: Task | None, guess: Task, classes: int | None = None) -> Scored:
    """What a folder of labelled data is, by what lies in it.

    Args:
        name: of the dataset.
        folder: one folder of images a class; or images with ``val_label.txt``, with COCO's ``instances.json``, or with
            a folder ``masks``; or nnU-Net's ``imagesTs`` and ``labelsTs``.
        task: of the model, where the user names it.
        guess: of the model, as its file looks.
        classes: of the model, where they are known: masks do not say how many there are.

    Raises:
        ConvertError: the folder is none of these, or the user names another task.
    """
    if not is_folder(folder):
        raise ConvertError("convert.no-dataset", where=str(folder))
    kind, labels = _kind(folder)
    if kind is None:
        names = f"{_LABELS}, {_BOXES}, {_MASKS}/, {_VOLUMES}/ + {_TRUTHS}/"
        raise ConvertError("convert.no-labels", where=str(folder), labels=names)
    tasks: dict[str, Task] = {"coco": "detection", "masks": "segmentation", "volumes": "segmentation"}
    scored = tasks.get(kind, "classification")
    if task is not None and task != scored:
        raise ConvertError("convert.scores-task", where=str(folder), labels=labels, task=task, scored=scored)
    metric = _METRICS[scored]
    said = [say("convert.scored", folder=str(folder), labels=labels, metric=metric)]
    if task is None and guess != scored:
        said.append(say("convert.task-of-labels", task=scored, guess=guess))
    lines = [f'kind = "{kind}"']
    if kind in ("coco", "masks") and not any(map(is_image, folder.iterdir())):
        lines += [f'images = "{_images(folder)}"']
    if kind == "masks" and classes is not None:
        lines += [f"classes = {max(classes, 2)}"]
    dataset = Dataset.model_validate({"name": name, "metric": metric})
    return Scored(dataset, "\n".join(lines) + "\n", scored, kind == "volumes", tuple(said))


def _kind(folder: Path) -> tuple[str | None, str]:
    """The kind of dataset, and what its labels are called here."""
    if is_file(folder / _LABELS):
        return "images", _LABELS
    if is_file(folder / _BOXES):
        return "coco", _BOXES
    if is_there(folder / _VOLUMES):
        return ("volumes", f"{_TRUTHS}/") if is_there(folder / _TRUTHS) else (None, "")
    if is_folder(folder / _MASKS):
        return "masks", f"{_MASKS}/"
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and any(map(is_image, entry.iterdir())))
    return ("folders", ", ".join(f"{name}/" for name in classes[:3])) if classes else (None, "")


def _images(folder: Path) -> str:
    """The sub-folder that holds the pictures, where none lie beside the labels."""
    others = [entry for entry in folder.iterdir() if entry.is_dir() and entry.name != _MASKS]
    found = sorted(entry.name for entry in others if any(map(is_image, entry.iterdir())))
    return "images" if not found or "images" in found else found[0]
