"""``pth2om init``: a first spec from the content of a file.

Values found in the file are written with the place where they were read; all others are marked placeholders. No large
file is copied: the spec names the file, with its sha256, so that it is found from any working directory.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pth2om.checkpoint.formats import Kind, kind_of
from pth2om.checkpoint.search import candidates
from pth2om.drafting.asked import Asked
from pth2om.drafting.found import Found, from_checkpoint, from_onnx, with_net
from pth2om.drafting.nnunet import with_plans
from pth2om.drafting.writing import spec_text, stub
from pth2om.errors import CheckpointError
from pth2om.language import Message, say
from pth2om.spec import Spec, Task, parse
from pth2om.store import file_digest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")


@dataclass(frozen=True)
class Started:
    """The result of `start`.

    Attributes:
        folder: the model's folder.
        written: every file, the spec first.
        next_steps: what to do now.
        said: what was read beside the file.
    """

    folder: Path
    written: tuple[Path, ...]
    next_steps: tuple[Message, ...]
    said: tuple[Message, ...] = ()


def start(
    name: str,
    source: Path,
    *,
    models: Path,
    net: Path | None = None,
    task: Task | None = None,
    shape: Sequence[int] | None = None,
    plans: Path | None = None,
    configuration: str | None = None,
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
        plans: nnU-Net's plans; default those beside the checkpoint, where there are any.
        configuration: which of the plans.
        data_roots: folders in which the file is found by its bare name.

    Raises:
        DataError: the plans are wrong or belong to another checkpoint.
        CheckpointError: the name is not valid, the spec exists already, or the file is neither a checkpoint nor ONNX.
    """
    target = new_spec(name, models)
    kind = kind_of(source)
    if net is not None:
        from pth2om.checkpoint.nets import load_net

        load_net(net)  # reports now, not in the first run, that it is not a net
    found = from_onnx(source, shape) if kind == "onnx" else from_checkpoint(source, kind, shape)
    if net is not None and kind != "onnx":
        found = with_net(found, source, net)
    planned = None
    if kind != "onnx" and (shape is None or plans is not None):
        planned = with_plans(found, source, plans, configuration)
    asked = Asked(task=task, net=net)
    beside: Mapping[str, bytes] = {}
    if planned is not None:
        found, beside = planned.found, planned.beside
        asked = Asked(task=task, net=net, volume=planned.volume)
    written = write_model(name, source, kind, found, asked, models=models, data_roots=data_roots, beside=beside)
    said = planned.said if planned is not None else ()
    return Started(target.parent, written, _next_steps(name, found, net), said)


def new_spec(name: str, models: Path) -> Path:
    """Where the spec of a new model is written.

    Raises:
        CheckpointError: the name is not valid, or it exists already.
    """
    if not _NAME.fullmatch(name):
        raise CheckpointError("starter.bad-name", where=name)
    target = (models / name).absolute() / "model.toml"
    if target.exists():
        raise CheckpointError("starter.exists", where=str(target), name=name)
    return target


def write_model(
    name: str,
    source: Path,
    kind: Kind,
    found: Found,
    asked: Asked,
    *,
    models: Path,
    data_roots: Sequence[Path] = (),
    beside: Mapping[str, bytes] = MappingProxyType({}),
    manifests: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Path, ...]:
    """Write a model's folder, all files or none, and the acceptance tests where there are none.

    Args:
        name: of the model.
        source: its checkpoint or ONNX file.
        kind: of that file.
        found: what it says.
        asked: what the user asks; its net is named as it lies.
        models: the folder of specs.
        data_roots: folders in which the file is found by its bare name.
        beside: further files of the model's folder: name -> content.
        manifests: of datasets: name -> text of ``calib/<name>/dataset.toml``.

    Returns:
        The files, the spec first.

    Raises:
        CheckpointError: the spec exists already, or nothing can be written.
        SpecError: what is asked contradicts itself.
    """
    target = new_spec(name, models)
    folder, root = target.parent, models.absolute().parent
    reference = _reference(source, folder, root, name, data_roots)
    files = {target: spec_text(name, kind, found, asked, reference, file_digest(source), root, folder).encode()}
    files |= {folder / file: content for file, content in beside.items()}
    files |= {root / "calib" / entry / "dataset.toml": text.encode() for entry, text in manifests.items()}
    if found.needs == "net" and asked.net is None and not (folder / "net.py").exists():
        files[folder / "net.py"] = stub(name, found).encode()
    cases = root / "test_cases"
    if not any(cases.glob("test_*.py")):
        files |= {cases / case: body.encode() for case, body in acceptance_tests().items()}
    _write(files, target, name)
    return tuple(files)


def acceptance_tests() -> Mapping[str, str]:
    """The acceptance tests that a repository of models holds: file name -> text.

    The wheel carries ``test_cases/`` of this repository as ``pth2om/test_cases``; a checkout has it beside the package.
    """
    package = Path(__file__).resolve().parent.parent
    for place in (package / "test_cases", package.parent / "test_cases"):
        found = {file.name: file.read_text(encoding="utf-8") for file in sorted(place.glob("test_*.py"))}
        if found:
            return found
    return {}


def write_tests(root: Path) -> tuple[Path, ...]:
    """Write ``test_cases/`` into a folder for specs that are written by hand; nothing where there are tests already.

    Returns:
        The files.

    Raises:
        CheckpointError: nothing can be written.
    """
    cases = root.absolute() / "test_cases"
    if any(cases.glob("test_*.py")):
        return ()
    files = {cases / case: body.encode() for case, body in acceptance_tests().items()}
    _write(files, cases, cases.name)
    return tuple(files)


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


def _write(files: Mapping[Path, bytes], place: Path, name: str) -> None:
    """Write all files or none; ``place`` must load where it is a spec among them."""
    made: list[Path] = []
    folders: list[Path] = []
    temporary: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            folders += [parent for parent in (path.parent, *path.parent.parents) if not parent.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary[path] = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            temporary[path].write_bytes(content)
        if place in temporary:
            parse(temporary[place], Spec, {"name": name, "folder": place.parent})
        for path, written in temporary.items():
            written.replace(path)
            made.append(path)
    except OSError as error:
        _undo(made, temporary, folders)
        raise CheckpointError(
            "starter.not-writable", where=str(place.parent), reason=error.strerror or str(error)
        ) from None
    except BaseException:  # an interrupt too: nothing is half-written
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
