"""Reports: the runs of the project, two of them compared, history with its trend, baseline and waivers to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from pth2om.gui import forms, guard, journal, places
from pth2om.gui.desk import Desk, Values, paged
from pth2om.language import language

_MOST_LINE = 1 << 24


def routes(desk: Desk) -> list[Route]:
    """The list, comparison, history, baseline, waivers."""
    project = desk.settings.project

    def listed(request: Request, values: Values) -> Response:
        opened = forms.last(values, "open")
        if opened:
            path = places.file(opened, desk.settings)
            if path.name.endswith(".json"):
                return RedirectResponse(f"/report?{desk.query(path=path)}", 303)
            page = path.parent / "index.html"
            return RedirectResponse(f"/view?{desk.query(path=page)}", 303)
        runs = sorted((file.parent for file in (project / "reports").glob("*/evidence.jsonl")), reverse=True)
        shown, number, count = paged(runs, values)
        history = sorted((project / "reports" / "history").glob("*.jsonl"))
        baselines = sorted((project / "reports" / "baselines").glob("*.json"))
        return desk.page(
            request,
            "reports.html",
            runs=[_run(folder) for folder in shown],
            every=runs[:200],
            number=number,
            page_count=count,
            history=[one.stem for one in history],
            baselines=[one.relative_to(project) for one in baselines],
        )

    def compare(request: Request, values: Values) -> Response:
        old, new = (places.confined(forms.last(values, name), desk.settings) for name in ("old", "new"))
        answer = desk.asker.ask(("compare", str(old), str(new)))
        text = answer.out or answer.err
        return desk.page(request, "compare.html", old=old, new=new, text=text, status=answer.status)

    def remember(_request: Request, values: Values) -> Response:
        run = places.confined(forms.last(values, "run"), desk.settings)
        asked = journal.Asked(
            "pth2om", ("history", places.word(run, desk.settings)), "reports", run.name, language(), values
        )
        return desk.start(asked, values)

    def history(_request: Request, values: Values) -> Response:
        from pth2om.release.history import read
        from pth2om.report.trend import page

        name = forms.last(values, "model")
        file = places.file(f"reports/history/{name}.jsonl", desk.settings)
        points, skipped = read(file)
        return HTMLResponse(page(name, points, skipped), headers={"content-security-policy": guard.STRANGER})

    def baseline(request: Request, values: Values) -> Response:
        from pth2om.release.baseline import read

        path = places.file(forms.last(values, "path"), desk.settings)
        found = read(path)
        rows, number, count = paged(sorted(found.entries.items()), values)
        return desk.page(
            request, "baseline.html", path=path, baseline=found, rows=rows, number=number, page_count=count
        )

    def waivers(request: Request, values: Values) -> Response:
        from pth2om.release.waivers import listed, read

        path = places.confined(forms.last(values, "path") or "waivers.toml", desk.settings)
        found = read(path)
        lines, _ = listed(found)
        return desk.page(request, "waivers.html", path=path, waivers=found, lines=lines)

    return [
        desk.route("/reports", listed),
        desk.route("/compare", compare),
        desk.route("/history", history),
        desk.route("/history/add", remember, "POST"),
        desk.route("/baseline", baseline),
        desk.route("/waivers", waivers),
    ]


def _run(folder: Path) -> dict[str, Any]:
    """What the first and the last line of a run's evidence say; the report says the rest."""
    file = folder / "evidence.jsonl"
    found: dict[str, Any] = {"name": folder.name, "folder": folder, "started": "", "command": "", "complete": False}
    found["page"] = folder / "index.html" if (folder / "index.html").is_file() else None
    try:
        with file.open("rb") as opened:
            first = json.loads(opened.readline(_MOST_LINE))
            size = opened.seek(0, 2)
            opened.seek(max(0, size - 4096))
            last = opened.read().rstrip().rsplit(b"\n", 1)[-1]
        found["started"] = str(first.get("started", ""))[:19].replace("T", " ")
        found["command"] = " ".join(map(str, first.get("command", ())))[:300]
        found["complete"] = b'"kind": "end"' in last
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        found["started"] = "-"
    return found
