"""The artifact store: each artifact is built once per key on a machine, for any number of workers.

An artifact is a folder ``<root>/<stage>/<key>/`` with the stage's files and an ``artifact.json`` that says what the key
was made of. It appears by one rename, so it is whole or absent; builders of the same key wait for one another on a lock
file; a failed build leaves nothing, and what a killed one leaves is removed by the next. The record holds the sha256
of every file: an artifact that lost one, or in which one was changed, is built anew.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.errors import Pth2omError, StoreError, is_full
from pth2om.files import State, state_of, write_text

if TYPE_CHECKING:
    import filelock  # when something is built: a run that finds all in the store locks nothing

_RECORD = "artifact.json"
_NOT_STAGES = ("building", "digests", "locks", "resume")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_STAGE = re.compile(r"[a-z][a-z0-9_-]*")
_CHUNK = 1 << 20
_LOOK_AGAIN = 60.0  # seconds


@dataclass(frozen=True)
class Key:
    """Everything an artifact depends on.

    Attributes:
        stage: name of the stage, e.g. ``onnx``.
        version: the stage's own VERSION, raised when its code changes what it makes.
        inputs: role -> digest of each input.
        options: option -> JSON value.
        libraries: library -> version.
        label: for people (``yolov6n-fp16-bs1``); not part of the key.
    """

    stage: str
    version: int
    inputs: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    label: str = ""

    def parts(self) -> dict[str, Any]:
        """The parts as plain JSON values, without the label."""
        return {
            "stage": self.stage,
            "version": self.version,
            "inputs": dict(self.inputs),
            "options": dict(self.options),
            "libraries": dict(self.libraries),
        }

    @functools.cached_property
    def digest(self) -> str:
        """sha256 over the canonical JSON of `parts`."""
        text = json.dumps(self.parts(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A finished artifact.

    Attributes:
        path: its folder.
        key: the digest of its key.
        cached: whether it was there before.
        seconds: what building it took when it was built.
        created: ISO 8601 time it was built.
    """

    path: Path
    key: str
    cached: bool
    seconds: float
    created: str

    def file(self, name: str) -> Path:
        """The path of one of its files."""
        return self.path / name

    def json(self, name: str = "result.json") -> Any:  # noqa: ANN401 - JSON
        """One of its files, read as JSON."""
        return json.loads(self.file(name).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Entry:
    """One line of ``pth2om store ls``.

    Attributes:
        bytes: of all its files.
        created: ISO time; empty where `damaged`.
        used: POSIX time of last use.
        parts: of its key; empty where `damaged`.
        damaged: whether the record is unreadable or a file is missing or of another size; what is asked for is then
            built anew.
    """

    stage: str
    label: str
    key: str
    bytes: int
    created: str
    used: float
    parts: Mapping[str, Any]
    path: Path
    damaged: bool = False


def default_root() -> Path:
    """``PTH2OM_STORE``, else the user's cache folder."""
    asked = os.environ.get("PTH2OM_STORE")
    if asked:
        return Path(asked)
    import platformdirs

    return Path(platformdirs.user_cache_dir("pth2om", appauthor=False)) / "store"


@dataclass(frozen=True)
class _Verified:
    """An artifact whose record and files were read and compared in this process, and their states then."""

    artifact: Artifact
    files: tuple[tuple[str, State], ...]
    at: float

    def unchanged(self) -> bool:
        """Whether all is as it was; after a minute no, so that the time of last use does not lag behind.

        Raises:
            OSError: a file is gone, or cannot be looked at.
        """
        return time.monotonic() - self.at < _LOOK_AGAIN and all(state_of(file) == state for file, state in self.files)


class Store:
    """A content-addressed store of artifacts under ``root``.

    Attributes:
        root: its folder.
        failures: digest of a key -> why its stage failed; of this process only.
        undeclared: how often user code read what no key names yet; of this process only. What is built meanwhile is
            kept apart, for its key does not tell it from another.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or default_root()).absolute()
        self.failures: dict[str, Pth2omError] = {}
        self.undeclared = 0
        self._digests: dict[State, str] = {}
        self._verified: dict[Path, _Verified] = {}

    def place(self, key: Key) -> Path:
        """The folder of the artifact of ``key``, whether it is there or not."""
        return self.root / key.stage / key.digest

    def resume(self, key: Key) -> Path:
        """The folder where an interrupted build of ``key`` keeps what it can be resumed from; gone when it is built."""
        return self.root / "resume" / key.digest

    def artifact(self, key: Key, build: Callable[[Path], None]) -> Artifact:
        """The artifact of ``key``, built by ``build(folder)`` if it is not there yet.

        Args:
            key: what it depends on.
            build: writes its files into the empty folder it is given; it may raise, then nothing stays.

        Raises:
            StoreError: the store cannot be written (no space, no permission).
        """
        digest = key.digest
        place = self.place(key)
        found = self._found(place)
        if found is not None:
            return found
        with self._locked(digest):
            found = self._found(place)
            if found is not None:
                return found
            return self._build(key, place, build)

    def holds(self, artifact: Artifact) -> bool:
        """Whether an artifact that this process found before, less than a minute ago, is here as it was then."""
        known = self._verified.get(artifact.path)
        with contextlib.suppress(OSError):
            return known is not None and known.unchanged()
        return False

    def kept(self, name: str) -> Artifact | None:
        """The artifact of ``stage/<digest of its key>``; None where there is none, or one of its files was changed.

        Raises:
            StoreError: the store cannot be read.
        """
        stage, _, digest = name.partition("/")
        if not _STAGE.fullmatch(stage) or not _DIGEST.fullmatch(digest) or stage in _NOT_STAGES:
            return None
        return self._found(self.root / stage / digest)

    def forget(self, key: Key) -> None:
        """Remove the artifact of ``key`` if there is one, so that it is built anew."""
        with self._locked(key.digest):
            self._remove(self.place(key))

    def digest(self, path: Path) -> str:
        """sha256 of a file's bytes, remembered by what a change of the file cannot keep (see `pth2om.files.State`).

        Raises:
            StoreError: the file cannot be read.
        """
        try:
            state = state_of(path)
            if state in self._digests:
                return self._digests[state]
            memo = self.root / "digests" / hashlib.sha256(repr(state).encode()).hexdigest()
            with contextlib.suppress(OSError):
                text = memo.read_text(encoding="ascii")
                if len(text) == 64:
                    self._digests[state] = text
                    return text
            digest = file_digest(path)
        except OSError as error:
            raise StoreError("store.unreadable", where=str(path), reason=_reason(error)) from None
        self._digests[state] = digest
        with contextlib.suppress(OSError):  # a memo that cannot be kept costs time, nothing else
            memo.parent.mkdir(parents=True, exist_ok=True)
            write_text(memo, digest)
        return digest

    def entries(self) -> Iterator[Entry]:
        """All artifacts, damaged ones too: they take room like the others."""
        for place in sorted(self.root.glob("*/*")):
            if place.parent.name in _NOT_STAGES or not _DIGEST.fullmatch(place.name):
                continue
            if not (self._is_own(place.parent) and self._is_own(place)):
                continue  # linked from elsewhere: not ours to list, and not to remove
            try:
                sizes = {
                    file.relative_to(place).as_posix(): file.stat().st_size
                    for file in place.rglob("*")
                    if file.is_file()
                }
                used = (place / _RECORD if _RECORD in sizes else place).stat().st_mtime
            except OSError:
                continue  # being removed by another process
            size = sum(sizes.values())
            try:
                data = json.loads((place / _RECORD).read_text(encoding="utf-8"))
                parts = dict(data["parts"])
                stage, label, created = str(parts["stage"]), str(data["label"]), str(data["created"])
                damaged = any(sizes.get(name) != had for name, (had, _) in data["files"].items())
            except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
                yield Entry(place.parent.name, "", place.name, size, "", used, {}, place, damaged=True)
                continue
            yield Entry(stage, label, place.name, size, created, used, parts, place, damaged)

    def collect_garbage(self, keep_bytes: int) -> list[Entry]:
        """Remove what is damaged, what killed builds left, and the least recently used until ``keep_bytes`` remain.

        Returns:
            What was removed.
        """
        self._sweep()
        resume = self.root / "resume"
        for state in resume.glob("*") if self._is_own(resume) else ():
            # Of a build that was interrupted and whose like was never asked for again.
            with contextlib.suppress(OSError):  # another process removes it too
                if state.lstat().st_mtime < time.time() - 7 * 86_400:
                    _removed(state)
        entries = sorted(self.entries(), key=lambda entry: entry.used, reverse=True)
        removed, total = [], 0
        for entry in entries:
            total += 0 if entry.damaged else entry.bytes
            if entry.damaged or total > keep_bytes:
                with self._locked(entry.key):
                    self._remove(entry.path)
                removed.append(entry)
        return removed

    def why(self, key: Key) -> list[str]:
        """Why ``key`` is not in the store: where it differs from the nearest artifact of its stage and label.

        Returns:
            Dotted names of the differing parts with both values, nearest artifact first; empty when it is there, and
            ``["nothing of this stage and label is in the store"]`` when there is nothing to compare with.
        """
        if self._found(self.place(key)) is not None:
            return []
        candidates = (
            entry
            for entry in self.entries()
            if entry.stage == key.stage and key.label in ("", entry.label) and not entry.damaged
        )
        compared = [differences(entry.parts, key.parts()) for entry in candidates]
        return min(compared, key=len, default=["nothing of this stage and label is in the store"])

    # ------------------------------------------------------------------------------------------------------------

    def _found(self, place: Path) -> Artifact | None:
        """The artifact at ``place``; None where there is none, or a damaged one, which is then built anew."""
        record = place / _RECORD
        try:
            if (known := self._verified.get(place)) is not None and known.unchanged():
                return known.artifact
            data = json.loads(record.read_text(encoding="utf-8"))
            files = []
            for name, (size, digest) in data.get("files", {}).items():
                file = place / name
                state = state_of(file)
                if state[2] != size or self.digest(file) != digest:
                    return None
                files.append((os.fspath(file), state))
            artifact = Artifact(place, place.name, True, float(data["seconds"]), str(data["created"]))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError("store.unreadable", where=str(record), reason=_reason(error)) from None
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
            return None
        with contextlib.suppress(OSError):
            os.utime(record)  # the time of last use, for collect_garbage
            self._verified[place] = _Verified(
                artifact, (*files, (os.fspath(record), state_of(record))), time.monotonic()
            )
        return artifact

    def _build(self, key: Key, place: Path, build: Callable[[Path], None]) -> Artifact:
        import filelock

        building = self.root / "building"
        folder = building / uuid.uuid4().hex
        resume = self.resume(key)
        alive: filelock.BaseFileLock | None = None
        try:
            building.mkdir(parents=True, exist_ok=True)
            if not self._is_own(building):
                raise StoreError("store.linked", where=str(building))
            self._sweep()
            # Held as long as this process lives, so that others can tell a build that runs from what a kill left.
            alive = filelock.FileLock(folder.with_suffix(".lock"))
            alive.acquire()
            folder.mkdir()
            started, undeclared = time.perf_counter(), self.undeclared
            build(folder)
            seconds = time.perf_counter() - started
            created = datetime.now(UTC).isoformat(timespec="seconds")
            sizes = {
                file.relative_to(folder).as_posix(): (file.stat().st_size, self.digest(file))
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            }
            if self.undeclared != undeclared:
                key = replace(key, inputs={**key.inputs, "undeclared": uuid.uuid4().hex})
                place = self.place(key)
            parts = key.parts()
            record = {"parts": parts, "label": key.label, "seconds": seconds, "created": created, "files": sizes}
            write_text(folder / _RECORD, json.dumps(record, ensure_ascii=False, indent=1), durable=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            self._remove(place)  # a damaged one
            folder.replace(place)
            shutil.rmtree(resume, ignore_errors=True)
        except OSError as error:
            if is_full(error):
                raise StoreError("store.no-space", where=str(self.root), stage=key.stage) from None
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
                raise StoreError("store.not-writable", where=str(self.root), reason=_reason(error)) from None
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if alive is not None:
                alive.release()
                with contextlib.suppress(OSError):
                    folder.with_suffix(".lock").unlink(missing_ok=True)
        return Artifact(place, place.name, False, seconds, created)

    @contextlib.contextmanager
    def _locked(self, digest: str) -> Iterator[None]:
        import filelock

        lock = self.root / "locks" / f"{digest}.lock"
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            guard = filelock.FileLock(lock)
            guard.acquire()
        except OSError as error:
            raise StoreError("store.not-writable", where=str(self.root), reason=_reason(error)) from None
        try:
            yield
        finally:
            guard.release()

    def _is_own(self, folder: Path) -> bool:
        """Whether a folder of the store is one, and not a link to somewhere else."""
        return folder.is_dir() and folder.resolve() == folder.parent.resolve() / folder.name

    def _sweep(self) -> None:
        """Remove what killed builds left: folders whose process holds no lock any more."""
        import filelock

        building = self.root / "building"
        if not self._is_own(building):
            return
        for leftover in building.iterdir():
            try:
                if leftover.suffix == ".lock":
                    # Without its folder it is one that begins, or one that a kill left between two steps.
                    lone = not leftover.with_suffix("").exists()
                    if lone and leftover.lstat().st_mtime < time.time() - 86_400:
                        leftover.unlink(missing_ok=True)
                    continue
                lock = leftover.with_suffix(".lock")
                with filelock.FileLock(lock, timeout=0):
                    _removed(leftover)
                lock.unlink(missing_ok=True)
            except (OSError, filelock.Timeout):
                continue  # it is being built, or being removed by another process

    def _remove(self, place: Path) -> None:
        if not place.exists():
            return
        building = self.root / "building"
        building.mkdir(parents=True, exist_ok=True)
        if not self._is_own(building):  # perhaps linked to another disk
            _removed(place)
            return
        # Renamed first: a reader sees the artifact whole or not at all.
        doomed = building / uuid.uuid4().hex
        place.replace(doomed)
        _removed(doomed)


def differences(had: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The parts in which two keys differ, as ``dotted.name: had -> wanted``, sorted by name."""
    before, after = _flat(had), _flat(wanted)
    return [
        f"{name}: {before.get(name, '(absent)')} -> {after.get(name, '(absent)')}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


@functools.cache
def version_of(library: str) -> str:
    """The installed version of a distribution, looked up once: keys name the same few again and again.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
    """
    return metadata.version(library)


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes as 64 hex digits, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _removed(path: Path) -> None:
    """Remove a folder, or a link and not what it points to."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _flat(value: Any, name: str = "") -> dict[str, str]:  # noqa: ANN401 - JSON
    if isinstance(value, Mapping):
        flat: dict[str, str] = {}
        for key, item in value.items():
            flat.update(_flat(item, f"{name}.{key}" if name else str(key)))
        return flat
    return {name: json.dumps(value, ensure_ascii=False, sort_keys=True)}
