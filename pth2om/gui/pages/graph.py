"""An ONNX file: what ATC would not take, its graph, and a fixed copy; an OM: what is inside."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pth2om.gui import forms, journal, places
from pth2om.gui.desk import Desk, Values
from pth2om.language import language

_RULES = ("error", "warning", "info")


def routes(desk: Desk) -> list[Route]:
    """The page of an ONNX file, the job that fixes it, and the page of an OM."""

    def page(request: Request, values: Values) -> Response:
        path = places.file(forms.last(values, "file"), desk.settings)
        soc = forms.last(values, "soc") or "Ascend310B1"
        return desk.page(request, "graph.html", path=path, soc=soc, socs=desk.socs())

    def findings(request: Request, values: Values) -> Response:
        path = places.file(forms.last(values, "file"), desk.settings)
        words = ["check", "--json", *(("--soc", forms.last(values, "soc")) if forms.last(values, "soc") else ())]
        answer = desk.asker.about(path, (*words, str(path)))
        rows, problem = _findings(answer.out), ""
        if rows is None:
            rows, problem = [], answer.err.strip()
        return desk.page(request, "findings.html", rows=rows, problem=problem)

    def fix(_request: Request, values: Values) -> Response:
        path = places.file(forms.last(values, "file"), desk.settings)
        asked = ("fix", places.word(path, desk.settings))
        return desk.start(journal.Asked("pth2om", asked, "fix", path.name, language(), values), values)

    def om(request: Request, values: Values) -> Response:
        path = places.file(forms.last(values, "file"), desk.settings)
        return desk.page(request, "om.html", path=path, om=desk.asker.look(path))

    return [
        desk.route("/graph", page),
        desk.route("/graph/findings", findings),
        desk.route("/fix", fix, "POST"),
        desk.route("/om", om),
    ]


def _findings(text: str) -> list[dict[str, Any]] | None:
    try:
        rows = json.loads(text)["findings"]
    except (ValueError, KeyError, TypeError):
        return None
    return sorted((row for row in rows if isinstance(row, dict)), key=lambda row: _RULES.index(row["severity"]))
