"""Convert: every option of ``pth2om convert`` as a form, both lines as they would be typed, and the result."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pth2om.escaping import shell_line
from pth2om.gui import forms, journal, places
from pth2om.gui.desk import Desk, Values
from pth2om.language import language

VERB = "convert"
_OF_ONE_FILE = ("file", "name", "output", "template", "num_classes", "channels", "quantized", "input_shape", "dtype")


def routes(desk: Desk) -> list[Route]:
    """The form, its preview, and the job."""

    def form(request: Request, values: Values) -> Response:
        filled = desk.remembered(VERB) | values
        if not forms.last(filled, "soc"):
            filled["soc"] = ["Ascend310B1"]
        return desk.page(request, "convert.html", fields={one.name: one for one in forms.fields(VERB)}, given=filled)

    def preview(_request: Request, values: Values) -> Response:
        return JSONResponse({"line": shell_line(("pth2om", VERB, *line(desk, values))), "problem": ""})

    def run(_request: Request, values: Values) -> Response:
        asked = line(desk, values)
        desk.remember(VERB, values, _OF_ONE_FILE)
        title = places.confined(forms.last(values, "file"), desk.settings).name
        return desk.start(journal.Asked("pth2om", (VERB, *asked), VERB, title, language(), values), values)

    return [
        desk.route("/convert", form),
        desk.route("/convert", run, "POST"),
        desk.route("/preview/convert", preview, "POST"),
    ]


def line(desk: Desk, values: Values) -> tuple[str, ...]:
    """The words behind ``pth2om convert``; what contradicts itself is refused as the verb refuses it."""
    from pth2om.cli.convert import options_of

    asked = forms.words(VERB, values, desk.settings)
    options_of(forms.parsed(VERB, asked)).check()
    return asked
