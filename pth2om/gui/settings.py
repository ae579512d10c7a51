"""Where the server listens, which folders it may read, and what it keeps for a project."""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from pth2om.errors import DataError
from pth2om.files import is_folder, write_text
from pth2om.host import data_roots

PORT = 8765
_PACKAGE = Path(__file__).resolve().parents[1]
BUNDLED = (_PACKAGE / "models", _PACKAGE.parent / "models")
"""Where the small model is that a visitor may try: in an installed package, or in a checkout beside it."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Settings:
    """What a server was started with.

    Attributes:
        project: the folder in which the jobs run; paths in forms are relative to it.
        state: folder of journals, uploads and remembered forms of this project.
        roots: further folders that may be shown and named.
        host: address to listen on.
        port: port to listen on.
        names: host names under which a browser may address the server, besides those of the loopback.
        at_once: jobs that run at the same time.
        upload_bytes: the largest upload.
    """

    project: Path
    state: Path
    roots: tuple[Path, ...] = ()
    host: str = "127.0.0.1"
    port: int = PORT
    names: tuple[str, ...] = ()
    at_once: int = 1
    upload_bytes: int = 4 << 30
    tokens: Tokens = field(default_factory=lambda: Tokens())

    @property
    def jobs(self) -> Path:
        """Folder of the journals, one folder a job."""
        return self.state / "jobs"

    @property
    def uploads(self) -> Path:
        """Folder of uploaded files, apart from the project's own."""
        return self.state / "uploads"

    @property
    def readable(self) -> tuple[Path, ...]:
        """Every folder that may be shown and named, with links followed."""
        demo = (folder / name for folder in BUNDLED for name in ("convmixer", "convmixer-digits"))
        folders = (self.project, *self.roots, *data_roots(), self.uploads, self.jobs, *demo)
        return tuple(dict.fromkeys(folder.resolve() for folder in folders if is_folder(folder)))

    @property
    def hosts(self) -> frozenset[str]:
        """The names that a ``Host`` header may have, without the port."""
        return frozenset((*_LOOPBACK, *self.names, *((self.host,) if self.host not in ("0.0.0.0", "::") else ())))  # noqa: S104 - told from others, not bound to

    @property
    def cookie(self) -> str:
        """Name of the session's cookie; browsers do not tell ports apart, so the name does."""
        return f"pth2om-{self.port}"

    def prepare(self) -> None:
        """Make the folders, for this user only.

        Raises:
            DataError: they cannot be made, or another user may write into them and so knows or sets what is secret.
        """
        try:
            for folder in (self.state, self.jobs, self.uploads):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                status = folder.stat()
                if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
                    raise DataError("gui.state-shared", where=str(folder))
        except OSError as error:
            raise DataError("gui.no-state", where=str(self.state), reason=error.strerror or str(error)) from None

    def session(self) -> str:
        """The secret that a signed-in browser holds. It outlives the server, so that open pages survive a restart."""
        file = self.state / "session"
        try:
            text = file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeError):
            text = ""
        if len(text) < 32:
            text = secrets.token_urlsafe(32)
            write_text(file, text)
            file.chmod(0o600)
        return text


class Tokens:
    """The one-time token of the printed address: it signs one browser in, then another takes its place."""

    def __init__(self) -> None:
        self.current = secrets.token_urlsafe(24)

    def use(self, token: str) -> bool:
        """Whether this is the token; it is not, the second time."""
        good = secrets.compare_digest(token.encode(), self.current.encode())
        if good:
            self.current = secrets.token_urlsafe(24)
        return good


def state_folder(project: Path) -> Path:
    """The usual place of what is kept for a project: the user's state folder, one folder a project."""
    from platformdirs import user_state_path

    digest = hashlib.sha256(os.fsencode(project.resolve())).hexdigest()[:12]
    return user_state_path("pth2om") / "gui" / f"{project.resolve().name[:40] or 'root'}-{digest}"
