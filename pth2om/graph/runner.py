"""Runs passes: each on its own copy, all proven together; a pass that changes the result is found and undone.

ONNX Runtime runs once before and once after the whole group. Only when the group fails its proof are the passes proven
one by one; one that fails is undone and said to be.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pth2om.errors import GraphError, first_line
from pth2om.evidence import Finding
from pth2om.graph import passes
from pth2om.graph.contract import EQUAL, Applied, Pass, PassSettings
from pth2om.graph.document import Document
from pth2om.graph.passes import custom_domains, simplify
from pth2om.graph.proof import Reference, Verdict
from pth2om.language import Message, Value, say
from pth2om.onnxfile.walking import all_graphs, is_sorted, node_count, sort_nodes

if TYPE_CHECKING:
    from onnx import ModelProto

_SHOWN_NODES = 3


@dataclass
class Step:
    """One pass that changed something.

    Attributes:
        what: the pass.
        applied: what it did.
        seconds: what it took.
        before: nodes before it.
        after: nodes after it.
        verdict: of the proof it took part in.
    """

    what: Pass
    applied: Applied
    seconds: float
    before: int
    after: int
    verdict: Verdict | None = None


@dataclass
class Outcome:
    """The result of a run.

    Attributes:
        document: the fixed model.
        steps: passes that changed it and were kept, in order.
        findings: what was fixed, what was undone, what was left.
    """

    document: Document
    steps: list[Step] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def applied(self) -> tuple[str, ...]:
        """Names of the passes that changed the model."""
        return tuple(step.what.NAME for step in self.steps)

    def details(self) -> tuple[dict[str, Any], ...]:
        """JSON values for each kept pass."""
        return tuple(_details(step) for step in self.steps)


def run(document: Document, names: Sequence[str], settings: PassSettings) -> Outcome:
    """Apply passes to a copy of the document.

    Args:
        document: it is not changed.
        names: of the passes, run in `passes.ORDER`.
        settings: for all of them.

    Returns:
        The mended copy, and what happened.

    Raises:
        GraphError: a setting names what the model does not have.
    """
    return run_passes(document, [passes.load(name) for name in passes.ordered(names)], settings)


def run_passes(document: Document, wanted: Sequence[Pass], settings: PassSettings) -> Outcome:
    """As `run`, for the passes themselves."""
    reference = Reference(document, settings)
    # The simplifier is a process of its own: both cores have something to do. What it makes of a model that does not
    # run could not be proven, so it is not even asked.
    if any(what.NAME == simplify.NAME for what in wanted) and not reference.begin():
        return _unproven(document, wanted, settings, reference.judge(document, EQUAL))
    outcome = _apply(document, wanted, settings)
    if not outcome.steps:
        return outcome
    verdict = _judge(document, outcome, reference)
    if verdict.state == "failed":
        return _one_by_one(document, wanted, settings, reference)
    if verdict.state == "impossible":
        return _unproven(document, wanted, settings, verdict)
    return _proven(outcome, verdict)


def _apply(document: Document, wanted: Sequence[Pass], settings: PassSettings) -> Outcome:
    outcome = Outcome(document.clone())
    for what in wanted:
        backup = outcome.document.clone()
        before = node_count(backup.model)
        start = time.perf_counter()
        try:
            applied = what.apply(outcome.document, settings)
            if applied.count:
                _tidy(outcome.document)
        except GraphError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in a pass, the model stays as it was
            outcome.document = backup
            reason = first_line(f"{type(error).__name__}: {error}")
            outcome.findings.append(_finding("failed", "warning", what, reason=reason))
            continue
        outcome.findings.extend(_leftovers(what, applied))
        if applied.count:
            seconds = time.perf_counter() - start
            outcome.steps.append(Step(what, applied, seconds, before, node_count(outcome.document.model)))
        else:
            outcome.document = backup
    return outcome


def _tidy(document: Document) -> None:
    for graph in all_graphs(document.model):
        if not is_sorted(graph):
            sort_nodes(graph)


def _judge(original: Document, outcome: Outcome, reference: Reference) -> Verdict:
    """Well-formed still, and the same outputs within the widest bound of the group."""
    complaint = well_formed(outcome.document)
    if complaint and not well_formed(original):
        return Verdict("failed", float("inf"), reason=complaint)
    bound = max(step.what.BOUND for step in outcome.steps)
    clipped = any(step.what.NAME == "clamp" for step in outcome.steps)
    return reference.judge(outcome.document, bound, clipped=clipped)


def well_formed(document: Document) -> str:
    """The error from ONNX's checker, or an empty string."""
    import onnx

    light: ModelProto = document.light()
    custom_domains.separate(light)  # the checker knows every operator of the standard domain, and no merged one
    try:
        onnx.checker.check_model(light)
    except (onnx.checker.ValidationError, ValueError, RuntimeError, TypeError) as error:
        return next((line.strip() for line in str(error).splitlines() if line.strip()), "invalid")
    return ""


def _proven(outcome: Outcome, verdict: Verdict) -> Outcome:
    for step in outcome.steps:
        step.verdict = verdict
    outcome.findings[:0] = [_mended(step) for step in outcome.steps]
    return outcome


def _one_by_one(document: Document, wanted: Sequence[Pass], settings: PassSettings, reference: Reference) -> Outcome:
    """Prove every pass on its own; keep those that hold."""
    kept = Outcome(document.clone())
    for what in wanted:
        trial = _apply(kept.document, [what], settings)
        kept.findings.extend(trial.findings)
        if not trial.steps:
            continue
        verdict = _judge(document, Outcome(trial.document, [*kept.steps, *trial.steps]), reference)
        if verdict.state != "proven" and what.NAME == simplify.NAME:
            used = str(trial.steps[0].applied.values.get("tool", ""))
            other = simplify.another(kept.document, settings, used)
            if other is not None:
                kept.findings.append(_undone(_judged(trial.steps[0], verdict), verdict))
                trial = _apply(kept.document, [what], other)
                kept.findings.extend(trial.findings)
                if not trial.steps:
                    continue
                verdict = _judge(document, Outcome(trial.document, [*kept.steps, *trial.steps]), reference)
        step = trial.steps[0]
        step.verdict = verdict
        if verdict.state == "proven":
            kept.document = trial.document
            kept.steps.append(step)
            kept.findings.append(_mended(step))
        else:
            kept.findings.append(_undone(step, verdict))
    return kept


def _judged(step: Step, verdict: Verdict) -> Step:
    step.verdict = verdict
    return step


def _unproven(document: Document, wanted: Sequence[Pass], settings: PassSettings, verdict: Verdict) -> Outcome:
    """The model did not run as it came: keep what is structural, and where that makes it run, prove the rest on it."""
    structural = [what for what in wanted if what.STRUCTURAL or settings.keep_unproven]
    others = [what for what in wanted if what not in structural]
    kept = _apply(document, structural, settings)
    before = well_formed(document)
    complaint = well_formed(kept.document)
    if complaint and not before:
        # One of them spoils the file: leave them out one by one.
        kept = _well_formed_only(document, structural, settings)
    for step in kept.steps:
        step.verdict = verdict
    kept.findings[:0] = [_mended(step) for step in kept.steps]
    if kept.steps:
        message = say("graph.not-proven", names=", ".join(kept.applied), reason=verdict.reason)
        kept.findings.append(Finding("graph.not-proven", "warning", message, details={"passes": list(kept.applied)}))
    if not others:
        return kept
    if _runs(kept.document, settings):
        rest = run_passes(kept.document, others, settings)
        return Outcome(rest.document, [*kept.steps, *rest.steps], [*kept.findings, *rest.findings])
    quick = [what for what in others if what.NAME != simplify.NAME]
    trial = _apply(kept.document, quick, settings)
    if not trial.steps:
        kept.findings.extend(trial.findings)
    if len(quick) < len(others):
        kept.findings.append(_finding("not-tried", "warning", simplify, reason=verdict.reason))
    for step in trial.steps:
        kept.findings.append(_finding("unproven", "warning", step.what, reason=verdict.reason))
    return kept


def _runs(document: Document, settings: PassSettings) -> bool:
    return Reference(document, settings).judge(document, EQUAL).state == "proven"


def _well_formed_only(document: Document, wanted: Sequence[Pass], settings: PassSettings) -> Outcome:
    kept = Outcome(document.clone())
    for what in wanted:
        trial = _apply(kept.document, [what], settings)
        kept.findings.extend(trial.findings)
        if not trial.steps:
            continue
        complaint = well_formed(trial.document)
        if complaint:
            kept.findings.append(_undone(trial.steps[0], Verdict("failed", float("inf"), reason=complaint)))
        else:
            kept.document = trial.document
            kept.steps.extend(trial.steps)
    return kept


def _finding(rule: str, severity: Any, what: Pass, **values: str | int | float) -> Finding:  # noqa: ANN401 - a literal
    message = say(f"graph.{rule}", name=what.NAME, **values)
    return Finding(f"graph.{rule}", severity, message, details={"pass": what.NAME})


def _mended(step: Step) -> Finding:
    applied = step.applied
    shown = ", ".join(applied.nodes[:_SHOWN_NODES]) + (", ..." if len(applied.nodes) > _SHOWN_NODES else "")
    values: dict[str, Value] = {
        "count": applied.count,
        "nodes": shown or "-",
        "before": step.before,
        "after": step.after,
    }
    rule = f"graph.{step.what.NAME}"
    message = Message(rule, {**values, **applied.values})
    return Finding(rule, "info", message, None, _details(step))


def _leftovers(what: Pass, applied: Applied) -> list[Finding]:
    left = [Finding(message.key, "warning", message, details={"pass": what.NAME}) for message in applied.left]
    return left + [Finding(message.key, "info", message, details={"pass": what.NAME}) for message in applied.notes]


def _undone(step: Step, verdict: Verdict) -> Finding:
    if verdict.reason:
        message = say("graph.undone-broken", name=step.what.NAME, reason=verdict.reason)
    else:
        message = say(
            "graph.undone",
            name=step.what.NAME,
            output=verdict.output,
            difference=f"{verdict.difference:.2g}",
            bound=f"{step.what.BOUND:g}",
        )
    return Finding("graph.undone", "warning", message, details={**_details(step), "undone": True})


def _details(step: Step) -> dict[str, Any]:
    verdict = step.verdict
    difference = verdict.difference if verdict is not None and verdict.state != "impossible" else None
    return {
        "pass": step.what.NAME,
        "changes": step.applied.count,
        "nodes": list(step.applied.nodes[:200]),
        "seconds": round(step.seconds, 3),
        "nodes_before": step.before,
        "nodes_after": step.after,
        "bound": step.what.BOUND,
        "difference": difference if difference is None or difference < float("inf") else "Infinity",
        "proven": verdict is not None and verdict.state == "proven",
        "not_proven_because": verdict.reason if verdict is not None and verdict.state == "impossible" else "",
    }
