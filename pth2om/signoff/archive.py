"""The zip file of a bundle: one set of documents is one sequence of bytes, everywhere and at any time.

Entries are sorted, not compressed (what deflate writes depends on the library), of one date and one mode, and
``manifest.json`` names each with its size and sha256. A file is read by writing it again: an entry that stands twice,
points outside, is packed, or lies hidden between or behind the others cannot be in it.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Mapping

from pth2om.errors import SignoffError
from pth2om.signoff import canonical

MANIFEST = "manifest.json"
MOST_BYTES = 1 << 30
MOST_ENTRIES = 10_000
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,150}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,150}){0,3}")
_END = struct.Struct("<4sHHHHIIH")
_ZIP64_LOCATOR = b"PK\x06\x07"
_MOST_LISTING = 1 << 23  # bytes of the list of entries: 46 for each, and its name
_DATE = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_MODE = 0o100644 << 16


def is_archive(data: bytes) -> bool:
    """Whether a file begins as a zip file does."""
    return data[:2] == b"PK"


def write(documents: Mapping[str, bytes]) -> bytes:
    """The zip file of documents, with their manifest.

    Raises:
        SignoffError: a name is none that every system takes, or they are too large.
    """
    wrong = next((name for name in documents if not _NAME.fullmatch(name) or name == MANIFEST), None)
    if wrong is None and len({name.casefold() for name in documents}) < len(documents):
        wrong = ", ".join(sorted(documents))  # two names that some systems take for one
    if wrong is not None or sum(map(len, documents.values())) > MOST_BYTES:
        raise SignoffError("signoff.not-bundled", name=str(wrong)[:100])
    listed = {name: {"bytes": len(data), "sha256": canonical.sha256(data)} for name, data in documents.items()}
    whole = {MANIFEST: canonical.write(listed) + b"\n", **dict(sorted(documents.items()))}
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_STORED) as file:
        for name, data in whole.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system, entry.external_attr = _UNIX, _MODE
            file.writestr(entry, data)
    return memory.getvalue()


def read(data: bytes) -> dict[str, bytes]:
    """The documents of a zip file that `write` made.

    Raises:
        SignoffError: it is no such file, or any byte of it was changed.
    """
    if len(data) > MOST_BYTES:
        raise SignoffError("signoff.too-large", most=MOST_BYTES)
    documents: dict[str, bytes] = {}
    # The list of entries is bounded before anything reads it: `zipfile` makes an object of each.
    end = data[-_END.size :]
    listing = _END.unpack(end)[5] if len(end) == _END.size else 0
    if not end.startswith(b"PK\x05\x06") or listing > _MOST_LISTING or data[-42:-38] == _ZIP64_LOCATOR:
        raise SignoffError("signoff.not-our-zip")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            entries = file.infolist()
            plain = all(entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits for entry in entries)
            size = sum(entry.file_size for entry in entries)
            # Before anything is read: what is stored as it is cannot be larger than the file.
            if not plain or size > len(data) or len(entries) > MOST_ENTRIES:
                raise SignoffError("signoff.not-our-zip")
            for entry in entries:
                if not _NAME.fullmatch(entry.filename) or entry.filename in documents:
                    raise SignoffError("signoff.not-our-zip")
                documents[entry.filename] = file.read(entry)
    except SignoffError:
        raise
    except Exception:  # noqa: BLE001 - whatever a hostile file makes zipfile raise
        raise SignoffError("signoff.not-our-zip") from None
    documents.pop(MANIFEST, None)
    if write(documents) != data:
        raise SignoffError("signoff.not-our-zip")
    return documents
