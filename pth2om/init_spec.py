"""``pth2om init``: a first spec from the content of a file.

Values found in the file are written with the place where they were read; all others are marked placeholders. No large
file is copied: the spec names the file, with its sha256, so that it is found from any working directory.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pth2om.checkpoint.formats import READABLE, Kind, kind_of
from pth2om.checkpoint.search import candidates
from pth2om.errors import CheckpointError, GraphError
from pth2om.escaping import toml_string, visible
from pth2om.language import Message, say
from pth2om.spec import Input, Spec, Task, parse
from pth2om.store import file_digest

if TYPE_CHECKING:
    from pth2om.checkpoint.layout import Layout
    from pth2om.checkpoint.reading import Checkpoint

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
_PLACEHOLDER_SIZE = {0: (), 1: (16000,), 2: (224, 224), 3: (64, 64, 64)}
_SIZE_FACTS = re.compile(r"(^|\.)(imgsz|img_size|image_size|input_size|crop_size)$")
_HEAD = re.compile(r"(^|\.)(head|fc|classifier|linear|logits|last_linear|cls_head|out)(\.\w+)?\.weight$")
_LISTED_KEYS = 80
_LONGEST_KEY = 300


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


@dataclass(frozen=True)
class Started:
    """The result of `start`.

    Attributes:
        folder: the model's folder.
        written: every file, the spec first.
        next_steps: what to do now.
    """

    folder: Path
    written: tuple[Path, ...]
    next_steps: tuple[Message, ...]


def start(
    name: str,
    source: Path,
    *,
    models: Path,
    net: Path | None = None,
    task: Task | None = None,
    shape: Sequence[int] | None = None,
    data_roots: Sequence[Path] = (),
) -> Started:
    """Write ``models/<name>/model.toml`` for a checkpoint or an ONNX file.

    Args:
        name: of the model.
        source: the file; its kind is recognized by its content.
        models: the folder of specs; beside it ``test_cases/`` is written where there is none.
        net: a Python file with the architecture.
        task: overrides the guess.
        shape: of the first input, without the batch axis.
        data_roots: folders in which the file is found by its bare name.

    Raises:
        CheckpointError: the name is not valid, the spec exists already, or the file is neither a checkpoint nor ONNX.
    """
    if not _NAME.fullmatch(name):
        raise CheckpointError("starter.bad-name", where=name)
    folder = (models / name).absolute()
    target = folder / "model.toml"
    if target.exists():
        raise CheckpointError("starter.exists", where=str(target), name=name)
    kind = kind_of(source)
    if net is not None:
        from pth2om.checkpoint.nets import load_net

        load_net(net)  # reports now, not in the first run, that it is not a net
    found = _from_onnx(source, shape) if kind == "onnx" else _from_checkpoint(source, kind, shape)
    if net is not None and kind != "onnx":
        found = _with_net(found, source, net)
    root = models.absolute().parent
    text = _spec_text(
        name,
        kind,
        found,
        task,
        _reference(source, folder, root, name, data_roots),
        file_digest(source),
        net,
        root,
        folder,
    )
    files = {target: text}
    if found.needs == "net" and net is None and not (folder / "net.py").exists():
        files[folder / "net.py"] = _stub(name, found)
    cases = root / "test_cases"
    if not any(cases.glob("test_*.py")):
        files |= {cases / case: body for case, body in acceptance_tests().items()}
    _write(files, target, name)
    return Started(folder, tuple(files), _next_steps(name, found, net))


def acceptance_tests() -> Mapping[str, str]:
    """The acceptance tests that a repository of models holds: file name -> text.

    The wheel carries ``test_cases/`` of this repository as ``pth2om/test_cases``; a checkout has it beside the package.
    """
    package = Path(__file__).resolve().parent
    for place in (package / "test_cases", package.parent / "test_cases"):
        found = {file.name: file.read_text(encoding="utf-8") for file in sorted(place.glob("test_*.py"))}
        if found:
            return found
    return {}


# --- what the file says -----------------------------------------------------------------------------------------------


def _from_checkpoint(source: Path, kind: Kind, shape: Sequence[int] | None) -> Found:
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


def _with_net(found: Found, source: Path, net: Path) -> Found:
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


def _from_onnx(source: Path, shape: Sequence[int] | None) -> Found:
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


# --- the files --------------------------------------------------------------------------------------------------------


def _reference(source: Path, folder: Path, root: Path, model: str, data_roots: Sequence[Path]) -> str:
    """How the spec names the file: shortest first, and found from any working directory.

    A bare name where the search finds it, a relative path inside the repository, an absolute one elsewhere.
    """
    file = source.absolute()
    for candidate in candidates(folder, file.name, model, data_roots):
        if candidate.is_file():
            if candidate.samefile(file):
                return file.name
            break  # another file of that name would be found first
    for base in (folder, root):
        if file.is_relative_to(base):
            return Path(os.path.relpath(file, folder)).as_posix()
    for base in data_roots:
        if file.is_relative_to(base.absolute()):
            return file.relative_to(base.absolute()).as_posix()
    return file.as_posix()


def _spec_text(
    name: str,
    kind: Kind,
    found: Found,
    task: Task | None,
    reference: str,
    digest: str,
    net: Path | None,
    root: Path,
    folder: Path,
) -> str:
    lines = [*_comment(say("starter.head", name=name)), ""]
    if task is None:
        task = found.task[0]
        lines += _comment(found.task[1])
    lines += [f"task = {_text(task)}", "", "[source]"]
    if Path(reference).is_absolute():
        lines += _comment(say("starter.absolute"))
    role = "onnx" if kind == "onnx" else "checkpoint"
    lines += [f"{role} = {_text(reference)}", f"sha256 = {_text(digest)}"]
    if net is not None:
        place = net.absolute()
        inside = place.is_relative_to(root)
        lines.append(f"net = {_text(Path(os.path.relpath(place, folder)).as_posix() if inside else place.as_posix())}")
    elif found.needs:
        lines += _comment(say(f"starter.needs-{found.needs}", name=name, classes=found.foreign))
    if found.classes is not None:
        mark = "# " if found.guessed else ""
        lines += [*_comment(found.classes[1]), f"{mark}num_classes = {found.classes[0]}"]
    elif found.needs:
        lines += [*_comment(say("starter.classes-unknown")), "# num_classes = 10"]
    for entry, shape, dtype, comment in found.inputs:
        lines += ["", "[[inputs]]", f"name = {_text(entry)}"]
        lines += _comment(comment) if comment is not None else []
        lines.append(f"shape = {list(shape)}")
        lines += [f"dtype = {_text(dtype)}"] if dtype != "float32" else []
    lines += _judged(task, found)
    return "\n".join(lines) + "\n"


def _judged(task: Task, found: Found) -> list[str]:
    """The parts that define what is judged: post-processing, slices, variants, and a dataset to be filled in."""
    lines: list[str] = []
    decoder = {"classification": None, "segmentation": "argmax"}.get(task, "none")
    if decoder is not None:
        lines += ["", *_comment(say("starter.decoder", task=task)), "[postprocess]", f"decoder = {_text(decoder)}"]
    if task == "classification":
        lines += ["", "[[slices]]", 'name = "scores"', 'kind = "scores"']
    lines += ["", "[variants]", 'precision = ["fp16"]', f"batch = [{found.batch}]"]
    shape = found.inputs[0][1]
    if len(shape) == 3 and shape[0] in (1, 3):
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
        block += ["", "[[datasets]]", 'name = "my_dataset"', f"metric = {_text(metric)}"]
        lines += ["", *_comment(say("starter.dataset")), *(f"# {line}".rstrip() for line in block)]
    return lines


def _stub(name: str, found: Found) -> str:
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


def _text(value: str) -> str:
    """A TOML string; only a file name can hold what TOML cannot."""
    try:
        return toml_string(value)
    except UnicodeEncodeError:
        raise CheckpointError("starter.undecodable", where=value) from None


def _python(value: str) -> str:
    """A Python string in the quotes that formatters prefer."""
    return json.dumps(value) if value.isascii() else repr(value)


def _write(files: Mapping[Path, str], spec: Path, name: str) -> None:
    """Write all files or none; the spec must load."""
    made: list[Path] = []
    folders: list[Path] = []
    temporary: dict[Path, Path] = {}
    try:
        for path, text in files.items():
            folders += [parent for parent in (path.parent, *path.parent.parents) if not parent.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary[path] = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            temporary[path].write_text(text, encoding="utf-8", newline="\n")
        parse(temporary[spec], Spec, {"name": name, "folder": spec.parent})
        for path, written in temporary.items():
            written.replace(path)
            made.append(path)
    except OSError as error:
        _undo(made, temporary, folders)
        raise CheckpointError(
            "starter.not-writable", where=str(spec.parent), reason=error.strerror or str(error)
        ) from None
    except BaseException:
        _undo(made, temporary, folders)
        raise


def _undo(made: Sequence[Path], temporary: Mapping[Path, Path], folders: Sequence[Path]) -> None:
    for path in (*made, *temporary.values()):
        path.unlink(missing_ok=True)
    for folder in sorted(set(folders), key=lambda folder: -len(folder.parts)):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _next_steps(name: str, found: Found, net: Path | None) -> tuple[Message, ...]:
    steps = [say("starter.next-look", name=name)]
    if found.problem is not None:
        steps.append(say("starter.next-misfit", reason=str(found.problem.message)))
    if found.needs and net is None:
        steps.append(say(f"starter.next-{found.needs}", name=name))
    return (*steps, say("starter.next-run", name=name))
