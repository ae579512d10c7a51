"""What nnU-Net wrote beside a checkpoint: ``plans.json`` and ``dataset.json``, as part of a first spec.

A trained model lies in ``...__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.pth``, its plans one folder above.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from pth2om.drafting.found import Found
from pth2om.errors import CheckpointError, DataError
from pth2om.files import is_file
from pth2om.language import Message, say
from pth2om.spec import Task, Volume

PLANS, DATASET = "plans.json", "dataset.json"


@dataclass(frozen=True)
class Planned:
    """A draft with nnU-Net's files.

    Attributes:
        found: with the plans' shape, task and classes.
        volume: the spec's table.
        beside: the files of the model's folder.
        said: what was read, for the terminal.
    """

    found: Found
    volume: Volume
    beside: dict[str, bytes]
    said: tuple[Message, ...]


def plans_beside(source: Path) -> Path | None:
    """The plans of a checkpoint, in its folder or the one above; None where there are none."""
    folders = (source.absolute().parent, source.absolute().parent.parent)
    return next((folder / PLANS for folder in folders if is_file(folder / PLANS)), None)


def with_plans(
    found: Found, source: Path, plans: Path | None = None, configuration: str | None = None
) -> Planned | None:
    """What a draft becomes with nnU-Net's plans; None where there are none.

    Args:
        found: what the checkpoint says.
        source: the checkpoint.
        plans: the file; default the one beside the checkpoint.
        configuration: which of the plans; default the one that the folder is named after, else the usual one.

    Raises:
        DataError: the plans are wrong, or have another number of channels than the weights.
        CheckpointError: a configuration is named, and there are no plans.
    """
    place = plans or plans_beside(source)
    if place is None:
        if configuration is not None:
            raise CheckpointError("starter.no-plans", where=str(source), name=configuration)
        return None
    from pth2om.data.plans import read_dataset_json, read_plans

    chosen = configuration or _named(source, place)
    read = read_plans(place, chosen)
    name, seen, dtype, _ = found.inputs[0]
    if len(seen) == len(read.patch) + 1 and seen[0] != len(read.channels):
        values = {"key": "channels", "ours": str(seen[0]), "theirs": str(len(read.channels)), "file": place.name}
        raise DataError("data.plans-differ", where=source.name, **values)
    shape = (len(read.channels), *read.patch)
    comment = say("starter.input-plans", file=place.name, configuration=read.configuration)
    patch = "x".join(map(str, read.patch))
    said = (say("starter.plans", file=str(place), configuration=read.configuration, patch=patch),)
    beside, classes = {PLANS: place.read_bytes()}, found.classes
    table: dict[str, object] = {"plans": PLANS}
    if chosen is not None:
        table["configuration"] = chosen
    about = place.with_name(DATASET)
    if is_file(about):
        told = read_dataset_json(about)
        names = told.names if told.regions is None else told.regions.names
        if found.classes is not None and not found.guessed and found.classes[0] != told.heads:
            values = {"key": "classes", "ours": str(found.classes[0]), "theirs": str(told.heads), "file": DATASET}
            raise DataError("data.plans-differ", where=source.name, **values)
        beside[DATASET] = about.read_bytes()
        table["dataset_json"] = DATASET
        classes = told.heads, say("starter.classes-plans", file=DATASET, names=", ".join(names)[:200])
    elif read.classes is not None:
        classes = read.classes, say("starter.classes-plans", file=place.name, names="all_classes")
    inputs = ((name, shape, dtype, comment), *found.inputs[1:])
    task: tuple[Task, Message] = ("segmentation", say("starter.task-guess", reason=place.name))
    planned = dataclasses.replace(found, inputs=inputs, task=task, classes=classes, guessed=False)
    return Planned(planned, Volume.model_validate(table), beside, said)


def _named(source: Path, plans: Path) -> str | None:
    """The configuration that a folder of results is named after."""
    for folder in (plans.parent, source.absolute().parent, source.absolute().parent.parent):
        *front, last = folder.name.split("__")
        if len(front) == 2 and last:
            return last
    return None
