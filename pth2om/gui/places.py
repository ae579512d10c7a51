"""Folders and files that may be shown, picked and named; uploads.

Everything that a browser names is resolved first, links included, and must then lie in one of the server's folders.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pth2om.errors import DataError
from pth2om.files import is_file
from pth2om.gui.settings import BUNDLED, Settings

_LONGEST_NAME = 120
MOST_ENTRIES = 20_000
"""Entries of one folder that are read."""


@dataclass(frozen=True)
class Entry:
    """One line of the picker.

    Attributes:
        path: absolute.
        name: shown.
        folder: whether it is a folder.
        bytes: size of a file.
        modified: seconds since 1970.
    """

    path: Path
    name: str
    folder: bool
    bytes: int
    modified: float


def confined(text: str, settings: Settings) -> Path:
    """The absolute path that a user names, where that is allowed; it need not exist.

    Args:
        text: absolute, or relative to the project.
        settings: name the folders.

    Raises:
        DataError: it lies outside of all of them, also by way of a link; or no file system takes the name.
    """
    try:
        path = Path(os.path.abspath(settings.project / Path(text).expanduser()))  # noqa: PTH100 - resolve() follows links
        real = path.resolve()
    except (OSError, ValueError, RuntimeError):
        raise DataError("gui.no-such-path", where=text[:200]) from None
    if not any(real.is_relative_to(root) for root in settings.readable):
        shown = ", ".join(str(root) for root in roots(settings)[:4])
        raise DataError("gui.outside", where=str(path), roots=shown)
    return path


def file(text: str, settings: Settings) -> Path:
    """As `confined`, for a file that is there.

    Raises:
        DataError: it is not, or as `confined`.
    """
    path = confined(text, settings)
    if not is_file(path):
        raise DataError("gui.no-such-path", where=str(path))
    return path


def entries(folder: Path, settings: Settings, wanted: str = "") -> list[Entry]:
    """What a folder holds: folders first, then files, by name; hidden ones and links that lead outside are left out.

    Args:
        folder: confined.
        settings: name the folders.
        wanted: part of the name, in any case.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            listed = [entry for entry, _ in zip(found, range(MOST_ENTRIES), strict=False)]
    except OSError as error:
        raise DataError("gui.unreadable", where=str(folder), reason=error.strerror or str(error)) from None
    lines = list(_lines(listed, settings, wanted.lower()))
    return sorted(lines, key=lambda one: (not one.folder, one.name.lower()))


def _lines(found: list[os.DirEntry[str]], settings: Settings, wanted: str) -> Iterator[Entry]:
    for entry in found:
        if entry.name.startswith(".") or wanted not in entry.name.lower():
            continue
        path = Path(entry.path)
        try:
            if entry.is_symlink():
                confined(entry.path, settings)
            status = entry.stat()
            yield Entry(path, entry.name, entry.is_dir(), status.st_size, status.st_mtime)
        except (OSError, DataError):
            continue


def roots(settings: Settings) -> list[Path]:
    """Where the picker begins; the journals are no place for users, and the bundled model has its card."""
    hidden = settings.jobs.resolve()
    return [root for root in settings.readable if root != hidden and root.parent not in BUNDLED]


def upload_target(name: str, settings: Settings) -> Path:
    """A file of its own folder for an upload; of the sent name only harmless letters are kept.

    Raises:
        OSError: the folder cannot be made.
    """
    plain = re.sub(r"[^\w.\-]+", "_", name.replace("\\", "/").rsplit("/", 1)[-1])[-_LONGEST_NAME:].lstrip(".")
    folder = settings.uploads / secrets.token_hex(4)
    folder.mkdir(mode=0o700)
    return folder / (plain or "file")


def word(path: Path, settings: Settings) -> str:
    """A path as a word of the command line: relative to the project where it lies there, and never like an option."""
    text = str(path.relative_to(settings.project) if path.is_relative_to(settings.project) else path)
    return f"./{text}" if text.startswith("-") else text


def bundled(settings: Settings) -> tuple[Path, Path] | None:
    """The small checkpoint and its net: of the project where that is this repository, else those of the package.

    None where there is neither: in a package that was copied by hand, say.
    """
    for models in (settings.project / "models", *BUNDLED):
        pair = models / "convmixer-digits" / "weights" / "convmixer_digits.pth", models / "convmixer" / "net.py"
        if all(is_file(file) for file in pair):
            return pair
    return None
