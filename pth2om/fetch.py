"""Weights and datasets by name, on request only: ``pth2om fetch NAME``.

A manifest gives the files' addresses, sha256 and licence for each name. Files are saved in the user's cache, where
specs look for them. An interrupted download continues where it stopped; a file whose sha256 differs from the manifest's
is deleted. Nothing else in pth2om imports this module: a test never downloads.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Literal

import filelock
import platformdirs
from pydantic import BaseModel, ConfigDict, Field, field_validator

from pth2om.errors import DataError, first_line
from pth2om.spec import Name, parse
from pth2om.store import file_digest

MANIFEST = Path(__file__).with_name("fetch_manifest.toml")
TIMEOUT = 30.0
"""A connection is closed after this many seconds without a byte."""

_ATTEMPTS = 3
_CHUNK = 1 << 18
_LARGEST = 64 << 30
"""Limit of one file; a server that never stops sending is cut off here."""

Progress = Callable[[int, "int | None"], None]


class FetchError(DataError):
    """A named file could not be fetched."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class File(_Table):
    """One file of an entry.

    Attributes:
        url: ``https:``, ``file:``, or ``http:`` on this machine.
        name: its name on disk.
        sha256: the expected digest; None if the manifest has none.
        bytes: its size, when known.
        unpack: whether the file is an archive (zip or tar) to be unpacked.
    """

    url: str
    name: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    bytes: Annotated[int, Field(ge=1)] | None = None
    unpack: bool = False

    @field_validator("name")
    @classmethod
    def _names_a_file(cls, name: str) -> str:
        if not name.strip("."):
            raise ValueError("the name must be that of a file")
        return name

    @field_validator("url")
    @classmethod
    def _safe(cls, url: str) -> str:
        if not _is_safe(url):
            raise ValueError("the address must be https:, file:, or http: on this machine")
        return url


class Entry(_Table):
    """The entry of one name.

    Attributes:
        title: for people.
        licence: shown before anything is downloaded.
        kind: ``weights`` are saved in the cache's ``weights`` folder, a ``dataset`` in a folder of its name.
        files: in the order of downloading.
    """

    title: str
    licence: str
    kind: Literal["weights", "dataset"]
    files: tuple[File, ...] = Field(min_length=1)


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Entry]


@dataclass(frozen=True)
class Fetched:
    """The result of `fetch`.

    Attributes:
        path: the file, or the folder of the unpacked archive.
        sha256: of the file.
        downloaded: bytes received now; 0 if the file was already there.
        resumed_from: bytes kept from an earlier attempt.
    """

    path: Path
    sha256: str
    downloaded: int
    resumed_from: int


def entries(manifest: Path = MANIFEST) -> Mapping[str, Entry]:
    """All entries of a manifest.

    Raises:
        SpecError: it is not TOML or has a wrong entry; the message gives the line.
    """
    return parse(manifest, _Manifest, {}).__pydantic_extra__


def find(name: str, manifest: Path = MANIFEST) -> Entry:
    """The entry of that name.

    Raises:
        FetchError: there is none; the message lists the nearest name and all others.
    """
    known = entries(manifest)
    if name not in known:
        raise FetchError("fetch.unknown", where=name, known=", ".join(sorted(known)) or "-")
    return known[name]


def cache_folder(name: str, entry: Entry) -> Path:
    """The default folder of an entry's files; `find_weights` looks for weights there by name."""
    cache = Path(platformdirs.user_cache_dir("pth2om", appauthor=False))
    return cache / "weights" if entry.kind == "weights" else cache / "datasets" / name


def fetch(file: File, folder: Path, *, progress: Progress | None = None, timeout: float = TIMEOUT) -> Fetched:
    """Download one file into ``folder`` and resume an earlier attempt; one process at a time.

    Args:
        file: the file to download.
        folder: the destination; created if absent.
        progress: called with the bytes received and, if known, the total.
        timeout: seconds without a byte.

    Raises:
        FetchError: the address does not answer, the file is a different one, or the disk is full.
    """
    target = folder / file.name
    part = target.with_name(target.name + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(str(part) + ".lock"):
            present = _present(file, target)
            if present is not None:
                return present
            before = part.stat().st_size if part.exists() else 0
            received, resumed = _download(file, part, progress, timeout)
            digest = _checked(file, part)
            _keep_digest(target, digest)
            if file.unpack:
                _unpack(file, part, folder)
                part.unlink()
            else:
                part.replace(target)
            part.with_name(part.name + ".json").unlink(missing_ok=True)
    except OSError as error:
        raise FetchError("fetch.disk", where=str(target), reason=error.strerror or str(error)) from None
    return Fetched(folder if file.unpack else target, digest, received, before if resumed else 0)


# --- what is here -----------------------------------------------------------------------------------------------------


def _digest_file(target: Path) -> Path:
    return target.with_name(target.name + ".sha256")


def _keep_digest(target: Path, digest: str) -> None:
    """The digest in the format that ``sha256sum --check`` reads."""
    beside = _digest_file(target)
    temporary = beside.with_name(beside.name + ".part")
    temporary.write_text(f"{digest}  {target.name}\n", encoding="utf-8")
    temporary.replace(beside)


def _present(file: File, target: Path) -> Fetched | None:
    """The file if the right one is already here; a different one is reported and never overwritten."""
    kept = None
    with contextlib.suppress(OSError, IndexError):
        kept = _digest_file(target).read_text(encoding="utf-8").split()[0]
    if file.unpack:
        if kept is None or file.sha256 not in (None, kept):
            return None
        return Fetched(target.parent, kept, 0, 0)
    if not target.exists():
        return None
    digest = file_digest(target)
    wanted = file.sha256 or kept
    if wanted is not None and digest != wanted:
        raise FetchError("fetch.other-present", where=str(target), expected=wanted, found=digest)
    return Fetched(target, digest, 0, 0)


def _checked(file: File, part: Path) -> str:
    """The sha256 of a finished download; a wrong file is removed."""
    digest = file_digest(part)
    size = part.stat().st_size
    if file.sha256 is not None and digest != file.sha256:
        what = _looks_like(part)
        part.unlink()
        raise FetchError(
            "fetch.wrong-digest", where=file.url, expected=file.sha256, found=digest, size=size, looks=what
        )
    if file.sha256 is None and (what := _looks_like(part)) in ("html", "lfs-pointer", "empty", "text"):
        # Without a digest a login page would be accepted as the file.
        part.unlink()
        raise FetchError("fetch.not-the-file", where=file.url, looks=what, size=size)
    return digest


def _looks_like(path: Path) -> str:
    from pth2om.checkpoint import kind_of

    return str(kind_of(path))


# --- the wire ---------------------------------------------------------------------------------------------------------


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects to addresses not allowed in a manifest, and from the web to a file on this machine."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme == "file" or not _is_safe(newurl):
            raise FetchError("fetch.unsafe-redirect", where=req.full_url, to=newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_safe(url: str) -> bool:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "http":
        host = parts.hostname or ""
        if host == "localhost":
            return True
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(host).is_loopback
        return False
    return (parts.scheme == "https" and bool(parts.hostname)) or (parts.scheme == "file" and not parts.netloc)


def _download(file: File, part: Path, progress: Progress | None, timeout: float) -> tuple[int, bool]:
    """Complete ``part``; returns the bytes received and whether the first response was only the missing rest."""
    received = 0
    resumed: bool | None = None
    for attempt in range(_ATTEMPTS):
        try:
            for count, went_on in _attempt(file, part, progress, timeout):
                received += count
                resumed = went_on if resumed is None else resumed
        except (http.client.HTTPException, TimeoutError, ConnectionError, urllib.error.URLError) as error:
            if attempt + 1 < _ATTEMPTS and not _is_final(error):
                continue
            have = part.stat().st_size if part.exists() else 0
            raise FetchError("fetch.no-answer", where=file.url, reason=_reason(error), have=have) from None
        else:
            return received, bool(resumed)
    raise AssertionError("the last attempt returns or raises")


def _is_final(error: Exception) -> bool:
    """Whether a new request is pointless: the server answered, or there is no such file or host."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code < 500
    return isinstance(error, urllib.error.URLError) and not isinstance(error.reason, TimeoutError | ConnectionError)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__


def _attempt(file: File, part: Path, progress: Progress | None, timeout: float) -> Iterator[tuple[int, bool]]:
    """One request; yields the bytes of each chunk written, and whether it continued where ``part`` ended."""
    marks = part.with_name(part.name + ".json")
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(file.url, headers={"User-Agent": "pth2om", "Accept-Encoding": "identity"})  # noqa: S310 - checked
    validator = _validator(marks, file.url)
    if have and validator is not None:
        request.add_header("Range", f"bytes={have}-")
        # Without it, the rest of a file that has changed would be appended to the beginning of the old one.
        request.add_header("If-Range", validator)
    opener = urllib.request.build_opener(_SafeRedirects)
    try:
        response = opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        # No bytes follow: the file is complete or is a different one. The digest decides.
        error.close()
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
            yield 0, True
            return
        part.unlink()
        raise http.client.HTTPException("the partial file did not fit") from None
    with response:
        went_on = response.status == 206 and _starts_at(response.headers, have)
        if not went_on:
            have = 0
        total = _total(response.headers, have)
        limit = file.bytes or _LARGEST
        if total is not None and total > limit:
            raise FetchError("fetch.too-large", where=file.url, size=total, limit=limit)
        _remember(marks, file.url, response.headers)
        with part.open("ab" if went_on else "wb") as stream:
            while chunk := response.read(_CHUNK):
                have += len(chunk)
                if have > limit:
                    raise FetchError("fetch.too-large", where=file.url, size=have, limit=limit)
                stream.write(chunk)
                yield len(chunk), went_on
                if progress is not None:
                    progress(have, total)
    if total is not None and have < total:
        raise http.client.IncompleteRead(b"", total - have)


def _starts_at(headers: Mapping[str, str], offset: int) -> bool:
    return str(headers.get("Content-Range", "")).replace(" ", "").startswith(f"bytes{offset}-")


def _total(headers: Mapping[str, str], have: int) -> int | None:
    length = str(headers.get("Content-Length", ""))
    return have + int(length) if length.isdigit() else None


def _validator(marks: Path, url: str) -> str | None:
    """The strong validator of the partial file from the server; None if the rest cannot be requested safely."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        known = json.loads(marks.read_text(encoding="utf-8"))
        if known.get("url") == url:
            value = known.get("validator")
            return value if isinstance(value, str) and value and "\n" not in value else None
    return None


def _remember(marks: Path, url: str, headers: Mapping[str, str]) -> None:
    tag = str(headers.get("ETag") or "")
    validator = tag if tag and not tag.startswith("W/") else str(headers.get("Last-Modified") or "")
    marks.write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")


# --- archives ---------------------------------------------------------------------------------------------------------


def _unpack(file: File, archive: Path, folder: Path) -> None:
    """Unpack into a temporary folder and move that: a broken archive leaves nothing; no file leaves ``folder``."""
    beside = Path(tempfile.mkdtemp(prefix=".unpack-", dir=folder))
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _bounded(file, sum(entry.file_size for entry in opened.infolist()), folder)
                for entry in opened.infolist():
                    _inside(file, entry.filename)
                opened.extractall(beside)  # noqa: S202 - every name was checked
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened_tar:
                members = opened_tar.getmembers()
                _bounded(file, sum(member.size for member in members), folder)
                for member in members:
                    _inside(file, member.name)
                    if not (member.isfile() or member.isdir()):
                        raise FetchError("fetch.archive-link", where=file.name, member=member.name)
                for member in members:
                    opened_tar.extract(member, beside, set_attrs=False)
        else:
            raise FetchError("fetch.no-archive", where=file.url, looks=_looks_like(archive))
        for made in sorted(beside.iterdir()):
            goal = folder / made.name
            if goal.is_dir():
                shutil.rmtree(goal)
            made.replace(goal)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, RuntimeError) as error:
        raise FetchError("fetch.archive-broken", where=file.name, reason=first_line(error)) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _inside(file: File, name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        raise FetchError("fetch.archive-outside", where=file.name, member=name)


def _bounded(file: File, size: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if size > min(_LARGEST, free):
        raise FetchError("fetch.archive-too-large", where=file.name, size=size, limit=min(_LARGEST, free))


def offline() -> bool:
    """Whether downloads are forbidden: ``PTH2OM_OFFLINE=1``."""
    return os.environ.get("PTH2OM_OFFLINE", "") not in ("", "0")
