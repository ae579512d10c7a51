"""PyTorch -> ONNX.

The TorchScript exporter (``dynamo=False``) is the default: for a requested opset of 9 to 17 the dynamo exporter of
torch 2.13 writes opset 18 without a message (measured). Opsets are tried in the spec's order. The first one is taken
that can be exported, that is the opset in the written file, and at which ATC has a parser for every operator.

What changes the files that are made here raises `pth2om.conversion.onnx_stage.OnnxStage.version`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pth2om.ascend.versions import DEFAULT
from pth2om.errors import ExportError, GraphError, first_line, is_full
from pth2om.evidence import Finding
from pth2om.export_probe import at_shape, probe
from pth2om.language import joined, say
from pth2om.onnxfile.reading import read_whole
from pth2om.onnxfile.writing import is_external, write_model
from pth2om.sessions.torch import flat_tensors, output_names
from pth2om.spec import Export, Gears, Input, Shape
from pth2om.terminal import silent

if TYPE_CHECKING:
    import onnx
    import torch

    from pth2om.ascend.parser_table import MissingOperator
    from pth2om.custom_ops.bodies import Bodies
    from pth2om.spec import CustomOp


@dataclass(frozen=True)
class Attempt:
    """One attempt with one opset.

    Attributes:
        opset: the requested one.
        outcome: ``taken``, ``export-failed``, ``wrong-opset`` (`reason` has the one written), ``not-registered``.
        reason: the first line of the exporter's error, or the operators without a parser in ATC.
    """

    opset: int
    outcome: Literal["taken", "export-failed", "wrong-opset", "not-registered"]
    reason: str = ""


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        opset: read back from the file.
        exporter: which exporter wrote it.
        attempts: the attempts in order.
        outputs: names of the outputs.
        findings: tracer warnings, unregistered operators, a second input that disagrees.
        probes: relative L2 between torch and ORT for the tracing input and a different one.
    """

    opset: int
    exporter: str
    attempts: tuple[Attempt, ...]
    outputs: tuple[str, ...]
    findings: tuple[Finding, ...]
    probes: tuple[float, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """JSON values for the artifact and the evidence."""
        return {
            "opset": self.opset,
            "exporter": self.exporter,
            "attempts": [vars(attempt) for attempt in self.attempts],
            "outputs": list(self.outputs),
            "findings": [finding.to_json() for finding in self.findings],
            "probes": list(self.probes),
        }


@dataclass(frozen=True)
class Purpose:
    """What an ONNX file is made for.

    Attributes:
        gears: one file for all of them: their axes stay open.
        cann: whose parser the operators are looked up in.
        operators: custom operators of the model; complete declarations.
        bodies: of the custom operators, see `pth2om.custom_ops.bodies`; a file that has no functions gets them.
    """

    gears: Gears | None = None
    cann: str = DEFAULT
    operators: Sequence[CustomOp] = ()
    bodies: Bodies = field(default_factory=dict)


def export(
    module: torch.nn.Module,
    inputs: Sequence[Input],
    export: Export,
    batch: int,
    destination: Path,
    purpose: Purpose = Purpose(),
) -> Exported:
    """Export ``module`` to ``destination`` at the best opset of the ladder.

    Args:
        module: in eval mode; called with one positional argument per input.
        inputs: the spec's inputs.
        export: the spec's ``[export]``.
        batch: samples of the tracing input; the batch axis is fixed to it unless ``export.dynamic_batch``.
        destination: the ``.onnx`` file to write; weights inline below 2 GB, else beside it as external data.
        purpose: what the file is for; with gears it is traced at the last and compared with torch at each.

    Returns:
        What was written, every attempt, and all findings. When no opset has all its operators registered the file
        with the fewest unregistered operators is written and the finding ``export.not-registered`` (an error) names
        them; operators of which no public source decides are a warning, ``export.registration-unknown``.

    Raises:
        ExportError: the module fails on its own inputs, or no opset exports at all.
    """
    import torch

    if export.exporter == "dynamo" and importlib.util.find_spec("onnxscript") is None:
        raise ExportError("export.needs-onnxscript")
    shapes = Shape(batch, purpose.gears).others()
    traced = at_shape(shapes[-1], inputs, 0)
    arguments = tuple(torch.from_numpy(traced[entry.name]) for entry in inputs)
    flat = _flat_module(module)
    with torch.inference_mode():
        try:
            results = flat(*arguments)
        except ExportError:
            raise
        except Exception as error:  # the net's own code may raise anything
            raise ExportError("export.forward-failed", reason=first_line(error)) from error
    names = output_names(export.outputs, len(results))
    # A TorchScript program is exported as it is: called from inside a trace, PyTorch refuses it.
    exported = module if isinstance(module, torch.jit.ScriptModule) else flat
    axes = _open_axes(flat, inputs, export, shapes, dict(zip(names, results, strict=True)))
    job = _Job(exported, arguments, inputs, export, names, axes, purpose)

    attempts: list[Attempt] = []
    best: tuple[int, int, list[MissingOperator], list[Finding]] | None = None
    with _scratch(destination) as candidate_path, _scratch(destination) as best_path:
        for opset in export.opsets:
            attempt, lacking, findings = _try(job, opset, candidate_path)
            attempts.append(attempt)
            if attempt.outcome == "taken" or (
                attempt.outcome == "not-registered" and (best is None or _how_many(lacking) < _how_many(best[2]))
            ):
                best = (opset, len(attempts) - 1, lacking, findings)
                _move(candidate_path, best_path)
            if attempt.outcome == "taken":
                break
        if best is None:
            tried = joined((joined((str(attempt.opset), str(attempt.reason)), ": ") for attempt in attempts), "; ")
            raise ExportError("export.no-opset", tried=tried)
        opset, index, lacking, findings = best
        if lacking:
            attempts[index] = Attempt(opset, "taken", attempts[index].reason)
            findings.extend(_lacking(lacking, opset, purpose.cann))
        probes = probe(best_path, flat, inputs, shapes, traced, names, findings)
        _move(best_path, destination)
    return Exported(opset, export.exporter, tuple(attempts), tuple(names), tuple(findings), tuple(probes))


@dataclass(frozen=True)
class _Job:
    module: torch.nn.Module
    arguments: tuple[torch.Tensor, ...]
    inputs: Sequence[Input]
    export: Export
    names: Sequence[str]
    axes: Mapping[str, Mapping[int, str]]
    purpose: Purpose


def _open_axes(
    module: torch.nn.Module,
    inputs: Sequence[Input],
    export: Export,
    shapes: Sequence[Shape],
    results: Mapping[str, torch.Tensor],
) -> dict[str, dict[int, str]]:
    """The axes of inputs and outputs that stay open, with their names; of outputs those that differ between gears.

    Args:
        module: the flat module.
        inputs: the spec's.
        export: the spec's ``[export]``.
        shapes: all gears, or the one shape.
        results: what the module gives at the last of them.
    """
    import torch

    gears = shapes[-1].gears
    if gears is None:
        if not export.dynamic_batch:
            return {}
        batched = [name for name, result in results.items() if result.ndim and result.shape[0] == shapes[-1].batch]
        return {name: {0: "batch"} for name in (*(entry.name for entry in inputs if entry.batched), *batched)}
    found = {
        entry.name: {place: axis for place, axis in enumerate(gears.open_axes(entry)) if axis is not None}
        for entry in inputs
    }
    seen: list[list[tuple[int, ...]]] = [[tuple(result.shape)] for result in results.values()]
    for shape in shapes[:-1]:
        feeds = at_shape(shape, inputs, 0)
        with torch.inference_mode():
            try:
                given = module(*(torch.from_numpy(feeds[entry.name]) for entry in inputs))
            except Exception as error:  # the net's own code may raise anything
                raise ExportError("export.gear-failed", gear=shape.name, reason=first_line(error)) from error
        for sizes, tensor in zip(seen, given, strict=True):
            sizes.append(tuple(tensor.shape))
    for name, sizes in zip(results, seen, strict=True):
        differing = [place for place, each in enumerate(zip(*sizes, strict=True)) if len(set(each)) > 1]
        found[name] = {place: "batch" if place == 0 else f"{name}_{place}" for place in differing}
    return {name: axes for name, axes in found.items() if axes}


def _flat_module(module: torch.nn.Module) -> torch.nn.Module:
    """``module`` with its result flattened to a tuple of tensors, so that torch and ONNX agree on names and order."""
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(flat_tensors(self.module(*arguments)))

    return Flat().eval()


def _how_many(lacking: Sequence[MissingOperator]) -> tuple[int, int]:
    """The number of operators that are certainly not registered, and of those for which it is unknown."""
    return sum(item.status == "missing" for item in lacking), len(lacking)


def _lacking(lacking: Sequence[MissingOperator], opset: int, cann: str) -> Iterator[Finding]:
    """Findings for operators that are not certainly registered."""
    missing = ", ".join(sorted(item.key for item in lacking if item.status == "missing"))
    unknown = ", ".join(sorted(item.key for item in lacking if item.status == "unknown"))
    if missing:
        message = say("export.not-registered", operators=missing, opset=opset)
        yield Finding("export.not-registered", "error", message)
    if unknown:
        message = say("export.registration-unknown", operators=unknown, cann=cann)
        yield Finding("export.registration-unknown", "warning", message)


def _try(job: _Job, opset: int, path: Path) -> tuple[Attempt, list[MissingOperator], list[Finding]]:
    """Export at one opset; returns the attempt, the operators not certainly registered there, and the findings."""
    from pth2om.ascend.parser_table import missing_operators

    try:
        findings = _run_exporter(job, opset, path)
    except Exception as error:  # the exporter raises whatever the model's code raises
        if is_full(error):
            raise
        return Attempt(opset, "export-failed", first_line(error)), [], []
    model = read_whole(path)
    written = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if written != opset:
        return Attempt(opset, "wrong-opset", f"the exporter wrote opset {written}"), [], []
    if job.purpose.operators:
        findings += _attached(model, path, job.purpose)
    if _has_external_data(model) and not is_external(model):
        write_model(model, path)
        (path.parent / (path.name + ".data")).unlink(missing_ok=True)
    lacking = missing_operators(model, job.purpose.cann)
    if lacking:
        return Attempt(opset, "not-registered", ", ".join(sorted(item.key for item in lacking))), lacking, findings
    return Attempt(opset, "taken"), [], findings


def _attached(model: onnx.ModelProto, path: Path, purpose: Purpose) -> list[Finding]:
    """Give the model the functions of its custom operators, and write it."""
    from pth2om.custom_ops.exporting import attach

    findings = attach(model, purpose.operators, purpose.bodies)
    write_model(model, path)
    return findings


def _run_exporter(job: _Job, opset: int, path: Path) -> list[Finding]:
    import torch

    from pth2om.custom_ops.exporting import symbolics

    axes = {name: dict(named) for name, named in job.axes.items()}
    dynamo = job.export.exporter == "dynamo"
    with (
        warnings.catch_warnings(record=True) as caught,
        silent(1),  # after a failed attempt PyTorch prints its whole graph there
        _unlogged(),
        torch.no_grad(),
        _plain_attention(),
        symbolics(job.purpose.operators, opset),
    ):
        warnings.simplefilter("always")
        torch.onnx.export(
            job.module,
            job.arguments,
            str(path),
            dynamo=dynamo,
            opset_version=opset,
            input_names=[entry.name for entry in job.inputs],
            output_names=list(job.names),
            dynamic_axes=axes if axes and not dynamo else None,
            dynamic_shapes=(tuple(axes.get(entry.name) for entry in job.inputs),) if axes and dynamo else None,
            custom_opsets={entry.domain: entry.version for entry in job.purpose.operators} or None,
        )
    return _tracer_findings(caught)


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """The exporter's logs switched off: what it says of an attempt that fails is an exception too."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """PyTorch's fast path for attention switched off.

    In eval mode ``nn.TransformerEncoder`` and ``nn.MultiheadAttention`` call one fused operator
    (``aten::_transformer_encoder_layer_fwd``), for which ONNX has no form in any opset.
    """
    from torch.backends import mha

    kept = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(kept)


def _tracer_findings(caught: Sequence[warnings.WarningMessage]) -> list[Finding]:
    """Tracer warnings as findings, once each; deprecation notices of the exporter itself are not the user's concern."""
    findings: dict[str, Finding] = {}
    for warning in caught:
        kind = warning.category.__name__
        if kind != "TracerWarning" and not (kind == "UserWarning" and "onnx" in str(warning.message).lower()):
            continue
        text = first_line(warning.message if isinstance(warning.message, Warning) else Warning(warning.message))
        text = text.partition(" (Triggered internally at")[0]
        place = f"{Path(warning.filename).name}:{warning.lineno}"
        rule = "export.tracer-warning" if kind == "TracerWarning" else "export.exporter-warning"
        message = say("export.tracer-warning", text=text, place=place)
        # The exporter repeats itself from several of its own lines; a tracer warning belongs to the net's line.
        name = text + (place if kind == "TracerWarning" else "")
        findings.setdefault(name, Finding(rule, "warning" if kind == "TracerWarning" else "info", message, node=place))
    return list(findings.values())


def _has_external_data(model: onnx.ModelProto) -> bool:
    from onnx.external_data_helper import uses_external_data

    return any(uses_external_data(tensor) for tensor in model.graph.initializer)


@contextlib.contextmanager
def _scratch(destination: Path) -> Iterator[Path]:
    """A path in an own folder beside ``destination``; the folder and what is left in it go."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix=".export-", dir=destination.parent))
    try:
        yield folder / destination.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    """Move an ONNX file together with the external data beside it."""
    for file in source.parent.iterdir():
        file.replace(target.parent / file.name)


def take(
    source: Path,
    inputs: Sequence[Input],
    batch: int,
    destination: Path,
    purpose: Purpose = Purpose(),
) -> dict[str, Any]:
    """Take a model that already is an ONNX file: fix its batch, compare it with the spec, look its operators up.

    Args:
        source: the user's file; it is only read.
        inputs: the spec's inputs.
        batch: written into a symbolic first axis of the spec's inputs.
        destination: the file to write.
        purpose: what the file is for.

    Returns:
        The same JSON values as `Exported.to_json`, with ``version`` (of the onnx package).

    Raises:
        ExportError: it is not an ONNX file, or its inputs differ from the spec.
    """
    import onnx

    from pth2om.ascend.parser_table import missing_operators

    try:
        model = read_whole(source)
    except GraphError as error:
        raise ExportError("export.not-onnx", where=str(source), reason=error.message.render()) from error
    initializers = {tensor.name for tensor in model.graph.initializer}
    given = {entry.name: entry for entry in model.graph.input if entry.name not in initializers}
    for entry in inputs:
        if entry.name not in given:
            raise ExportError("export.no-such-input", where=str(source), name=entry.name, known=", ".join(given))
        dims = given[entry.name].type.tensor_type.shape.dim
        if len(dims) != len(entry.shape_of(batch)):
            raise ExportError(
                "export.rank", where=str(source), name=entry.name, has=len(dims), wanted=len(entry.shape_of(batch))
            )
        opened = purpose.gears.open_axes(entry) if purpose.gears is not None else (None,) * len(dims)
        for dim, size, axis in zip(dims, entry.shape_of(batch), opened, strict=True):
            if axis is not None:
                if dim.dim_value > 0:
                    raise ExportError(
                        "export.fixed-axis", where=str(source), name=entry.name, has=dim.dim_value, axis=axis
                    )
                dim.dim_param = axis
                continue
            if dim.WhichOneof("value") == "dim_value" and dim.dim_value not in (size, 0, -1):
                raise ExportError(
                    "export.fixed-shape", where=str(source), name=entry.name, has=dim.dim_value, wanted=size
                )
            dim.dim_value = size
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    findings = tuple(_lacking(missing_operators(model, purpose.cann), opset, purpose.cann))
    write_model(model, destination)
    if purpose.operators:
        findings += tuple(_attached(model, destination, purpose))
    outputs = tuple(entry.name for entry in model.graph.output)
    exported = Exported(opset, "given", (), outputs, findings)
    return exported.to_json() | {"version": onnx.__version__}
