"""Pre-flight: does ATC accept this graph for this SoC, and if not, which node is the problem and how to fix it.

`check` runs every rule of `pth2om.preflight.rules` over one ONNX file. Heavy imports wait until it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto

    from pth2om.ascend.atc_options import AtcOptions
    from pth2om.evidence import Finding

VERSION = 5
"""Of the rules; part of what a kept result depends on."""

NOT_OF_THE_COMPILER = frozenset({"preflight.constant-nan", "preflight.memory-over", "preflight.latency-impossible"})
"""Errors of models that ``atc`` compiles all the same."""

_RANKS = {"error": 0, "warning": 1, "info": 2}


def check(
    model: Path,
    *,
    soc: str | None = None,
    options: AtcOptions | None = None,
    cann: str = "9.x",
    latency_ms: float | None = None,
) -> list[Finding]:
    """Everything the rules find in an ONNX file, errors first, else in the rules' order.

    Args:
        model: the file; weights outside it are not read.
        soc: the name of ``--soc_version``; default that of `options`; without one the rules about chips are left out.
        options: what the compilation is to be asked; its ``input_shape`` replaces the declared shapes.
        cann: whose parser: ``7.0``, ``8.0`` or ``9.x``.
        latency_ms: the largest accepted latency in milliseconds, for the roofline rule.

    Returns:
        Findings whose rules begin with ``preflight.``; an unreadable file is an error of its own.

    Raises:
        GraphError: the file cannot be read or is no ONNX.
        ToolchainError: `cann` is no version that is known.
    """
    from pth2om.onnxfile.reading import read

    return check_loaded(read(model), model, soc=soc, options=options, cann=cann, latency_ms=latency_ms)


def check_loaded(
    proto: ModelProto,
    path: Path,
    *,
    soc: str | None = None,
    options: AtcOptions | None = None,
    cann: str = "9.x",
    latency_ms: float | None = None,
) -> list[Finding]:
    """`check` of a model that is loaded already; `path` is its file, beside which external weights lie."""
    from pth2om.ascend import socs, versions
    from pth2om.ascend.target import soc_problem
    from pth2om.evidence import Finding
    from pth2om.preflight.context import found, make_context
    from pth2om.preflight.rules import all_rules

    cann = versions.version(cann)
    wanted = soc if soc is not None or options is None else options.soc_version
    chip = socs.find(wanted) if wanted else None
    findings: list[Finding] = []
    problem = None if wanted is None else soc_problem(wanted, cann)
    if problem is not None:
        other = problem.key == "ascend.soc-other-release"
        name = "preflight.soc-other-release" if other else "preflight.soc-unknown"
        findings.append(Finding(name, "error", problem))
    if not proto.HasField("graph"):
        return [*findings, found("no-graph", "error")]
    context = make_context(path, proto, chip, cann, options, latency_ms, _shapes(options))
    for rule in all_rules():
        findings.extend(rule(context))
    return sorted(findings, key=lambda finding: _RANKS[finding.severity])


def _shapes(options: AtcOptions | None) -> dict[str, tuple[int, ...]]:
    """The sizes of ``--input_shape``; what is no shape is for the front end to refuse."""
    from pth2om.ascend.shapes import ShapeError, given_shapes

    try:
        return given_shapes(options.input_shape or "") if options else {}
    except ShapeError:
        return {}
