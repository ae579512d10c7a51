"""Explain: paste or choose a log; what its errors mean and what to do."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from pth2om.files import write_text
from pth2om.gui import forms, places
from pth2om.gui.desk import Desk, Values
from pth2om.language import language

STAGES = ("load", "export", "ort", "simplify", "env", "atc", "amct", "om-run")


def routes(desk: Desk) -> list[Route]:
    """The page; a pasted log becomes a file first, so that the page can be linked and reloaded."""

    def page(request: Request, values: Values) -> Response:
        text, stage = forms.last(values, "file"), forms.last(values, "stage")
        shown: dict[str, Any] = {"path": None, "rows": [], "problem": "", "line": ()}
        if text:
            path = places.file(text, desk.settings)
            words = ("explain", str(path), *(("--stage", stage) if stage in STAGES else ()))
            answer = desk.asker.about(path, (*words, "--json"))
            rows = _rows(answer.out)
            problem = answer.err.strip() if rows is None else ""
            shown = {"path": path, "rows": rows or [], "problem": problem, "line": words}
        return desk.page(request, "explain.html", stages=STAGES, stage=stage, to=language(), **shown)

    def paste(_request: Request, values: Values) -> Response:
        text = values.get("text", [""])[-1]
        if not text.strip():
            return RedirectResponse("/explain", 303)
        target = places.upload_target("pasted.log", desk.settings)
        write_text(target, text.replace("\r\n", "\n"))
        return RedirectResponse(f"/explain?{desk.query(file=target, stage=forms.last(values, 'stage'))}", 303)

    return [desk.route("/explain", page), desk.route("/explain", paste, "POST")]


def _rows(text: str) -> list[dict[str, Any]] | None:
    try:
        rows = json.loads(text)
    except ValueError:
        return None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else None
