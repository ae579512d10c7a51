"""What a file says about a model: task, inputs, number of classes, and what it takes to run it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pth2om.checkpoint.formats import READABLE, Kind
from pth2om.errors import CheckpointError, GraphError
from pth2om.language import Message, say
from pth2om.spec import Input, Task

if TYPE_CHECKING:
    from pth2om.checkpoint.layout import Layout
    from pth2om.checkpoint.reading import Checkpoint

_PLACEHOLDER_SIZE = {0: (), 1: (16000,), 2: (224, 224), 3: (64, 64, 64)}
_SIZE_FACTS = re.compile(r"(^|\.)(imgsz|img_size|image_size|input_size|crop_size)$")
_HEAD = re.compile(r"(^|\.)(head|fc|classifier|linear|logits|last_linear|cls_head|out)(\.\w+)?\.weight$")


@dataclass(frozen=True)
class Found:
    """The facts read from a file for a spec; each comment names the place where it was read.

    Attributes:
        task: most likely task and the reason.
        inputs: name, shape without the batch axis, dtype; with its comment.
        batch: fixed batch size of an ONNX file, else 1.
        classes: number of classes and the comment on its place; None if it is not certain.
        guessed: whether that number is a guess, which the spec holds as a comment only.
        problem: why the file does not fit the net that was given.
        layout: lines of ``key shape`` for a net that is yet to be written.
        needs: ``net``, ``trust``, or nothing, to run it.
    """

    task: tuple[Task, Message]
    inputs: tuple[tuple[str, tuple[int, ...], str, Message | None], ...]
    batch: int = 1
    classes: tuple[int, Message] | None = None
    layout: tuple[str, ...] = ()
    needs: str = ""
    foreign: str = ""
    guessed: bool = False
    problem: CheckpointError | None = None


def from_checkpoint(source: Path, kind: Kind, shape: Sequence[int] | None) -> Found:
    """What a checkpoint says.

    Args:
        source: the file.
        kind: what it is.
        shape: of its input without the batch axis, where that is known.

    Raises:
        CheckpointError: it cannot be read.
    """
    from pth2om.checkpoint.layout import layout
    from pth2om.checkpoint.reading import not_readable, read

    if kind not in READABLE:
        raise not_readable(source, kind)
    checkpoint = read(source)
    tensors = checkpoint.tensors
    if kind == "safetensors":  # stored by name, not by layer
        tensors = dict(sorted(tensors.items(), key=lambda item: _natural(item[0])))
    seen = layout(tensors)
    return Found(
        task=_task(seen),
        inputs=(_input(seen, checkpoint, shape),),
        classes=None if checkpoint.is_torchscript else _classes(seen, checkpoint),
        guessed=kind == "safetensors" and not isinstance(checkpoint.facts.get("nc"), int),
        layout=tuple(f"{key} {list(value.shape)}" for key, value in tensors.items()),
        needs=_needs(checkpoint),
        foreign=", ".join(entry for entry in checkpoint.classes if not entry.startswith("torch."))[:300],
    )


def with_net(found: Found, source: Path, net: Path) -> Found:
    """What building the net adds: the number of classes that fits, and the inputs by their names in ``forward``."""
    from pth2om.checkpoint.trial import try_net

    trial = try_net(source, net)
    classes, guessed = found.classes, found.guessed
    if trial.classes is not None:
        classes, guessed = (trial.classes, say("starter.classes-fit", net=net.name)), False
    elif trial.problem is None:
        classes = None  # the net's default fits, or its infer reads the number
    first, *others = trial.inputs or (found.inputs[0][0],)
    inputs = [(first, *found.inputs[0][1:])]
    inputs += [(name, (1,), "float32", say("starter.input-of-forward", net=net.name)) for name in others]
    needs = found.needs if classes is not None or trial.problem is not None else ""
    return dataclasses.replace(
        found, classes=classes, guessed=guessed, inputs=tuple(inputs), needs=needs, problem=trial.problem
    )


def _needs(checkpoint: Checkpoint) -> str:
    if checkpoint.is_torchscript:
        return ""
    if not checkpoint.module:
        return "net"
    return "" if all(name.startswith("torch.nn.modules.") for name in checkpoint.classes) else "trust"


def _task(seen: Layout) -> tuple[Task, Message]:
    if seen.task is None:
        return "tensor", say("starter.task-unknown")
    return seen.task, say("starter.task-guess", reason=seen.reason)


def _input(
    seen: Layout, checkpoint: Checkpoint, shape: Sequence[int] | None
) -> tuple[str, tuple[int, ...], str, Message | None]:
    name = "image" if seen.axes == 2 or seen.channels is None else "input"
    if shape is not None:
        return name, tuple(shape), "float32", None
    if seen.channels is None:
        return name, (3, 224, 224), "float32", say("starter.input-unknown")
    read_off = {"source": seen.channels.source, "shape": str(list(seen.channels.shape))}
    if seen.axes == 0:
        return name, (seen.channels.value,), "float32", say("starter.input-linear", **read_off)
    fact = next(
        (
            (key, value)
            for key, value in checkpoint.facts.items()
            if _SIZE_FACTS.search(key) and type(value) is int and 8 <= value <= 8192
        ),
        None,
    )
    if fact is not None and seen.axes == 2:
        size = (seen.channels.value, fact[1], fact[1])
        return name, size, "float32", say("starter.input-fact", fact=fact[0], **read_off)
    return (
        name,
        (seen.channels.value, *_PLACEHOLDER_SIZE[seen.axes]),
        "float32",
        say("starter.input-placeholder", size=" x ".join(map(str, _PLACEHOLDER_SIZE[seen.axes])), **read_off),
    )


def _classes(seen: Layout, checkpoint: Checkpoint) -> tuple[int, Message] | None:
    said, names = checkpoint.facts.get("nc"), checkpoint.facts.get("names")
    if type(said) is int and said > 0:
        return said, say("starter.classes-fact", fact="nc")
    if isinstance(names, list):
        return len(names), say("starter.classes-fact", fact="names")
    if checkpoint.kind == "safetensors":
        return _guessed_classes(seen, checkpoint)
    if seen.classes is None or not seen.ends_linear or seen.task == "detection":
        return None  # a detector's last layer has several rows a class; a last convolution may be anything
    return seen.classes.value, say(
        "starter.classes-read", source=seen.classes.source, shape=str(list(seen.classes.shape))
    )


def _guessed_classes(seen: Layout, checkpoint: Checkpoint) -> tuple[int, Message] | None:
    """Of a safetensors file, which keeps tensors by name: which layer comes last can only be guessed from names."""
    rows = {name: list(value.shape) for name, value in checkpoint.tensors.items() if value.ndim == 2}
    heads = sorted((name.count("."), name) for name in rows if _HEAD.search(name))
    if not heads or seen.task == "detection":
        return None
    name = heads[0][1]
    return int(rows[name][0]), say("starter.classes-guess", source=name, shape=str(rows[name]))


def from_onnx(source: Path, shape: Sequence[int] | None) -> Found:
    """What an ONNX file says; ``shape`` is that of its first input without the batch axis, where the user gives it.

    Raises:
        CheckpointError: it cannot be read, or a spec cannot express its inputs.
    """
    from pth2om.onnxfile.reading import read

    try:
        model = read(source)
    except GraphError as error:
        raise CheckpointError("starter.onnx-broken", where=str(source), reason=error.message.render()) from error
    weights = {entry.name for entry in model.graph.initializer}
    inputs: list[tuple[str, tuple[int, ...], str, Message | None]] = []
    batches: set[int] = set()
    for index, entry in enumerate(value for value in model.graph.input if value.name not in weights):
        name, dims, dtype = _onnx_input(source, entry)
        batches.add(dims[0] if dims else 0)
        rest = dims[1:]
        if index == 0 and shape is not None:
            inputs.append((name, tuple(shape), dtype, None))
        elif all(rest):
            inputs.append((name, rest, dtype, None))
        else:
            sizes = tuple(size or 1 for size in rest) if len(rest) != 3 else tuple(size or 224 for size in rest)
            inputs.append((name, sizes, dtype, say("starter.input-dynamic", shape=_dims(rest))))
    if not inputs:
        raise CheckpointError("starter.onnx-no-inputs", where=str(source))
    outputs = [entry.name for entry in model.graph.output]
    task = _onnx_task([_shape(entry) for entry in model.graph.output], outputs, inputs[0][1])
    # Only where every input agrees is the first axis the batch for certain.
    batch = max(batches.pop(), 1) if len(batches) == 1 else 1
    return Found(task=task, inputs=tuple(inputs), batch=batch)


def _onnx_input(source: Path, entry: Any) -> tuple[str, tuple[int, ...], str]:  # noqa: ANN401 - ValueInfoProto
    import onnx

    allowed = get_args(Input.model_fields["dtype"].annotation)
    number = entry.type.tensor_type.elem_type
    name = onnx.TensorProto.DataType.Name(number).lower()
    dtype = "float32" if name == "float" else name
    if dtype not in allowed:
        raise CheckpointError("starter.onnx-dtype", where=str(source), name=entry.name, dtype=dtype)
    if not re.fullmatch(r"[A-Za-z0-9_.\-]+", entry.name):
        raise CheckpointError("starter.onnx-name", where=str(source), name=entry.name)
    return entry.name, _shape(entry), dtype


def _shape(entry: Any) -> tuple[int, ...]:  # noqa: ANN401 - ValueInfoProto
    """Sizes; 0 stands for an unknown one."""
    return tuple(max(int(size.dim_value), 0) for size in entry.type.tensor_type.shape.dim)


def _dims(shape: Sequence[int]) -> str:
    return "[" + ", ".join(str(size) if size else "?" for size in shape) + "]"


def _onnx_task(shapes: Sequence[tuple[int, ...]], names: Sequence[str], fed: tuple[int, ...]) -> tuple[Task, Message]:
    for name, shape in zip(names, shapes, strict=True):
        reason = f"{name} {_dims(shape)}"
        if "box" in name.lower() or (len(shape) == 3 and 6 <= shape[2] <= 512 and len(fed) == 3):
            return "detection", say("starter.task-guess", reason=reason)
        if len(shape) == 2 and shape[1] > 1 and len(names) == 1 and len(fed) == 3:
            return "classification", say("starter.task-guess", reason=reason)
        if len(shape) == 4 and len(fed) == 3 and shape[2:] == fed[1:] and all(shape[2:]):
            return "segmentation", say("starter.task-guess", reason=reason)
    return "tensor", say("starter.task-unknown")


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
