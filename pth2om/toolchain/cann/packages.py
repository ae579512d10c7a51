"""Operator packages of a model on the way to atc: the folders that ``ASCEND_CUSTOM_OPP_PATH`` names."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pth2om.errors import ToolchainError

_MOST_BYTES = 2 << 30
_KERNELS = "op_impl"  # the folder that every vendor's package has


def vendor_folders(paths: Iterable[Path], scratch: Path) -> list[Path]:
    """The vendor folders in operator packages: those with ``op_impl`` in them.

    Args:
        paths: wheels or folders, read by `pth2om.ascend.operator_package.read_package` before.
        scratch: where wheels are unpacked.

    Raises:
        ToolchainError: a wheel is too large, or its names lead out of it.
    """
    found: list[Path] = []
    for number, path in enumerate(dict.fromkeys(paths)):
        root = path
        if path.is_file():
            root = scratch / str(number)
            _unpack(path, root)
        inside = sorted({kernels.parent for kernels in root.rglob(_KERNELS) if kernels.is_dir()})
        if (root / _KERNELS).is_dir():
            inside = [root]
        found += [folder for folder in inside if not any(other in folder.parents for other in inside)]
    return found


def _unpack(path: Path, root: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [PurePosixPath(entry.filename) for entry in entries]
            if any(name.is_absolute() or ".." in name.parts for name in names):
                raise ToolchainError("ascend.package-kind", where=str(path))
            if sum(entry.file_size for entry in entries) > _MOST_BYTES:
                raise ToolchainError("ascend.package-kind", where=str(path))
            archive.extractall(root)
    except (OSError, zipfile.BadZipFile) as error:
        raise ToolchainError("ascend.package-unreadable", where=str(path), reason=str(error)[:200]) from None
