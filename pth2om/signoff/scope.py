"""What of a run a release is about: its variants, their gates, and the artifacts they were measured of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from pth2om.evidence import GateRecord, SpecText, StageRecord
from pth2om.release.night import Night
from pth2om.signoff.policy import Policy


@dataclass(frozen=True)
class Om:
    """A compiled variant that is released.

    Attributes:
        model: its spec's name.
        variant: ``fp16-bs1``.
        file: what its file is called in the statement.
        stage: how it was made.
        chain: all stages from the checkpoint on, in order.
    """

    model: str
    variant: str
    file: str
    stage: StageRecord
    chain: tuple[StageRecord, ...] = ()

    @property
    def name(self) -> str:
        """``yolov6n-fp16-bs1``."""
        return f"{self.model}-{self.variant}"

    @property
    def weights(self) -> dict[str, str]:
        """Its weights in files of their own: name beside the OM -> sha256."""
        told = self.stage.details.get("weights")
        return {str(name): str(digest) for name, digest in told.items()} if isinstance(told, Mapping) else {}

    @property
    def has_outer_weights(self) -> bool:
        """Whether atc was asked to write weights into files of their own."""
        return any(word in ("--external_weight=1", "--external_weight=2") for word in self.stage.command)


@dataclass(frozen=True)
class Scope:
    """See the module.

    Attributes:
        oms: the released variants.
        gates: their gates, with those of their models and shapes, and those of the question *regression*.
        specs: of the released models, as they were when the run began: name -> texts.
        unfitting: patterns of the policy that fit nothing in the run.
        without: models that the policy names, and of which its variants fit none.
        unread: models whose spec this version cannot read, so that nobody knows which variants there have to be.
        missing: (model, variant) that a spec lists, the policy asks for, and the run did not compile.
        socs: that the run is for.
    """

    oms: tuple[Om, ...]
    gates: tuple[GateRecord, ...]
    specs: Mapping[str, Sequence[SpecText]] = field(default_factory=dict)
    unfitting: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    socs: tuple[str, ...] = ()


def of(night: Night, policy: Policy) -> Scope:
    """What a policy releases of a run."""
    asked = policy.release
    gates = [*night.gates.values(), *night.compared, *night.coverage.unreached]
    gates = list({(gate.id, gate.verdict): gate for gate in gates}.values())
    specs: dict[str, list[SpecText]] = {}
    for spec in night.specs:
        specs.setdefault(spec.model, []).append(spec)
    models = sorted({name for name in specs if _fits(name, asked.models)})
    read = [(model, _variants(text)) for model in models for text in specs[model]]
    listed = {(model, variant) for model, variants in read for variant in variants or ()}
    known = listed | {(gate.model, gate.variant) for gate in gates if gate.soc == asked.soc}
    wanted = sorted(one for one in known if one[0] in models and _fits(one[1], asked.variants))
    stages = [stage for stage in night.made if stage.provenance.soc in (None, asked.soc)]
    oms = [
        Om(stage.model, stage.variant, _file(stage), stage, _chain(stages, stage))
        for stage in stages
        if stage.stage == "om" and (stage.model, stage.variant) in wanted
    ]
    compiled = {(om.model, om.variant) for om in oms}
    own = {*wanted, *((model, _shape(variant)) for model, variant in wanted), *((model, "") for model in models)}
    # What is about no model of a spec stands for a test that failed outside them: nobody knows what it would have said.
    inside = [
        gate
        for gate in gates
        if gate.model not in specs or (gate.soc in (None, asked.soc) and (gate.model, gate.variant) in own)
    ]
    unfitting = [name for name in asked.models if not any(fnmatchcase(model, name) for model in specs)]
    # Of models that are not there no variant is either: their own names say what is wrong.
    variants = asked.variants if models else ()
    unfitting += [name for name in variants if not any(fnmatchcase(variant, name) for _, variant in wanted)]
    socs = {gate.soc for gate in gates if gate.soc} | {one.provenance.soc for one in night.made if one.provenance.soc}
    missing = tuple(one for one in wanted if one not in compiled)
    without = tuple(model for model in models if model not in {name for name, _ in wanted})
    unread = tuple(model for model, variants in read if variants is None)
    named = {name: specs[name] for name in models}
    return Scope(tuple(oms), tuple(inside), named, tuple(unfitting), without, unread, missing, tuple(sorted(socs)))


def about(gate: GateRecord, om: Om) -> bool:
    """Whether a gate is one of a variant's own."""
    return (gate.model, gate.variant) == (om.model, om.variant)


def answers(gate: GateRecord, om: Om) -> bool:
    """Whether a gate is of a variant, of its shape, or of its model."""
    return gate.model == om.model and gate.variant in ("", om.variant, _shape(om.variant))


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _shape(variant: str) -> str:
    """``fp16-gears1_2-bs2-aipp`` -> ``gears1_2-bs2``."""
    return variant.partition("-")[2].removesuffix("-aipp")


def _variants(spec: SpecText) -> list[str] | None:
    """The variants that a spec lists; None where this version cannot read it."""
    from pth2om.errors import SpecError
    from pth2om.spec import of_text

    try:
        return [variant.name for variant in of_text(spec.text, spec.model).variants]
    except SpecError:
        return None


def _file(stage: StageRecord) -> str:
    """The name that atc gives the OM."""
    named = next((word.partition("=")[2] for word in stage.command if word.startswith("--output=")), "")
    return f"{named.rpartition('/')[2] or f'{stage.model}-{stage.variant}'}.om"


def _chain(stages: Sequence[StageRecord], om: StageRecord) -> tuple[StageRecord, ...]:
    """The stages that lead to an OM, found by what each was made of."""
    own = [stage for stage in stages if stage.model == om.model]
    found = [om]
    for name in ("quantized", "onnx"):
        source = found[-1].inputs.get("onnx")
        found += [stage for stage in own if stage.stage == name and source and stage.digest == source][:1]
    weights = found[-1].inputs.get("checkpoint")
    found += [stage for stage in own if stage.stage == "checkpoint" and stage.digest == weights][:1]
    return tuple(reversed(found))
