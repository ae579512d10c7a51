"""What ``pth2om quantize`` does with its arguments; the face itself only reads and prints."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pth2om.errors import QuantizeError
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.quantize.settings import QuantizeResult, Settings

_RANKING_BATCHES = 8


@dataclass(frozen=True)
class Request:
    """The arguments of the verb, as typed."""

    model: Path
    calib: list[Path] = field(default_factory=list)
    preprocess: Path | None = None
    images: int | None = None
    batch: int = 1
    random_calibration: bool = False
    activations: Literal["minmax", "percentile", "entropy", "mse", "ifmr"] | None = None
    weights: Literal["arq", "mse"] | None = None
    symmetric: bool = False
    skip: list[str] = field(default_factory=list)
    only: list[str] = field(default_factory=list)
    balance: Literal["off", "fold", "insert"] | None = None
    equalize: bool = False
    no_bias_correction: bool = False
    small_channels: bool = False
    cfg: Path | None = None
    max_drop: float | None = None
    labels: Path | None = None
    convert: bool = False
    amct: bool = False
    evaluator: Path | None = None
    command: str | None = None
    preview: bool = False
    output: Path | None = None
    prefix: str | None = None
    checkpoint: Path | None = None
    sensitivity: bool = False
    json: bool = False


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
            yield f"  {entry['sqnr_db']:7.2f} dB  cos {entry['cosine']:.6f}  {entry['layer']}"
        for role, path in self.result.files.items():
            yield f"{role:12} {path}"

    def shown_findings(self) -> Iterator[str]:
        """Findings worth a line each: warnings and errors, with their layer; one line a kind where there are many."""
        everything = [*self.findings, *(self.result.findings if self.result else ())]
        loud = [finding for finding in everything if finding.severity != "info"]
        for rule, group in itertools.groupby(sorted(loud, key=lambda one: one.rule), key=lambda one: one.rule):
            several = list(group)
            for finding in several[:3]:
                yield f"{finding.severity}: {finding.node + ': ' if finding.node else ''}{finding.message}"
            if len(several) > 3:
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


class Bar:
    """A progress bar on a terminal; nothing in a log."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet or not sys.stderr.isatty()
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        if not self._quiet:
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True), transient=True)
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def begin(self, label: str) -> None:
        """A new bar."""
        if self._progress is not None:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(label, total=None)

    def __call__(self, done: int, total: int | None) -> None:
        """Progress, as `pth2om.quantize.calibrate.Progress`."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total)


def execute(request: Request, bar: Bar) -> Outcome:
    """Do what was asked.

    Raises:
        QuantizeError: see `quantize`; or the arguments contradict each other.
    """
    if request.convert:
        from pth2om.quantize.api import convert

        return Outcome(convert(request.model, request.output, prefix=request.prefix))
    if request.amct or request.command:
        return _external(request)
    return _own(request, bar)


def settings_of(request: Request) -> tuple[Settings, list[Finding]]:
    """The settings that the arguments, or an AMCT configuration and the arguments over it, ask for."""
    settings = Settings()
    findings: list[Finding] = []
    if request.cfg is not None:
        from pth2om.quantize.amct_config import read_config

        settings, findings = read_config(request.cfg).settings()
    changes: dict[str, Any] = {
        name: value for name in ("activations", "weights", "balance") if (value := getattr(request, name)) is not None
    }
    changes["skip"] = (*settings.skip, *request.skip)
    changes["only"] = tuple(request.only)
    changes["asymmetric"] = settings.asymmetric and not request.symmetric
    changes["equalize"] = request.equalize
    changes["small_channels"] = request.small_channels
    changes["bias_correction"] = settings.bias_correction and not request.no_bias_correction
    return replace(settings, **changes), findings


def feeds_of(request: Request) -> tuple[Iterable[Mapping[str, Any]] | None, list[Finding]]:
    """Calibration batches from the arguments: bins, or images with a recipe; None without data.

    Raises:
        QuantizeError: the folder holds neither, or what it holds does not fit the model.
    """
    from pth2om.quantize import bins

    if not request.calib:
        return None, []
    for folder in request.calib:
        if not folder.is_dir():
            raise QuantizeError("bins.no-folder", where=str(folder))
    inputs = bins.model_inputs(request.model)
    if request.preprocess is None:
        from pth2om.data.sources import is_image

        if any(is_image(path) for path in request.calib[0].iterdir()):
            raise QuantizeError("quantize.needs-preprocess", where=str(request.calib[0]))
        opened = bins.open_bins(request.calib, inputs, request.images)
        return opened, opened.findings
    recipe = bins.read_recipe(bins.recipe_path(request.preprocess))
    batch = inputs[0].shape[0] or max(request.batch, 1)
    made = bins.ImageBatches(request.calib[0], recipe.preprocess, batch, inputs[0].name, request.images)
    return made, list(recipe.findings)


def _own(request: Request, bar: Bar) -> Outcome:
    from pth2om.quantize import api
    from pth2om.quantize.network import read_model

    settings, findings = settings_of(request)
    model = read_model(request.model)
    feeds, more = feeds_of(request)
    outcome = Outcome(findings=[*findings, *more])
    random = feeds is None and request.random_calibration
    if feeds is None:
        if not random:
            raise QuantizeError("quantize.no-calibration-data", where=str(request.model))
        feeds = api.random_feeds(model, str(request.model))
    destination = request.output or request.model.parent
    prefix = request.prefix or request.model.stem
    bar.begin(str(say("quantize.calibrating")))
    with api.planned(request.model, feeds, settings, destination, prefix, random=random, progress=bar) as plan:
        if plan.calibration.resumed:
            outcome.said.append(str(say("quantize.resumed", batches=plan.calibration.resumed)))
        if request.max_drop is not None:
            _search(request, plan, feeds, bar, outcome)
        outcome.result = api.write_files(plan, destination, prefix, list(itertools.islice(iter(feeds), 1)))
        if request.checkpoint is not None:
            _checkpoint(request, plan, destination, outcome)
        if request.sensitivity:
            from pth2om.quantize.sensitivity import layer_errors

            errors = layer_errors(plan, itertools.islice(iter(feeds), 32), memory=settings.memory)
            outcome.errors = [asdict(error) for error in sorted(errors, key=lambda error: error.sqnr_db)]
            outcome.errors = [{**row, "sqnr_db": min(row["sqnr_db"], 999.0)} for row in outcome.errors]
    if random:
        outcome.said.append(str(say("quantize.random-calibration")))
    return outcome


def _checkpoint(request: Request, plan: Any, destination: Path, outcome: Outcome) -> None:  # noqa: ANN401 - Plan
    from pth2om.quantize.checkpoint_fp32 import write_checkpoint

    assert request.checkpoint is not None
    assert outcome.result is not None
    path = destination / f"{request.checkpoint.stem}_int8_as_fp32.pth"
    _, findings = write_checkpoint(plan, request.checkpoint, path)
    outcome.findings += findings
    outcome.result = replace(outcome.result, files={**outcome.result.files, "checkpoint": path})


def _search(
    request: Request,
    plan: Any,  # noqa: ANN401 - Plan, whose module imports onnx
    feeds: Iterable[Mapping[str, Any]],
    bar: Bar,
    outcome: Outcome,
) -> None:
    from pth2om.quantize.accuracy_aware import keep_fewest, leave_floating
    from pth2om.quantize.classifier import ClassifierDrop

    assert request.max_drop is not None
    labels = None if request.labels is None else _labels(request.labels, feeds)
    evaluate = ClassifierDrop(plan.model, feeds, labels)
    bar.begin(str(say("quantize.ranking")))
    few = list(itertools.islice(iter(feeds), _RANKING_BATCHES))
    found = keep_fewest(plan, few, evaluate, request.max_drop, progress=bar)
    leave_floating(plan, found, request.max_drop)
    drop = found.drop
    numbers = {"drop": round(drop.drop, 3), "low": round(drop.low, 3), "high": round(drop.high, 3)}
    outcome.said.append(str(say("quantize.search-result", count=len(found.floating), **numbers)))
    reasons = {effect.layer: effect.sqnr_db for effect in found.effects}
    outcome.said += [f"  {reasons[name]:7.2f} dB  {name}" for name in found.floating]


def _labels(path: Path, feeds: Iterable[Mapping[str, Any]]) -> list[int]:
    """One class per image of the calibration folder, in its order."""
    from pth2om.quantize.bins import ImageBatches
    from pth2om.quantize.record import read_text

    table: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) < 2 or not words[-1].isdigit():
            raise QuantizeError("quantize.labels", where=str(path), line=number, name="")
        table[" ".join(words[:-1])] = int(words[-1])
    if not isinstance(feeds, ImageBatches):
        return list(table.values())
    labels = []
    for file in feeds.files:
        label = table.get(file.name, table.get(file.stem))
        if label is None:
            raise QuantizeError("quantize.labels", where=str(path), line=0, name=file.name)
        labels.append(label)
    return labels


def _external(request: Request) -> Outcome:
    from pth2om.quantize import amct, bins

    destination = request.output or request.model.parent
    prefix = destination / (request.prefix or request.model.stem)
    if request.command:
        places = {"onnx_in": request.model, "onnx_out": prefix.with_name(f"{prefix.name}_deploy_model.onnx")}
        if request.calib:
            places["calib_dir"] = request.calib[0]
        command = amct.template_command(request.command, places)
    else:
        inputs = [] if request.evaluator else bins.model_inputs(request.model)
        if request.calib and inputs:
            opened = bins.open_bins(request.calib, inputs, request.images)
            inputs, count = list(opened.inputs), len(opened)
        else:
            count = request.images or 1
        command = amct.calibration_command(
            request.model,
            prefix,
            inputs=inputs,
            bins=request.calib,
            batches=count,
            evaluator=request.evaluator,
            config=request.cfg,
        )
    outcome = Outcome(said=[str(say("quantize.command-preview", command=command.preview()))])
    if not request.preview:
        destination.mkdir(parents=True, exist_ok=True)
        outcome.result = amct.run_command(command)
    return outcome
