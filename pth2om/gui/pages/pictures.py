"""Pictures that a page shows: drawn by the command line in a child, kept as long as the file is what it was."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from pth2om.gui import forms, guard, places
from pth2om.gui.desk import Desk, Values
from pth2om.language import language

_MOST_KEPT = 200


def routes(desk: Desk) -> list[Route]:
    """The picture of a graph."""

    def graph(_request: Request, values: Values) -> Response:
        path = places.file(forms.last(values, "path"), desk.settings)
        soc = forms.last(values, "soc")
        options = ("--soc", soc) if soc in desk.socs() else ()
        return drawn(desk, path, ("draw", str(path), *options), ".svg", "image/svg+xml")

    return [desk.route("/picture/graph", graph)]


def drawn(desk: Desk, about: Path, words: Sequence[str], suffix: str, kind: str, *, option: str = "-o") -> Response:
    """A picture that ``pth2om WORDS -o FILE`` makes of a file; the verb's own words where it makes none."""
    status = about.stat()
    key = repr((str(about), status.st_mtime_ns, status.st_size, language(), tuple(words)))
    folder = desk.settings.state / "pictures"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / (hashlib.sha256(key.encode()).hexdigest()[:24] + suffix)
    if not file.is_file():
        for old in sorted(folder.iterdir(), key=lambda one: one.stat().st_mtime)[:-_MOST_KEPT]:
            old.unlink(missing_ok=True)
        answer = desk.asker.ask((*words, option, str(file)))
        if not file.is_file():
            return PlainTextResponse(answer.err or answer.out, 422)
    return FileResponse(file, media_type=kind, headers={"content-security-policy": guard.STRANGER})
