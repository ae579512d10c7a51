"""Fixes an ONNX file: run pre-flight, run the passes that it names, run pre-flight again."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pth2om.errors import GraphError
from pth2om.evidence import Finding
from pth2om.graph import Cleaned, passes, write
from pth2om.graph.contract import PassSettings
from pth2om.graph.document import Document
from pth2om.graph.runner import Outcome, run
from pth2om.onnxfile.walking import node_count, opset
from pth2om.preflight import check
from pth2om.preflight.structure import structure

if TYPE_CHECKING:
    from pth2om.ascend.atc_options import AtcOptions

ROUNDS = 3
"""What a pass uncovers may need another: at a too new opset ATC knows no operator, and nothing else shows."""

_NAMED = re.compile(r"--pass ([a-z0-9,-]+)")
_WORTH_MENDING = ("error", "warning")


@dataclass(frozen=True)
class Fixed:
    """The result of `fix`.

    Attributes:
        path: the file that was written.
        names: the passes that were run.
        cleaned: what they did.
        before: pre-flight's findings before.
        after: and after.
        nodes: number of nodes before and after.
        opset: of the standard domain before and after.
    """

    path: Path
    names: tuple[str, ...]
    cleaned: Cleaned
    before: tuple[Finding, ...]
    after: tuple[Finding, ...]
    nodes: tuple[int, int]
    opset: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """JSON values of all of it."""
        return {
            "path": str(self.path),
            "passes": list(self.names),
            **self.cleaned.to_json(),
            "findings": [finding.to_json() for finding in self.cleaned.findings],
            "before": [finding.to_json() for finding in self.before],
            "after": [finding.to_json() for finding in self.after],
            "nodes": list(self.nodes),
            "opset": list(self.opset),
        }


def fix(
    source: Path,
    destination: Path,
    *,
    settings: PassSettings,
    soc: str | None = None,
    names: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    force: bool = False,
) -> Fixed:
    """Fix an ONNX file.

    Args:
        source: the file; it is never changed.
        destination: the file to write, by a temporary name.
        settings: for the passes; ``input_shapes`` and ``outputs`` bring their passes along.
        soc: the chip pre-flight judges for.
        names: the passes to run; default those that pre-flight's errors and warnings name, and `passes.CLEAN`.
        skip: passes to leave out.
        force: whether `destination` may be replaced.

    Raises:
        GraphError: `source` cannot be read or has no order to compute in, `destination` cannot be written, or a setting
            does not fit the model.
    """
    skipped = frozenset(_known(skip))
    asked = frozenset(_known(names)) - skipped if names is not None else frozenset()
    _check_place(source, destination, force=force)
    document = Document.open(source)
    _check_structure(document, source)
    options = _options(source, soc, settings.input_shapes)
    before = check(source, soc=soc, options=options, cann=settings.cann)
    wanted = set(asked) if names is not None else _named_by(before) | set(passes.CLEAN)
    wanted |= {name for name, given in (("static-shapes", settings.input_shapes), ("cut", settings.outputs)) if given}
    rounds = 1 if names is not None else ROUNDS
    scratch = destination.with_name(f".{destination.name}.checked.onnx")
    try:
        for left in reversed(range(rounds)):
            wanted -= skipped
            outcome = run(document, sorted(wanted), _settings(settings, asked, before))
            after = _look_again(outcome, scratch, source, options, soc, settings.cann)
            more = _named_by(after) - wanted - skipped
            if not more or not left:
                break
            wanted |= more
        cleaned = write(outcome, source, destination)
    finally:
        scratch.unlink(missing_ok=True)
        scratch.with_name(scratch.name + ".data").unlink(missing_ok=True)
    return Fixed(
        destination,
        tuple(passes.ordered(wanted)),
        cleaned,
        tuple(before),
        tuple(after),
        (node_count(document.model), node_count(outcome.document.model)),
        (opset(document.model), opset(outcome.document.model)),
    )


def _known(names: Iterable[str]) -> list[str]:
    wanted = list(names)
    for name in wanted:
        if name not in passes.ORDER:
            close = difflib.get_close_matches(name, passes.ORDER, 3, cutoff=0.4)
            raise GraphError("graph.no-such-pass", name=name, close=", ".join(close) or "-")
    return wanted


def _check_place(source: Path, destination: Path, *, force: bool) -> None:
    if not destination.parent.is_dir():
        raise GraphError("graph.no-folder", where=str(destination.parent))
    if destination.exists():
        if source.exists() and destination.samefile(source):
            raise GraphError("graph.in-place", where=str(destination))
        if not force or destination.is_dir():
            raise GraphError("graph.exists", where=str(destination))


def _check_structure(document: Document, source: Path) -> None:
    """Refuse a cycle, an undefined input or two producers of a tensor: no pass fixes these."""
    broken = next(structure(document.model), None)
    if broken is not None:
        raise GraphError(broken.message.key, where=str(source), **broken.message.values)


def _named_by(findings: Iterable[Finding]) -> set[str]:
    """The passes that the remedies of errors and warnings name; those that need to be told more come with that."""
    found: set[str] = set()
    for finding in findings:
        remedy = finding.message.fix("en") if finding.severity in _WORTH_MENDING else None
        for match in _NAMED.finditer(remedy or ""):
            found.update(name for name in match[1].strip(",").split(",") if name in passes.ORDER)
    return found - {"cut"}


def _settings(settings: PassSettings, asked: frozenset[str], findings: Iterable[Finding]) -> PassSettings:
    """What the findings ask of single passes: foreign domains to be moved, an operator to be decomposed."""
    rules = {finding.rule for finding in findings}
    if "preflight.foreign-domain-known" in rules:
        asked |= {"domains"}
    extra = {"Einsum"} if "preflight.einsum" in rules else set()
    return replace(settings, asked=settings.asked | asked, decompose=settings.decompose | frozenset(extra))


def _look_again(
    outcome: Outcome, scratch: Path, source: Path, options: AtcOptions | None, soc: str | None, cann: str
) -> list[Finding]:
    if not outcome.steps:
        return check(source, soc=soc, options=options, cann=cann)
    outcome.document.save(scratch)
    return check(scratch, soc=soc, options=options, cann=cann)


def _options(source: Path, soc: str | None, given: Mapping[str, tuple[int, ...]]) -> AtcOptions | None:
    from pth2om.ascend.atc_options import AtcOptions, shape_text

    return AtcOptions(model=str(source), soc_version=soc, input_shape=shape_text(given)) if given else None
