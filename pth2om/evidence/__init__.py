"""Evidence: the one data structure that leaves a test.

A run writes ``evidence.jsonl``, one JSON object a line:

* ``run`` (first line): who ran, when, on what, with which command;
* ``plan``: every collected test about a model with the gates it has to give, written before anything runs; what has
  no record at the end was not reached;
* ``stage``: one conversion step: its artifact, options, exact command, findings, whether it came from the store;
* ``gate``: one measured value against one limit, with its verdict and its ground;
* ``outcome``: a planned test came to its end;
* ``waiver``: what became of one entry of the waivers;
* ``end`` (last line): the run came to its end.

A file that ``pth2om report merge`` made begins with a line ``merged`` and holds several runs.

Every line carries a digest of itself and of all lines before it, so that a changed, missing or cut-off line is found.
Anyone who means to can compute these digests again: they show accidents and careless edits, and prove nothing.

Reports, baselines, trends and sign-off are pure functions of that file.
"""

from __future__ import annotations

from pth2om.evidence.file import MOST_BYTES, EvidenceFile, read, seals, uncollected
from pth2om.evidence.merging import Joined, Merged, merge
from pth2om.evidence.plan import Coverage, unmeasured_models
from pth2om.evidence.reading import from_json
from pth2om.evidence.records import (
    FORMAT,
    EndRecord,
    Expected,
    Finding,
    GateRecord,
    Judgement,
    Limit,
    MergedRecord,
    OutcomeRecord,
    Planned,
    PlanRecord,
    Question,
    Record,
    Relation,
    RunRecord,
    Severity,
    SpecText,
    StageRecord,
    Verdict,
    WaiverRecord,
    properties,
    to_json,
)

__all__ = [
    "FORMAT",
    "MOST_BYTES",
    "Coverage",
    "EndRecord",
    "EvidenceFile",
    "Expected",
    "Finding",
    "GateRecord",
    "Joined",
    "Judgement",
    "Limit",
    "Merged",
    "MergedRecord",
    "OutcomeRecord",
    "PlanRecord",
    "Planned",
    "Question",
    "Record",
    "Relation",
    "RunRecord",
    "Severity",
    "SpecText",
    "StageRecord",
    "Verdict",
    "WaiverRecord",
    "from_json",
    "merge",
    "properties",
    "read",
    "seals",
    "to_json",
    "uncollected",
    "unmeasured_models",
]
