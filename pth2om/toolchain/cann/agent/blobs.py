"""Files that were uploaded, by their sha256: models, plugins, what a compile reads.

An upload that broke off goes on where it stopped; one that is complete is checked against its name before it counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from typing import Dict, List, Optional, Tuple, Union

FOLDER = "PTH2OM_BOARD_CACHE"
"""Another folder than ``~/.cache/pth2om/board``."""

MOST_BYTES = 4 << 30
_NAME = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"[\w.+-]+", re.ASCII)
_CHUNK = 1 << 20


class BlobError(Exception):
    """An upload that is not what it was announced to be, or a path that leads out of its folder."""


class Blobs:
    """The folder of uploads.

    Args:
        folder: where they lie; None: of the environment.
    """

    def __init__(self, folder: Optional[str] = None) -> None:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        self.folder = folder or os.environ.get(FOLDER) or os.path.join(cache, "pth2om", "board")
        os.makedirs(self.folder, mode=0o700, exist_ok=True)

    def path(self, name: str) -> str:
        """Where the file of a sha256 lies.

        Raises:
            BlobError: `name` is no sha256.
        """
        if not _NAME.fullmatch(name):
            raise BlobError("name: %r" % name[:80])
        return os.path.join(self.folder, name)

    def have(self, name: str) -> Tuple[bool, int]:
        """Whether it is complete, and how many bytes are here."""
        path = self.path(name)
        for file, complete in ((path, True), (path + ".part", False)):
            with contextlib.suppress(OSError):
                size = os.stat(file).st_size
                if complete:
                    os.utime(file)  # for `prune`: it was needed
                return complete, size
        return False, 0

    def add(self, name: str, offset: int, data: Union[bytes, bytearray], whole: int) -> int:
        """Write a part of a file.

        Args:
            name: its sha256.
            offset: where the part begins; where the file ends now.
            data: the part.
            whole: size of the file.

        Returns:
            How many bytes are here; after the last part the file has its name.

        Raises:
            BlobError: it is not the part that is missing, or the whole has another sha256; then it begins anew.
            OSError: it cannot be written.
        """
        path = self.path(name)
        complete, here = self.have(name)
        if complete:
            return here
        part = path + ".part"
        if offset != here or offset + len(data) > whole:
            raise BlobError("offset %d of %d" % (offset, here))
        with open(part, "ab") as file:
            file.write(data)
        here += len(data)
        if here == whole:
            with open(part, "rb+") as file:
                digest = digest_of(file)
                if digest != name:
                    file.truncate(0)
                    raise BlobError("sha256 %s" % digest)
                os.fsync(file.fileno())
            os.replace(part, path)
        return here

    def lay(self, files: Dict[str, str], folder: str) -> List[str]:
        """Put uploads into a folder under their own names.

        Args:
            files: relative path -> sha256.
            folder: that exists.

        Returns:
            The sha256 of those that are not here.

        Raises:
            BlobError: a path that leads out of the folder.
            OSError: it cannot be written.
        """
        missing = []
        for name, digest in files.items():
            parts = name.split("/")
            if not parts or any(part in (".", "..") or not _PART.fullmatch(part) for part in parts):
                raise BlobError("path: %r" % name[:80])
            source, target = self.path(digest), os.path.join(folder, *parts)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if not os.path.exists(source):
                missing.append(digest)
            elif not os.path.exists(target):
                try:
                    os.link(source, target)
                except OSError:  # another file system
                    os.symlink(source, target)
        return missing

    def prune(self, most: int = MOST_BYTES) -> None:
        """Remove the uploads that were needed longest ago, until at most ``most`` bytes are left."""
        found = []
        for name in os.listdir(self.folder):
            with contextlib.suppress(OSError):
                state = os.stat(os.path.join(self.folder, name))
                found.append((state.st_mtime, state.st_size, name))
        kept = 0
        for when, size, name in sorted(found, reverse=True):
            kept += size
            if kept > most and time.time() - when > 3600:  # another run may be uploading it
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self.folder, name))


def digest_of(file: object) -> str:
    """sha256 of an open binary file, in hexadecimal."""
    total = hashlib.sha256()
    while True:
        data = file.read(_CHUNK)  # type: ignore[attr-defined]  # an open file
        if not data:
            return total.hexdigest()
        total.update(data)
