"""PyTorch -> ONNX.

The TorchScript exporter (``dynamo=False``) is the default: for a requested opset of 9 to 17 the dynamo exporter of
torch 2.13 writes opset 18 without a message (measured). Opsets are tried in the spec's order. The first one is taken
that can be exported, that is the opset in the written file, and at which ATC has a parser for every operator.
"""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pth2om.ascend.versions import DEFAULT
from pth2om.errors import ExportError, GraphError, first_line
from pth2om.evidence import Finding
from pth2om.language import say
from pth2om.onnxfile.reading import read_whole
from pth2om.onnxfile.runtime import RefusedError, open_runtime, run_runtime
from pth2om.onnxfile.writing import is_external, write_model
from pth2om.session import Array
from pth2om.sessions.torch import flat_tensors, output_names
from pth2om.spec import Export, Input
from pth2om.terminal import silent

if TYPE_CHECKING:
    import onnx
    import torch

    from pth2om.ascend.parser_table import MissingOperator
    from pth2om.custom_ops.bodies import Bodies
    from pth2om.spec import CustomOp

VERSION = 4
PROBE_RELATIVE_L2 = 1e-3
"""Above this relative L2 between torch and ORT the exported graph is considered wrong (float32 noise is < 1e-5)."""


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


def example(inputs: Sequence[Input], batch: int, seed: int) -> dict[str, Array]:
    """Random feeds of ``batch`` samples drawn uniformly from each input's range.

    Returns:
        One array per input: a batch of its shape, of its dtype.
    """
    random = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for entry in inputs:
        low, high = entry.range
        shape = entry.shape_of(batch)
        if entry.dtype == "bool":
            feeds[entry.name] = random.integers(0, 2, shape).astype(bool)
        elif entry.dtype.startswith("float"):
            feeds[entry.name] = random.uniform(low, high, shape).astype(entry.dtype)
        else:
            feeds[entry.name] = random.integers(int(low), int(high), shape, endpoint=True).astype(entry.dtype)
    return feeds


def mirrored(inputs: Sequence[Input], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """``feeds`` mirrored within each input's range, so that comparisons with the middle change their result."""
    reflected: dict[str, Array] = {}
    for entry in inputs:
        array = feeds[entry.name]
        low, high = (0, 1) if entry.dtype == "bool" else entry.range
        span = low + high if entry.dtype.startswith("float") else int(low) + int(high)
        reflected[entry.name] = np.asarray(
            span - array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
        ).astype(array.dtype)
    return reflected


def export(
    module: torch.nn.Module,
    inputs: Sequence[Input],
    export: Export,
    batch: int,
    destination: Path,
    *,
    cann: str = DEFAULT,
    operators: Sequence[CustomOp] = (),
    bodies: Bodies | None = None,
) -> Exported:
    """Export ``module`` to ``destination`` at the best opset of the ladder.

    Args:
        module: in eval mode; called with one positional argument per input.
        inputs: the spec's inputs.
        export: the spec's ``[export]``.
        batch: samples of the tracing input; the batch axis is fixed to it unless ``export.dynamic_batch``.
        destination: the ``.onnx`` file to write; weights inline below 2 GB, else beside it as external data.
        cann: whose parser the operators are looked up in.
        operators: custom operators that the module calls; complete declarations.
        bodies: of the custom operators, see `pth2om.custom_ops.bodies`.

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
    traced = example(inputs, batch, seed=0)
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
    shapes = [tuple(result.shape) for result in results]
    job = _Job(exported, arguments, inputs, export, names, batch, shapes, cann, operators, bodies or {})

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
            tried = "; ".join(f"{attempt.opset}: {attempt.reason}" for attempt in attempts)
            raise ExportError("export.no-opset", tried=tried)
        opset, index, lacking, findings = best
        if lacking:
            attempts[index] = Attempt(opset, "taken", attempts[index].reason)
            findings.extend(_lacking(lacking, opset, cann))
        probes = _probe(best_path, flat, inputs, names, batch, findings)
        _move(best_path, destination)
    return Exported(opset, export.exporter, tuple(attempts), tuple(names), tuple(findings), tuple(probes))


@dataclass(frozen=True)
class _Job:
    module: torch.nn.Module
    arguments: tuple[torch.Tensor, ...]
    inputs: Sequence[Input]
    export: Export
    names: Sequence[str]
    batch: int
    result_shapes: Sequence[tuple[int, ...]]
    cann: str
    operators: Sequence[CustomOp]
    bodies: Bodies


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
    except Exception as error:  # noqa: BLE001 - the exporter raises whatever the model's code raises
        return Attempt(opset, "export-failed", first_line(error)), [], []
    model = read_whole(path)
    written = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if written != opset:
        return Attempt(opset, "wrong-opset", f"the exporter wrote opset {written}"), [], []
    if job.operators:
        findings += _attached(model, path, job.operators, job.bodies)
    if _has_external_data(model) and not is_external(model):
        write_model(model, path)
        (path.parent / (path.name + ".data")).unlink(missing_ok=True)
    lacking = missing_operators(model, job.cann)
    if lacking:
        return Attempt(opset, "not-registered", ", ".join(sorted(item.key for item in lacking))), lacking, findings
    return Attempt(opset, "taken"), [], findings


def _attached(model: onnx.ModelProto, path: Path, operators: Sequence[CustomOp], bodies: Bodies) -> list[Finding]:
    """Give the model the functions of its custom operators, and write it."""
    from pth2om.custom_ops.exporting import attach

    findings = attach(model, operators, bodies)
    write_model(model, path)
    return findings


def _run_exporter(job: _Job, opset: int, path: Path) -> list[Finding]:
    import torch

    dynamic: dict[str, dict[int, str]] | None = None
    if job.export.dynamic_batch:
        dynamic = {entry.name: {0: "batch"} for entry in job.inputs if entry.batched}
        dynamic |= {
            name: {0: "batch"}
            for name, shape in zip(job.names, job.result_shapes, strict=True)
            if shape and shape[0] == job.batch
        }
    from pth2om.custom_ops.exporting import symbolics

    with (
        warnings.catch_warnings(record=True) as caught,
        silent(1),  # after a failed attempt PyTorch prints its whole graph there
        torch.no_grad(),
        _plain_attention(),
        symbolics(job.operators, opset),
    ):
        warnings.simplefilter("always")
        torch.onnx.export(
            job.module,
            job.arguments,
            str(path),
            dynamo=job.export.exporter == "dynamo",
            opset_version=opset,
            input_names=[entry.name for entry in job.inputs],
            output_names=list(job.names),
            dynamic_axes=dynamic if job.export.exporter == "torchscript" else None,
            dynamic_shapes=(tuple({0: "batch"} if entry.batched else None for entry in job.inputs),)
            if dynamic and job.export.exporter == "dynamo"
            else None,
            custom_opsets={entry.domain: entry.version for entry in job.operators} or None,
        )
    return _tracer_findings(caught)


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


def _probe(
    path: Path,
    module: torch.nn.Module,
    inputs: Sequence[Input],
    names: Sequence[str],
    batch: int,
    findings: list[Finding],
) -> list[float]:
    """Run the tracing input and a second one, its mirror image, through torch and ORT.

    A graph in which a branch or a size of the tracing input was frozen agrees on the first but not on the second.
    """
    import torch

    try:
        session = open_runtime(path)
    except RefusedError as error:
        findings.append(Finding("export.ort-refuses", "error", say("export.ort-refuses", reason=str(error))))
        return []
    known = {entry.name for entry in session.get_inputs()}
    findings.extend(
        Finding("export.unused-input", "error", say("export.unused-input", name=entry.name), node=entry.name)
        for entry in inputs
        if entry.name not in known
    )
    distances: list[float] = []
    traced = example(inputs, batch, 0)
    for number, feeds in enumerate((traced, mirrored(inputs, traced)), 1):
        with torch.inference_mode():
            expected = [tensor.numpy() for tensor in module(*(torch.from_numpy(feeds[entry.name]) for entry in inputs))]
        try:
            found = run_runtime(session, {name: array for name, array in feeds.items() if name in known}, names)
        except RefusedError as error:
            findings.append(
                Finding("export.ort-fails", "error", say("export.ort-fails", input=number, reason=str(error)))
            )
            return distances
        got = [found[name] for name in names]
        distances.append(max((_relative_l2(a, b) for a, b in zip(expected, got, strict=True)), default=0.0))
    for number, distance in enumerate(distances, 1):
        if not distance <= PROBE_RELATIVE_L2:
            rule = "export.frozen" if number == 2 and distances[0] <= PROBE_RELATIVE_L2 else "export.differs"
            findings.append(Finding(rule, "error", say(rule, distance=f"{distance:.2e}", input=number)))
    return distances


def _relative_l2(expected: Array, got: Array) -> float:
    if expected.shape != got.shape:
        return float("inf")
    a, b = np.asarray(expected, np.float64), np.asarray(got, np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    return float(np.linalg.norm(a[both] - b[both]) / max(float(np.linalg.norm(a[both])), 1e-12))


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
    *,
    cann: str = DEFAULT,
    operators: Sequence[CustomOp] = (),
    bodies: Bodies | None = None,
) -> dict[str, Any]:
    """Take a model that already is an ONNX file: fix its batch, compare it with the spec, look its operators up.

    Args:
        source: the user's file; it is only read.
        inputs: the spec's inputs.
        batch: written into a symbolic first axis of the spec's inputs.
        destination: the file to write.
        cann: whose parser the operators are looked up in.
        operators: custom operators of the file; complete declarations.
        bodies: of the custom operators: the file gets them as functions where it has none.

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
        for dim, size in zip(dims, entry.shape_of(batch), strict=True):
            if dim.WhichOneof("value") == "dim_value" and dim.dim_value not in (size, 0, -1):
                raise ExportError(
                    "export.fixed-shape", where=str(source), name=entry.name, has=dim.dim_value, wanted=size
                )
            dim.dim_value = size
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    findings = tuple(_lacking(missing_operators(model, cann), opset, cann))
    write_model(model, destination)
    if operators:
        findings += tuple(_attached(model, destination, operators, bodies or {}))
    outputs = tuple(entry.name for entry in model.graph.output)
    exported = Exported(opset, "given", (), outputs, findings)
    return exported.to_json() | {"version": onnx.__version__}
