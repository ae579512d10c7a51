"""``pth2om signoff``: a statement about a run, signed, or a draft that says what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pth2om import evidence
from pth2om.errors import SignoffError, ToolchainError
from pth2om.files import write_bytes
from pth2om.language import Language, joined, say
from pth2om.language import language as readers_language
from pth2om.release import night as nights
from pth2om.signoff import documents as papers
from pth2om.signoff import envelope, judging, keys, policy, scope, statement
from pth2om.signoff.bundling import STATEMENT
from pth2om.signoff.judging import Refusal
from pth2om.signoff.scope import Scope
from pth2om.signoff.statement import DRAFT
from pth2om.store import Store

_MOST_LISTED = 20


@dataclass(frozen=True)
class Signed:
    """What came of a sign-off.

    Attributes:
        path: the statement; None where it was refused.
        lines: what to print.
        refusals: why it was refused; of a draft, what stands in the way.
        draft: whether it is one.
    """

    path: Path | None
    lines: tuple[str, ...]
    refusals: tuple[Refusal, ...] = ()
    draft: bool = False


def signoff(
    run: Path,
    policy_file: Path,
    output: Path | None = None,
    key_file: Path | None = None,
    *,
    om_files: Sequence[Path] = (),
    models: Path = Path("models"),
    draft: bool = False,
    store: Store | None = None,
    language: Language | None = None,
    today: date | None = None,
) -> Signed:
    """Judge a run by a policy, and sign a statement about its OM files.

    Args:
        run: its folder, or its evidence file; also a merged one.
        policy_file: see `pth2om.signoff.policy`.
        output: the statement to write; default ``statement.json``, of a draft ``draft.json``.
        key_file: the private key; a draft needs none and is never signed.
        om_files: the OM files that are released; those not given are looked for in the store.
        models: the folder of the specs as they are now.
        draft: write what would be signed, whatever stands in the way.
        store: of the artifacts.
        language: the one that the report shows first.
        today: the day of signing.

    Raises:
        SpecError: the policy is wrong.
        DataError: the evidence is missing or damaged.
        SignoffError: the key or a file cannot be used, or the statement cannot be written.
    """
    asked = policy.read(policy_file)
    key = None if draft else _key(key_file)
    output = output or Path("draft.json" if draft else STATEMENT)
    file = nights.file_of(run)
    papers.apart(output, (policy_file, key_file, file, *om_files))
    before = papers.file_digest(file)
    night = nights.read(run)
    found = scope.of(night, asked)
    given = [(path, papers.file_digest(path)) for path in om_files]
    refused = judging.refusals(night, asked, found, models, today)
    refused += judging.of_files(found, given, _stored(found, store or Store()))
    refused += _weights(found, given)
    seals = evidence.seals(file)
    if not all(seals):
        raise SignoffError("signoff.unsealed", where=str(file))
    if refused and not draft:
        return Signed(None, tuple(_refused(refused)), tuple(refused))
    shown = language or readers_language()
    texts = papers.documents(run, night, asked.text, shown)
    if papers.digests(texts)[papers.EVIDENCE] != before:
        raise SignoffError("signoff.still-written", where=str(file))
    source = statement.Source(night, seals, papers.digests(texts), shown)
    made = statement.make(source, asked, found, None if key is None else key.public, refused)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(output, envelope.sealed(made, key), durable=True)
    except OSError as error:
        raise SignoffError("signoff.unwritable", where=str(output), reason=error.strerror or "") from None
    if key is None:
        return Signed(output, tuple(_drafted(output, found, refused)), tuple(refused), draft=True)
    return Signed(output, tuple(_told(output, found, key.public, asked)), ())


def _key(path: Path | None) -> keys.PrivateKey:
    if path is None:
        raise SignoffError("signoff.key-needed")
    return keys.private(path)


def _weights(found: Scope, given: Sequence[tuple[Path, str]]) -> Iterator[Refusal]:
    """An OM whose weights lie in files of their own is given with them."""
    for path, digest in given:
        for om in found.oms:
            names = papers.differing(path, om.weights) if om.stage.digest == digest else []
            if names:
                message = say("signoff.weights-differ", folder=str(path.parent))
                yield Refusal(message, tuple(f"{om.name} {name}" for name in names))


def _stored(found: Scope, store: Store) -> dict[str, str]:
    """The OM files that the store still has, whole: digest -> path."""
    from pth2om.toolchain import CompiledModel

    here: dict[str, str] = {}
    for om in found.oms:
        try:
            path = CompiledModel.read(store.root / "om" / om.stage.key).path
            if (
                path.is_file()
                and papers.file_digest(path) == om.stage.digest
                and not papers.differing(path, om.weights)
            ):
                here[om.stage.digest] = str(path)
        except (ToolchainError, SignoffError):
            continue
    return here


def _listed(one: Refusal) -> Iterator[str]:
    yield from one.about[:_MOST_LISTED]
    if len(one.about) > _MOST_LISTED:
        yield say("signoff.more", count=len(one.about) - _MOST_LISTED).render()


def _refused(refused: Sequence[Refusal]) -> Iterator[str]:
    for one in refused:
        yield one.message.render()
        yield from (f"  {line}" for line in _listed(one))
        if fix := one.message.fix():
            yield f"  → {fix}"
    yield say("signoff.refused", count=len(refused)).render()


def _drafted(output: Path, found: Scope, refused: Sequence[Refusal]) -> Iterator[str]:
    def lines() -> Iterator[str]:
        for om in found.oms:
            own = [gate for gate in found.gates if (gate.model, gate.variant) == (om.model, om.variant)]
            for question in dict.fromkeys(gate.question for gate in own):
                counts = Counter((gate.verdict, gate.ground) for gate in own if gate.question == question)
                words = [
                    say(
                        "signoff.counted",
                        count=count,
                        verdict=say(f"report.verdict-{verdict.replace('_', '-')}").render(),
                        ground=say(f"report.ground-{ground}").render(),
                    ).render()
                    for (verdict, ground), count in sorted(counts.items())
                ]
                yield joined((f"{om.name} {question}", joined(words, ", ")), ": ")
        for one in refused:
            yield say("signoff.in-the-way", reason=one.message.render()).render()
            yield from (f"  {line}" for line in _listed(one))
            if fix := one.message.fix():
                yield f"  → {fix}"
        yield say("signoff.drafted", path=str(output), oms=len(found.oms), gates=len(found.gates)).render()

    for line in lines():
        yield joined((DRAFT, line), ": ")


def _told(output: Path, found: Scope, key: keys.PublicKey, asked: policy.Policy) -> Iterator[str]:
    waived = sorted({str(waiver.get("owner")) for gate in found.gates if (waiver := judging.waiver_of(gate))})
    yield say(
        "signoff.signed",
        path=str(output),
        name=asked.release.name,
        oms=len(found.oms),
        gates=len(found.gates),
        by=key.short,
    ).render()
    if waived:
        yield say("signoff.signed-waived", owners=joined(waived, ", ")).render()
