"""Whether a conversion step is accepted: none of its findings is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pth2om.evidence import GateRecord, Judgement, Limit, Question
from pth2om.questions.columns import columns

if TYPE_CHECKING:
    from pth2om.conversion.stage import Built
    from pth2om.questions.subject import Subject


def stage(subject: Subject, question: Question, built: Built) -> list[GateRecord]:
    """One gate on the number of errors among the findings of a stage, and on the columns of an exported graph.

    Args:
        subject: whose stage it is.
        question: which question the stage answers: checkpoint, export, preflight or quantization.
        built: the stage's artifact.
    """
    record = built.record
    errors = [finding for finding in record.findings if finding.severity == "error"]
    judgement = Judgement(
        check=f"{record.stage}/findings",
        measured=float(len(errors)),
        unit="errors",
        limit=Limit("==", 0),
        verdict="failed" if errors else "passed",
        message=errors[0].message if errors else None,
        details={"findings": [finding.to_json() for finding in record.findings]},
    )
    provenance = record.provenance
    gates = [subject.gate(question, judgement, provenance, {record.stage: record.digest}, provenance.ground)]
    return gates + columns(subject, built) if record.stage == "onnx" else gates
