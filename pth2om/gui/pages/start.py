"""Start: drop or pick a file, see what it is, go on. The picker, uploads, and files as they are."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from pth2om.errors import DataError
from pth2om.files import is_file, is_folder, replacing
from pth2om.gui import forms, guard, journal, places
from pth2om.gui.desk import Desk, Values, paged
from pth2om.gui.settings import Settings
from pth2om.language import say, speaking

_RECENT = 5
_SHOWN = {
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".txt": "text/plain",
}


def routes(desk: Desk) -> list[Route]:
    """The start page, the picker, what a file is, uploads, and files to read or keep."""
    settings = desk.settings

    def start(request: Request, values: Values) -> Response:
        listing = _listing(desk, values) if forms.last(values, "dir") else {}
        first = places.bundled(settings)
        return desk.page(
            request,
            "start.html",
            listing=listing,
            roots=places.roots(settings),
            recent=journal.listed(settings.jobs)[:_RECENT],
            first=[places.word(file, settings) for file in first] if first is not None else [],
            spec=is_file(settings.project / "models" / "convmixer-digits" / "model.toml"),
            megabytes=settings.upload_bytes >> 20,
        )

    def pick(request: Request, values: Values) -> Response:
        folder = forms.last(values, "folder") == "1"
        return desk.page(
            request, "pick.html", listing=_listing(desk, values), roots=places.roots(settings), folder=folder
        )

    def one(request: Request, values: Values) -> Response:
        path = places.confined(forms.last(values, "path"), settings)
        if is_folder(path):
            return RedirectResponse(f"/?{desk.query(dir=path)}", 303)
        path = places.file(str(path), settings)
        return desk.page(request, "file.html", path=path, bytes=path.stat().st_size)

    def seen(request: Request, values: Values) -> Response:
        path = places.file(forms.last(values, "path"), settings)
        return desk.page(request, "seen.html", path=path, seen=desk.asker.look(path))

    def look(_request: Request, values: Values) -> Response:
        path = places.file(forms.last(values, "path"), settings)
        return JSONResponse(desk.asker.look(path))

    def keep(_request: Request, values: Values) -> Response:
        path = places.file(forms.last(values, "path"), settings)
        return FileResponse(path, filename=path.name, media_type="application/octet-stream")

    def show(_request: Request, values: Values) -> Response:
        path = places.file(forms.last(values, "path"), settings)
        kind = _SHOWN.get(path.suffix.lower(), "text/plain")
        return FileResponse(
            path, media_type=f"{kind}; charset=utf-8", headers={"content-security-policy": guard.STRANGER}
        )

    async def upload(request: Request) -> Response:
        language = desk.language(request)
        try:
            async with request.form(max_files=1, max_fields=4) as form:
                sent = form.get("file")
                if not isinstance(sent, UploadFile) or not sent.filename:
                    with speaking(language):
                        return desk.page(request, "problem.html", 400, problem=say("gui.nothing-sent").render())
                target = await run_in_threadpool(_kept, sent, settings)
        except OSError as error:
            with speaking(language):
                problem = say("gui.disk", reason=error.strerror or str(error)).with_fix()
                return desk.page(request, "problem.html", 500, problem=problem)
        return RedirectResponse(f"/file?{desk.query(path=target)}", 303)

    return [
        desk.route("/", start),
        desk.route("/pick", pick),
        desk.route("/file", one),
        desk.route("/seen", seen),
        desk.route("/look", look),
        desk.route("/download", keep),
        desk.route("/view", show),
        Route("/upload", upload, methods=["POST"]),
    ]


def _listing(desk: Desk, values: Values) -> dict[str, Any]:
    """A page of a folder's entries; a file or a name that is not there yet stands for the nearest folder."""
    text = forms.last(values, "dir") or str(desk.settings.project)
    folder = places.confined(text, desk.settings)
    while not is_folder(folder) and folder != folder.parent:
        folder = folder.parent
    folder = places.confined(str(folder), desk.settings)
    wanted = forms.last(values, "wanted")
    rows, number, count = paged(places.entries(folder, desk.settings, wanted), values)
    above: Path | None = folder.parent
    try:
        places.confined(str(above), desk.settings)
    except DataError:
        above = None
    return {"folder": folder, "above": above, "rows": rows, "number": number, "page_count": count, "wanted": wanted}


def _kept(sent: UploadFile, settings: Settings) -> Path:
    target = places.upload_target(sent.filename or "", settings)
    try:
        with replacing(target) as scratch, scratch.open("wb") as file:
            shutil.copyfileobj(sent.file, file, 1 << 20)
    except OSError:
        with contextlib.suppress(OSError):
            target.parent.rmdir()
        raise
    return target
