"""``pth2om verify``: whether a statement or a bundle is whole, signed by a trusted key, and about an OM file.

It needs no network, no run and no store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from pth2om.errors import SignoffError
from pth2om.evidence import Limit
from pth2om.language import joined, say
from pth2om.release.night import REGRESSION
from pth2om.signoff import archive, envelope, keys
from pth2om.signoff.bundling import DRAFT_STATEMENT, STATEMENT
from pth2om.signoff.documents import differing, digests, file_bytes, file_digest
from pth2om.signoff.statement import DRAFT_PREDICATE, PASSED, PREDICATE, TYPE

_RELATIONS = ("<=", ">=", "==", "<", ">")
_SLACK = 1e-6


@dataclass(frozen=True)
class Verified:
    """What a statement says that is to be trusted.

    Attributes:
        name: of the release.
        soc: that it is for.
        created: ISO 8601.
        key: sha256 of the public key that signed it.
        subjects: file -> sha256 of each OM and ONNX file.
        gates: how many figures it holds.
        waivers: gate -> who waived it.
        policy: sha256 of the policy under which it was signed.
        unproven: ``emulated`` or ``double`` -> how many figures stand on it, where the policy asked for no device.
        compared: OM files that were given, and are among the subjects.
        bundle: whether the documents of a bundle were compared too.
    """

    name: str
    soc: str
    created: str
    key: str
    subjects: Mapping[str, str]
    gates: int
    waivers: Mapping[str, str]
    policy: str
    unproven: Mapping[str, int]
    compared: tuple[Path, ...] = ()
    bundle: bool = False

    @property
    def oms(self) -> dict[str, str]:
        """The OM files among the subjects."""
        return {name: digest for name, digest in self.subjects.items() if name.endswith(".om")}

    @property
    def line(self) -> str:
        """All of it in one line."""
        owners = joined(sorted(set(self.waivers.values())), ", ")
        told = say("signoff.verified-waived", count=len(self.waivers), owners=owners).render() if owners else ""
        for ground, count in self.unproven.items():
            word = say(f"release.ground-{ground}").render()
            told += say("signoff.verified-unproven", count=count, ground=word).render()
        return say(
            "signoff.verified",
            name=self.name,
            soc=self.soc,
            gates=self.gates,
            among=told,
            created=self.created,
            by=self.key[:16],
            compared=len(self.compared),
            oms=len(self.oms),
        ).render()


def verify(source: Path, om: Sequence[Path] = (), key: Path | None = None, policy: Path | None = None) -> Verified:
    """Verify a statement or a bundle.

    Args:
        source: ``statement.json``, or the zip file that `pth2om.signoff.bundling.bundle` wrote.
        om: OM files that must be among those that were signed.
        key: the public key of whoever is trusted to sign.
        policy: the policy under which it must have been signed, byte for byte.

    Raises:
        SignoffError: it is not to be trusted, with the reason; also where no key is given: anybody can sign.
    """
    try:
        return _verified(source, om, key, policy)
    except SignoffError as error:
        raise SignoffError(error.message.key, where=error.where or str(source), **error.message.values) from None


def _verified(source: Path, om: Sequence[Path], key: Path | None, policy: Path | None) -> Verified:
    trusted = None if key is None else keys.public(key)
    found = verified_bytes(file_bytes(source, archive.MOST_BYTES), trusted)
    if policy is not None and (given := file_digest(policy)) != found.policy:
        raise SignoffError("signoff.other-policy", signed=found.policy[:12], policy=str(policy), given=given[:12])
    compared = []
    for path in om:
        digest = file_digest(path)
        names = [name for name, signed in found.oms.items() if signed == digest]
        if not names:
            raise SignoffError("signoff.om-not-signed", where=str(path), digest=digest[:12])
        for name in names:
            _weights(path, name, found.subjects)
        compared.append(path)
    return Verified(**{**vars(found), "compared": tuple(compared)})


def _weights(om: Path, name: str, subjects: Mapping[str, str]) -> None:
    """Compare the files that were signed with an OM, its weights, with those that lie beside it.

    Raises:
        SignoffError: one is not there, or is another.
    """
    inside = f"{name}/"
    signed = {one.removeprefix(inside): digest for one, digest in subjects.items() if one.startswith(inside)}
    wrong = differing(om, signed)
    if wrong:
        raise SignoffError("signoff.weights-not-signed", where=str(om), names=", ".join(wrong[:3])[:200])


def verified_bytes(data: bytes, trusted: keys.PublicKey | None) -> Verified:
    """As `verify`, of a file's bytes and without OM files.

    Raises:
        SignoffError: as `verify`.
    """
    papers: dict[str, bytes] | None = None
    if archive.is_archive(data):
        papers = archive.read(data)
        if DRAFT_STATEMENT in papers:
            raise SignoffError("signoff.is-draft")
        data = papers.pop(STATEMENT, b"")
        if not data:
            raise SignoffError("signoff.no-statement-inside")
    opened = envelope.opened(data)
    statement = opened.statement
    if statement.get("predicateType") == DRAFT_PREDICATE:
        raise SignoffError("signoff.is-draft")
    told = statement.get("predicate")
    if statement.get("_type") != TYPE or statement.get("predicateType") != PREDICATE or not isinstance(told, Mapping):
        raise SignoffError("signoff.no-envelope")
    if trusted is None:
        # Whether it is whole can be told; who signed it cannot, since the key comes with it.
        with_it = _own_key(told)
        envelope.verify(opened, with_it)
        raise SignoffError("signoff.no-key", by=with_it.short)
    envelope.verify(opened, trusted)
    try:
        found = _read(statement, told, trusted)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise SignoffError("signoff.no-envelope") from None
    if papers is not None and {name: {"sha256": digest} for name, digest in digests(papers).items()} != told.get(
        "documents"
    ):
        raise SignoffError("signoff.documents-changed")
    return Verified(**{**vars(found), "bundle": papers is not None})


def _own_key(told: Mapping[str, Any]) -> keys.PublicKey:
    signer = told.get("signer")
    pem = signer.get("publicKey") if isinstance(signer, Mapping) else None
    if not isinstance(pem, str):
        raise SignoffError("signoff.no-envelope")
    return keys.public_of(pem.encode())


def _read(statement: Mapping[str, Any], told: Mapping[str, Any], trusted: keys.PublicKey) -> Verified:
    """What a signed statement says, as far as it agrees with itself."""
    signed = datetime.fromisoformat(str(told["timeCreated"])).astimezone(UTC).date()
    waivers = {str(one["gate"]): str(one["owner"]) for one in told["waivers"]}
    for one in told["waivers"]:
        if not one["owner"] or date.fromisoformat(str(one["expires"])) < signed:
            raise SignoffError("signoff.waiver-over", id=str(one["gate"])[:200])
    if told["verdict"] != PASSED or told["refusals"]:
        raise SignoffError("signoff.not-passed", id="-")
    unproven: dict[str, int] = {}
    for one in told["results"]:
        if one["ground"] in ("emulated", "double"):
            unproven[one["ground"]] = unproven.get(one["ground"], 0) + 1
        verdict, measured, limit = one["verdict"], one.get("measured"), one.get("comparator")
        good = verdict in ("passed", "shown")
        if verdict == "passed" and isinstance(measured, int | float) and limit in _RELATIONS:
            bound = Limit(limit, float(one["threshold"]))
            slack = _SLACK * max(abs(bound.value), 1e-3)
            good = any(bound.holds(value) for value in (measured, measured - slack, measured + slack))
        elif verdict == "passed":
            # Of what? Only figures that are as they were in the baseline are counted without one.
            good = one.get("question") == REGRESSION and measured is None and limit is None
        if not good and one["id"] not in waivers:
            raise SignoffError("signoff.not-passed", id=str(one["id"])[:200])
    subjects = {str(one["name"]): str(one["digest"]["sha256"]) for one in statement["subject"]}
    release = told["release"]
    found = Verified(
        str(release["name"]), str(release["soc"]), str(told["timeCreated"]), trusted.id, subjects,
        len(told["results"]), waivers, str(release["policy"]["sha256"]), dict(sorted(unproven.items())),
    )  # fmt: skip
    # A statement about nothing, or with two files under one name, is none.
    if not found.gates or not found.oms or len(subjects) < len(statement["subject"]):
        raise SignoffError("signoff.about-nothing")
    return found
