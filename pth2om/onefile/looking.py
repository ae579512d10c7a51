"""What a file is and what can be done with it: by its content, as data; nothing in it is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pth2om.checkpoint.formats import READABLE, Kind, kind_of
from pth2om.errors import Pth2omError
from pth2om.language import Message, say
from pth2om.onefile import templates

Family = Literal[
    "module", "foreign-module", "state-dict", "torchscript", "onnx", "om", "aipp", "conversion", "evidence", "template",
    "log", "other",
]  # fmt: skip
Door = Literal["convert", "quantize", "check", "draw", "fix", "inspect", "aipp", "explain", "report"]
DOORS: dict[Family, tuple[Door, ...]] = {
    "module": ("convert", "quantize"),
    "foreign-module": ("convert", "quantize"),
    "state-dict": ("convert", "quantize"),
    "torchscript": ("convert", "quantize"),
    "onnx": ("convert", "quantize", "check", "draw", "fix"),
    "om": ("inspect",),
    "aipp": ("aipp",),
    "conversion": ("report",),
    "evidence": ("report",),
    "log": ("explain",),
}
"""What each family of files is good for."""

_HEAD = 1 << 20
_FIRST = 3


@dataclass(frozen=True)
class Look:
    """What a file is.

    Attributes:
        kind: of its bytes.
        family: what it is to a user.
        said: the same in words, and what was read in it.
        inputs: name, shape without the batch axis, dtype.
        classes: their number, where the file is certain of it.
        foreign: names of Python classes in it that are not torch's.
        problem: why it cannot be used, although its kind could.
    """

    kind: Kind
    family: Family
    said: tuple[Message, ...]
    inputs: tuple[tuple[str, tuple[int, ...], str], ...] = ()
    classes: int | None = None
    foreign: str = ""
    problem: Message | None = None

    @property
    def doors(self) -> tuple[Door, ...]:
        """What can be done with it."""
        return () if self.problem is not None else DOORS.get(self.family, ())

    def to_json(self) -> dict[str, Any]:
        """JSON values; sentences in the reader's language."""
        return {
            "kind": self.kind,
            "family": self.family,
            "said": [message.with_fix() for message in self.said],
            "inputs": [{"name": name, "shape": list(shape), "dtype": dtype} for name, shape, dtype in self.inputs],
            "classes": self.classes,
            "foreign": self.foreign,
            "problem": None if self.problem is None else self.problem.with_fix(),
            "doors": list(self.doors),
        }


def look(file: Path) -> Look:
    """Say what a file is.

    Args:
        file: any file; large ones are not read whole where their kind is not read here.

    Raises:
        CheckpointError: there is no such file, it is a folder, or it cannot be read.
    """
    kind = kind_of(file)
    try:
        if kind == "onnx" or kind in READABLE:
            return _model(file, kind)
        if kind == "om":
            return _om(file)
    except Pth2omError as error:
        return Look(kind, "other", (), problem=error.message)
    if kind in ("json", "text"):
        return _text(file, kind)
    from pth2om.checkpoint.reading import not_readable

    return Look(kind, "other", (), problem=not_readable(file, kind).message)


def _model(file: Path, kind: Kind) -> Look:
    from pth2om.drafting.found import from_checkpoint, from_onnx

    found = from_onnx(file, None) if kind == "onnx" else from_checkpoint(file, kind, None)
    said: list[Message] = []
    family: Family
    if kind == "onnx":
        family = "onnx"
        said.append(say("looking.onnx"))
    elif kind == "torchscript":
        family = "torchscript"
        said.append(say("looking.torchscript"))
    elif found.needs == "net":
        family = "state-dict"
        said.append(say("looking.state-dict", count=len(found.layout)))
    elif found.needs == "trust":
        family = "foreign-module"
        said.append(say("looking.foreign-module", classes=found.foreign))
    else:
        family = "module"
        said.append(say("looking.module"))
    for name, shape, dtype, comment in found.inputs:
        sizes = ", ".join(map(str, (found.batch, *shape)))
        said.append(say("looking.input", name=name, shape=f"[{sizes}]", dtype=dtype))
        said += [comment] if comment is not None else []
    if found.classes is not None:
        count, why = found.classes
        said += [say("looking.classes", count=count), why]
    if found.layout:
        said.append(say("looking.holds", first="; ".join(found.layout[:_FIRST])))
    inputs = tuple((name, tuple(shape), dtype) for name, shape, dtype, _ in found.inputs)
    classes = found.classes[0] if found.classes is not None and not found.guessed else None
    return Look(kind, family, tuple(said), inputs, classes, found.foreign if family == "foreign-module" else "")


def _om(file: Path) -> Look:
    from pth2om import omfile

    om = omfile.read_om(file)
    said = [say("looking.om", soc=om.soc_version or "-", atc=om.atc_version or "-")]
    inputs = tuple((entry.name, tuple(entry.shape), entry.dtype) for entry in om.inputs)
    for name, shape, dtype in inputs:
        said.append(say("looking.input", name=name, shape=str(list(shape)), dtype=dtype))
    said += [finding.message for finding in omfile.check(om)]
    return Look("om", "om", tuple(said), inputs)


def _text(file: Path, kind: Kind) -> Look:
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
    if kind == "json":
        first = _object(head.split(b"\n", 1)[0]) or _object(head)
        if first.get("kind") == "conversion" or file.name.endswith(".convert.json"):
            return Look(kind, "conversion", (say("looking.conversion"),))
        if first.get("type") == "run" or first.get("kind") == "run":
            return Look(kind, "evidence", (say("looking.evidence"),))
    elif b"aipp_op" in head:
        from pth2om import aipp

        try:
            count = max((op.rank for op in aipp.read_config(file).ops), default=0) + 1
            return Look(kind, "aipp", (say("looking.aipp", count=count),))
        except Pth2omError as error:
            return Look(kind, "aipp", (error.message,))
    elif (title := templates.title_of(file)) is not None:
        return Look(kind, "template", (say("looking.template", name=title),))
    return Look(kind, "log", (say("looking.log"),))


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
