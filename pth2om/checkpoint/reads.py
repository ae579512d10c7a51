"""What a model depends on beside its checkpoint: which of what its code reads counts for a key, and in which state."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pth2om.checkpoint.watching import EVERY_VARIABLE, Noted
from pth2om.errors import StoreError

Digest = Callable[[Path], str]
Role = Callable[[Path], str]


@dataclass(frozen=True)
class Reads:
    """What counts of what was noted.

    Attributes:
        files: names of the user's files, also of those that were looked for and are absent.
        folders: folders of the user whose names were listed.
        variables: of the environment.
        packages: installed distributions that the code imports, with those that these require.
        unseen: kind -> what cannot be followed: a program, the network, C functions called by name.
        place: whether the working directory itself was asked for.
    """

    files: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()
    variables: frozenset[str] = frozenset()
    packages: frozenset[str] = frozenset()
    unseen: tuple[tuple[str, str], ...] = ()
    place: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        names = ("files", "folders", "variables", "packages")
        lists = {name: sorted(getattr(self, name)) for name in names}
        return {**lists, "unseen": dict(self.unseen), "place": self.place}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reads:
        """From what `to_json` gave."""
        files, folders, variables, packages = (
            frozenset(data[name]) for name in ("files", "folders", "variables", "packages")
        )
        return cls(files, folders, variables, packages, tuple(sorted(data["unseen"].items())), bool(data["place"]))

    def __or__(self, other: Reads) -> Reads:
        """What either of the two names."""
        return Reads(
            self.files | other.files,
            self.folders | other.folders,
            self.variables | other.variables,
            self.packages | other.packages,
            tuple(sorted({**dict(other.unseen), **dict(self.unseen)}.items())),
            self.place or other.place,
        )

    def covers(self, other: Reads) -> bool:
        """Whether everything that ``other`` names is named here."""
        kinds = {kind for kind, _ in self.unseen}
        return (
            other.files <= self.files
            and other.folders <= self.folders
            and other.variables <= self.variables
            and other.packages <= self.packages
            and {kind for kind, _ in other.unseen} <= kinds
            and self.place >= other.place
        )

    def state(self, digest: Digest, role: Role) -> dict[str, str]:
        """Role -> state of each, as it is now: contents of files, names in folders, values, versions.

        Args:
            digest: of a file's bytes.
            role: what a path is called in keys.
        """
        found = {role(Path(name)): _file_state(Path(name), digest) for name in self.files}
        found |= {f"{role(Path(name))}/": _folder_state(Path(name)) for name in self.folders}
        found |= {f"env/{name}": _variable_state(name) for name in self.variables}
        found |= {f"package/{name}": _version(name) for name in self.packages}
        return found | ({"cwd": _hash(os.getcwd())} if self.place else {})  # noqa: PTH109 - text, for a key


def counted(noted: Noted) -> Reads:
    """What counts of ``noted``."""
    scratch = tuple(noted.scratch)
    made = tuple(name + os.sep for name in scratch)
    left_out = {*scratch, *sys.path}  # places where imports look say nothing; what they find is noted by itself
    files = (name for name in noted.files if name not in left_out and not name.startswith(made))
    places = _Places()
    return Reads(
        frozenset(name for name in files if places.are_users(Path(name)) and not Path(name).is_dir()),
        frozenset(
            name for name in noted.folders if not f"{name}{os.sep}".startswith(made) and places.are_users(Path(name))
        ),
        frozenset(name for name in noted.variables if not _is_passing(name)),
        _distributions(noted.packages),
        tuple(sorted(noted.unseen.items())),
        noted.place,
    )


# --- files ----------------------------------------------------------------------------------------------------------


def is_users(path: Path) -> bool:
    """Whether a path is the user's.

    Not so are Python itself and installed packages with their records, the system's folders, files that lie directly
    in the folder for temporary ones, and hidden folders of the home directory, where libraries keep caches and settings
    that change by themselves; unless that is where the user works.
    """
    return _Places().are_users(path)


class _Places:
    """Which paths are the user's, for one look at many: their folders are few, and each is resolved once."""

    def __init__(self) -> None:
        self._folders: dict[str, str | None] = {}
        self._temporary = tempfile.gettempdir()
        try:
            self._home, self._here = (os.path.join(place, "") for place in (Path.home().resolve(), Path.cwd()))  # noqa: PTH118 - with the last separator
        except (OSError, RuntimeError):  # a home that cannot be found, a working directory that was removed
            self._home = self._here = ""

    def are_users(self, path: Path) -> bool:
        """See `is_users`."""
        real = self._resolved(path) if self._home else None
        if real is None:
            return False
        parts = real.split(os.sep)  # noqa: PTH206 - once for every file that Python opens
        if not _LIBRARIES.isdisjoint(parts) or any(part.endswith((".egg-info", ".dist-info")) for part in parts):
            return False
        if real.startswith(self._home) and (inner := real[len(self._home) :].partition(os.sep)[0]).startswith("."):
            return self._here.startswith(f"{self._home}{inner}{os.sep}")
        return not f"{real}{os.sep}".startswith(_installed()) and os.path.dirname(real) != self._temporary  # noqa: PTH120 - once for every file that Python opens

    def _resolved(self, path: Path) -> str | None:
        """As ``Path.resolve``; None where links lead in a circle."""
        name, folder = path.name, os.fspath(path.parent)
        if name in ("", ".."):
            return _real(path)
        if folder not in self._folders:
            self._folders[folder] = _real(path.parent)
        within = self._folders[folder]
        whole = None if within is None else os.path.join(within, name)  # noqa: PTH118 - as above
        return _real(path) if whole is not None and os.path.islink(whole) else whole  # noqa: PTH114 - as above


_LIBRARIES = frozenset({"site-packages", "dist-packages", "__pycache__"})


def _real(path: Path) -> str | None:
    try:
        return str(path.resolve())
    except (OSError, RuntimeError):
        return None


@functools.cache
def _installed() -> tuple[str, ...]:
    ours = Path(__file__).resolve().parent.parent
    roots = [*(Path(place) for place in sysconfig.get_paths().values()), Path(sys.prefix), Path(sys.base_prefix), ours]
    roots += [Path(place) for place in ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib")]
    return tuple({os.path.join(root.resolve(), "") for root in roots})  # noqa: PTH118 - with the last separator


def _file_state(path: Path, digest: Digest) -> str:
    if path.is_dir():
        return "folder"
    if not path.exists():
        return "absent"
    try:
        return digest(path) if path.is_file() else "no file"
    except StoreError:
        return "unreadable"


def _folder_state(path: Path) -> str:
    """Digest of the names in a folder; not of hidden ones and caches, which tools leave everywhere."""
    try:
        names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in path.iterdir())
    except OSError:
        return "absent"
    return _hash("\0".join(name for name in names if not name.startswith((".", "__pycache__"))))


# --- environment and packages -----------------------------------------------------------------------------------------

_PASSING = frozenset({"_", "SHLVL", "OLDPWD", "PWD", "COLUMNS", "LINES", "TMPDIR", "TEMP", "TMP"})


def _is_passing(name: str) -> bool:
    """Whether a variable belongs to the terminal or the test runner and changes from one run to the next."""
    return name in _PASSING or name.startswith(("PYTEST_", "SSH_", "XDG_SESSION"))


def _variable_state(name: str) -> str:
    if name == EVERY_VARIABLE:
        return _hash("\0".join(sorted(each for each in os.environ if not _is_passing(each))))
    value = os.environ.get(name)
    return "unset" if value is None else _hash(f"{name}={value}")  # a hash: it may be a password


_STAGES_NAME = frozenset({"torch"})
"""Versions that the stages name themselves."""


def _distributions(packages: Iterable[str]) -> frozenset[str]:
    """The distributions of importable names, and those that they require, as far as they are installed."""
    wanted = set(packages) - _STAGES_NAME
    if not wanted:
        return frozenset()
    known = metadata.packages_distributions()
    found: set[str] = set()
    waiting = [name for package in wanted for name in known.get(package, ())]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found or name in _STAGES_NAME:
            continue
        with contextlib.suppress(metadata.PackageNotFoundError):
            required = metadata.requires(name) or ()
            found.add(name)
            plain = (text for text in required if "extra ==" not in text)
            waiting += [match[0] for text in plain if (match := re.match(r"[A-Za-z0-9._-]+", text))]
    return frozenset(found)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


# --- what lies beside a net -------------------------------------------------------------------------------------------

_NOT_CODE = frozenset({".pth", ".pt", ".ckpt", ".safetensors", ".onnx", ".om", ".md", ".pyc"})
_NOT_READ = frozenset({"weights", "reports", "__pycache__"})


def folder_files(folder: Path) -> tuple[Path, ...]:
    """The files of a model's folder that its net may depend on.

    Left out are weights, reports, caches, pages, hidden files, and the spec, whose values are in the keys themselves;
    a net that opens one of these all the same is noticed by `pth2om.checkpoint.watching`.

    Args:
        folder: of the spec.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder)
        if any(part in _NOT_READ or part.startswith(".") for part in inner.parts):
            continue
        if path.is_file() and path.suffix.lower() not in _NOT_CODE and inner.as_posix() != "model.toml":
            found.append(path)
    return tuple(found)
