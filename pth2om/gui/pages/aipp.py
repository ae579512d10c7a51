"""AIPP: derive a configuration from a spec, edit it, see what would be refused, and what the model gets of an image."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from pth2om.errors import DataError
from pth2om.files import is_file, write_text
from pth2om.gui import forms, places
from pth2om.gui.desk import Desk, Values
from pth2om.gui.pages import pictures
from pth2om.gui.pages.accept import specs

_MOST_BYTES = 1 << 18


def routes(desk: Desk) -> list[Route]:
    """The page, its preview, and what keeps an edited text."""

    def page(request: Request, values: Values) -> Response:
        names = [one.name for one in specs(desk.settings.project / "models")]
        given = {name: forms.last(values, name) for name in ("file", "image", "size", "soc")}
        known = {one.name: one for one in forms.fields("aipp", "derive")}
        path = places.file(given["file"], desk.settings) if given["file"] else None
        if path is not None and path.stat().st_size > _MOST_BYTES:
            raise DataError("gui.too-large", megabytes=0, where=str(path))
        text = path.read_text("utf-8", "replace") if path is not None else ""
        checked: tuple[int, str] | None = None
        words: tuple[str, ...] = ()
        if path is not None:
            words = ("aipp", "check", str(path), *_option("--size", given["size"]), *_option("--soc", given["soc"]))
            answer = desk.asker.about(path, words)
            checked = (answer.status, (answer.out + answer.err).strip())
        given["size_given"] = given.pop("size")  # "size" is the templates' word for bytes
        return desk.page(
            request, "aipp.html", specs=names, derived=known, path=path, text=text, checked=checked, line=words,
            socs=desk.socs(), values=values, **given,
        )  # fmt: skip

    def derive(_request: Request, values: Values) -> Response:
        model = forms.last(values, "model")
        if model not in [one.name for one in specs(desk.settings.project / "models")]:
            raise forms.Mistake(forms.said(DataError("gui.choose-model")))
        asked = forms.words("aipp", {name: values[name] for name in values if name != "nonce"}, desk.settings, "derive")
        target = places.upload_target(f"{model}.aipp.cfg", desk.settings)
        answer = desk.asker.ask(("aipp", *asked, "--output", str(target)))
        if not is_file(target):
            raise forms.Mistake((answer.err or answer.out).strip())
        return RedirectResponse(f"/aipp?{desk.query(file=target)}", 303)

    def keep(_request: Request, values: Values) -> Response:
        name = Path(forms.last(values, "file")).name or "aipp.cfg"
        target = places.upload_target(name, desk.settings)
        write_text(target, values.get("text", [""])[-1].replace("\r\n", "\n"))
        kept = {one: forms.last(values, one) for one in ("image", "size", "soc")}
        return RedirectResponse(f"/aipp?{desk.query(file=target, **kept)}", 303)

    def picture(_request: Request, values: Values) -> Response:
        path = places.file(forms.last(values, "file"), desk.settings)
        image = places.file(forms.last(values, "image"), desk.settings)
        options = (*_option("--size", forms.last(values, "size")), *_option("--soc", forms.last(values, "soc")))
        return pictures.drawn(desk, path, ("aipp", "preview", str(path), str(image), *options), ".png", "image/png")

    return [
        desk.route("/aipp", page),
        desk.route("/aipp", keep, "POST"),
        desk.route("/aipp/derive", derive, "POST"),
        desk.route("/picture/aipp", picture),
    ]


def _option(flag: str, value: str) -> tuple[str, ...]:
    return (f"{flag}={value}",) if value else ()
