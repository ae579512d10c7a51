"""Writes the INT8 files of a spec's model into a folder, with the pipeline's stages from checkpoint to deploy model."""

from __future__ import annotations

import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om import spec as specs
from pth2om.errors import QuantizeError, reason_of
from pth2om.files import replacing
from pth2om.host import data_roots
from pth2om.language import say
from pth2om.quantize.request import Request, check_flags, check_writable, percent_points
from pth2om.quantize.settings import LayerReport, QuantizeResult, file_names
from pth2om.spec import Spec

if TYPE_CHECKING:
    from pth2om.conversion.stage import Built
    from pth2om.quantize.command_line import Outcome

_READ = frozenset(
    {
        "model",
        "output",
        "prefix",
        "json",
        "images",
        "batch",
        "random_calibration",
        "activations",
        "weights",
        "symmetric",
        "skip",
        "only",
        "balance",
        "equalize",
        "no_bias_correction",
        "small_channels",
        "cfg",
        "max_drop",
        "checkpoint",
        "amct",
    }
)
"""The arguments that apply to a spec; all others are set in the spec itself."""


def spec_folder(model: Path) -> Path | None:
    """The folder of the spec that is meant: itself, its ``model.toml``, or a name under ``models/``; else None."""
    # What a run reads beside it lies two floors up, which a path such as "." does not show.
    if model.name == "model.toml" and model.is_file():
        return _whole(model.parent)
    for folder in (model, Path("models") / model):
        if (folder / "model.toml").is_file():
            return _whole(folder)
    return None


def _whole(folder: Path) -> Path:
    return Path(os.path.abspath(folder))  # noqa: PTH100 - resolve() would follow a linked folder away from `calib`


def write(request: Request, folder: Path) -> Outcome:
    """Export, calibrate and quantize a spec's model, and write the files into the requested folder.

    Args:
        request: as typed; its flags come before the spec's ``[quantize]``. ``output`` defaults to ``<name>-int8`` in
            the current folder.
        folder: of the spec.

    Raises:
        SpecError: the spec is wrong, or contradicts a flag.
        Absent: weights or calibration data are not here.
        QuantizeError: a flag that means nothing here, or see `pth2om.quantize.quantize`.
    """
    from pth2om.conversion.pipeline import Pipeline
    from pth2om.conversion.settings import RunSettings
    from pth2om.quantize.command_line import Outcome, search_lines
    from pth2om.store import Store

    check_flags(request, _READ, say("quantize.way-spec").render())
    spec = specs.load(folder)
    destination = request.output or Path(f"{spec.name}-int8")
    check_writable(destination)
    spec = asked(spec, request)
    settings = RunSettings(
        models=folder.parent,
        calib=folder.parent.parent / "calib",
        data_roots=tuple(data_roots()),
        weights={spec.name: request.checkpoint} if request.checkpoint is not None else {},
    )
    batches = [variant.batch for variant in spec.variants if variant.quantized] or list(spec.batches)
    pipeline = Pipeline(spec, settings, Store())
    try:
        batch = request.batch or batches[0]
        exported, built = pipeline.onnx(batch), pipeline.quantized(batch)
        stem = pipeline.weights.stem if pipeline.weights is not None else spec.name
        files = _copied(exported, built, destination, request.prefix or spec.name, stem)
    finally:
        pipeline.close()
    details = dict(built.record.details)
    known = {entry.name for entry in fields(LayerReport)}
    layers = [LayerReport(**{name: row[name] for name in known & row.keys()}) for row in details.pop("layers")]
    findings = (*exported.record.findings, *built.record.findings)
    outcome = Outcome(QuantizeResult(files, tuple(layers), findings, details))
    if details.get("search"):
        outcome.said += search_lines(details["search"], spec.quantize.max_drop or 0.0)
    if details.get("random_calibration"):
        outcome.said.append(str(say("quantize.random-calibration")))
    return outcome


def asked(spec: Spec, request: Request) -> Spec:
    """The spec with what the flags say of its ``[quantize]``.

    Raises:
        QuantizeError: they contradict what it says.
    """
    table: dict[str, Any] = {}
    for name in ("activations", "weights", "balance", "images"):
        if getattr(request, name) is not None:
            table[name] = getattr(request, name)
    for name in ("skip", "only"):
        if getattr(request, name):
            table[name] = (*getattr(spec.quantize, name), *getattr(request, name))
    switches: dict[str, tuple[bool, Any]] = {
        "asymmetric": (request.symmetric, False),
        "bias_correction": (request.no_bias_correction, False),
        "equalize": (request.equalize, True),
        "small_channels": (request.small_channels, True),
        "random": (request.random_calibration, True),
        "tool": (request.amct, "amct_onnx"),
    }
    table |= {name: value for name, (flag, value) in switches.items() if flag}
    if request.max_drop is not None:
        table["max_drop"] = percent_points(request.max_drop)
    if request.cfg is not None:
        table["config"] = str(request.cfg.absolute())
    given = spec.quantize.model_dump(include=spec.quantize.model_fields_set)
    try:
        return spec.model_copy(update={"quantize": specs.Quantize(**(given | table))})
    except ValueError as error:
        reason = str(error).split("Value error, ")[-1].split(" [type=")[0]
        raise QuantizeError("quantize.spec-contradicts", where=str(spec.folder), reason=reason) from None


def _copied(exported: Built, built: Built, destination: Path, prefix: str, stem: str) -> dict[str, Path]:
    """Copy the artifact's files under their usual names, the checkpoint's by its ``stem``; each appears whole.

    Weights that lie beside a model of 2 GB keep their name, by which the model finds them.
    """
    weights = sorted(exported.file.parent.glob(f"{exported.file.name}.data"))
    pairs = {"onnx": (exported.file, f"{prefix}.onnx"), **{path.name: (path, path.name) for path in weights}}
    pairs |= int8_files(built, prefix, stem)
    found = {role: (path, destination / target) for role, (path, target) in pairs.items()}
    try:
        destination.mkdir(parents=True, exist_ok=True)
        for path, target in found.values():
            with replacing(target) as scratch:
                shutil.copyfile(path, scratch)
    except OSError as error:
        raise QuantizeError("quantize.not-writable", where=str(destination), reason=reason_of(error)) from None
    return {role: target for role, (_, target) in found.items()}


def int8_files(built: Built, prefix: str, stem: str) -> dict[str, tuple[Path, str]]:
    """The files of a quantized artifact and their usual names: role -> path, name.

    Args:
        built: from `pth2om.conversion.pipeline.Pipeline.quantized`.
        prefix: of the names.
        stem: of the FP32 checkpoint's name.
    """
    name = built.record.model
    source = built.artifact.path
    inside = {
        **file_names(name),
        "deploy": "deploy.onnx",
        "fake_quant": "fake_quant.onnx",
        "report": "quantize.json",
    }
    roles = {role: (source / inside[role], target) for role, target in file_names(prefix).items()}
    found = {path.name: (path, path.name) for path in sorted(source.glob("*.external"))}
    found |= {role: pair for role, pair in roles.items() if pair[0].is_file()}
    for path in sorted(source.glob("int8_as_fp32.*")):
        found["checkpoint"] = (path, f"{stem}_{path.name}")
    return found
