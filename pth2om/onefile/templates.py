"""Templates: Python files with ``TEMPLATE_NAME`` and ``build``, chosen by file, by name, or because they fit."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from pth2om.errors import CheckpointError, ConvertError
from pth2om.files import is_file, is_folder
from pth2om.language import Message

DEFAULT_FOLDER = Path("templates")
_MOST = 200
_MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class Template:
    """A template of a folder.

    Attributes:
        name: its ``TEMPLATE_NAME``.
        path: its file.
    """

    name: str
    path: Path


@dataclass(frozen=True)
class Tried:
    """Whether a state dict fits the templates of a folder.

    Attributes:
        fitting: those that take every tensor.
        problems: why each of the others does not.
    """

    fitting: tuple[Template, ...]
    problems: tuple[tuple[Template, Message], ...]


def listed(folder: Path) -> list[Template]:
    """The templates of a folder, by name: ``*.py`` and ``*/net.py``. No file is run to be listed.

    Raises:
        ConvertError: there is no such folder.
    """
    if not is_folder(folder):
        raise ConvertError("convert.no-templates-folder", where=str(folder))
    files = sorted([*folder.glob("*.py"), *folder.glob("*/net.py")])[:_MOST]
    found = [(title_of(file), file) for file in files]
    return sorted((Template(title, file) for title, file in found if title), key=lambda one: (one.name, one.path))


def title_of(path: Path) -> str | None:
    """The ``TEMPLATE_NAME`` that a Python file assigns; None where it assigns none, or is no Python."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        named = any(isinstance(target, ast.Name) and target.id == "TEMPLATE_NAME" for target in targets)
        if named and isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value.value
    return None


def chosen(text: str, folder: Path | None) -> Path:
    """The file of a template that the user names: a path, or a name of the folder.

    Args:
        text: as typed.
        folder: of templates; None: `DEFAULT_FOLDER`, where that exists.

    Raises:
        ConvertError: there is no such template, or several of that name.
    """
    if is_file(Path(text)):
        return Path(text)
    place = folder or DEFAULT_FOLDER
    if folder is None and not is_folder(place):
        raise ConvertError("convert.no-template-file", where=text)
    templates = listed(place)
    found = [one.path for one in templates if one.name == text]
    found = found or [one.path for one in templates if text in (one.path.stem, one.path.parent.name)]
    if len(found) != 1:
        names = ", ".join(one.name for one in templates) or "-"
        key = "convert.template-twice" if found else "convert.no-such-template"
        raise ConvertError(key, where=str(place), name=text, names=names, files=", ".join(map(str, found)))
    return found[0]


def tried(weights: Path, folder: Path) -> Tried:
    """Build each template of a folder and load the weights into it."""
    from pth2om.checkpoint.trial import try_net

    fitting: list[Template] = []
    problems: list[tuple[Template, Message]] = []
    for template in listed(folder):
        try:
            problem = try_net(weights, template.path).problem
        except CheckpointError as error:
            problem = error
        if problem is None:
            fitting.append(template)
        else:
            problems.append((template, problem.message))
    return Tried(tuple(fitting), tuple(problems))
