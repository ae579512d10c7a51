"""The list of jobs, and the page of one: the line that does the same, progress, log, results."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from sse_starlette.sse import EventSourceResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from pth2om.amounts import duration_text
from pth2om.gui import forms, journal
from pth2om.gui.desk import Desk, Values, paged
from pth2om.gui.journal import Job
from pth2om.language import say, speaking

_LOOK_SECONDS = 0.3

Shown = Callable[[Desk, Job], Mapping[str, Any]]
"""What the page of a finished or running job shows besides the log: values for its template."""

RESULTS: dict[str, Shown] = {}
"""By the page whose form made the job; each page enters its own, and its template is ``result_<page>.html``."""


def routes(desk: Desk) -> list[Route]:
    """The list, a job, its events, and what can be done with it."""

    def several(request: Request, values: Values) -> Response:
        rows, number, pages = paged(journal.listed(desk.settings.jobs), values)
        return desk.page(request, "jobs.html", jobs=rows, number=number, page_count=pages)

    def one(request: Request, _values: Values) -> Response:
        job = _job(desk, request)
        if job is None:
            return desk.page(request, "problem.html", 404, problem=say("gui.no-such-job").with_fix())
        text, place = journal.log(job.folder)
        shown = RESULTS.get(job.asked.page)
        waiting = [each.id for each in reversed(journal.listed(desk.settings.jobs)) if each.state == "queued"]
        return desk.page(
            request,
            "job.html",
            job=job,
            log=text,
            place=place,
            before=waiting.index(job.id) if job.id in waiting else 0,
            result=f"result_{job.asked.page}.html" if shown is not None else "",
            shown=shown(desk, job) if shown is not None else {},
            again=urlencode(
                [(name, text) for name, texts in job.asked.values.items() for text in texts if name != "nonce"]
            ),
            elapsed=duration_text(job.seconds),
            live=_live(desk, job),
        )

    def cancel(request: Request, _values: Values) -> Response:
        desk.queue.cancel(request.path_params["name"])
        return RedirectResponse(f"/jobs/{request.path_params['name']}", 303)

    def delete(request: Request, values: Values) -> Response:
        name = request.path_params["name"]
        if forms.last(values, "confirmed") == forms.ON and journal.delete(desk.settings.jobs, name):
            return RedirectResponse("/jobs", 303)
        return RedirectResponse(f"/jobs/{name}", 303)

    def text(request: Request, _values: Values) -> Response:
        job = _job(desk, request)
        return PlainTextResponse("" if job is None else journal.log(job.folder)[0])

    async def events(request: Request) -> Response:
        start = request.query_params.get("from", "0")
        place = int(start) if start.isdecimal() and len(start) < 16 else 0
        return EventSourceResponse(_events(desk, request, place), ping=15)

    return [
        desk.route("/jobs", several),
        desk.route("/jobs/{name}", one),
        desk.route("/jobs/{name}/log", text),
        desk.route("/jobs/{name}/cancel", cancel, "POST"),
        desk.route("/jobs/{name}/delete", delete, "POST"),
        Route("/jobs/{name}/events", events),
    ]


def _job(desk: Desk, request: Request) -> Job | None:
    return journal.read(desk.settings.jobs, request.path_params["name"])


async def _events(desk: Desk, request: Request, place: int) -> AsyncIterator[dict[str, str]]:
    """What changes, until the job is over. Events say how things stand, so that none of them must arrive."""
    before = ""
    language = desk.language(request)
    while True:
        job = await run_in_threadpool(_job, desk, request)
        if job is None:
            return
        over = job.over  # the log is read after this look: what it printed last is in it
        text, place = await run_in_threadpool(journal.log, job.folder, place)
        with speaking(language):
            now = _standing(desk, job)
        if text:
            yield {"event": "log", "data": json.dumps(text)}
        if now != before:
            before = now
            yield {"event": "standing", "data": now}
        if over:
            yield {"event": "over", "data": job.state}
            return
        await asyncio.sleep(_LOOK_SECONDS)


def _standing(desk: Desk, job: Job) -> str:
    html = desk.templates.get_template("standing.html").render(
        job=job, elapsed=duration_text(job.seconds), live=_live(desk, job)
    )
    return json.dumps(html)


def _live(desk: Desk, job: Job) -> Mapping[str, Any]:
    shown = LIVE.get(job.asked.page)
    return shown(desk, job) if shown is not None else {}


LIVE: dict[str, Shown] = {}
"""As `RESULTS`, for what changes while the job runs."""
