"""What every page needs: the settings, the queue, the reader's language, and the way to an answer."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from pth2om import __version__
from pth2om.amounts import duration_text, size_text
from pth2om.errors import Pth2omError
from pth2om.escaping import shell_line, visible
from pth2om.files import is_folder, write_text
from pth2om.gui import forms, guard, journal
from pth2om.gui.children import Asker
from pth2om.gui.queue import Queue
from pth2om.gui.settings import Settings
from pth2om.language import Language, Message, joined, language, say, speaking
from pth2om.report import figures

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_FORM = 1 << 18
PER_PAGE = 50

Values = dict[str, list[str]]
Answer = Callable[[Request, Values], Response]


class Desk:
    """Shared by the pages of one server."""

    def __init__(self, settings: Settings, queue: Queue) -> None:
        self.settings = settings
        self.queue = queue
        self.asker = Asker(settings)
        self.templates = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.globals.update(
            t=_t,
            said=_said,
            visible=visible,
            joined=joined,
            version=__version__,
            settings=settings,
            destinations=set(),
            query=_query,
            line_of=line_of,
            line_of_words=lambda words: shell_line(("pth2om", *words)),
            size=size_text,
            duration=duration_text,
            last=forms.last,
            figures=figures,
            name_of=_name_of,
        )

    def page(self, request: Request, template: str, status: int = 200, /, **context: object) -> HTMLResponse:
        """A page of a template, in the reader's language and theme."""
        theme = request.cookies.get("pth2om-theme", "")
        text = self.templates.get_template(template).render(
            request=request,
            language=language(),
            theme=theme if theme in ("light", "dark") else "",
            here=request.url.path,
            nonce=secrets.token_hex(8),
            **context,
        )
        return HTMLResponse(text, status)

    def framed(self, request: Request, status: int, problem: Message) -> Response:
        """The page that says what is wrong, with a way back; what a script reads as JSON gets it so."""
        with speaking(self.language(request)):
            if request.url.path.startswith("/preview/"):
                return JSONResponse({"line": "", "problem": problem.with_fix()}, status)
            return self.page(request, "problem.html", status, problem=problem.with_fix())

    def start(self, asked: journal.Asked, values: Mapping[str, Sequence[str]]) -> Response:
        """Make a job of a form, and go to its page."""
        name = self.queue.add(asked, forms.last(values, "nonce"))
        return RedirectResponse(f"/jobs/{name}", 303)

    def know(self, paths: Sequence[str]) -> None:
        """The pages that the head of every page leads to: those that there are."""
        self.templates.globals["destinations"] = set(paths)

    def name_of(self, kind: str, word: str) -> str:
        """A verdict, ground or other word of the evidence as the report has it, in the reader's language."""
        return _name_of(kind, word)

    def socs(self) -> list[str]:
        """The SoC names that are known."""
        from pth2om.ascend import socs

        return sorted(socs.table()["socs"])

    def query(self, **values: object) -> str:
        """The part of an address behind ``?``, without what is empty."""
        return _query(**values)

    # --- what forms remember --------------------------------------------------------------------------------------

    def remembered(self, page: str) -> Values:
        """What was last filled in on that page in this project."""
        try:
            file = self.settings.state / "forms" / f"{page}.json"
            if file.stat().st_size > _MOST_FORM:
                return {}
            data = json.loads(file.read_bytes())
            return {str(name): [str(text) for text in texts] for name, texts in data.items()}
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            return {}

    def remember(self, page: str, values: Values, never: Sequence[str]) -> None:
        """Keep what was filled in, without what belongs to one file alone, and without trust."""
        kept = {name: texts for name, texts in values.items() if name not in (*never, "nonce", "trust", "force")}
        folder = self.settings.state / "forms"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            write_text(folder / f"{page}.json", json.dumps(kept))
        except OSError:
            return  # a convenience; the job itself says when the disk is full

    # --- routes -----------------------------------------------------------------------------------------------------

    def route(self, path: str, answer: Answer, *methods: str) -> Route:
        """A route whose function runs in a thread, speaks the reader's language, and may raise errors for people."""

        async def answering(request: Request) -> Response:
            values: Values = {}
            for name, text in request.query_params.multi_items():
                values.setdefault(name, []).append(text)
            if request.method == "POST":
                async with request.form(max_files=1, max_fields=400, max_part_size=1 << 20) as form:
                    return await run_in_threadpool(self._answered, answer, request, values | _filled(form))
            return await run_in_threadpool(self._answered, answer, request, values)

        return Route(path, answering, methods=list(methods or ("GET",)))

    def _answered(self, answer: Answer, request: Request, values: Values) -> Response:
        if not is_folder(self.settings.project):
            return self.framed(request, 503, say("gui.project-gone", where=str(self.settings.project)))
        with speaking(self.language(request)):
            try:
                return answer(request, values)
            except (Pth2omError, forms.Mistake) as error:
                if request.url.path.startswith("/preview/"):
                    return JSONResponse({"line": "", "problem": forms.said(error)})
                return self.page(request, "problem.html", 400, problem=forms.said(error))
            except OSError as error:
                problem = say("gui.disk", reason=error.strerror or str(error)).with_fix()
                return self.page(request, "problem.html", 500, problem=problem)

    def language(self, request: Request) -> Language:
        """The reader's: as chosen on a page, else the server's."""
        return guard.language_of(request.cookies)


def preferences(request: Request, values: Values) -> Response:
    """Keep language and theme in the browser, and go back."""
    try:
        back = urlsplit(request.headers.get("referer", "/"))
    except ValueError:  # a host in half a pair of brackets
        back = urlsplit("/")
    answer = RedirectResponse(guard.here(back.path, back.query), 303)
    for name, allowed in (("lang", ("en", "zh")), ("theme", ("auto", "light", "dark"))):
        value = forms.last(values, name)
        if value in allowed:
            answer.set_cookie(f"pth2om-{name}", value, max_age=400 * 86400, samesite="strict", path="/", httponly=True)
    return answer


def line_of(asked: journal.Asked) -> str:
    """The line of the command line that does the same as a job."""
    program = ("python", "-m", "pth2om.harness") if asked.program == "pytest" else ("pth2om",)
    return shell_line((*program, *asked.words))


def paged(rows: Sequence[Any], values: Values) -> tuple[Sequence[Any], int, int]:
    """One page of a long list: its rows, its number, and the number of pages."""
    text = forms.last(values, "page")
    pages = max(1, -(-len(rows) // PER_PAGE))
    number = min(max(1, int(text)) if text.isdecimal() and len(text) < 7 else 1, pages)
    return rows[(number - 1) * PER_PAGE : number * PER_PAGE], number, pages


def _filled(form: FormData) -> Values:
    values: Values = {}
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            values.setdefault(name, []).append(value)
    return values


def _t(name: str, /, **values: Any) -> str:  # noqa: ANN401 - values of a sentence
    return say(f"gui.{name}", **values).render()


def _said(message: Message) -> str:
    return message.render()


def _name_of(kind: str, word: str) -> str:
    """A verdict, ground or other word of the evidence as the report has it, in the reader's language."""
    try:
        return say(f"report.{kind}-{word.replace('_', '-')}").render()
    except KeyError:
        return visible(word, 60)


def _query(**values: object) -> str:
    return urlencode({name: str(value) for name, value in values.items() if value not in (None, "")})
