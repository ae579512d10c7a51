"""Board: what this machine and the boards are, as ``pth2om doctor`` sees them, and what runs or waits."""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from pth2om.gui import forms, journal
from pth2om.gui.desk import Desk, Values
from pth2om.language import Message, say
from pth2om.report.figures import flat

PAGE = "board"
_ADDRESS = re.compile(r"ssh://(\w[\w.\-]*@)?(\w[\w.\-]*|\[[0-9a-fA-F:.]+\])(:\d{1,5})?")
_MOST_FACTS = 300
_USAGE = 2


def routes(desk: Desk) -> list[Route]:
    """The page, what a machine says, and the list of boards."""

    def page(request: Request, _values: Values) -> Response:
        boards = desk.remembered(PAGE).get("board", [])
        jobs = [job for job in journal.listed(desk.settings.jobs) if not job.over]
        return desk.page(request, "board.html", boards=boards, jobs=jobs, at_once=desk.settings.at_once)

    def seen(request: Request, values: Values) -> Response:
        board = address(forms.last(values, "board"))
        words = ("doctor", "--json", *((f"--board={board}",) if board else ()))
        answer = desk.asker.ask(words)
        machines = _machines(answer.out)
        problem = "" if machines else (answer.err or answer.out).strip()[-4000:]
        if problem and answer.status == _USAGE:
            problem = say("gui.no-doctor").render()
        return desk.page(request, "machine.html", machines=machines, problem=problem, words=words)

    def change(_request: Request, values: Values) -> Response:
        boards = desk.remembered(PAGE).get("board", [])
        gone = forms.last(values, "forget")
        added = address(forms.last(values, "board"))
        kept = [one for one in boards if one != gone]
        if added and added not in kept:
            kept.append(added)
        desk.remember(PAGE, {"board": kept}, ())
        return RedirectResponse("/board", 303)

    return [desk.route("/board", page), desk.route("/board/seen", seen), desk.route("/board", change, "POST")]


def address(text: str) -> str:
    """A board's address as typed; empty for this machine.

    Raises:
        Mistake: it is none.
    """
    if text and not _ADDRESS.fullmatch(text):
        raise forms.Mistake(say("gui.no-address", text=text).render())
    return text


def _machines(text: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(text)
        return [
            {
                "place": str(row["place"]),
                "status": int(row["status"]),
                "findings": [(str(one["severity"]), _said(one["message"])) for one in row["findings"]],
                "shown": [(str(title), str(text)) for title, text in row["shown"]],
                "facts": flat(row["facts"])[:_MOST_FACTS],
            }
            for row in rows
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _said(data: dict[str, Any]) -> str:
    try:
        return Message.from_json(data).with_fix()
    except KeyError:
        return str(data.get("key"))
