"""From evidence records to what a report shows; pure, and the same for HTML and Markdown."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pth2om import evidence
from pth2om.errors import DataError
from pth2om.evidence import Finding, GateRecord, Joined, Question, Record, RunRecord, StageRecord, Verdict
from pth2om.language import Message
from pth2om.questions import QUESTIONS
from pth2om.release.waivers import is_waived, remarks
from pth2om.report import conversion, quantized
from pth2om.session import Ground, Provenance

VERDICTS: tuple[Verdict, ...] = ("failed", "not_reached", "inconclusive", "passed", "not_measured", "shown")
GROUNDS: tuple[Ground, ...] = ("host", "emulated", "double", "device")
STAGES = ("checkpoint", "onnx", "quantized", "om")
_BATCH_ONLY = re.compile(r"bs(\d+)|((?:gears|range)[^-]*-[^-]+)")
_GEAR = re.compile(r"-((?:gears|range)[^-]*-[^-]+)")
_BATCH = re.compile(r"-(bs\d+)(?:-|$)")
_BUILD = re.compile(r"(.+-(?:(?:gears|range)[^-]*-[^-]+|bs\d+))-.+")
_OF_THE_OM: tuple[Question, ...] = ("preflight", "closeness", "accuracy", "latency")
"""What a variant answers with its OM; a pass of PyTorch against ONNX is no answer to it."""
_WEAKEST_FIRST: tuple[Ground, ...] = ("double", "emulated", "host", "device")


@dataclass(frozen=True)
class Answer:
    """The answer to one question from all its gates.

    Attributes:
        verdict: the worst one, in the order of `VERDICTS`.
        ground: the weakest ground among the gates that decided it.
        counts: gates per verdict.
        judged: whether there was anything to judge; figures that are only shown pass nothing.
    """

    verdict: Verdict
    ground: Ground
    counts: Mapping[Verdict, int]
    judged: bool = True

    @property
    def unproven(self) -> bool:
        """Passed, but not on ground that proves anything about an NPU."""
        return self.verdict == "passed" and self.judged and unproven_ground(self.ground)


@dataclass
class Card:
    """One model and variant on one SoC.

    Attributes:
        model: the spec's name.
        variant: ``fp16-bs1``; ``bs1`` for what PyTorch and ONNX do at that batch size; ``""`` for the model itself.
        soc: the SoC asked for, or None.
        gates: its own gates.
        shared: gates of the model itself and of its batch size, which this variant inherits.
        stages: its own stages.
        shared_stages: stages of the model itself and of its batch size.
        heirs: how many cards inherit this one's gates.
        origin: of another build of a variant (``int8-bs1-aipp``) the card of the variant itself, whose quantized
            artifact it is compiled from; None where that has no card of its own.
    """

    model: str
    variant: str
    soc: str | None
    gates: list[GateRecord] = field(default_factory=list)
    shared: list[GateRecord] = field(default_factory=list)
    stages: list[StageRecord] = field(default_factory=list)
    shared_stages: list[StageRecord] = field(default_factory=list)
    heirs: int = 0
    origin: Card | None = None

    @property
    def batch(self) -> str | None:
        """The batch size or gear, where the card is about nothing else."""
        match = _BATCH_ONLY.fullmatch(self.variant)
        return match[1] or match[2] if match else None

    @property
    def name(self) -> str:
        """``yolov6n-fp16-bs1``, as in the test ids."""
        return f"{self.model}-{self.variant}" if self.variant else self.model

    @functools.cached_property
    def answers(self) -> dict[Question, Answer]:
        """The answer to each question, including the model's own gates; questions that were not checked are absent."""
        found: dict[Question, Answer] = {}
        of_own, of_shared = _by_question(self.gates), _by_question(self.shared)
        for question in QUESTIONS:
            own, shared = of_own.get(question, []), of_shared.get(question, [])
            if self.variant and not self.batch and question in _OF_THE_OM:
                asked = bool(own)
                own = _without_stand_ins(own, question)
                if asked and not own:
                    found[question] = Answer("not_measured", "host", Counter({"not_measured": 1}))
                    continue
                if not any(gate.verdict == "passed" for gate in own):
                    shared = [gate for gate in shared if gate.verdict in ("failed", "inconclusive")]
            if own or shared:
                found[question] = _answer([*shared, *own])
        return found

    @property
    def failed(self) -> list[GateRecord]:
        """The gates of this card that failed."""
        return [gate for gate in self.gates if gate.verdict == "failed"]

    @property
    def toolchain(self) -> Provenance | None:
        """Who compiled or ran the OM: of its om stage, else of an emulated, doubled or device gate."""
        for stage in (*self.stages, *self.shared_stages):
            if stage.stage == "om":
                return stage.provenance
        for gate in self.gates:
            if gate.provenance is not None and gate.ground != "host":
                return gate.provenance
        return None

    @property
    def grounds(self) -> set[Ground]:
        """All grounds its figures stand on."""
        return {gate.ground for gate in self.gates} | {stage.provenance.ground for stage in self.stages}

    @property
    def stand_in(self) -> Message | None:
        """That random weights stand in for the model's, so that no figure of the card is the trained model's."""
        for stage in (*self.shared_stages, *self.stages):
            for finding in stage.findings:
                if finding.rule == "checkpoint.seeded":
                    return finding.message
        return None

    @property
    def digests(self) -> dict[str, str]:
        """sha256 by name, of its stages and of whatever took part in its gates."""
        found: dict[str, str] = {}
        for stage in sorted((*self.shared_stages, *self.stages), key=_stage_order):
            found[stage.stage] = stage.digest
        for gate in (*self.shared, *self.gates):
            for name, digest in gate.digests.items():
                found.setdefault(name, str(digest))
        return found


@dataclass(frozen=True)
class Report:
    """Everything a report shows.

    Attributes:
        runs: the run records; a merged file has several.
        cards: one per model and variant, a model's own card first; as in the evidence otherwise.
        counts: gates per verdict and ground.
        folder: where the run's pictures lie; None when the records came without a file.
        ended: whether every run came to its end; a killed one did not.
        waivings: how many gates of each verdict somebody waived; they are among `counts` too.
        remarks: what a reader must know of the waivers.
        shards: ``2/4`` where the run is one of several and the others are not here.
    """

    runs: tuple[RunRecord, ...]
    cards: tuple[Card, ...]
    counts: Mapping[tuple[Verdict, Ground], int]
    folder: Path | None = None
    ended: bool = True
    waivings: Mapping[Verdict, int] = field(default_factory=dict)
    remarks: tuple[Message, ...] = ()
    shards: tuple[str, ...] = ()

    def count(self, verdict: Verdict | None = None, ground: Ground | None = None) -> int:
        """How many gates have this verdict and ground (None: any)."""
        return sum(many for (one, on), many in self.counts.items() if verdict in (None, one) and ground in (None, on))

    @property
    def waived(self) -> int:
        """How many gates somebody waived."""
        return sum(self.waivings.values())

    def unwaived(self, verdict: Verdict) -> int:
        """How many gates have this verdict, and nobody waived them."""
        return self.count(verdict) - self.waivings.get(verdict, 0)

    @property
    def unproven(self) -> int:
        """Gates that passed on the emulator or a test double and are therefore unproven."""
        return self.count("passed", "emulated") + self.count("passed", "double")

    @property
    def emulated(self) -> bool:
        """Whether any figure or artifact comes from the emulator."""
        return any("emulated" in card.grounds for card in self.cards)

    @property
    def emulated_only(self) -> bool:
        """Whether figures come from the emulator and none from a device."""
        return self.emulated and not any("device" in card.grounds for card in self.cards)

    @property
    def error_findings(self) -> list[tuple[Card, str, Finding]]:
        """(card, stage, finding) of every finding that is an error and that no failed gate of its stage tells."""
        return [
            (card, stage.stage, finding)
            for card in self.cards
            for stage in card.stages
            for finding in stage.findings
            if finding.severity == "error" and not any(gate.check.startswith(f"{stage.stage}/") for gate in card.failed)
        ]

    @functools.cached_property
    def models(self) -> dict[str, list[Card]]:
        """Cards by model; models with failures first, then inconclusive ones, else as in the evidence."""
        groups: dict[str, list[Card]] = {}
        for card in self.cards:
            groups.setdefault(card.model, []).append(card)
        return dict(sorted(groups.items(), key=lambda item: min(_trouble(card) for card in item[1])))


def leaves(cards: Sequence[Card]) -> list[Card]:
    """The cards that no other inherits from: one row each in an overview."""
    return [card for card in cards if not card.heirs]


def is_shown(gate: GateRecord) -> bool:
    """Whether a gate is a figure without a limit; evidence of earlier versions has the verdict passed for it."""
    return gate.verdict == "shown" or (gate.verdict == "passed" and gate.limit is None)


def unproven_ground(ground: Ground) -> bool:
    """Whether a pass on this ground says nothing certain about an NPU."""
    return ground in ("emulated", "double")


def load(path: Path) -> Report:
    """Read a run's evidence.

    Args:
        path: ``evidence.jsonl``, or the run's folder that holds it; or the record of a conversion or
            of a quantization.

    Raises:
        DataError: there is none, it cannot be read, or it is no evidence.
    """
    file = path / "evidence.jsonl" if path.is_dir() else path
    if file.name.endswith(conversion.SUFFIX):
        converted = conversion.read(file)
        return collect((*converted.stages, *converted.gates), file.parent)
    if file.name.endswith(quantized.SUFFIX):
        return collect((quantized.read(file),), file.parent)
    try:
        with evidence.uncollected():
            return collect(evidence.read(file), file.parent)
    except FileNotFoundError:
        raise DataError("report.no-evidence", where=str(file)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("report.unreadable", where=str(file), reason=str(error)) from None
    except DataError as error:
        if error.where is not None:
            raise
        raise DataError(error.message.key, where=str(file), **error.message.values) from None


def collect(records: Iterable[Record] | Joined, folder: Path | None = None) -> Report:
    """Sort records into cards.

    A gate or stage without a variant belongs to the model, one of variant ``bs4`` to PyTorch and ONNX at that batch
    size; every variant (of that batch size) inherits it. A gate without a SoC belongs to
    every SoC its variant was asked for. Each record is counted once all the same.

    Args:
        records: in any order, also of several merged runs; or what they say together.
        folder: what the paths of pictures start from.
    """
    joined = records if isinstance(records, Joined) else Joined().take(records)
    gates = [*joined.gates, *joined.coverage.unreached]
    stages = joined.stages
    socs: dict[tuple[str, str], dict[str | None, Card]] = {}
    items: list[GateRecord | StageRecord] = [*stages, *gates]
    known: set[tuple[str, str, str | None]] = set()
    for item in items:
        soc = item.soc if isinstance(item, GateRecord) else item.provenance.soc
        place = (item.model, item.variant, soc if item.variant else None)
        if place not in known:
            known.add(place)
            socs.setdefault(place[:2], {})[place[2]] = Card(*place)
    for cards in socs.values():
        if len(cards) > 1:
            cards.pop(None, None)
    for gate in gates:
        for card in _cards_of(socs, gate.model, gate.variant, gate.soc):
            card.gates.append(gate)
    for stage in stages:
        for card in _cards_of(socs, stage.model, stage.variant, stage.provenance.soc):
            card.stages.append(stage)
    _adopt(socs)
    _inherit(socs)
    counts = Counter(("shown" if is_shown(gate) else gate.verdict, gate.ground) for gate in gates)
    return Report(
        tuple(joined.runs),
        tuple(_in_order(socs)),
        counts,
        folder,
        joined.coverage.ended,
        Counter(gate.verdict for gate in gates if is_waived(gate)),
        tuple(remarks(joined.waivers)),
        tuple(joined.coverage.shards) if joined.coverage.is_shard else (),
    )


def _cards_of(
    socs: Mapping[tuple[str, str], Mapping[str | None, Card]], model: str, variant: str, soc: str | None
) -> list[Card]:
    cards = socs[model, variant]
    if not variant:
        return list(cards.values())
    return [cards[soc]] if soc in cards else list(cards.values())


def _adopt(socs: dict[tuple[str, str], dict[str | None, Card]]) -> None:
    """Link other builds to the variant from which they are made; a build without gates gets no card."""
    only_built: set[tuple[str, str]] = set()
    for (model, variant), builds in socs.items():
        match = _BUILD.fullmatch(variant)
        plain = socs.get((model, match[1])) if match else None
        if match is None or plain is None:
            continue
        asked = any(card.gates for card in plain.values())
        for soc, card in builds.items():
            origin = plain.get(soc) or next(iter(plain.values()))
            if asked:
                card.origin = origin
            else:
                card.stages[:0] = origin.stages
        if not asked:
            only_built.add((model, match[1]))
    for key in only_built:
        del socs[key]


def _inherit(socs: Mapping[tuple[str, str], Mapping[str | None, Card]]) -> None:
    for (model, variant), cards in socs.items():
        for parent in _parents(variant):
            for shared in socs.get((model, parent), {}).values():
                for card in cards.values():
                    card.shared.extend(shared.gates)
                    card.shared_stages.extend(shared.stages)
                    shared.heirs += 1


def _parents(variant: str) -> list[str]:
    """What a variant shares with others: ``fp16-bs4`` the gates of the model and of ``bs4``, or of its gear."""
    if not variant:
        return []
    if _BATCH_ONLY.fullmatch(variant):
        return [""]
    batch = _GEAR.search(variant) or _BATCH.search(variant)
    return ["", batch[1]] if batch else [""]


def _in_order(socs: Mapping[tuple[str, str], Mapping[str | None, Card]]) -> list[Card]:
    models = list(dict.fromkeys(model for model, _ in socs))
    ordered: list[Card] = []
    for model in models:
        variants = [key for key in socs if key[0] == model]
        for key in sorted(variants, key=lambda key: 0 if not key[1] else 1 if _BATCH_ONLY.fullmatch(key[1]) else 2):
            ordered.extend(socs[key].values())
    return ordered


def _by_question(gates: Iterable[GateRecord]) -> dict[Question, list[GateRecord]]:
    found: dict[Question, list[GateRecord]] = {}
    for gate in gates:
        found.setdefault(gate.question, []).append(gate)
    return found


def _without_stand_ins(gates: list[GateRecord], question: Question) -> list[GateRecord]:
    """Gates without passes on the host, where what runs on an NPU was not measured: the twin does not answer for it."""
    if any(gate.verdict == "passed" and gate.ground != "host" for gate in gates):
        return gates
    missing = any(gate.verdict == "not_measured" for gate in gates)
    if not missing and question not in ("closeness", "accuracy"):
        return gates
    return [gate for gate in gates if gate.verdict not in ("passed", "shown")]


def _answer(gates: Sequence[GateRecord]) -> Answer:
    # A figure without a limit is shown, not judged: PyTorch's latency cannot replace the OM's.
    judged = [gate for gate in gates if not is_shown(gate)]
    gates = judged or gates
    counts = Counter(gate.verdict for gate in gates)
    worst = next(verdict for verdict in VERDICTS if counts[verdict])
    grounds = {gate.ground for gate in gates if gate.verdict == worst}
    return Answer(worst, next(ground for ground in _WEAKEST_FIRST if ground in grounds), counts, bool(judged))


def _trouble(card: Card) -> int:
    verdicts = {gate.verdict for gate in card.gates}
    errors = any(finding.severity == "error" for stage in card.stages for finding in stage.findings)
    return 0 if verdicts & {"failed", "not_reached"} or errors else 1 if "inconclusive" in verdicts else 2


def _stage_order(stage: StageRecord) -> int:
    return STAGES.index(stage.stage) if stage.stage in STAGES else len(STAGES)


def ordered_stages(stages: Iterable[StageRecord]) -> list[StageRecord]:
    """Stages from the checkpoint to the OM; unknown ones last."""
    return sorted(stages, key=_stage_order)
