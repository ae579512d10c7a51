"""A folder of labelled images that the model is scored on: its manifest, and the table of the spec that names it."""

from __future__ import annotations

from pathlib import Path

from pth2om.data.sources import is_image
from pth2om.errors import ConvertError
from pth2om.files import is_file, is_folder
from pth2om.spec import Dataset, Task

_LABELS = "val_label.txt"


def dataset_name(model: str) -> str:
    """The name of the dataset of a model."""
    return f"{model}-images"


def dataset_for(name: str, folder: Path, task: Task) -> tuple[Dataset, str]:
    """The table of the spec, and the text of ``calib/<name>/dataset.toml``.

    Args:
        name: of the dataset.
        folder: one folder of images a class, or images with ``val_label.txt``.
        task: of the model.

    Raises:
        ConvertError: the folder is neither, or the task is not scored by the class of a picture.
    """
    if task != "classification":
        raise ConvertError("convert.scores-classes", task=task)
    if not is_folder(folder):
        raise ConvertError("convert.no-dataset", where=str(folder))
    classes = [entry for entry in folder.iterdir() if entry.is_dir() and any(map(is_image, entry.iterdir()))]
    if is_file(folder / _LABELS):
        kind = "images"
    elif classes:
        kind = "folders"
    else:
        raise ConvertError("convert.no-labels", where=str(folder), labels=_LABELS)
    return Dataset(name=name, metric="top1"), f'kind = "{kind}"\n'
