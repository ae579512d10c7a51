"""Operator packages beside CANN: what a wheel or an installed folder says about the operators in it.

A package lies below ``vendors/<vendor>/``: ``op_impl/ai_core/tbe/config/<family>/aic-<family>-ops-info.json`` names its
kernels, ``framework/onnx/*.so`` registers ONNX operators with ATC's parser, ``op_proto/lib/**/*.so`` brings InferShape
and InferDataType. A wheel holds the same in a zip file. Nothing of it is loaded or run.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pth2om.errors import ToolchainError
from pth2om.files import is_file, is_folder, is_there

KEY = re.compile(rb"[A-Za-z_][A-Za-z0-9_.]{0,63}::[0-9]{1,3}::[A-Za-z_][A-Za-z0-9_.]{0,63}")
"""``domain::opset::Type`` in the bytes of a plug-in."""

_INFO = re.compile(r"(?:^|/)op_impl/ai_core/tbe/config/([a-z0-9_]{1,32})/aic-\1-ops-info[^/]*\.json$")
_PLUGIN = re.compile(r"(?:^|/)framework/(?:onnx/)?[^/]+\.so$")
_PROTO = re.compile(r"(?:^|/)op_proto/(?:.*/)?[^/]+\.so$")
_VERSION = re.compile(r"(?:^|/)version\.info$")
_INFO_LIMIT = 64 * 2**20
_PLUGIN_LIMIT = 256 * 2**20
_MOST_FILES = 200_000
_DTYPES = {"float": "float32", "double": "float64", "bf16": "bfloat16"}


@dataclass(frozen=True)
class PackagedPort:
    """One input or output of a packaged operator: its name, and the dtypes of its kernels in their order."""

    name: str
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class PackagedOperator:
    """One operator as the package's information file has it: its ports in order."""

    inputs: tuple[PackagedPort, ...]
    outputs: tuple[PackagedPort, ...]


@dataclass(frozen=True)
class OperatorPackage:
    """What a package holds.

    Attributes:
        path: the wheel or folder.
        operators: chip family -> operator -> its ports.
        keys: ``domain::opset::Type`` that its plug-ins name.
        has_plugin: whether it has an ONNX plug-in at all.
        has_proto: whether it has a library of prototypes, which registers InferShape and InferDataType.
        version: of the compiler that built it, from ``version.info``; ``""`` where it does not say.
        digest: sha256 of the files that were read.
    """

    path: Path
    operators: Mapping[str, Mapping[str, PackagedOperator]] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()
    has_plugin: bool = False
    has_proto: bool = False
    version: str = ""
    digest: str = ""

    def families(self, op_type: str) -> tuple[str, ...]:
        """The chip families that have a kernel of the operator."""
        return tuple(sorted(family for family, found in self.operators.items() if op_type in found))

    def operator(self, op_type: str) -> PackagedOperator | None:
        """The operator, of whichever family has it first."""
        return next((found[op_type] for _, found in sorted(self.operators.items()) if op_type in found), None)


def read_package(path: Path) -> OperatorPackage:
    """Read a package: a wheel (or another zip file), or a folder that holds one at any depth.

    Args:
        path: the file or folder.

    Raises:
        ToolchainError: it cannot be read, or no operator information is in it.
    """
    if not is_there(path):
        raise ToolchainError("ascend.package-absent", where=str(path))
    try:
        if is_folder(path):
            return _collect(path, _folder_files(path))
        if is_file(path) and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _collect(path, _zip_files(archive))
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise ToolchainError("ascend.package-unreadable", where=str(path), reason=str(error)[:200]) from None
    raise ToolchainError("ascend.package-kind", where=str(path))


_File = tuple[str, int, Callable[[], bytes]]
"""Its path with slashes, its size in bytes, and what reads it."""


def _folder_files(root: Path) -> Iterator[_File]:
    for number, file in enumerate(sorted(root.rglob("*"))):
        if number >= _MOST_FILES:
            return
        name = file.relative_to(root).as_posix()
        if file.suffix in (".json", ".so", ".info") and file.is_file():
            yield name, file.stat().st_size, file.read_bytes


def _zip_files(archive: zipfile.ZipFile) -> Iterator[_File]:
    for entry in sorted(archive.infolist()[:_MOST_FILES], key=lambda entry: entry.filename):
        name = PurePosixPath(entry.filename).as_posix()
        yield name, entry.file_size, functools.partial(_zip_bytes, archive, entry)


def _zip_bytes(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """No more bytes than the archive's directory announces."""
    with archive.open(entry) as file:
        return file.read(entry.file_size)


def _collect(path: Path, files: Iterator[_File]) -> OperatorPackage:
    operators: dict[str, dict[str, PackagedOperator]] = {}
    keys: set[str] = set()
    plugin = proto = False
    version = ""
    digest = hashlib.sha256()
    for name, size, data in files:
        info = _INFO.search(name)
        if info is not None and size <= _INFO_LIMIT:
            content = data()
            operators.setdefault(info[1], {}).update(_operators(content))
        elif _PLUGIN.search(name) and size <= _PLUGIN_LIMIT:
            content, plugin = data(), True
            keys.update(key.decode() for key in KEY.findall(content))
        elif _PROTO.search(name):
            content, proto = f"{size}".encode(), True
        elif _VERSION.search(name) and size <= 2**16:
            content = data()
            version = version or content.decode("utf-8", "replace").partition("=")[2].strip()[:40]
        else:
            continue
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    if not operators and not keys:
        raise ToolchainError("ascend.package-empty", where=str(path))
    return OperatorPackage(path, operators, frozenset(keys), plugin, proto, version, digest.hexdigest())


def _operators(content: bytes) -> dict[str, PackagedOperator]:
    """The operators of one information file; one that is no JSON object has none."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(data, dict):
        return {}
    return {
        str(name): PackagedOperator(_ports(entry, "input"), _ports(entry, "output"))
        for name, entry in data.items()
        if isinstance(entry, dict)
    }


def _ports(entry: Mapping[str, Any], kind: str) -> tuple[PackagedPort, ...]:
    found: dict[int, PackagedPort] = {}
    for key, value in entry.items():
        place = key.removeprefix(kind)
        if key.startswith(kind) and place.isdecimal() and isinstance(value, dict):
            words = [dtype_name(word) for word in str(value.get("dtype", "")).split(",") if word.strip()]
            found[int(place)] = PackagedPort(str(value.get("name", "")), tuple(dict.fromkeys(words)))
    return tuple(found[place] for place in sorted(found))


def dtype_name(word: str) -> str:
    """An operator information file's word for a dtype as NumPy names it: ``float`` is ``float32``."""
    return _DTYPES.get(word.strip().lower(), word.strip().lower())
