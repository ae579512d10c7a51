"""The pipeline's INT8 stage: from a float ONNX file and a spec's ``[quantize]`` to the artifact of the deploy model.

The artifact contains ``deploy.onnx``, ``fake_quant.onnx``, ``quantize.json`` and, if it could be written,
``int8_as_fp32.pth``: the same files for every tool. Our own quantization also writes the QDQ twin and AMCT's records.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.errors import CheckpointError, QuantizeError
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.quantize import amct, api, batches
from pth2om.quantize.calibrate import Calibration, Feeds, Progress
from pth2om.quantize.calibration_data import CalibrationData
from pth2om.quantize.layers import KINDS
from pth2om.quantize.network import Network, kind_of, read_model, write_model
from pth2om.quantize.plan import Plan
from pth2om.quantize.settings import QuantizeSettings
from pth2om.store import file_digest

if TYPE_CHECKING:
    from pth2om import spec

_PROOF = 2
"""Number of batches on which arithmetic is checked and errors are measured."""


Search = Callable[[Plan, Sequence[Feeds]], None]
"""Leaves layers of a plan in floating point; called with a few batches for the ranking."""


@dataclass(frozen=True)
class Task:
    """One quantization.

    Attributes:
        model: the float ONNX file.
        table: the spec's ``[quantize]``.
        name: of the model, for messages and file names.
        data: the calibration data; None only with ``table.onnx``.
        config: the file of ``table.config``.
        given: the file of ``table.onnx``.
        checkpoint: the file whose weights are replaced by INT8 weights, if it is a state dict.
        state: where an interrupted calibration is kept.
        search: an accuracy-aware search.
        findings: from the caller.
    """

    model: Path
    table: spec.Quantize
    name: str
    data: CalibrationData | None
    config: Path | None
    given: Path | None
    checkpoint: Path | None
    state: Path
    search: Search | None
    findings: Sequence[Finding] = ()


def build(task: Task, folder: Path, progress: Progress | None = None) -> None:
    """Fill the artifact's folder.

    Raises:
        QuantizeError: the model cannot be quantized, or the tool failed.
        Absent: the tool is not installed.
    """
    if task.table.own:
        _own(task, folder, progress)
    else:
        _adopted(task, folder)


def settings_of(task: Task) -> tuple[QuantizeSettings, list[Finding]]:
    """The settings from the spec and its AMCT configuration."""
    if task.config is None:
        return QuantizeSettings.from_spec(task.table), []
    from pth2om.quantize.amct_config import read_config

    start, findings = read_config(task.config).settings()
    return QuantizeSettings.from_spec(task.table, start), findings


def _own(task: Task, folder: Path, progress: Progress | None) -> None:
    assert task.data is not None
    settings, findings = settings_of(task)
    held = batches.Keeping(task.data.feeds(), _PROOF)
    more: dict[str, Any] = {"images": task.data.images, "random": task.data.random, "state": task.state}
    with api.planned(task.model, held, settings, folder, task.name, **more, progress=progress) as plan:
        if task.search is not None:
            task.search(plan, held.first)
        result = api.write_files(plan, folder, task.name, proof=held.first)
        findings += [*result.findings, *task.findings, *_checkpoint(task, plan, folder)]
    for role in ("deploy", "fake_quant"):
        result.files[role].rename(folder / f"{role}.onnx")
    report = json.loads(result.files["report"].read_text(encoding="utf-8"))
    result.files["report"].unlink()
    _write_report(folder, report, findings)


def _adopted(task: Task, folder: Path) -> None:
    """Another tool's deploy model, described like ours."""
    from pth2om.quantize.external_model import adopted_plan
    from pth2om.quantize.qdq_convert import convert_qdq
    from pth2om.quantize.twins import fake_quant

    findings: list[Finding] = [*_unread(task), *task.findings]
    extra: dict[str, Any] = {}
    if task.given is not None:
        deploy, where = read_model(task.given), task.given.name
        extra["quantized_by"] = where
    else:
        made, extra = _run_tool(task, folder)
        deploy, where = read_model(made), made.name
        shutil.rmtree(made.parent, ignore_errors=True)
    if any(node.op_type == "DequantizeLinear" for node in deploy.graph.node):
        deploy, noticed = convert_qdq(deploy, where)
        findings += noticed
    plan = adopted_plan(read_model(task.model), deploy, where)
    first: list[Feeds] = []
    if task.data is not None:
        plan.calibration = Calibration(
            {}, task.data.count, task.data.images, digest=task.data.digest, random=task.data.random
        )
        first = batches.first(task.data.feeds(), _PROOF)
    reports, noticed_later, details = api.described(plan, deploy, first or api.random_feeds(plan.model, where, _PROOF))
    api.mark(plan, deploy)
    write_model(deploy, folder / "deploy.onnx")
    write_model(fake_quant(deploy, where), folder / "fake_quant.onnx")
    findings += [*noticed_later, *_checkpoint(task, plan, folder)]
    _write_report(folder, api.report_table(reports, findings, details | extra), findings)


_SETTINGS = frozenset(
    {"activations", "weights", "asymmetric", "skip", "only", "bias_correction", "equalize", "balance", "small_channels"}
)
_DATA = frozenset({"dataset", "bins", "images", "random"})
_HANDED = frozenset({"activations", "asymmetric", "skip", "only"})
"""The settings that `config_text` writes into the configuration of amct_onnx."""


def _unread(task: Task) -> list[Finding]:
    """Keys of ``[quantize]`` in the spec that the quantizing tool does not read."""
    table = task.table
    if table.onnx is not None:
        unread, who = _SETTINGS | _DATA | {"config"}, table.onnx
    elif table.command:
        unread, who = _SETTINGS | {"config"}, table.command[0]
    else:
        unread, who = _SETTINGS if task.config is not None else _SETTINGS - _HANDED, table.tool
    names = sorted(unread & table.model_fields_set)
    message = say("quantize.keys-unread", names=", ".join(names), tool=Path(who).name)
    return [Finding("quantize.keys-unread", "warning", message)] if names else []


def _run_tool(task: Task, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Run amct_onnx or the user's command in a separate folder; returns the deploy model and its findings."""
    from pth2om.quantize import bins
    from pth2om.quantize.amct_config import config_text

    assert task.data is not None
    work = folder / "tool"
    work.mkdir()
    folders = task.data.bins
    if not folders:
        bins.write_bins(task.data.feeds(), work / "bins")
        folders = (work / "bins",)
    prefix = work / task.name
    if task.table.command:
        if len(folders) > 1:
            raise QuantizeError("quantize.one-calib", where=str(folders[1]))
        places = {
            "onnx_in": task.model,
            "onnx_out": prefix.with_name(f"{prefix.name}_deploy_model.onnx"),
            "calib_dir": folders[0],
        }
        command = amct.template_command(task.table.command, places)
    else:
        opened = bins.open_bins(folders, bins.model_inputs(task.model))
        config = task.config
        if config is None:
            config = work / "quant.cfg"
            nodes = Network(read_model(task.model), own=True).nodes
            layers = [(node.name, node.op_type) for node in nodes if kind_of(node) in KINDS]
            config.write_text(
                config_text(QuantizeSettings.from_spec(task.table), task.data.count, layers), encoding="utf-8"
            )
        command = amct.calibration_command(
            task.model, prefix, inputs=opened.inputs, bins=opened.folders, batches=task.data.count, config=config
        )
    made, _ = amct.run_tool(command, folder=work)
    return made, {"quantized_by": Path(command.arguments[0]).name, "command": command.preview()}


def _checkpoint(task: Task, plan: Plan, folder: Path) -> list[Finding]:
    """Write the FP32 checkpoint; if it cannot be written, this is reported and INT8 continues without it."""
    if task.checkpoint is None:
        return []
    from pth2om.quantize.checkpoint_fp32 import name_for, write_checkpoint

    try:
        suffix = Path(name_for(task.checkpoint)).suffix
        return write_checkpoint(plan, task.checkpoint, folder / f"int8_as_fp32{suffix}")[1]
    except (CheckpointError, QuantizeError) as error:
        return [Finding(error.message.key, "info", error.message)]


def _write_report(folder: Path, report: dict[str, Any], findings: Sequence[Finding]) -> None:
    report["findings"] = [finding.to_json() for finding in findings]
    report["sha256"] = file_digest(folder / "deploy.onnx")
    (folder / "quantize.json").write_text(json.dumps(report, ensure_ascii=False), encoding="utf-8")
