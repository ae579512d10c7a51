"""The files of a conversion: what the stages made, copied into the output folder, with a record of all of it.

A file that no conversion wrote is not replaced without ``force``, and the source never. What a conversion wrote is
known by the record beside it, which holds the digest of each file.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pth2om.errors import ConvertError, reason_of
from pth2om.files import is_there, replacing, write_text
from pth2om.quantize.settings import file_names
from pth2om.store import file_digest

FORMAT = 1
"""Version of the record's layout."""
_MOST_RECORD = 64 << 20
_OF_THE_STORE = ("artifact.json", "result.json")


@dataclass(frozen=True)
class Names:
    """The names of a conversion's files.

    Attributes:
        folder: the output folder.
        name: of the model.
        quantized: whether the OM is INT8.
    """

    folder: Path
    name: str
    quantized: bool

    @property
    def stem(self) -> str:
        """Of the OM and the record: an INT8 OM has a name of its own, so that it can lie beside the FP16 one."""
        return f"{self.name}_int8" if self.quantized else self.name

    @property
    def onnx(self) -> Path:
        """The float ONNX file."""
        return self.folder / f"{self.name}.onnx"

    @property
    def om(self) -> Path:
        """The OM of a real toolchain."""
        return self.folder / f"{self.stem}.om"

    @property
    def emulated(self) -> Path:
        """The folder of an emulated OM; never a file that looks like an OM."""
        return self.folder / f"{self.stem}.emulated"

    @property
    def torchscript(self) -> Path:
        """The TorchScript program."""
        return self.folder / f"{self.name}.torchscript.pt"

    @property
    def aipp(self) -> Path:
        """The AIPP configuration."""
        return self.folder / f"{self.stem}.aipp.cfg"

    @property
    def calibration(self) -> Path:
        """The batches that were made of images."""
        return self.folder / f"{self.stem}.calibration"

    @property
    def record(self) -> Path:
        """The record."""
        return self.folder / f"{self.stem}.convert.json"


def check(names: Names, file: Path, *, force: bool) -> None:
    """Refuse files in the way, before anything is converted.

    Raises:
        ConvertError: see `writable`; or the folder cannot be made.
    """
    try:
        names.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=names.folder):  # permissions alone do not show a disk mounted read-only
            pass
    except OSError as error:
        raise ConvertError("convert.not-writable", where=str(names.folder), reason=reason_of(error)) from None
    usual = (names.onnx, names.om, names.emulated, names.torchscript, names.aipp, names.calibration, names.record)
    int8: list[Path] = []
    if names.quantized:
        int8 = [names.folder / name for name in file_names(names.name).values()]
        int8 += names.folder.glob(f"{glob.escape(file.stem)}_int8_as_fp32.*")
    writable((*usual, *int8), names, file, force=force)


def writable(targets: Iterable[Path], names: Names, file: Path, *, force: bool) -> None:
    """Refuse to replace what no conversion wrote.

    Args:
        targets: files and folders that are to be written.
        names: of this conversion.
        file: the source, which is not replaced even with `force`.
        force: replace other files.

    Raises:
        ConvertError: names the file in the way.
    """
    known = {name: digest for record in _records(names).values() for name, digest in record.items()}
    for target in targets:
        if not is_there(target):
            continue
        if target.resolve() == file.resolve():
            raise ConvertError("convert.is-source", where=str(target))
        if not force and target != names.record and _digest(target) != known.get(target.name):
            raise ConvertError("convert.in-the-way", where=str(target))
        if target == names.record and not force and names.record not in _records(names):
            raise ConvertError("convert.in-the-way", where=str(target))


def _records(names: Names) -> dict[Path, dict[str, str]]:
    """The records of conversions of this name, of this precision and the other: the digest of each file they wrote."""
    found: dict[Path, dict[str, str]] = {}
    for stem in (names.name, f"{names.name}_int8", names.stem):
        path = names.folder / f"{stem}.convert.json"
        with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
            if path.stat().st_size <= _MOST_RECORD:
                data = json.loads(path.read_text(encoding="utf-8"))
                if data.get("kind") == "conversion":
                    found[path] = {str(name): str(digest) for name, digest in data["files"].items()}
    return found


def deliver(sources: Mapping[str, tuple[Path, Path]], names: Names, file: Path, *, force: bool) -> dict[str, Path]:
    """Copy files and folders, each whole or not at all.

    Args:
        sources: role -> what is copied, and where to.
        names: of this conversion.
        file: the source of the conversion.
        force: replace files that no conversion wrote.

    Returns:
        Role -> path.

    Raises:
        ConvertError: a file is in the way, or the folder cannot be written.
    """
    # What is there already with this content is right, also where a kill took the record.
    wanted = {role: pair for role, pair in sources.items() if not is_there(pair[1]) or _differs(*pair)}
    writable([target for _, target in wanted.values()], names, file, force=force)
    try:
        for source, target in wanted.values():
            _copy(source, target)
    except OSError as error:
        raise ConvertError("convert.not-writable", where=str(names.folder), reason=reason_of(error)) from None
    return {role: target for role, (_, target) in sources.items()}


def write_record(names: Names, files: Mapping[str, Path], data: Mapping[str, Any]) -> Path:
    """Write the record, last of all files."""
    digests = {path.name: _digest(path) for path in files.values()}
    whole = {"kind": "conversion", "format": FORMAT, **data, "files": digests}
    try:
        write_text(names.record, json.dumps(whole, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise ConvertError("convert.not-writable", where=str(names.folder), reason=reason_of(error)) from None
    return names.record


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        with replacing(target) as scratch:
            shutil.copytree(source, scratch, ignore=lambda _, names: [name for name in _OF_THE_STORE if name in names])
            if is_there(target):
                _remove(target)  # a folder is not replaced by a rename
    else:
        with replacing(target) as scratch:
            shutil.copyfile(source, scratch)


def _remove(target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink()


def _differs(source: Path, target: Path) -> bool:
    return source.is_dir() != target.is_dir() or _digest(source) != _digest(target)


def _digest(path: Path) -> str:
    """sha256 of a file; of a folder, of its files' names and digests."""
    if not path.is_dir():
        return file_digest(path)
    whole = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        inside = file.relative_to(path).as_posix()
        if file.is_file() and inside not in _OF_THE_STORE:
            whole.update(f"{inside}\0{file_digest(file)}\n".encode())
    return whole.hexdigest()
