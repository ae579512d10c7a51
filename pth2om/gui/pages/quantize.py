"""Quantize: six ways to INT8, each the form of a verb; what comes out, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pth2om.errors import DataError
from pth2om.escaping import shell_line
from pth2om.files import is_file, is_folder
from pth2om.gui import forms, journal, places
from pth2om.gui.desk import Desk, Values
from pth2om.gui.pages import convert, jobs, pictures
from pth2om.language import language, say

PAGE = "quantize"
_NEVER = ("output", "prefix", "name", "template", "quantized", "random_calibration")
_OUT = ("output", "prefix")
_CONVERTED = ("file", "template", "num_classes", "batch", "channels", "size", "soc")
_IMAGES = ("color", "mean", "std", "scale", "resize", "recipe")
WAYS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "checkpoint": (
        "convert",
        (*_CONVERTED, "calib", "images", "random_calibration", *_IMAGES, "calibration_config", "quantizer",
         "validate_onnx", "validate_om", "output", "name", "force"),
        ("--int8",),
    ),
    "onnx": (
        "quantize",
        ("model", "calib", "preprocess", "images", "batch", "random_calibration", "activations", "weights", "symmetric",
         "skip", "only", "balance", "equalize", "no_bias_correction", "small_channels", "cfg", "max_drop", "labels",
         "checkpoint", *_OUT),
        ("--sensitivity",),
    ),
    "amct": ("quantize", ("model", "calib", "images", "evaluator", "cfg", *_OUT), ("--amct",)),
    "command": ("quantize", ("model", "calib", "command", *_OUT), ("--command",)),
    "have": (
        "convert",
        ("file", "quantized", "soc", "batch", "validate_om", "precheck", "output", "name", "force"),
        (),
    ),
    "qat": ("quantize", ("model", *_OUT), ("--convert",)),
}  # fmt: skip
"""Way -> verb, its fields, and the words that stand for the way itself."""
_ELSEWHERE = {"checkpoint": "atc-line", "have": "atc-line", "amct": "tool-line", "command": "tool-line"}
"""Ways that run a program of somebody else, and what its line is called."""


def routes(desk: Desk) -> list[Route]:
    """The form of each way, previews, the job."""

    def form(request: Request, values: Values) -> Response:
        way = _way(values)
        verb, names, _ = WAYS[way]
        filled = desk.remembered(f"{PAGE}-{way}") | values
        file = forms.last(values, "file")
        if file and verb == "quantize":
            filled["model"] = [file]
        if "soc" in names and not forms.last(filled, "soc"):
            filled["soc"] = ["Ascend310B1"]
        known = {one.name: one for one in forms.fields(verb)}
        shown = [known[name] for name in names]
        further = {"elsewhere": _ELSEWHERE.get(way), "socs": desk.socs()}
        return desk.page(request, "quantize.html", ways=WAYS, way=way, fields=shown, given=filled, **further)

    def preview(_request: Request, values: Values) -> Response:
        return JSONResponse({"line": shell_line(("pth2om", *line(desk, values))), "problem": ""})

    def elsewhere(_request: Request, values: Values) -> Response:
        asked = line(desk, values)
        return convert.previewed(desk, asked, values) if _way(values) in _ELSEWHERE else JSONResponse({})

    def run(_request: Request, values: Values) -> Response:
        way = _way(values)
        asked = line(desk, values)
        name = "model" if WAYS[way][0] == "quantize" else "file"
        desk.remember(f"{PAGE}-{way}", values, (name, *_NEVER))
        if WAYS[way][0] == "convert":
            results = {"record": str(convert.record_of(desk, asked[1:]))}
        else:
            results = {"report": str(_report(desk, asked))}
        title = Path(forms.last(values, name)).name
        return desk.start(journal.Asked("pth2om", asked, PAGE, title, language(), values, results=results), values)

    def sheet(_request: Request, values: Values) -> Response:
        folder, words = _sheet(desk, values)
        return pictures.drawn(desk, folder, words, ".png", "image/png")

    return [
        desk.route("/quantize", form),
        desk.route("/quantize", run, "POST"),
        desk.route("/preview/quantize", preview, "POST"),
        desk.route("/preview/quantizer", elsewhere, "POST"),
        desk.route("/picture/sheet", sheet),
    ]


def _sheet(desk: Desk, values: Values) -> tuple[Path, tuple[str, ...]]:
    """The folder of images, and the words that draw it as the filled form would feed it.

    Raises:
        Mistake, DataError: says what is missing, and where to give it.
    """
    if not forms.last(values, "folder"):
        raise forms.Mistake(say("gui.sheet-no-images").render())
    folder = places.confined(forms.last(values, "folder"), desk.settings)
    if not is_folder(folder):
        raise DataError("gui.no-such-path", where=str(folder))
    given = {name: forms.last(values, name) for name in ("color", "mean", "std", "scale", "resize")}
    loose = tuple(f"--{name}={value}" for name, value in given.items() if value)
    recipe, size = forms.last(values, "recipe"), forms.last(values, "size")
    if recipe:
        place = places.confined(recipe, desk.settings)
        named = recipe if is_folder(desk.settings.project / "models" / recipe) and not place.exists() else str(place)
        loose += (f"--preprocess={named}",)
    elif not loose:
        raise forms.Mistake(say("gui.sheet-no-pixels" if "loose" in values else "gui.sheet-no-recipe").render())
    elif not size and forms.last(values, "file"):
        inputs = desk.asker.look(places.file(forms.last(values, "file"), desk.settings))["inputs"]
        shape = inputs[0]["shape"] if inputs else ()
        size = ",".join(str(number) for number in shape[1:]) if len(shape) == 3 else ""
    if not recipe and not size:
        raise forms.Mistake(say("gui.sheet-no-size").render())
    return folder, ("bins", str(folder), "--sheet", *loose, *((f"--size={size}",) if size else ()))


def line(desk: Desk, values: Values) -> tuple[str, ...]:
    """The words behind ``pth2om``; what the verb would refuse is refused.

    Raises:
        Mistake, Pth2omError: says what is missing or contradicts itself.
    """
    way = _way(values)
    verb, names, words = WAYS[way]
    given = {name: values[name] for name in values if name in names or name.removesuffix("-alone") in names}
    if way in ("checkpoint", "have"):
        if not forms.last(given, "file") or (way == "have" and not forms.last(given, "quantized")):
            raise forms.Mistake(say("gui.choose-file").render())
        given |= {"int8": [forms.ON]} if way == "checkpoint" else {}
        return (verb, *convert.line(desk, given))
    if not forms.last(given, "model"):
        raise forms.Mistake(say("gui.choose-file").render())
    if way == "command" and not forms.last(given, "command"):
        raise forms.Mistake(say("gui.needs-command").render())
    asked = forms.words(verb, given, desk.settings)
    if way != "onnx" or not _is_spec(desk, forms.last(given, "model")):  # a spec says itself what is measured
        asked += tuple(word for word in words if word != "--command")
    from pth2om.quantize import request

    arguments = vars(forms.parsed(verb, asked))
    request.check(request.Request(**{name: value for name, value in arguments.items() if name != "verb"}))
    return (verb, *asked)


def _is_spec(desk: Desk, model: str) -> bool:
    """Whether the model is a spec: its name under ``models/``, its folder, or its file."""
    project = desk.settings.project
    return Path(model).name == "model.toml" or any(
        is_file(place / "model.toml") for place in (project / model, project / "models" / model)
    )


def shown(desk: Desk, job: journal.Job) -> Mapping[str, Any]:
    """Layers, figures and files of the quantization; of a conversion also what its page shows."""
    found: dict[str, Any] = {"way": job.asked.values.get("way", ("onnx",))[-1], "layers": None}
    if "record" in job.asked.results:
        found |= convert.shown(desk, job)
        record = Path(job.asked.results["record"])
        path = record.with_name(record.name.replace("_int8.convert.json", "_quantize.json"))
    else:
        found["record"] = None
        path = Path(job.asked.results.get("report", ""))
        if job.over:
            prefix = path.name.removesuffix("_quantize.json")
            known = sorted(path.parent.glob(f"{prefix}_*")) if is_folder(path.parent) else []
            found["files"] = [(one, one.is_dir()) for one in known if one.stat().st_mtime >= (job.started or 0) - 1]
            found["compile"] = _compile(job, path.with_name(f"{prefix}_deploy_model.onnx"), found["files"])
    if job.over and is_file(path) and path.stat().st_mtime >= (job.started or 0.0) - 1:
        try:
            found |= _layers(path)
        except DataError as error:
            found["problem"] = forms.said(error)
    return found


jobs.RESULTS[PAGE] = shown


def _compile(job: journal.Job, deploy: Path, files: list[tuple[Path, bool]]) -> Mapping[str, str] | None:
    """The filled form that makes an OM of the deploy model, where an ONNX file is there as its reference.

    Of a QAT model that is the fake-quant twin: atc does not parse the model itself.
    """
    model = forms.last(job.asked.values, "model")
    if forms.last(job.asked.values, "way") == "qat":
        model = str(deploy.with_name(deploy.name.removesuffix("_deploy_model.onnx") + "_fake_quant_model.onnx"))
    if not model.endswith(".onnx") or (deploy, False) not in files:
        return None
    return {"way": "have", "file": model, "quantized": str(deploy)}


def _layers(path: Path) -> dict[str, Any]:
    from pth2om.report import int8, plots, quantized
    from pth2om.report.collect import Card

    stage = quantized.read(path)
    section = int8.section(Card(stage.model, "int8", None, stages=[stage]))
    assert section is not None
    return {
        "report": path,
        "layers": section.layers,
        "histograms": [
            (one.layer, plots.histogram(list(one.edges), list(one.counts), 220, 76, one.span, one.layer))
            for one in section.pictures
        ],
        "noted": stage.findings,
        "drop": _drop(stage.details.get("search")),
        "counts": (section.count, len(section.layers)),
    }


def _drop(search: object) -> Mapping[str, float] | None:
    """The drop of the metric with its bounds, of a search that measured one, and both scores where there are labels."""
    drop = search.get("drop") if isinstance(search, Mapping) else None
    names = ("drop", "low", "high", "images")
    if not isinstance(drop, Mapping) or not all(isinstance(drop.get(name), int | float) for name in names):
        return None
    scored = ("before", "after") if all(isinstance(drop.get(name), int | float) for name in ("before", "after")) else ()
    return {name: drop[name] for name in (*names, *scored)}


def _report(desk: Desk, asked: tuple[str, ...]) -> Path:
    """Where the verb writes its report."""
    from pth2om.quantize.request import Request

    arguments = vars(forms.parsed(asked[0], asked[1:]))
    request = Request(**{name: value for name, value in arguments.items() if name != "verb"})
    return desk.settings.project / request.destination / f"{request.name}_quantize.json"


def _way(values: Values) -> str:
    way = forms.last(values, "way")
    if way in WAYS:
        return way
    return "onnx" if forms.last(values, "file").endswith(".onnx") else "checkpoint"
