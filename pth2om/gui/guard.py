"""Who may ask: token, Host and Origin; how much may be sent; and the headers of every answer.

The server listens on the loopback, but that is no boundary: any page in the user's browser can send requests there, and
a name that an attacker owns can be made to point to 127.0.0.1 (DNS rebinding). So every request must

* name a host that is ours (403 otherwise: a rebound name is the attacker's),
* come from no other origin, and with an ``Origin`` where it changes something,
* carry the cookie of a browser that opened the printed address.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from html import escape
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request, cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pth2om.gui.settings import Settings
from pth2om.language import Language, language, say, speaking
from pth2om.language import Message as Sentence

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""No script, style, picture or request from anywhere but this server, and no script or style inside a page."""

STRANGER = (
    "sandbox allow-scripts allow-popups; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
)
"""For files that are shown as they are (a report): an origin of their own, without this server's cookie."""

_FORM_BYTES = 1 << 20
_SAFE = ("GET", "HEAD")
_LOG = logging.getLogger("uvicorn.error")

Framed = Callable[[Request, int, Sentence], Response]
"""A page of the window with a status and what is wrong."""


class _TooLarge(Exception):  # noqa: N818 - ends a request, never reaches a user
    pass


class Guard:
    """The outermost layer of the server.

    Args:
        app: what answers.
        settings: of the server.
        framed: makes the page that says what is wrong with a request that may pass.
        told: is called with the next one-time token when one was used.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, framed: Framed, told: Callable[[str], None] = lambda _: None
    ) -> None:
        self._app = app
        self._framed = framed
        self._settings = settings
        self._told = told
        self._session = settings.session()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        with speaking(language_of(cookie_parser(Headers(scope=scope).get("cookie", "")))):
            answer = self._refusal(scope)
        guarded = _with_headers(send)
        if answer is not None:
            await answer(scope, receive, guarded)
            return
        uploads = scope["path"] == "/upload"
        limit = self._settings.upload_bytes if uploads else _FORM_BYTES
        sent = Headers(scope=scope).get("content-length", "0")
        request, too_large = Request(scope), say("gui.too-large", megabytes=limit >> 20)
        if not sent.isdecimal() or int(sent) > limit:
            await self._framed(request, 413, too_large)(scope, receive, guarded)
            return
        started = False

        async def noticed(message: Message) -> None:
            nonlocal started
            started = True
            await guarded(message)

        try:
            await self._app(scope, _bounded(receive, limit), noticed)
        except _TooLarge:
            if not started:
                await self._framed(request, 413, too_large)(scope, receive, guarded)
        except ClientDisconnect:
            return  # an upload that was cut off: there is nobody left to answer
        except Exception:  # a fault of ours, whatever it is: a page that says so, and the reason in the log
            if started:
                raise
            _LOG.exception("%s %s", scope["method"], ascii(scope["path"]))
            await self._framed(request, 500, say("gui.http-500"))(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """The answer to a request that may not pass; None for one that may."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _name(host) not in self._settings.hosts:
            return PlainTextResponse(say("gui.wrong-host", host=host).with_fix(), 403)
        safe = scope["method"] in _SAFE
        origin = headers.get("origin")
        if (origin is not None or not safe) and origin != f"{scope['scheme']}://{host}":
            return PlainTextResponse(say("gui.wrong-origin", origin=origin or "-").with_fix(), 403)
        # Another port of this machine is the same site, so the cookie comes along: it may lead here, not read or act.
        strange = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        if strange and not (safe and headers.get("sec-fetch-mode", "navigate") == "navigate"):
            return PlainTextResponse(say("gui.wrong-origin", origin=origin or "-").with_fix(), 403)
        query = parse_qsl(scope["query_string"].decode("latin-1"))
        token = dict(query).get("token")
        known = secrets.compare_digest(
            cookie_parser(headers.get("cookie", "")).get(self._settings.cookie, "").encode(), self._session.encode()
        )
        if token is not None and safe:
            if not known and not self._settings.tokens.use(token):
                return PlainTextResponse(say("gui.used-token").with_fix(), 403)
            rest = urlencode([(name, text) for name, text in query if name != "token"])
            answer = _onward(here(quote(scope["path"]), rest), strange=strange)
            if not known:
                self._told(self._settings.tokens.current)
                answer.set_cookie(self._settings.cookie, self._session, httponly=True, samesite="strict", path="/")
            return answer
        if not known and not scope["path"].startswith("/static/"):
            return PlainTextResponse(say("gui.no-token").with_fix(), 403)
        return None


def language_of(cookies: Mapping[str, str]) -> Language:
    """The reader's: as chosen on a page, else the server's."""
    chosen = cookies.get("pth2om-lang")
    return "zh" if chosen == "zh" else "en" if chosen == "en" else language()


def here(path: str, query: str = "") -> str:
    """An address on this server: a path that begins with two slashes would be one on another."""
    return "/" + path.lstrip("/\\") + (f"?{query}" if query else "")


def _onward(address: str, *, strange: bool) -> Response:
    """On to the page itself.

    After a link on another page a browser sends no strict cookie along a redirection: then a page of ours leads on.
    """
    if not strange:
        return RedirectResponse(address, 303)
    link = f'<!doctype html><meta charset="utf-8"><title>pth2om</title><a href="{escape(address)}">pth2om</a>'
    return HTMLResponse(link, headers={"refresh": f"0; url={address}"})


def _name(host: str) -> str:
    """The host of a ``Host`` header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _bounded(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _TooLarge
        return message

    return counted


def _with_headers(send: Send) -> Send:
    async def adding(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("content-security-policy", POLICY)
            headers.setdefault("x-content-type-options", "nosniff")
            # Not "no-referrer": with it a browser sends "Origin: null" with forms.
            headers.setdefault("referrer-policy", "same-origin")
            headers.setdefault("cross-origin-opener-policy", "same-origin")
            headers.setdefault("cross-origin-resource-policy", "same-origin")
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return adding
