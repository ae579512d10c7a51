"""The in-toto Statement v1 of a release.

Subjects are the OM files, with their weights where these lie in files of their own, and the ONNX files they were
compiled from, by sha256. The predicate is our own; its field names follow the proposal of an eval-result predicate
(``metric``, ``comparator``, ``threshold``, ``passed``, ``sampleSize``, ``assuranceLevel``), in which a field that is
absent makes no claim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pth2om import __version__
from pth2om.evidence import GateRecord, StageRecord
from pth2om.release.night import Night
from pth2om.signoff.judging import Refusal, waiver_of
from pth2om.signoff.keys import PublicKey
from pth2om.signoff.policy import Policy
from pth2om.signoff.scope import Om, Scope

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:pth2om:acceptance:v1"
DRAFT_PREDICATE = "urn:pth2om:acceptance-draft:v1"
DRAFT = "DRAFT, UNPROVEN"
PASSED = "PASSED"


@dataclass(frozen=True)
class Source:
    """Where the figures come from.

    Attributes:
        night: the run.
        seals: the running digests of its runs, sorted.
        documents: name -> sha256 of what a bundle holds besides the statement.
        language: the one that the report shows first.
    """

    night: Night
    seals: tuple[str, ...]
    documents: Mapping[str, str]
    language: str


def make(
    source: Source, policy: Policy, scope: Scope, signer: PublicKey | None, refused: Sequence[Refusal] = ()
) -> dict[str, Any]:
    """The statement as JSON values.

    Args:
        source: the run.
        policy: what had to be proven.
        scope: what is released.
        signer: who is going to sign; None makes a draft.
        refused: of a draft, what stands in the way of signing.
    """
    draft = signer is None
    predicate = {
        "verdict": DRAFT if draft else PASSED,
        "assuranceLevel": "self_attested",
        "timeCreated": datetime.now(UTC).isoformat(timespec="seconds"),
        "harness": {"name": "pth2om", "version": __version__},
        "release": {
            "name": policy.release.name,
            "soc": policy.release.soc,
            "policy": {"sha256": policy.digest, "text": policy.text},
        },
        "run": {
            "ids": sorted(run.run for run in source.night.runs),
            "started": source.night.run.started,
            "commands": [list(run.command) for run in source.night.runs],
            "environments": [dict(run.environment) for run in source.night.runs],
            "runningDigests": list(source.seals),
        },
        "documents": {name: {"sha256": digest} for name, digest in source.documents.items()},
        "reportLanguage": source.language,
        "models": [{"name": name, "spec": {"sha256": texts[0].digest}} for name, texts in scope.specs.items() if texts],
        "artifacts": [_artifact(om) for om in scope.oms],
        "results": [_result(gate, draft=draft) for gate in sorted(scope.gates, key=lambda gate: gate.id)],
        "waivers": [
            {"gate": gate.id, **{name: str(value) for name, value in waiver.items()}}
            for gate in scope.gates
            if (waiver := waiver_of(gate)) is not None
        ],
        "signer": None if signer is None else {"keyid": signer.id, "publicKey": signer.pem},
        "refusals": [
            {"verdict": DRAFT, "reason": one.message.render("en"), "about": list(one.about)} for one in refused
        ],
    }
    statement = {
        "_type": TYPE,
        "subject": _subjects(scope, draft=draft),
        "predicateType": DRAFT_PREDICATE if draft else PREDICATE,
        "predicate": predicate,
    }
    plain: dict[str, Any] = _stated(statement)
    return plain


def _subjects(scope: Scope, *, draft: bool) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], None] = {}
    for om in scope.oms:
        found[om.file, om.stage.digest] = None
        found |= {(f"{om.file}/{name}", digest): None for name, digest in om.weights.items()}
        source = next((stage for stage in reversed(om.chain) if stage.stage in ("onnx", "quantized")), None)
        if source is not None:
            suffix = "deploy.onnx" if source.stage == "quantized" else "onnx"
            found[f"{om.model}-{source.variant}.{suffix}", source.digest] = None
    mark = f"{DRAFT} " if draft else ""
    return [{"name": f"{mark}{name}", "digest": {"sha256": digest}} for name, digest in sorted(found)]


def _artifact(om: Om) -> dict[str, Any]:
    return {"model": om.model, "variant": om.variant, "file": om.file, "stages": [_stage(one) for one in om.chain]}


def _stage(stage: StageRecord) -> dict[str, Any]:
    tool = stage.provenance
    details = stage.details
    return {
        "stage": stage.stage,
        "digest": {"sha256": stage.digest},
        "key": stage.key,
        "inputs": dict(stage.inputs),
        "toolchain": {"name": tool.name, "version": tool.version, "ground": tool.ground, "soc": tool.soc},
        "compiler": details.get("compiler"),
        "opset": details.get("opset"),
        "calibration": {"sha256": details["calibration_digest"]} if details.get("calibration_digest") else None,
        "command": list(stage.command) or None,
    }


def _result(gate: GateRecord, *, draft: bool) -> dict[str, Any]:
    tool, size = gate.provenance, gate.details.get("images", gate.details.get("samples"))
    judged = gate.verdict in ("passed", "failed", "inconclusive") and gate.limit is not None
    return {
        "id": gate.id,
        "question": gate.question,
        "metric": gate.check,
        "comparator": gate.limit.relation if gate.limit is not None else None,
        "threshold": gate.limit.value if gate.limit is not None else None,
        "measured": gate.measured,
        "unit": gate.unit or None,
        "interval": list(gate.interval) if gate.interval is not None else None,
        "sampleSize": size if isinstance(size, int) else None,
        "passed": gate.verdict == "passed" if judged and not draft else None,
        "verdict": f"{DRAFT}: {gate.verdict}" if draft else gate.verdict,
        "ground": gate.ground,
        "dataset": gate.details.get("dataset"),
        "digests": dict(gate.digests),
        "toolchain": None if tool is None else {"name": tool.name, "version": tool.version, "soc": tool.soc},
        "device": gate.details.get("device"),
        "host": gate.host or None,
        "measuredAt": gate.measured_at or None,
        "seed": gate.seed,
        "waiver": waiver_of(gate),
    }


def _stated(value: Any) -> Any:  # noqa: ANN401 - JSON values
    """The values without absent fields; a number that JSON has not by its name."""
    if isinstance(value, Mapping):
        return {str(name): _stated(one) for name, one in value.items() if one is not None}
    if isinstance(value, list | tuple):
        return [_stated(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
