"""One call from a float ONNX file and calibration data to the files for ATC."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pth2om.errors import QuantizeError, reason_of
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.quantize import batches, ranges
from pth2om.quantize.calibrate import Feeds, Progress
from pth2om.quantize.files import quant_json, records
from pth2om.quantize.layers import Layer
from pth2om.quantize.network import read_model, write_model
from pth2om.quantize.plan import Plan, make_plan
from pth2om.quantize.qdq import build_qdq
from pth2om.quantize.qdq_convert import convert_qdq
from pth2om.quantize.random_data import random_feeds
from pth2om.quantize.record import render_records
from pth2om.quantize.sensitivity import layer_errors, range_picture
from pth2om.quantize.settings import VERSION, LayerReport, QuantizeResult, QuantizeSettings, file_names
from pth2om.quantize.twin_proof import LayerProof, prove
from pth2om.quantize.twins import fake_quant
from pth2om.quantize.weights import Quantized
from pth2om.store import file_digest

_PROOF_BATCHES = 1
_PICTURES = 5
"""Number of layers whose input distribution is kept for a plot."""


def quantize(
    model: Path,
    feeds: Iterable[Feeds] | None,
    settings: QuantizeSettings | None = None,
    destination: Path | None = None,
    *,
    prefix: str | None = None,
    random: bool = False,
    floating: Iterable[str] = (),
    state: Path | None = None,
    progress: Progress | None = None,
) -> QuantizeResult:
    """Calibrate and quantize a float ONNX file.

    Args:
        model: the file.
        feeds: input name -> array, one mapping per batch, read once; None is refused unless ``random``.
        settings: of the quantization; default `QuantizeSettings`.
        destination: folder of the files; default the model's.
        prefix: file names start with it; default the model's name.
        random: without data, calibrate on random numbers; every file and finding reports this.
        floating: names of layers that stay in floating point, besides ``settings.skip`` (an accuracy-aware search).
        state: where an interrupted calibration is kept; default ``.<prefix>.calibration.npz`` in the destination.
        progress: called after each batch.

    Returns:
        Files, a table of layers, and findings.

    Raises:
        QuantizeError: no data, a model that cannot be quantized, or files that cannot be written.
    """
    settings = settings or QuantizeSettings()
    destination = destination or model.parent
    prefix = prefix or model.stem
    if feeds is None:
        if not random:
            raise QuantizeError("quantize.no-calibration-data", where=str(model))
        feeds = random_feeds(read_model(model), str(model))
    held = batches.Keeping(feeds, _PROOF_BATCHES)
    with planned(model, held, settings, destination, prefix, random=random, state=state, progress=progress) as plan:
        for name in floating:
            plan.quantized.pop(name, None)
        return write_files(plan, destination, prefix, proof=held.first)


@contextlib.contextmanager
def planned(
    model: Path,
    feeds: Iterable[Feeds],
    settings: QuantizeSettings,
    destination: Path,
    prefix: str,
    *,
    random: bool = False,
    images: int | None = None,
    state: Path | None = None,
    progress: Progress | None = None,
) -> Iterator[Plan]:
    """A calibrated plan; its calibration state is kept until the block succeeds, so nothing is measured twice.

    Args: as `quantize`; and
        images: their number, if known: rows that only fill up the last batch do not count.
    """
    state = state or destination / f".{prefix}.calibration.npz"
    plan = make_plan(
        read_model(model), feeds, settings, where=model.name, state=state, key=file_digest(model), progress=progress
    )
    plan.calibration.random = random
    if images is not None:
        plan.calibration.images = images
    yield plan
    state.unlink(missing_ok=True)


def write_files(plan: Plan, destination: Path, prefix: str, proof: list[Feeds] | None = None) -> QuantizeResult:
    """Write all files of a plan, or none of them.

    Args:
        plan: from `make_plan`.
        destination: folder.
        prefix: file names start with it.
        proof: batches on which FP32 and integer arithmetic are compared layer by layer.
    """
    layers = list(plan.quantized.values())
    deploy = plan.deploy()
    reports, findings, details = described(plan, deploy, proof or [])
    mark(plan, deploy)
    names = file_names(prefix)
    with _together(destination, prefix) as folder:
        write_model(deploy, folder / names["deploy"])
        write_model(fake_quant(deploy), folder / names["fake_quant"])
        qdq = build_qdq(plan.network, layers)
        mark(plan, qdq)
        write_model(qdq, folder / names["qdq"])
        _write_json(folder / names["quant_json"], quant_json(plan.network.nodes, deploy, prefix))
        (folder / names["record"]).write_text(render_records(records(layers)), encoding="utf-8")
        _write_json(folder / names["report"], report_table(reports, findings, details))
    files = {role: destination / name for role, name in names.items()}
    return QuantizeResult(files, reports, findings, details)


def mark(plan: Plan, model: onnx.ModelProto) -> None:
    """Record in a model's properties that it was calibrated on random numbers; a twin made from it inherits this."""
    if plan.calibration.random:
        entry = model.metadata_props.add()
        entry.key, entry.value = "pth2om.calibration", "random numbers, no data: accuracy means nothing"


@contextlib.contextmanager
def _together(destination: Path, prefix: str) -> Iterator[Path]:
    """A folder whose files are all moved to ``destination`` if the block succeeds, else none of them."""
    try:
        destination.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{prefix}.", dir=destination) as temporary:
            folder = Path(temporary)
            yield folder
            for file in folder.iterdir():
                file.replace(destination / file.name)
    except OSError as error:
        raise QuantizeError("quantize.not-writable", where=str(destination), reason=reason_of(error)) from None


def described(
    plan: Plan, deploy: onnx.ModelProto, proof: Sequence[Feeds]
) -> tuple[tuple[LayerReport, ...], tuple[Finding, ...], dict[str, Any]]:
    """The report of a plan: a line per layer, findings, and JSON values.

    Args:
        plan: from `make_plan` or `pth2om.quantize.external_model`.
        deploy: its deploy model.
        proof: batches on which FP32 and integer arithmetic are compared layer by layer; without them nothing is
            measured.
    """
    proofs = prove(deploy, proof, plan.settings.memory) if proof else []
    details = _details(plan, proofs) | (_errors(plan, proof) if proof else {})
    return tuple(layer_reports(plan)), tuple(_findings(plan, proofs)), details


def report_table(
    reports: Sequence[LayerReport], findings: Sequence[Finding], details: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of ``<prefix>_quantize.json``."""
    return {
        "layers": [asdict(report) for report in reports],
        "findings": [finding.to_json() for finding in findings],
        "details": details,
    }


def _write_json(path: Path, data: Any) -> None:  # noqa: ANN401 - JSON
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def convert(model: Path, destination: Path | None = None, *, prefix: str | None = None) -> QuantizeResult:
    """Convert a QDQ (QAT) model into a deploy model and its fake-quant twin; needs no data.

    Raises:
        QuantizeError: it is not a QDQ model, or cannot be expressed as a deploy model.
    """
    destination = destination or model.parent
    prefix = prefix or model.stem
    deploy, findings = convert_qdq(read_model(model), model.name)
    names = {"deploy": f"{prefix}_deploy_model.onnx", "fake_quant": f"{prefix}_fake_quant_model.onnx"}
    twin = fake_quant(deploy, model.name)
    with _together(destination, prefix) as folder:
        write_model(deploy, folder / names["deploy"])
        write_model(twin, folder / names["fake_quant"])
    files = {role: destination / name for role, name in names.items()}
    return QuantizeResult(files, (), tuple(findings), {"source": "qdq"})


def _findings(plan: Plan, proofs: list[LayerProof]) -> Iterator[Finding]:
    if plan.calibration.random:
        yield Finding("quantize.random-calibration", "error", say("quantize.random-calibration"))
    if 0 < plan.calibration.images < 8 and not plan.calibration.random:
        message = say("quantize.few-images", count=plan.calibration.images)
        yield Finding("quantize.few-images", "warning", message)
    yield from plan.findings
    for proof in proofs:
        if not proof.exact:
            message = say("quantize.beyond-exact", sum=proof.largest_sum, differing=proof.differing)
            yield Finding("quantize.beyond-exact", "info", message, node=proof.layer)


def _details(plan: Plan, proofs: list[LayerProof]) -> dict[str, Any]:
    return {
        "version": VERSION,
        # A model from another tool does not follow our settings.
        **({"settings": plan.settings.to_json()} if plan.given is None else {}),
        "batches": plan.calibration.batches,
        "images": plan.calibration.images,
        "calibration_digest": plan.calibration.digest,
        "resumed_batches": plan.calibration.resumed,
        "random_calibration": plan.calibration.random,
        "int8_layers": len(plan.quantized) + len(plan.untraced),
        "candidate_layers": sum(1 for _ in layer_reports(plan)),
        "proof": [asdict(proof) for proof in proofs],
        "search": None if plan.search is None else asdict(plan.search),
    }


def _errors(plan: Plan, batches: Sequence[Feeds]) -> dict[str, Any]:
    """The error at every INT8 layer's output, and the distributions of the worst layers with their chosen ranges."""
    errors = sorted(layer_errors(plan, batches, memory=plan.settings.memory), key=lambda error: error.sqnr_db)
    return {
        "errors": [_finite(asdict(error)) for error in errors],
        "pictures": {
            error.layer: range_picture(plan, error.layer)
            for error in errors[:_PICTURES]
            if plan.quantized[error.layer].layer.input in plan.calibration.histograms
        },
    }


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Infinite decibels (equal bit for bit, or no signal) as None: JSON has no infinity."""
    return {key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in row.items()}


def layer_reports(plan: Plan) -> Iterator[LayerReport]:
    """One line per candidate layer."""
    yield from plan.untraced
    names = {report.name for report in plan.untraced}
    for layer in plan.selection.layers:
        if layer.name in names:
            continue  # INT8 in the given model, but different from the float model
        quantized = plan.quantized.get(layer.name)
        if quantized is None:
            reason = layer.reason or say("quantize.floated")
            yield LayerReport(
                layer.name,
                layer.kind,
                False,
                reason.key,
                dict(reason.values),
                rolls_back=layer.rolls_back,
            )
        else:
            yield _report(plan, layer, quantized)


def _report(plan: Plan, layer: Layer, quantized: Quantized) -> LayerReport:
    chosen = quantized.activation
    weight_sqnr = None
    weight = quantized.float_weight
    if weight is not None:
        gap = quantized.dequantized - weight
        weight_sqnr = _decibel(float(np.mean(weight * weight)), float(np.mean(gap * gap)))
    report = LayerReport(
        layer.name,
        layer.kind,
        True,
        scale=float(chosen.scale),
        offset=chosen.offset,
        weight_sqnr_db=weight_sqnr,
        exact=quantized.exact_in_float,
        rolls_back=layer.rolls_back,
    )
    histogram = plan.calibration.histograms.get(layer.input)
    if histogram is None:
        return report  # another tool calibrated
    values, counts = histogram.points()
    # Up to half a step beyond the last level, a value is only rounded, not clipped.
    slack = float(chosen.scale) / 2
    outside = (values < chosen.lowest - slack) | (values > chosen.highest + slack)
    power = float(np.dot(values**2, counts) / counts.sum())
    return replace(
        report,
        low=histogram.lowest,
        high=histogram.highest,
        clipped=float(counts[outside].sum() / counts.sum()),
        input_sqnr_db=_decibel(power, ranges.error(values, counts, chosen)),
    )


def _decibel(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise); None if one of them is zero."""
    return None if signal <= 0 or noise <= 0 else float(10 * np.log10(signal / noise))


__all__ = ["VERSION", "convert", "layer_reports", "planned", "quantize", "random_feeds", "write_files"]
