"""Start the server: find a port, print the address with its one-time token, serve until interrupted."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from html import escape
from pathlib import Path

import uvicorn
from filelock import FileLock, Timeout

from pth2om.errors import DataError
from pth2om.files import is_folder, replacing
from pth2om.gui.app import build
from pth2om.gui.settings import PORT, Settings, state_folder
from pth2om.language import say

_TRIED = 20


def serve(
    project: Path,
    port: int | None = None,
    roots: Sequence[Path] = (),
    jobs: int | None = None,
    host: str = "127.0.0.1",
    names: Sequence[str] = (),
    state: Path | None = None,
    *,
    browser: bool = False,
) -> int:
    """Serve the window of a project.

    Args:
        project: folder in which the jobs run.
        port: to listen on; None: the first free one from 8765 on.
        roots: further folders that may be shown and named.
        jobs: how many run at once; None: one a core.
        host: address to listen on.
        names: further names under which browsers may address the server.
        state: folder of journals and uploads; None: the user's state folder.
        browser: whether to open one.

    Returns:
        The exit status.

    Raises:
        DataError: another server has this project, a root is no folder, or the port is taken.
    """
    for root in roots:
        if not is_folder(root):
            raise DataError("gui.no-root", where=str(root))
    listening = _listen(host, port)
    settings = Settings(
        project=project.resolve(),
        state=(state or state_folder(project)).absolute(),
        roots=tuple(root.absolute() for root in roots),
        host=host,
        port=listening.getsockname()[1],
        names=tuple(name.lower() for name in names),
        at_once=max(1, jobs or os.cpu_count() or 1),
    )
    settings.prepare()
    lock = FileLock(settings.state / "server")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError("gui.served-already", where=str(settings.project)) from None
    shown = f"[{host}]" if ":" in host else host if host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104 - told from others, not bound to
    base = f"http://{shown}:{settings.port}/?token="

    door = Door(settings.state)

    def told(token: str) -> None:
        door.close()
        print(say("gui.another", url=base + token), flush=True)

    print(say("gui.serving", folder=str(settings.project), url=base + settings.tokens.current), flush=True)
    if host not in ("127.0.0.1", "localhost", "::1"):
        print(say("gui.not-loopback", host=host).with_fix(), flush=True)
    if browser:
        print(say("gui.opening"), flush=True)
        door.open(base + settings.tokens.current)
    server = uvicorn.Server(
        uvicorn.Config(
            build(settings, told),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=1,
        )
    )
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        pass
    finally:
        door.close()
        lock.release()
    return 0


class Door:
    """Leads the browser of this machine in: a file that only this user can read holds the address with its token.

    A browser's arguments can be read by every user of the machine, so only the file's name is among them.

    Args:
        folder: of this user.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "open.html"
        self.close()

    def open(self, address: str) -> None:
        """Start a browser; it may come to nothing, for the address was printed as well."""
        import webbrowser

        link = escape(address)
        page = f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={link}">'
        try:
            with replacing(self._file) as scratch:
                scratch.touch(mode=0o600)
                scratch.write_text(f'{page}<title>pth2om</title><a href="{link}">pth2om</a>\n', encoding="utf-8")
            webbrowser.open(self._file.as_uri())
        except (OSError, webbrowser.Error):
            self.close()

    def close(self) -> None:
        """Remove the file: the token in it was used, or the server ends."""
        with contextlib.suppress(OSError):
            self._file.unlink()


def _listen(host: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in (port,) if port is not None else (*range(PORT, PORT + _TRIED), 0):
        found = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, number))
            found.listen()  # else another window that starts at this moment may bind it too
        except (OSError, OverflowError) as error:
            found.close()
            reason = (getattr(error, "strerror", None) or str(error)).rstrip(".")
        else:
            return found
    raise DataError("gui.no-port", host=host, port=port if port is not None else PORT, reason=reason)
