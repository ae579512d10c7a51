"""PyTorch -> TorchScript, compared with PyTorch on several inputs, with a ``torch.export`` twin beside it.

A trace records one run: an ``if`` on the values of a tensor is frozen as that run went. So the program is compared on
further inputs, and a net whose trace is wrong is scripted. PyTorch has deprecated TorchScript since 2.11; the twin says
what its successor makes of the same net.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pth2om.errors import ExportError, first_line
from pth2om.evidence import Finding
from pth2om.export_probe import example, mirrored
from pth2om.language import Value, say
from pth2om.session import Array
from pth2om.sessions.torch import flat_tensors
from pth2om.spec import Input
from pth2om.spec.torchscript import TorchScript

if TYPE_CHECKING:
    import torch

VERSION = 2
TWIN = "model.pt2"
"""The file of the `torch.export` program, beside the TorchScript file."""

_FROZEN = ("Python boolean", "Python integer", "Python float", "Python index", "Python list", "iterating over a tensor")
"""What a tracer warning says of values that leave the tensors, and so are frozen."""

SWITCHES = ("do_ds", "deep_supervision")
"""Attributes that switch deep supervision: of nnU-Net v1, and of the decoder of v2."""

Runs = Callable[..., Any]


@dataclass(frozen=True)
class Made:
    """The program.

    Attributes:
        method: ``trace``, ``script`` or ``given``.
        mean_error: largest mean absolute difference from PyTorch over all inputs and outputs.
        twin_error: the same of the ``torch.export`` program; None where there is none.
        outputs: how many tensors it returns.
        findings: what was noticed.
    """

    method: str
    mean_error: float
    twin_error: float | None
    outputs: int
    findings: tuple[Finding, ...]


def make(module: torch.nn.Module, inputs: Sequence[Input], table: TorchScript, batch: int, file: Path) -> Made:
    """Write the program, and ``model.pt2`` beside it where ``torch.export`` takes the net.

    Args:
        module: float32, eval mode.
        inputs: of the spec.
        table: of the spec.
        batch: images per inference.
        file: to write.

    Raises:
        ExportError: the net fails on its own inputs, or there is no way to make a program of it; the text says why.
    """
    import torch

    feeds = _feeds(inputs, batch, table.inputs)
    arguments = [tuple(torch.from_numpy(np.array(each[entry.name])) for entry in inputs) for each in feeds]
    try:
        expected = [_run(module, each) for each in arguments]
    except ExportError:
        raise
    except Exception as failure:  # the net's own code may raise anything
        raise ExportError("export.forward-failed", reason=first_line(failure)) from failure
    findings = list(_outputs(module, len(expected[0])))
    if isinstance(module, torch.jit.ScriptModule):
        method, program, error = "given", module, 0.0
    else:
        method, program, error = _chosen(module, table, arguments, expected, findings)
    if not error <= table.mean_error:
        frozen = method == "trace" and _mean_error(program, arguments[:1], expected[:1]) <= table.mean_error
        values: dict[str, Value] = {"error": f"{error:.2g}", "limit": f"{table.mean_error:g}", "method": method}
        if frozen and any(each.rule == "torchscript.no-script" for each in findings):
            told = say("torchscript.frozen-unscriptable", **values)
            findings.append(Finding("torchscript.frozen", "error", told))
        else:
            findings.append(_finding("frozen" if frozen else "far", "error", **values))
    # Given a path, PyTorch ends the whole process when the disk is full; given an open file, it raises OSError.
    with _quiet(), file.open("wb") as opened:
        torch.jit.save(program, opened)
    findings.append(_finding("deprecated", "info"))
    twin = _twin(module, arguments, expected, file.with_name(TWIN), findings, table) if table.twin else None
    return Made(method, error, twin, len(expected[0]), tuple(findings))


def _chosen(
    module: torch.nn.Module,
    table: TorchScript,
    arguments: Sequence[tuple[torch.Tensor, ...]],
    expected: Sequence[list[Array]],
    findings: list[Finding],
) -> tuple[str, Any, float]:
    """The program by the method asked for, and its error; ``auto`` scripts only what a trace gets wrong."""
    traced: tuple[Any, float] | None = None
    reasons: list[str] = []
    if table.method != "script":
        try:
            program, noticed = _traced(module, arguments[0])
        except Exception as error:  # noqa: BLE001 - the tracer raises what the net's code raises
            reasons.append(first_line(error))
        else:
            findings += noticed
            traced = program, _mean_error(program, arguments, expected)
    if traced is not None and (table.method == "trace" or traced[1] <= table.mean_error):
        return ("trace", *traced)
    if table.method != "trace":
        try:
            scripted = _scripted(module)
        except Exception as error:  # noqa: BLE001 - the compiler raises several kinds
            reasons.append(_script_reason(error))
            findings.append(_finding("no-script", "warning", reason=reasons[-1]))
        else:
            if traced is not None:
                findings.append(_finding("scripted", "info"))
            return "script", scripted, _mean_error(scripted, arguments, expected)
    if traced is None:
        raise ExportError("torchscript.impossible", reason="; ".join(reasons))
    return ("trace", *traced)


def _feeds(inputs: Sequence[Input], batch: int, count: int) -> list[dict[str, Array]]:
    """Random inputs, their mirror images within the range, and zeros."""
    drawn = [example(inputs, batch, seed) for seed in range(count)]
    zeros = {entry.name: np.zeros((batch, *entry.shape), entry.dtype) for entry in inputs}
    return [*drawn, *(mirrored(inputs, each) for each in drawn), zeros]


def _run(program: Runs, arguments: tuple[torch.Tensor, ...]) -> list[Array]:
    import torch

    with torch.no_grad():
        return [tensor.numpy() for tensor in flat_tensors(program(*arguments))]


def _traced(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[Any, list[Finding]]:
    import torch

    with _quiet() as caught, torch.no_grad():
        program = torch.jit.trace(module, arguments, check_trace=False, strict=False)  # type: ignore[no-untyped-call]  # torch
    found: dict[str, Finding] = {}
    for warning in caught:
        text = first_line(Warning(str(warning.message)))
        if warning.category.__name__ == "TracerWarning" and any(word in text for word in _FROZEN):
            place = f"{Path(warning.filename).name}:{warning.lineno}"
            if Path(warning.filename).is_relative_to(Path(torch.__file__).parent):
                # Instance norm checks sizes like this. Whether it matters, the other inputs show.
                found[place] = _finding("library-check", "info", place=place)
            else:
                found[place] = _finding("data-dependent", "warning", place=place, text=text)
    return program, list(found.values())


def _scripted(module: torch.nn.Module) -> Any:  # noqa: ANN401 - torch has no types here
    import torch

    with _quiet():
        return torch.jit.script(module)


def _script_reason(error: Exception) -> str:
    """What the compiler minds: of its long text the first line that says something, and the line of code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    code = next((lines[index - 1] for index, line in enumerate(lines) if index and set(line) <= set("~ <-HERE")), "")
    head = first_line(error)
    return f"{head} [{code[:120]}]" if code and code not in head else head


@contextlib.contextmanager
def _quiet() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep PyTorch's loggers and prints off the terminal: ``torch.export`` prints the graph where it gives up."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.split(".")[0] == "torch"]
    enabled = [logger for logger in loggers if not logger.disabled]
    for logger in enabled:
        logger.disabled = True
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger in enabled:
            logger.disabled = False


def _mean_error(program: Runs, arguments: Sequence[tuple[torch.Tensor, ...]], expected: Sequence[list[Array]]) -> float:
    """Largest mean absolute difference; infinite where the program fails, or shapes or places of NaN differ."""
    worst = 0.0
    for fed, wanted in zip(arguments, expected, strict=True):
        try:
            got = _run(program, fed)
        except Exception:  # noqa: BLE001 - a frozen size fails on another input
            return float("inf")
        if [each.shape for each in got] != [each.shape for each in wanted]:
            return float("inf")
        for ours, theirs in zip(got, wanted, strict=True):
            a, b = ours.astype(np.float64), theirs.astype(np.float64)
            finite = np.isfinite(b)
            if not np.array_equal(finite, np.isfinite(a)):
                return float("inf")
            worst = max(worst, float(np.abs(a[finite] - b[finite]).mean()) if finite.any() else 0.0)
    return worst


def _outputs(module: torch.nn.Module, count: int) -> Iterator[Finding]:
    """Several outputs are explained by the switch that makes them, where the net has one that is on."""
    if count < 2:
        return
    switches = [
        f"{name}.{switch}" if name else switch
        for name, part in module.named_modules()
        for switch in SWITCHES
        if getattr(part, switch, False) is True
    ]
    if switches:
        yield _finding("deep-supervision", "warning", count=count, switch=", ".join(switches))
    else:
        yield _finding("several-outputs", "info", count=count)


def _twin(
    module: torch.nn.Module,
    arguments: Sequence[tuple[torch.Tensor, ...]],
    expected: Sequence[list[Array]],
    file: Path,
    findings: list[Finding],
    table: TorchScript,
) -> float | None:
    """The ``torch.export`` program, written and compared; None where there is none."""
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        findings.append(_finding("no-twin", "info", reason="TorchScript"))
        return None
    try:
        with _quiet(), _silent():
            program = torch.export.export(module, arguments[0], strict=False)
            torch.export.save(program, file)
    except Exception as failure:  # noqa: BLE001 - it raises what the net's code raises
        file.unlink(missing_ok=True)
        findings.append(_finding("no-twin", "info", reason=first_line(failure)))
        return None
    error = _mean_error(program.module(), arguments, expected)
    if not error <= table.mean_error:
        findings.append(_finding("twin-far", "warning", error=f"{error:.2g}", limit=f"{table.mean_error:g}"))
    return error


def _finding(name: str, severity: Any, **values: Value) -> Finding:  # noqa: ANN401 - evidence.Severity
    return Finding(f"torchscript.{name}", severity, say(f"torchscript.{name}", **values))
