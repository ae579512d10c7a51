"""What stands in the way of signing: every reason, each with the gates that it concerns and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from pth2om.evidence import GateRecord
from pth2om.files import opened
from pth2om.language import Message, say
from pth2om.latency import same_chip
from pth2om.release.night import REGRESSION, Night
from pth2om.signoff import scope as scoping
from pth2om.signoff.canonical import sha256
from pth2om.signoff.policy import Policy
from pth2om.signoff.scope import Scope
from pth2om.toolchain import NO_OM

_UNPROVEN = ("emulated", "double")
_OPEN = ("failed", "inconclusive", "not_measured", "not_reached")
_OF_AN_OM = ("closeness", "accuracy", "latency")
MOST_SPEC_BYTES = 1 << 26
SEEDED = "seeded-"
"""What the digest of random stand-ins for absent weights begins with."""


@dataclass(frozen=True)
class Refusal:
    """A reason not to sign.

    Attributes:
        message: what is wrong; with what to do as its fix.
        about: ids of the gates concerned, or names of variants and models.
    """

    message: Message
    about: tuple[str, ...] = ()


def refusals(night: Night, policy: Policy, scope: Scope, models: Path, today: date | None = None) -> list[Refusal]:
    """All reasons not to sign a run, as far as its evidence and the specs tell.

    Args:
        night: the run.
        policy: what has to be proven.
        scope: what of the run is released.
        models: the folder of the specs as they are now.
        today: a waiver that ends before does not count; default the current day, here or in UTC, in which the
            statement has its time, whichever is later.
    """
    day = today or max(date.today(), datetime.now(UTC).date())
    found = [
        *_whole(night),
        *_asked(policy, scope),
        *_specs(scope, models),
        *_grounds(policy, scope),
        *_verdicts(policy, scope, day),
        *_values(scope),
        *_one_om(scope),
        *_answered(policy, scope),
    ]
    grouped: dict[tuple[str, str], Refusal] = {}
    for each in found:
        name = each.message.key, str(sorted(each.message.values.items()))
        before = grouped.get(name)
        grouped[name] = Refusal(each.message, tuple(dict.fromkeys((*(before.about if before else ()), *each.about))))
    return list(grouped.values())


def _whole(night: Night) -> Iterator[Refusal]:
    covered = night.coverage
    if covered.is_shard:
        left = tuple(row[0] for row in covered.elsewhere.values())
        yield Refusal(say("signoff.shard", shards=", ".join(covered.shards)), left)
    elif not night.whole:
        yield Refusal(say("signoff.not-whole"), tuple(each.item for each in covered.planned))


def _asked(policy: Policy, scope: Scope) -> Iterator[Refusal]:
    if scope.socs and policy.release.soc not in scope.socs:
        yield Refusal(say("signoff.soc-absent", soc=policy.release.soc, socs=", ".join(scope.socs)[:200]))
    for pattern in scope.unfitting:
        yield Refusal(say("signoff.nothing-fits", pattern=pattern, soc=policy.release.soc))
    for model in scope.without:
        yield Refusal(say("signoff.no-variant", soc=policy.release.soc), (model,))
    for model in scope.unread:
        yield Refusal(say("signoff.spec-unread"), (model,))
    for model, variant in scope.missing:
        yield Refusal(say("signoff.not-compiled", soc=policy.release.soc), (f"{model}-{variant}",))
    for om in scope.oms:
        if om.stage.provenance.ground != "device":
            yield Refusal(say("signoff.om-unproven", ground=_ground(om.stage.provenance.ground)), (om.name,))
        if om.stage.provenance.name == f"cann/{NO_OM}":
            yield Refusal(say("signoff.no-om", by=NO_OM), (om.name,))
        if om.has_outer_weights and not om.weights:
            yield Refusal(say("signoff.weights-unknown"), (om.name,))
        if not any(stage.stage == "onnx" for stage in om.chain):
            yield Refusal(say("signoff.no-chain"), (om.name,))
        if any(str(stage.inputs.get("checkpoint", "")).startswith(SEEDED) for stage in om.chain):
            yield Refusal(say("signoff.seeded"), (om.name,))


def _specs(scope: Scope, models: Path) -> Iterator[Refusal]:
    """A spec, and with it the limits, must be the one that the run began with."""
    for model, texts in scope.specs.items():
        digests = sorted({text.digest for text in texts})
        if len(digests) > 1 or any(sha256(text.text.encode()) != text.digest for text in texts):
            yield Refusal(say("signoff.specs-differ"), (model,))
            continue
        file = models / model / "model.toml"
        try:
            with opened(file) as read:
                now = sha256(read.read(MOST_SPEC_BYTES))
        except OSError:
            yield Refusal(say("signoff.spec-absent", path=str(file)), (model,))
            continue
        if now != digests[0]:
            yield Refusal(say("signoff.spec-changed", path=str(file)), (model,))
        for gate in scope.gates:
            if gate.model == model and gate.digests.get("spec", digests[0]) != digests[0]:
                yield Refusal(say("signoff.spec-mixed", path=str(file)), (gate.id,))
    known = set(scope.specs)
    for om in scope.oms:
        if om.model not in known:
            yield Refusal(say("signoff.no-spec"), (om.model,))


def _grounds(policy: Policy, scope: Scope) -> Iterator[Refusal]:
    for gate in scope.gates:
        if gate.ground == "device":
            device = gate.details.get("device")
            known: Mapping[str, Any] = device if isinstance(device, Mapping) else {}
            if not (known.get("driver") and known.get("soc") and known.get("ground", "device") == "device"):
                yield Refusal(say("signoff.no-device"), (gate.id,))
            elif not same_chip(str(known["soc"]), policy.release.soc):
                yield Refusal(say("signoff.other-device", soc=str(known["soc"])[:60]), (gate.id,))
        if gate.question in policy.proof.device and gate.ground in _UNPROVEN:
            yield Refusal(say("signoff.not-on-device", ground=_ground(gate.ground), question=gate.question), (gate.id,))


def _verdicts(policy: Policy, scope: Scope, day: date) -> Iterator[Refusal]:
    for gate in scope.gates:
        if gate.verdict not in _OPEN:
            continue
        waiver = waiver_of(gate)
        lapsed = gate.details.get("waiver_lapsed")
        if waiver is None and not isinstance(lapsed, Mapping):
            # What an emulator cannot measure is reported by its ground already, where a device was asked for.
            reported = gate.ground in _UNPROVEN and gate.question in policy.proof.device
            if gate.verdict != "not_measured" or not reported:
                yield Refusal(say(f"signoff.{gate.verdict.replace('_', '-')}"), (gate.id,))
            continue
        owner, expires = _until(waiver) if waiver is not None else _until(lapsed or {}, ("expires",))
        if waiver is None or expires is None or day > expires:
            shown = "-" if expires is None else expires.isoformat()
            yield Refusal(say("signoff.waiver-lapsed", owner=owner, expires=shown), (gate.id,))
        elif not policy.waivers.accept:
            yield Refusal(say("signoff.waiver-refused", owner=owner), (gate.id,))


def _values(scope: Scope) -> Iterator[Refusal]:
    """What the reader of evidence leaves open.

    A pass that passes nothing, a limit that was not judged, a value or limit that is no number, a value outside its own
    interval.
    """
    for gate in scope.gates:
        # What is as it was in the baseline is counted, and has no figure of its own.
        counted = gate.question == REGRESSION and gate.limit is None and gate.measured is None
        unfit = gate.verdict == "passed" and (gate.limit is None or gate.measured is None) and not counted
        unfit |= gate.verdict == "shown" and gate.limit is not None
        unfit |= gate.measured is not None and not math.isfinite(gate.measured)
        unfit |= gate.limit is not None and not math.isfinite(gate.limit.value)
        if gate.measured is not None and gate.interval is not None:
            low, high = gate.interval
            slack = 1e-6 * max(abs(low), abs(high), 1e-3)
            unfit |= not low - slack <= gate.measured <= high + slack
        if unfit:
            yield Refusal(say("signoff.values"), (gate.id,))


def _one_om(scope: Scope) -> Iterator[Refusal]:
    """All that is said of a variant must be said of one OM, the one that was compiled."""
    for om in scope.oms:
        seen: dict[str, str] = {}
        for gate in scope.gates:
            if not scoping.about(gate, om) or gate.ground == "host" or gate.question not in _OF_AN_OM:
                continue
            digest = gate.digests.get("om")
            if digest is None:
                yield Refusal(say("signoff.no-om-digest"), (gate.id,))
            else:
                seen.setdefault(digest, gate.id)
        if len(seen) > 1:
            yield Refusal(say("signoff.two-oms", digests=", ".join(one[:12] for one in seen)), tuple(seen.values()))
        elif seen and om.stage.digest not in seen:
            (digest,) = seen
            message = say("signoff.other-om", measured=digest[:12], compiled=om.stage.digest[:12])
            yield Refusal(message, tuple(seen.values()))


def _answered(policy: Policy, scope: Scope) -> Iterator[Refusal]:
    """Every question of the policy has an answer for every variant: absence is never success."""
    for om in scope.oms:
        for question in policy.proof.device:
            own = [gate for gate in scope.gates if scoping.about(gate, om) and gate.question == question]
            unproven = any(gate.ground in _UNPROVEN for gate in own)
            if not unproven and not any(gate.ground == "device" and gate.measured is not None for gate in own):
                yield Refusal(say("signoff.no-answer-on-device", question=question), (om.name,))
        for question in policy.proof.questions:
            own = [gate for gate in scope.gates if scoping.answers(gate, om) and gate.question == question]
            if not any(gate.measured is not None for gate in own):
                yield Refusal(say("signoff.no-answer", question=question), (om.name,))


def of_files(scope: Scope, given: Sequence[tuple[Path, str]], stored: Mapping[str, str]) -> list[Refusal]:
    """Reasons in the OM files: each OM must be here, and each file given must be one that was measured.

    Args:
        scope: what is released.
        given: files and their sha256.
        stored: digest of an OM that the store still has, whole -> its path.
    """
    found = []
    released = {om.stage.digest: om for om in scope.oms}
    for path, digest in given:
        if digest not in released:
            message = say("signoff.file-unmeasured", path=str(path), digest=digest[:12])
            found.append(Refusal(message, tuple(sorted(f"{om.name} {om.stage.digest[:12]}" for om in scope.oms))))
    here = {digest for _, digest in given} | set(stored)
    absent = [om for om in scope.oms if om.stage.digest not in here and om.stage.provenance.ground not in _UNPROVEN]
    if absent:
        found.append(Refusal(say("signoff.file-absent"), tuple(om.name for om in absent)))
    return found


def waiver_of(gate: GateRecord) -> Mapping[str, Any] | None:
    """The waiver over a gate."""
    waived = gate.details.get("waived")
    return waived if isinstance(waived, Mapping) else None


def _until(
    waiver: Mapping[str, Any], needed: Sequence[str] = ("owner", "reason", "link", "expires")
) -> tuple[str, date | None]:
    """Owner and last day of a waiver; None where it has none that can be read, or not all that a waiver needs."""
    if not all(str(waiver.get(name) or "").strip() for name in needed):
        return str(waiver.get("owner", "-")), None
    try:
        return str(waiver.get("owner", "-")), date.fromisoformat(str(waiver.get("expires", "")))
    except ValueError:
        return str(waiver.get("owner", "-")), None


def _ground(ground: str) -> str:
    return say(f"report.ground-{ground}").render()
