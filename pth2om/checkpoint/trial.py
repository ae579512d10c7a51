"""A net built once for a file, before there is a spec: does it fit, with which number of classes, which inputs."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pth2om.checkpoint.loading import load_module
from pth2om.checkpoint.nets import load_net
from pth2om.errors import CheckpointError
from pth2om.spec import Input, Source, Spec

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"[A-Za-z0-9_.\-]+")


@dataclass(frozen=True)
class Trial:
    """What building a net showed.

    Attributes:
        classes: the number of classes with which every tensor of the file fits; None where the net's default fits, or
            nothing does.
        source: where that number is from; see `pth2om.checkpoint.loading.load_module`.
        inputs: names of the arguments that ``forward`` requires, in order; empty where it does not name them.
        problem: why the file does not fit the net.
    """

    classes: int | None = None
    source: str = ""
    inputs: tuple[str, ...] = ()
    problem: CheckpointError | None = None


def try_net(weights: Path, net: Path) -> Trial:
    """Build the net of a Python file and load the weights into it.

    Args:
        weights: a checkpoint of any readable kind.
        net: the Python file.

    Raises:
        CheckpointError: the Python file is no net.
    """
    template = load_net(net)
    spec = Spec(
        name="trial",
        folder=net.parent,
        task="tensor",
        source=Source(checkpoint=str(weights)),
        inputs=(Input(name="input", shape=(1,)),),
    )
    try:
        loaded = load_module(spec, weights, net=net)
    except CheckpointError as problem:
        try:
            module = template.build()
        except CheckpointError:
            return Trial(problem=problem)
        return Trial(inputs=_required(module), problem=problem)
    number = loaded.details["arguments"].get("num_classes")
    classes = number if type(number) is int else None
    return Trial(classes, str(loaded.details["num_classes_from"]), _required(loaded.module))


def _required(module: torch.nn.Module) -> tuple[str, ...]:
    """Names of the positional arguments of ``forward`` that have no default."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return ()
    if any(entry.kind is entry.VAR_POSITIONAL for entry in parameters):
        return ()  # their number is not said
    named = [entry for entry in parameters if entry.kind in (entry.POSITIONAL_ONLY, entry.POSITIONAL_OR_KEYWORD)]
    names = tuple(entry.name for entry in named if entry.default is entry.empty)
    return names if all(map(_NAME.fullmatch, names)) else ()
