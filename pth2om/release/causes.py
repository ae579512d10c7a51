"""Why a figure may have changed: the first artifact, on the way from checkpoint to OM, that is another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from pth2om.language import Message, say
from pth2om.release.night import Night

ORDER = ("checkpoint", "net", "data", "preprocessing", "calibration", "onnx", "quantized", "om", "toolchain")
"""From the first to the last that depends on those before it; what stands first explains what follows."""
_FACTS = ("opset", "exporter", "precision_mode")
_MOST = 60


@dataclass(frozen=True)
class Made:
    """What one variant was made of.

    Attributes:
        parts: name of `ORDER` -> digest, or the tool's version.
        facts: name -> value of what a person would want to know of an artifact, e.g. ``onnx opset``.
    """

    parts: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def made_of(night: Night, model: str, variant: str) -> Made:
    """What a variant of a night was made of, as far as its evidence says."""
    parts: dict[str, str] = {}
    facts: dict[str, str] = {}
    for name, stage in night.stages_of(model, variant).items():
        parts[name] = stage.digest
        facts |= {f"{name} {fact}": str(stage.details[fact])[:_MOST] for fact in _FACTS if fact in stage.details}
        if name == "quantized":
            settings = json.dumps(stage.details.get("settings"), sort_keys=True, default=str)
            images = str(stage.details.get("calibration_digest", ""))
            parts["calibration"] = hashlib.sha256(f"{images}{settings}".encode()).hexdigest()
        if name == "om":
            parts["toolchain"] = f"{stage.provenance.name} {stage.provenance.version}"
    data: dict[str, str] = {}
    for gate in night.gates.values():
        if gate.model != model or gate.variant not in ("", variant):
            continue
        for role in ("net", "preprocessing"):
            if role in gate.digests:
                parts.setdefault(role, str(gate.digests[role]))
        dataset = gate.details.get("dataset")
        if isinstance(dataset, str) and "dataset" in gate.digests:
            data[dataset] = str(gate.digests["dataset"])
    if data:
        parts["data"] = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    return Made(parts, facts)


def first_changed(old: Made, new: Made) -> Message | None:
    """The first part that is another one, with what is known of it; None where nothing that is recorded changed."""
    for name in ORDER:
        before, after = old.parts.get(name), new.parts.get(name)
        if before is None or after is None or before == after:
            continue
        told = [
            f"{fact} {old.facts[fact]} → {new.facts[fact]}"
            for fact in sorted(old.facts.keys() & new.facts.keys())
            if old.facts[fact] != new.facts[fact]
        ]
        short = (before, after) if name == "toolchain" else (before[:12], after[:12])
        more = "".join(f" · {one}" for one in told)
        return say(f"release.changed-{name}", before=short[0], after=short[1], told=more)
    return None


def changed(old: Made, new: Made) -> list[str]:
    """The names of all parts that are other ones."""
    return [name for name in ORDER if name in old.parts and name in new.parts and old.parts[name] != new.parts[name]]
