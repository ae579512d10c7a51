"""What ``pth2om quantize`` does with its arguments; the face itself only reads and prints."""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.errors import Absent, QuantizeError
from pth2om.escaping import visible
from pth2om.evidence import Finding
from pth2om.files import is_file, is_folder, is_there
from pth2om.host import data_roots
from pth2om.language import say
from pth2om.progress import Progress
from pth2om.quantize import batches
from pth2om.quantize.request import Request, check, percent_points
from pth2om.quantize.settings import QuantizeResult, QuantizeSettings, matches

if TYPE_CHECKING:
    import onnx

    from pth2om.data import Labelled
    from pth2om.quantize.amct import Command
    from pth2om.quantize.plan import Plan
    from pth2om.quantize.preprocessing import ImageRecipe
    from pth2om.spec import Spec

_RANKING_BATCHES = 8


@dataclass
class Outcome:
    """What to show."""

    result: QuantizeResult | None = None
    said: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    status: int = 0

    def lines(self) -> Iterator[str]:
        """Text for standard output."""
        yield from self.said
        if self.result is None:
            return
        details = self.result.details
        if "int8_layers" in details:
            yield str(
                say(
                    "quantize.done",
                    int8=details["int8_layers"],
                    all=details["candidate_layers"],
                    images=details["images"],
                )
            )
        for entry in self.errors:
            yield f"  {entry['sqnr_db']:7.2f} dB  cos {entry['cosine']:.6f}  {visible(entry['layer'])}"
        for role, path in self.result.files.items():
            yield f"{role:12} {visible(str(path))}"

    def shown_findings(self) -> Iterator[str]:
        """Findings worth a line each: warnings and errors, with their layer; one line a kind where there are many."""
        everything = [*self.findings, *(self.result.findings if self.result else ())]
        loud = [finding for finding in everything if finding.severity != "info"]
        for rule, group in itertools.groupby(sorted(loud, key=lambda one: one.rule), key=lambda one: one.rule):
            several = list(group)
            shown = several[:3]
            for finding in shown:
                yield finding.line(visible(finding.node or ""), fix=finding is shown[-1])
            if several[3:]:
                yield f"  ... +{len(several) - 3} {rule}"

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        result = self.result
        return {
            "files": {role: str(path) for role, path in result.files.items()} if result else {},
            "layers": [asdict(layer) for layer in result.layers] if result else [],
            "findings": [one.to_json() for one in (*self.findings, *(result.findings if result else ()))],
            "details": dict(result.details) if result else {},
            "errors": self.errors,
            "said": self.said,
        }


def execute(request: Request, progress: Progress) -> Outcome:
    """Do what was asked.

    Raises:
        QuantizeError: see `quantize`; or the arguments contradict each other.
    """
    check(request)
    if not is_file(request.model):
        raise QuantizeError("quantize.no-model", where=str(request.model))
    if request.amct or request.command is not None:
        return _external(request)
    if request.convert:
        from pth2om.quantize.api import convert

        return Outcome(convert(request.model, request.output, prefix=request.prefix))
    return _own(request, progress)


def settings_of(request: Request) -> tuple[QuantizeSettings, list[Finding]]:
    """The settings that the arguments, or an AMCT configuration and the arguments over it, ask for."""
    settings = QuantizeSettings()
    findings: list[Finding] = []
    if request.cfg is not None:
        from pth2om.quantize.amct_config import read_config

        settings, findings = read_config(request.cfg).settings()
    changes: dict[str, Any] = {
        name: value for name in ("activations", "weights", "balance") if (value := getattr(request, name)) is not None
    }
    changes["skip"] = (*settings.skip, *request.skip)
    changes["only"] = tuple(request.only)
    if request.symmetric:
        changes["asymmetric"] = False
    changes["equalize"] = request.equalize
    changes["small_channels"] = request.small_channels
    changes["bias_correction"] = settings.bias_correction and not request.no_bias_correction
    return settings.ruled(**changes), findings


@dataclass
class Data:
    """Calibration batches.

    Attributes:
        feeds: input name -> array, one mapping a batch; iterated anew each time.
        images: names of the images, in order, where they are known.
        batch: images per batch, where that is known.
        feed: name of the input that images feed, or "".
        recipe: how they were made, of images.
        findings: what was noticed.
    """

    feeds: Iterable[Mapping[str, Any]]
    images: Sequence[str] | None = None
    batch: int | None = None
    feed: str = ""
    recipe: ImageRecipe | None = None
    findings: list[Finding] = field(default_factory=list)


def data_of(request: Request) -> Data | None:
    """Calibration batches from the arguments: bins, or images with a recipe; None without data.

    Raises:
        QuantizeError: the folder holds neither, or what it holds does not fit the model.
    """
    from pth2om.quantize import bins, preprocessing

    for folder in request.calib:
        if not is_folder(folder):
            raise QuantizeError("bins.no-folder", where=str(folder))
    if request.preprocess is None:
        return _bins(request) if request.calib else None
    read = preprocessing.read_recipe(preprocessing.recipe_path(request.preprocess))
    entry = bins.image_input(bins.model_inputs(request.model), read.preprocess, str(request.preprocess))
    fixed = entry.shape[0]
    if request.batch is not None and fixed not in (None, request.batch):
        raise QuantizeError("quantize.fixed-batch", where=str(request.model), batch=request.batch, fixed=fixed)
    if len(request.calib) > 1:
        raise QuantizeError("bins.folders", where=str(request.calib[1]), count=len(request.calib), inputs=entry.name)
    images = request.calib[0] if request.calib else read.images
    if images is None:
        return None
    batch = fixed or request.batch or read.batch
    asked = _batches_asked(request)
    limit = request.images if asked is None else asked * batch
    made = bins.ImageBatches(images, read.preprocess, batch, entry.name, limit)
    return Data(made, made.images, batch, entry.name, read, [*read.findings, *made.findings])


def _batches_asked(request: Request) -> int | None:
    """``batch_num`` of an AMCT configuration, where nothing was typed about it."""
    if request.cfg is None or request.images is not None:
        return None
    from pth2om.quantize.amct_config import read_config

    return read_config(request.cfg).batch_num


def _bins(request: Request) -> Data:
    from pth2om.quantize import bins

    limit = request.images or _batches_asked(request)
    opened = bins.open_bins(request.calib, bins.model_inputs(request.model), limit)
    first = opened.inputs[0].shape
    return Data(opened, opened.images, first[0] if first else None, findings=opened.findings)


def _own(request: Request, progress: Progress) -> Outcome:
    from pth2om.quantize import api
    from pth2om.quantize.network import read_model

    settings, findings = settings_of(request)
    model = read_model(request.model)
    data = data_of(request)
    random = data is None and request.random_calibration
    if data is None:
        if not random:
            raise QuantizeError("quantize.no-calibration-data", where=str(request.model))
        data = Data(api.random_feeds(model, str(request.model)))
    elif request.random_calibration:
        raise QuantizeError("quantize.flags-contradict", flags="--preprocess (img_root), --random-calibration")
    _check_patterns(request, model)
    del model  # `planned` reads it again; two copies are not needed at once
    outcome = Outcome(findings=[*findings, *data.findings])
    search = None if request.max_drop is None else _judge(request, data, percent_points(request.max_drop))
    checkpoint = None if request.checkpoint is None else _checkpoint_name(request.checkpoint)
    destination, prefix = request.destination, request.name
    images = None if data.images is None else len(data.images)
    more: dict[str, Any] = {"images": images, "random": random}
    with contextlib.ExitStack() as stack:
        with progress.counted(str(say("quantize.calibrating")), None) as seen:
            planned = api.planned(request.model, data.feeds, settings, destination, prefix, **more, progress=seen)
            plan = stack.enter_context(planned)
        if plan.calibration.resumed:
            outcome.said.append(str(say("quantize.resumed", batches=plan.calibration.resumed)))
        if search is not None:
            outcome.said += search(plan, progress)
        # First, because it can turn out to be another model's.
        extra = {} if checkpoint is None else _checkpoint(request, plan, destination / checkpoint, outcome)
        result = api.write_files(plan, destination, prefix, batches.first(data.feeds, 1))
        outcome.result = replace(result, files={**result.files, **extra})
        if request.sensitivity:
            from pth2om.quantize.sensitivity import layer_errors

            errors = layer_errors(plan, itertools.islice(iter(data.feeds), 32), memory=settings.memory)
            outcome.errors = [asdict(error) for error in sorted(errors, key=lambda error: error.sqnr_db)]
            outcome.errors = [{**row, "sqnr_db": min(row["sqnr_db"], 999.0)} for row in outcome.errors]
    if random:
        outcome.said.append(str(say("quantize.random-calibration")))
    return outcome


def _check_patterns(request: Request, model: onnx.ModelProto) -> None:
    """Refuse patterns that match nodes, but none that could be quantized; one that matches nothing is told later."""
    from pth2om.quantize.layers import KINDS

    for flag, patterns in (("--only", request.only), ("--skip", request.skip)):
        for pattern in patterns:
            kinds = {node.op_type for node in model.graph.node if matches(node.name, pattern)}
            if kinds and not kinds & set(KINDS):
                names = {"flag": flag, "pattern": pattern, "found": ", ".join(sorted(kinds)), "kinds": ", ".join(KINDS)}
                raise QuantizeError("quantize.pattern-others", where=str(request.model), **names)


def _checkpoint_name(checkpoint: Path) -> str:
    """The name of its counterpart; what cannot be written back to is refused before the calibration."""
    from pth2om.quantize import checkpoint_fp32

    if not is_there(checkpoint):
        raise QuantizeError("quantize.no-file", where=str(checkpoint))
    checkpoint_fp32.check(checkpoint)
    return checkpoint_fp32.name_for(checkpoint)


def _checkpoint(request: Request, plan: Plan, path: Path, outcome: Outcome) -> dict[str, Path]:
    """Write the INT8 counterpart of the checkpoint; its role and path."""
    from pth2om.quantize.checkpoint_fp32 import write_checkpoint

    assert request.checkpoint is not None
    _, findings = write_checkpoint(plan, request.checkpoint, path)
    plan.findings += findings
    # What else than the file's name has to be known of it is said even where it is no warning.
    outcome.said += [str(finding.message) for finding in findings if finding.severity == "info"]
    return {"checkpoint": path}


# ------------------------------------------------------------------------------------------------------ --max-drop


def _judge(request: Request, data: Data, limit: float) -> Callable[[Plan, Progress], list[str]]:
    """The accuracy-aware search that the arguments ask for; what it needs is looked for now, before the calibration.

    A label file scores the calibration images; a spec scores its own dataset by its own metric; with neither, the float
    model's answers count as right.
    """
    labels = None if request.labels is None else _labels(request.labels, data)
    spec = None if data.recipe is None else data.recipe.spec
    few_batches = _RANKING_BATCHES
    if labels is None and spec is not None and any(entry.metric != "agreement" for entry in spec.datasets):
        from pth2om.quantize import metric_search

        dataset, metric = _dataset(spec)

        def by_dataset(plan: Plan, _: Progress) -> list[str]:
            few = batches.first(data.feeds, few_batches)
            assert spec.preprocess is not None
            batch = data.batch or 1
            metric_search.search(plan, dataset, metric, spec.preprocess, spec.postprocess, few, limit, batch, data.feed)
            judged = say("quantize.judged-dataset", metric=metric, count=len(dataset), dataset=dataset.name)
            return [str(judged), *_found(plan, limit)]

        return by_dataset

    def by_classes(plan: Plan, progress: Progress) -> list[str]:
        from pth2om.quantize.accuracy_aware import keep_fewest, leave_floating
        from pth2om.quantize.classifier import ClassifierDrop

        evaluate = ClassifierDrop(plan.model, data.feeds, labels, None if data.images is None else len(data.images))
        few = batches.first(data.feeds, few_batches)
        with progress.counted(str(say("quantize.ranking")), None) as seen:
            kept = keep_fewest(plan, few, evaluate, limit, progress=seen)
        leave_floating(plan, kept, limit)
        key = "quantize.judged-agreement" if labels is None else "quantize.judged-labels"
        judged = say(key, count=evaluate.labels.size, right=round(evaluate.accuracy, 2))
        return [str(judged), *_found(plan, limit)]

    return by_classes


def _dataset(spec: Spec) -> tuple[Labelled, str]:
    """The first of a spec's scored datasets that is here, and its metric."""
    from pth2om.data import open_dataset

    absent = []
    for entry in spec.datasets:
        if entry.metric == "agreement":
            continue
        try:
            calib = spec.folder.parent.parent / "calib"
            return open_dataset(
                entry.name, calib_root=calib, data_roots=data_roots(), subset=entry.subset
            ), entry.metric
        except Absent:
            absent.append(entry.name)
    raise QuantizeError("quantize.max-drop-dataset", where=str(spec.folder), names=", ".join(absent))


def _found(plan: Plan, limit: float) -> list[str]:
    assert plan.search is not None
    return search_lines(asdict(plan.search), limit)


def search_lines(search: Mapping[str, Any], limit: float) -> list[str]:
    """What an accuracy-aware search found, in words.

    Its result, each layer it left in floating point with its own effect, and what else could be taken.

    Args:
        search: a `pth2om.quantize.effects.Search` as a mapping.
        limit: the drop that was accepted, in percent points.
    """
    drop = search["drop"]
    numbers = {name: round(drop[name], 2) for name in ("drop", "high")}
    numbers |= {"level": round(100 * drop["level"], 2), "images": drop["images"]}
    lines = [str(say("quantize.search-result", count=len(search["floating"]), limit=limit, **numbers))]
    if search["looks"] > 1:
        lines.append(str(say("quantize.search-looks", looks=search["looks"], level=numbers["level"])))
    effects = {effect["layer"]: effect["sqnr_db"] for effect in search["effects"]}
    lines += [f"  {effects[name]:7.2f} dB  {name}" for name in search["floating"]]
    fewer, needed = search["fewer"], search["images_needed"]
    if fewer is not None:
        values = {name: round(fewer["drop"][name], 2) for name in ("drop", "high")}
        key = "quantize.search-fewer" if needed else "quantize.search-fewer-unsettleable"
        lines.append(str(say(key, count=fewer["floating"], needed=needed, limit=limit, **values)))
        names = list(effects)[: fewer["floating"]]
        lines.append("  " + " ".join(f"--skip {shlex.quote(name)}" for name in names) if names else "  -")
    if search["unequal"]:
        message = say("quantize.search-equalize", count=len(search["unequal"]), layers=", ".join(search["unequal"][:3]))
        lines.append(str(message))
    return lines


def _labels(path: Path, data: Data) -> list[int]:
    """One class per image, in the images' order: by name where names are known, else line by line."""
    from pth2om.quantize.record import read_text

    table: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        found = re.fullmatch(r"\s*(.+?)[\s,]+(\d{1,9})\s*", line)
        if found is None:
            raise QuantizeError("quantize.labels", where=f"{path}:{number}")
        table[found.group(1)] = int(found.group(2))
    if data.images is None:
        return list(table.values())
    labels = []
    for name in data.images:
        keys = (name, Path(name).name, Path(name).with_suffix("").as_posix(), Path(name).stem)
        label = next((table[key] for key in keys if key in table), None)
        if label is None:
            raise QuantizeError("quantize.no-label", where=str(path), name=name)
        labels.append(label)
    return labels


# ------------------------------------------------------------------------------------------------------ other tools


def _external(request: Request) -> Outcome:
    from pth2om.quantize import amct

    destination, prefix = request.destination, request.destination / request.name
    outcome = Outcome()
    for path in (request.evaluator, request.cfg):
        if path is not None and not is_file(path):
            raise QuantizeError("quantize.no-file", where=str(path))
    if request.command is not None:
        places = {"onnx_in": request.model, "onnx_out": prefix.with_name(f"{prefix.name}_deploy_model.onnx")}
        if len(request.calib) > 1:
            raise QuantizeError("quantize.one-calib", where=str(request.calib[1]))
        for folder in request.calib:
            if not is_folder(folder):
                raise QuantizeError("bins.no-folder", where=str(folder))
            places["calib_dir"] = folder
        command = amct.template_command(request.command, places)
    elif request.convert:
        command = amct.convert_command(request.model, prefix)
    else:
        command = _amct_calibration(request, prefix, outcome)
    if request.preview:
        outcome.said.append(command.preview())  # nothing else, so that it can be used as it is
        return outcome
    shown = str(say("quantize.command-preview", command=command.preview()))
    print(shown, file=sys.stderr, flush=True)  # before the work begins
    with _made(destination):
        outcome.result = amct.run_command(command)
    return outcome


def _amct_calibration(request: Request, prefix: Path, outcome: Outcome) -> Command:
    from pth2om.quantize import amct, bins

    count = request.images or 1
    if request.evaluator is not None:
        return amct.calibration_command(
            request.model, prefix, evaluator=request.evaluator, batches=count, config=request.cfg
        )
    if not request.calib:
        raise QuantizeError("quantize.amct-data", where=str(request.model))
    opened = bins.open_bins(request.calib, bins.model_inputs(request.model), request.images)
    outcome.findings += opened.findings
    if request.cfg is not None:
        from pth2om.quantize.amct_config import read_config

        asked = read_config(request.cfg).batch_num
        if asked not in (None, len(opened)):
            message = say("quantize.cfg-batches", asked=asked, count=len(opened))
            outcome.findings.append(Finding("quantize.cfg-batches", "warning", message))
    return amct.calibration_command(
        request.model, prefix, inputs=opened.inputs, bins=opened.folders, batches=len(opened), config=request.cfg
    )


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder for the block; one that was made for it and stayed empty is removed again."""
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QuantizeError("quantize.not-writable", where=str(folder), reason=error.strerror or str(error)) from None
    try:
        yield
    finally:
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()
