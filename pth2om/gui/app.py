"""The server: routes, the guard around them, and ``serve``."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from pth2om.gui.desk import Desk, preferences
from pth2om.gui.guard import Guard
from pth2om.gui.pages import accept, aipp, board, convert, explain, graph, jobs, pictures, quantize, reports, start
from pth2om.gui.queue import Queue
from pth2om.gui.settings import Settings
from pth2om.language import say

_STATIC = Path(__file__).parent / "static"
_FILES = {
    "gui.css": _STATIC / "gui.css",
    "gui.js": _STATIC / "gui.js",
    "report.css": Path(__file__).parents[1] / "report" / "templates" / "report.css",
}

_PAGES = (start, convert, quantize, accept, explain, aipp, reports, board, graph, pictures, jobs)


def build(settings: Settings, told: Callable[[str], None] = lambda _: None) -> Starlette:
    """The application; its jobs begin to run when it starts.

    Args:
        settings: prepared.
        told: is called with the next one-time token when one was used.
    """
    queue = Queue(settings)
    desk = Desk(settings, queue)

    @contextlib.asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        queue.start()
        try:
            yield
        finally:
            queue.stop()

    pages: list[BaseRoute] = [route for page in _PAGES for route in page.routes(desk)]
    desk.know([route.path for route in pages if isinstance(route, Route)])
    routes = [*pages, desk.route("/preferences", preferences, "POST"), Route("/static/{name}", _static)]
    routes.append(Route("/favicon.ico", _no_icon))  # asked for by browsers before the page names its own
    guard = Middleware(Guard, settings=settings, framed=desk.framed, told=told)

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        known = error.status_code in (404, 405)
        said = say(f"gui.http-{error.status_code}") if known else say("gui.http-other", reason=error.detail)
        answer = desk.framed(request, error.status_code, said)
        answer.headers.update(error.headers or {})
        return answer

    handlers = {HTTPException: refused}
    app = Starlette(routes=routes, middleware=[guard], lifespan=life, exception_handlers=handlers)
    app.state.desk = desk
    return app


def _no_icon(_: Request) -> Response:
    return Response(status_code=204)


def _static(request: Request) -> Response:
    file = _FILES.get(request.path_params["name"])
    if file is None:
        return Response(status_code=404)
    return FileResponse(file, headers={"cache-control": "no-cache"})
