"""The files of a drafted model as text: its spec, with a comment where each value was read, and a net to be written."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pth2om.checkpoint.formats import Kind
from pth2om.drafting.asked import Asked, text_value
from pth2om.drafting.found import Found
from pth2om.escaping import visible
from pth2om.language import Message, say
from pth2om.spec import Task

_LISTED_KEYS = 80
_LONGEST_KEY = 300


def spec_text(
    name: str,
    kind: Kind,
    found: Found,
    asked: Asked,
    reference: str,
    digest: str,
    root: Path,
    folder: Path,
) -> str:
    """The text of a ``model.toml``.

    Args:
        name: of the model.
        kind: of the file.
        found: what it says.
        asked: what the user asks beyond that.
        reference: how the spec names the file.
        digest: sha256 of the file.
        root: of the repository of models; a net outside is named by its whole path.
        folder: of the spec.
    """
    lines = [*_comment(say("starter.head", name=name)), ""]
    task, net = asked.task, asked.net
    if task is None:
        task = found.task[0]
        lines += _comment(found.task[1])
    lines += [f"task = {text_value(task)}", "", "[source]"]
    if Path(reference).is_absolute():
        lines += _comment(say("starter.absolute"))
    role = "onnx" if kind == "onnx" else "checkpoint"
    lines += [f"{role} = {text_value(reference)}", f"sha256 = {text_value(digest)}"]
    if net is not None:
        place = net.absolute()
        inside = place.is_relative_to(root)
        lines.append(
            f"net = {text_value(Path(os.path.relpath(place, folder)).as_posix() if inside else place.as_posix())}"
        )
    elif found.needs:
        lines += _comment(say(f"starter.needs-{found.needs}", name=name, classes=found.foreign))
    if asked.num_classes is not None:
        lines.append(f"num_classes = {asked.num_classes}")
    elif found.classes is not None:
        mark = "# " if found.guessed else ""
        lines += [*_comment(found.classes[1]), f"{mark}num_classes = {found.classes[0]}"]
    elif found.needs:
        lines += [*_comment(say("starter.classes-unknown")), "# num_classes = 10"]
    for entry, shape, dtype, comment in found.inputs:
        lines += ["", "[[inputs]]", f"name = {text_value(entry)}"]
        lines += _comment(comment) if comment is not None else []
        lines.append(f"shape = {list(shape)}")
        lines += [f"dtype = {text_value(dtype)}"] if dtype != "float32" else []
        if entry in asked.axes:
            lines.append(f"axes = [{', '.join(map(text_value, asked.axes[entry]))}]")
        if entry in asked.ranges:
            lines.append(f"range = {list(asked.ranges[entry])}")
    lines += [*_judged(task, found, asked), *asked.lines()]
    return "\n".join(lines) + "\n"


def _judged(task: Task, found: Found, asked: Asked) -> list[str]:
    """The parts that define what is judged: post-processing, slices, variants, and a dataset to be filled in."""
    lines: list[str] = []
    decoder = {"classification": None, "segmentation": "argmax"}.get(task, "none")
    if task == "detection" and asked.datasets:
        decoder = "yolov6"  # the rows that boxes are scored by; others are refused by name when they are seen
    if decoder is not None:
        lines += ["", *_comment(say("starter.decoder", task=task)), "[postprocess]", f"decoder = {text_value(decoder)}"]
    if task == "classification":
        lines += ["", "[[slices]]", 'name = "scores"', 'kind = "scores"']
    if decoder == "yolov6":
        for part, index in (("boxes", "..., :4"), ("scores", "..., 5:")):
            lines += ["", "[[slices]]", f'name = "{part}"', f'index = "{index}"', f'kind = "{part}"']
    if not asked.variants:
        lines += ["", "[variants]", 'precision = ["fp16"]', f"batch = [{found.batch}]"]
    shape = found.inputs[0][1]
    if asked.volume is not None and not asked.datasets:
        block = ["[[datasets]]", 'name = "my_dataset"', 'metric = "dice"']
        lines += ["", *_comment(say("starter.volumes")), *(f"# {line}" for line in block)]
    elif len(shape) == 3 and shape[0] in (1, 3) and asked.preprocess is None and asked.volume is None:
        color = 'color = "GRAY"' if shape[0] == 1 else 'color = "RGB"'
        mean = "[0.5]" if shape[0] == 1 else "[0.485, 0.456, 0.406]"
        std = "[0.5]" if shape[0] == 1 else "[0.229, 0.224, 0.225]"
        block = [
            "[preprocess]",
            color,
            f"size = {list(shape[1:])}",
            'resize = "letterbox"',
            f"mean = {mean}",
            f"std = {std}",
        ]
        metric = {"classification": "top1", "detection": "mAP50-95", "segmentation": "dice"}.get(task, "agreement")
        block += ["", "[[datasets]]", 'name = "my_dataset"', f"metric = {text_value(metric)}"]
        lines += ["", *_comment(say("starter.dataset")), *(f"# {line}".rstrip() for line in block)]
    return lines


def stub(name: str, found: Found) -> str:
    """A net to be written by the user, with the keys and shapes that it must have."""
    comment = "\n".join(_comment(say("starter.net-head", name=name, count=len(found.layout))))
    listed = "\n".join(f"#   {visible(line, _LONGEST_KEY)}" for line in found.layout[:_LISTED_KEYS])
    more = len(found.layout) - _LISTED_KEYS
    tail = f"\n#   ... (+{more})" if more > 0 else ""
    classes = found.classes[0] if found.classes else 1000
    return (
        f"{comment}\n{listed}{tail}\n\nfrom torch import nn\n\nTEMPLATE_NAME = {_python(name)}\n\n\n"
        f"def build(num_classes: int = {classes}, pretrained: bool = False) -> nn.Module:\n"
        "    raise NotImplementedError\n"
    )


def _comment(message: Message) -> list[str]:
    return [f"# {line}".rstrip() for line in message.render().splitlines()]


def _python(value: str) -> str:
    """A Python string in the quotes that formatters prefer."""
    return json.dumps(value) if value.isascii() else repr(value)
