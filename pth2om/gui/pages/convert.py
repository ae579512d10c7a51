"""Convert: every option of ``pth2om convert`` as a form, both lines as they would be typed, and the result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pth2om.errors import ConvertError, DataError, Pth2omError
from pth2om.escaping import shell_line
from pth2om.files import is_file, is_folder
from pth2om.gui import forms, journal, places
from pth2om.gui.desk import Desk, Values
from pth2om.gui.pages import jobs
from pth2om.language import language, say

VERB = "convert"
_OF_ONE_FILE = ("file", "name", "output", "template", "num_classes", "channels", "quantized", "input_shape", "dtype",
                "trusted", "size", "random_calibration")  # fmt: skip


def routes(desk: Desk) -> list[Route]:
    """The form, its previews, the job, and the report of its record."""

    def form(request: Request, values: Values) -> Response:
        filled = desk.remembered(VERB) | values
        if not forms.last(filled, "soc"):
            filled["soc"] = ["Ascend310B1"]
        return desk.page(
            request,
            "convert.html",
            fields={one.name: one for one in forms.fields(VERB)},
            given=filled,
            templates=_templates(desk, filled),
            socs=desk.socs(),
        )

    def preview(_request: Request, values: Values) -> Response:
        asked = line(desk, values)
        return JSONResponse({"line": shell_line(("pth2om", VERB, *asked)), "problem": ""})

    def atc(_request: Request, values: Values) -> Response:
        return previewed(desk, (VERB, *line(desk, values)), values)

    def run(_request: Request, values: Values) -> Response:
        asked = line(desk, values)
        file = places.file(forms.last(values, "file"), desk.settings)
        if "--trust" in asked:
            _agreed(desk, file, forms.last(values, "trusted"))
        desk.remember(VERB, values, _OF_ONE_FILE)
        results = {"record": str(record_of(desk, asked)), "soc": forms.last(values, "soc")}
        return desk.start(
            journal.Asked("pth2om", (VERB, *asked), VERB, file.name, language(), values, results=results), values
        )

    def report(request: Request, values: Values) -> Response:
        from pth2om.gui import guard
        from pth2om.report.collect import load
        from pth2om.report.html import render_html

        path = places.file(forms.last(values, "path"), desk.settings)
        page = render_html(load(path), desk.language(request))
        return HTMLResponse(page, headers={"content-security-policy": guard.STRANGER})

    return [
        desk.route("/convert", form),
        desk.route("/convert", run, "POST"),
        desk.route("/preview/convert", preview, "POST"),
        desk.route("/preview/atc", atc, "POST"),
        desk.route("/report", report),
    ]


def line(desk: Desk, values: Values) -> tuple[str, ...]:
    """The words behind ``pth2om convert``; what contradicts itself is refused as the verb refuses it."""
    from pth2om.cli.convert import options_of

    if not forms.last(values, "file"):
        raise forms.Mistake(say("gui.choose-file").render())
    asked = forms.words(VERB, values, desk.settings)
    options_of(forms.parsed(VERB, asked)).check()
    return asked


def previewed(desk: Desk, words: tuple[str, ...], values: Values) -> Response:
    """The line of another program that a verb will run, or why there is none.

    Nothing is said where a newer form is asked about already.

    Args:
        desk: asks the verb with ``--preview``.
        words: behind ``pth2om``.
        values: the form.
    """
    if words[0] == VERB and "--soc" not in words:
        return JSONResponse({"atc": say("gui.atc-none").render(), "problem": ""})
    try:
        answer = desk.asker.ask((*words, "--preview"), forms.last(values, "nonce"))
    except DataError as error:
        return JSONResponse({} if error.message.key == "gui.superseded" else {"problem": forms.said(error)})
    problem = answer.err.strip() if answer.status else ""
    return JSONResponse({"atc": answer.out.strip(), "problem": problem})


def record_of(desk: Desk, asked: tuple[str, ...]) -> Path:
    """Where the verb will write its record."""
    from pth2om.cli.convert import options_of
    from pth2om.onefile.delivering import Names
    from pth2om.onefile.preparing import name_for

    arguments = forms.parsed(VERB, asked)
    options = options_of(arguments)
    name = name_for(arguments.file, options)
    folder = desk.settings.project / (options.output or Path(f"{name}-converted"))
    return Names(folder, name, options.quantizes).record


def shown(_desk: Desk, job: journal.Job) -> Mapping[str, Any]:
    """What the record says; its findings, closeness and files."""
    from pth2om.report import conversion

    path = Path(job.asked.results.get("record", ""))
    if not job.over or not is_file(path) or path.stat().st_mtime < (job.started or 0.0) - 1:
        return {"record": None}
    try:
        done = conversion.read(path)
    except DataError as error:
        return {"record": None, "problem": forms.said(error)}
    onnx = [path.parent / name for name in done.files if name.endswith(".onnx")]
    return {
        "record": done,
        "files": [(path.parent / name, is_folder(path.parent / name)) for name in (*done.files, path.name)],
        "findings": [one for one in done.findings if one.severity != "info"],
        "graph": next((file for file in onnx if "fake_quant" not in file.name and "qdq" not in file.name), None),
        "gates": sorted(done.gates, key=lambda gate: gate.verdict == "passed"),
        "soc": done.soc or "",
        "atc": shell_line(done.atc) if done.atc else "",
        "path": path,
    }


jobs.RESULTS[VERB] = shown


def _templates(desk: Desk, values: Values) -> list[tuple[str, str]]:
    """Name and file of each template of the folder, read anew each time: new ones need no restart."""
    from pth2om.onefile import templates

    text = forms.last(values, "templates")
    for folder in (text,) if text else (str(templates.DEFAULT_FOLDER), "models"):
        try:
            place = places.confined(folder, desk.settings)
            return [(one.name, str(Path(folder) / one.path.relative_to(place))) for one in templates.listed(place)]
        except (ConvertError, DataError):
            continue
    return []


def _agreed(desk: Desk, file: Path, classes: str) -> None:
    """Trust is for the classes that the user saw, and for no others.

    Raises:
        Pth2omError: the file names other ones now.
    """
    foreign = str(desk.asker.look(file)["foreign"])
    if not classes or foreign != classes:
        raise Pth2omError("gui.trust-changed", where=str(file), classes=foreign or "-")
