"""A report as one HTML page that needs nothing else: no network, no script to be read, both languages in it."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pth2om import __version__
from pth2om.escaping import shell_line
from pth2om.evidence import Finding, GateRecord, StageRecord
from pth2om.language import Language, Message
from pth2om.questions import QUESTIONS
from pth2om.release.waivers import owner
from pth2om.report import cost, figures, int8, plain, plots, tables, wording
from pth2om.report.bytecode import BesideTemplates
from pth2om.report.collect import (
    GROUNDS,
    VERDICTS,
    Answer,
    Card,
    Report,
    is_shown,
    leaves,
    ordered_stages,
    unproven_ground,
)
from pth2om.report.headline import headline

_TEMPLATES = Path(__file__).parent / "templates"
MOST_PICTURES = 12
"""Pictures embedded per variant."""
PICTURE_BYTES = 60_000
"""Largest picture embedded."""
PAGE_BYTES = 1_900_000
"""What a page, pictures aside, may take before it leaves details to evidence.jsonl."""
_LEVELS = ("full", "compact", "terse")
_CARD_BYTES = 700  # of a card that shows next to nothing
_GATE_BYTES = 60  # at least, of a gate in a card
_MANY_GATES = 1500
_MOST_LISTED = 100
_MOST_IN_CARD = 20
_MOST_FINDINGS = 50
_OPEN_CARDS = 6
_BAD = ("failed", "not_reached", "inconclusive")
_TELLING = {
    *(f"compare.too-{side}" for side in ("low", "high")),
    *(f"accuracy.{what}" for what in ("lost", "unsettled", "unsettleable")),
}
# What the top of the page says instead, so that one reason is said once; the figures are in the cards.
_IN_SHORT = {"latency.estimated": "latency.no-device"}
_LANGUAGES: tuple[Language, ...] = ("en", "zh")
_MAGIC = {b"RIFF": "image/webp", b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png"}


@dataclass(frozen=True)
class Links:
    """Names of the files that lie beside the page; empty ones are not linked."""

    log: str = ""
    evidence: str = ""
    results_en: str = ""
    results_zh: str = ""
    history: tuple[tuple[str, str], ...] = ()
    """Model -> the page of its nights."""


def render_html(report: Report, language: Language, links: Links | None = None) -> str:
    """The whole page.

    Args:
        report: what to show.
        language: the one shown first; the page holds both.
        links: what lies beside it.

    A page that would grow beyond `PAGE_BYTES` is drawn with fewer details, and one that still would as a plain list of
    gates; the page says so.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        bytecode_cache=BesideTemplates(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _squeezed((_TEMPLATES / "report.js").read_text(encoding="utf-8"))
    style = _squeezed((_TEMPLATES / "report.css").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals.update(
        t=wording.both,
        said=wording.said,
        advice=wording.advice,
        name_of=wording.name_of,
        needed=tables.needed_images,
        samples_of=tables.samples_of,
        f=figures,
        tables=tables,
        int8_of=int8.section,
        costs_of=cost.costs,
        calibration_of=int8.calibration,
        plots=plots,
        QUESTIONS=QUESTIONS,
        VERDICTS=VERDICTS,
        GROUNDS=GROUNDS,
    )
    template = environment.get_template("report.html")
    first = 0 if report.count() <= _MANY_GATES else 1
    if len(report.cards) * _CARD_BYTES > PAGE_BYTES or report.count() * _GATE_BYTES > PAGE_BYTES:
        first = 2
    for level in _LEVELS[first:]:
        view = _Page(report, level)
        page = template.render(
            report=report,
            page=view,
            language=language,
            links=links or Links(),
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            script_digest=digest,
            version=__version__,
            title={to: Message("report.title").render(to) for to in _LANGUAGES},
        )
        # End tags that HTML lets one leave out are an eighth of a large page.
        page = _squeezed(page).replace("</td>", "").replace("</th>", "").replace("</tr>", "") + "\n"
        if len(page.encode("utf-8", "replace")) - view.picture_bytes <= PAGE_BYTES:
            break
    return page


def _squeezed(text: str) -> str:
    """Without indentation and empty lines."""
    return "\n".join(stripped for line in text.split("\n") if (stripped := line.strip()))


class _Page:
    """What the templates ask about a report; each answer is cheap or kept."""

    def __init__(self, report: Report, level: str) -> None:
        self.report = report
        self.total = report.count()
        self.small = level == "full"
        self.terse = level == "terse"
        self.picture_bytes = 0
        self.models = report.models
        self._ids = {id(card): f"c{index}" for index, card in enumerate(report.cards, 1)}
        self.run = report.runs[0] if report.runs else None
        self.command = shell_line(self.run.command) if self.run else ""
        self.error_findings = report.error_findings
        self.failed = self._listed("failed")
        self.unreached = self._listed("not_reached")
        self.inconclusive = self._listed("inconclusive")

    @property
    def grounds(self) -> int:
        """How many grounds the table of verdicts has."""
        return sum(1 for ground in GROUNDS if self.report.count(ground=ground))

    def id_of(self, card: Card) -> str:
        """Where links to the card lead."""
        return self._ids[id(card)]

    # ---- the top of the page

    @functools.cached_property
    def headline(self) -> tuple[str, Markup]:
        """Style class and sentences that sum the run up."""
        style, sentences = headline(self.report)
        return style, Markup(" ").join(wording.said(sentence) for sentence in sentences)

    @functools.cached_property
    def socs(self) -> list[str]:
        """The SoCs that were asked for."""
        return sorted({card.soc for card in self.report.cards if card.soc})

    @functools.cached_property
    def toolchains(self) -> list[tuple[str, str]]:
        """(``emulator 0.1.0``, ground) of every toolchain that took part."""
        found = [card.toolchain for card in self.report.cards]
        return sorted({(f"{one.name} {one.version}".strip(), one.ground) for one in found if one is not None})

    @functools.cached_property
    def unmeasured(self) -> list[tuple[Markup, Markup, list[Card], int]]:
        """Reason, advice, cards and how many gates, of what was not measured; gates with one reason together."""
        groups: dict[tuple[Markup, Markup], list[Card]] = {}
        for card in self.report.cards:
            for gate in card.gates:
                if gate.verdict == "not_measured":
                    message = gate.message
                    if message is not None and message.key in _IN_SHORT:
                        message = Message(_IN_SHORT[message.key])
                    reason = wording.said(message) or wording.both("no-reason")
                    groups.setdefault((reason, wording.advice(gate.message)), []).append(card)
        rows = [(reason, fix, cards) for (reason, fix), cards in groups.items()]
        rows.sort(key=lambda row: -len(row[2]))
        return [(reason, fix, list({id(c): c for c in cards}.values()), len(cards)) for reason, fix, cards in rows[:20]]

    def _listed(self, verdict: str) -> list[tuple[Card, GateRecord]]:
        """Every gate with this verdict, with the card it is shown in; once, also when several cards show it."""
        seen: set[int] = set()
        found = []
        for cards in self.models.values():
            for card in cards:
                for gate in card.gates:
                    if gate.verdict == verdict and id(gate) not in seen:
                        seen.add(id(gate))
                        found.append((card, gate))
        return found

    @functools.cached_property
    def costs(self) -> list[tuple[Card, cost.Cost]]:
        """The loss from INT8, by the card that shows it in full; the first hundred."""
        rows = [(card, one) for cards in self.models.values() for card in cards for one in cost.costs(card.gates)]
        return rows[:_MOST_LISTED]

    def first(self, entries: Sequence[Any]) -> Sequence[Any]:
        """At most the number that the top of the page lists."""
        return entries[:_MOST_LISTED]

    def grouped(self, entries: Sequence[tuple[Card, GateRecord]]) -> list[tuple[list[Card], Markup, list[GateRecord]]]:
        """The first of `entries`, those of one card with one thing to do next together, and equal ones of many.

        Returns:
            (cards, what to do next, the gates of the first of these cards) each.
        """
        groups: dict[tuple[object, ...], tuple[list[Card], Markup, list[GateRecord]]] = {}
        of_card: dict[tuple[int, str, Markup], tuple[Card, list[GateRecord]]] = {}
        for card, gate in self.first(entries):
            fix = self.advice(gate)
            if gate.measured is None and gate.message is not None:
                # One error stops many questions of many variants: it is said once.
                cards, _, gates = groups.setdefault((card.model, repr(gate.message)), ([], fix, []))
                cards.append(card)
                gates.append(gate)
            else:
                of_card.setdefault((id(card), gate.question, fix), (card, []))[1].append(gate)
        for (_, question, fix), (card, gates) in of_card.items():
            looks = tuple((gate.check, gate.ground, repr((gate.measured, gate.message))) for gate in gates)
            groups.setdefault((card.model, question, fix, looks), ([], fix, gates))[0].append(card)
        for cards, _, _ in groups.values():
            cards[:] = {id(card): card for card in cards}.values()
        return list(groups.values())

    @functools.cached_property
    def asked(self) -> list[str]:
        """The questions that any gate answers."""
        found = {gate.question for card in self.report.cards for gate in card.gates}
        return [question for question in QUESTIONS if question in found]

    def rows(self, cards: Sequence[Card]) -> Sequence[Card]:
        """The cards of one model that get a row in the overview."""
        return leaves(cards)

    def bad(self, card: Card) -> bool:
        """Whether the card holds something failed or inconclusive, its model's own gates included."""
        verdicts = {answer.verdict for answer in card.answers.values()}
        errors = any(one.severity == "error" for stage in card.stages for one in stage.findings)
        return not verdicts.isdisjoint(_BAD) or errors

    def open(self, card: Card) -> bool:
        """Whether a card starts unfolded."""
        return len(self.report.cards) <= _OPEN_CARDS or (self.bad(card) and len(self.failed) <= _MOST_IN_CARD)

    # ---- gates and cells

    def kind(self, gate: GateRecord | Answer | None) -> str:
        """Style class of a gate or an answer."""
        if gate is None:
            return "s"
        if gate.verdict in ("passed", "shown") and not (
            gate.judged if isinstance(gate, Answer) else not is_shown(gate)
        ):
            return "s"
        if gate.verdict == "passed":
            return "u" if unproven_ground(gate.ground) else "p"
        return {"failed": "f", "not_reached": "f", "inconclusive": "q"}.get(gate.verdict, "n")

    def sign(self, gate: GateRecord | Answer) -> str:
        """One sign per verdict, for cells."""
        if gate.verdict == "not_reached":
            return "⊘"
        return {"p": "✓", "u": "(✓)", "f": "✗", "q": "?", "n": "–", "s": "○"}[self.kind(gate)]

    def lines(self, card: Card) -> Markup:
        """The card's gates as plain text."""
        marks: dict[tuple[str, str, bool], str] = {}

        def mark(gate: GateRecord) -> str:
            of = (gate.verdict, gate.ground, gate.limit is None)
            if of not in marks:
                words = {"emulated": " emulated 模拟", "host": ""}.get(gate.ground, f" {gate.ground}")
                marks[of] = self.sign(gate) + words
            return marks[of]

        return plain.gate_lines(card.gates, mark, _BAD)

    def word(self, gate: GateRecord | Answer) -> Markup:
        """The verdict in words."""
        kind = self.kind(gate)
        name = wording.name_of("verdict", {"u": "unproven", "s": "shown"}.get(kind, gate.verdict))
        return name + self.waived(gate) if isinstance(gate, GateRecord) else name

    def waived(self, gate: GateRecord) -> Markup:
        """``WAIVED`` and by whom; nothing for what nobody waived."""
        by = owner(gate)
        return Markup("") if by is None else Markup(" <b>WAIVED ({})</b>").format(figures.short(by, 80))

    def advice(self, gate: GateRecord) -> Markup:
        """What to do next about a gate."""
        return wording.advice(gate.message) or wording.name_of("next", wording.next_of(gate))

    def told(self, gate: GateRecord) -> bool:
        """Whether the gate's sentence holds the measured value and the limit, so that they need not stand beside it."""
        return gate.message is not None and gate.message.key in _TELLING

    def troubles(self, card: Card) -> tuple[list[tuple[list[Card], Markup, list[GateRecord]]], int]:
        """The card's failed and inconclusive gates, grouped by what to do next, and how many more there are."""
        gates = [(card, gate) for verdict in _BAD for gate in card.gates if gate.verdict == verdict]
        return self.grouped(gates[:_MOST_IN_CARD]), max(0, len(gates) - _MOST_IN_CARD)

    def session(self, subject: str, ground: str = "host") -> Markup:
        """``torch`` as PyTorch, ``om`` as OM with the word emulated where it is."""
        name = wording.name_of("session", subject)
        return name if ground in ("host", "device") else name + Markup(" ") + self.tag(ground)

    def sides(self, pair: str) -> Markup:
        """``torch~om`` as PyTorch ↔ OM."""
        return Markup(" ↔ ").join(wording.name_of("session", part) for part in pair.split("~"))

    def tag(self, ground: str) -> Markup:
        """The ground as a small label."""
        return Markup("<span class='tag {}'>{}</span>").format(ground, wording.name_of("ground", ground))

    # ---- plots

    def drops(self, scores: Iterable[tables.Score]) -> Markup:
        """Drops with their intervals against the gate."""
        lines = []
        for score in scores:
            gate = score.gate
            is_drop = gate.check.endswith("drop") or gate.interval is not None
            if not is_drop or gate.measured is None or gate.limit is None or gate.limit.relation not in ("<=", "<"):
                continue
            low, high = gate.interval or (gate.measured, gate.measured)
            label = " ".join(part for part in (score.dataset, gate.check.removesuffix("/drop")) if part)
            if not self.small and gate.verdict == "passed":
                continue
            lines.append(plots.Whisker(label, gate.measured, low, high, gate.limit.value, self.kind(gate)))
        return plots.intervals(lines)

    def spans(self, speeds: Iterable[tables.Speed]) -> Markup:
        """Latency percentiles per line."""
        lines = []
        for speed in speeds:
            label = {"torch": "PyTorch", "onnx": "ONNX", "om": "OM"}.get(speed.subject, speed.subject)
            batch = f" bs{speed.batch}" if speed.batch else ""
            lines.append(plots.Span(label + batch, speed.p50, speed.p90, speed.p99, speed.roofline))
        return plots.latencies(list(dict.fromkeys(lines)))

    def noise(self, layers: Iterable[int8.Layer]) -> Markup:
        """Signal to noise of the INT8 layers."""
        shown = [(number, layer) for number, layer in enumerate(layers, 1) if layer.int8]
        return plots.noises([plots.Noise(n, one.name, one.output_db, one.input_db, one.weight_db) for n, one in shown])

    # ---- stages, findings, pictures

    def stage_facts(self, stage: StageRecord) -> list[tuple[str, str]]:
        """What a stage recorded, without what the card shows in its own way."""
        apart = int8.DRAWN_APART if stage.stage == "quantized" else ()
        return figures.flat({name: value for name, value in stage.details.items() if name not in apart})[:60]

    def stages(self, card: Card) -> list[Any]:
        """The card's own stages in order."""
        return ordered_stages(card.stages)

    def findings(self, card: Card) -> tuple[list[tuple[str, Finding, list[str], int]], int]:
        """(stage, finding, nodes, how often), errors first, equal ones once; and how many more there are."""
        groups: dict[tuple[str, str, str], tuple[str, Finding, list[str], list[Finding]]] = {}
        for stage in ordered_stages(card.stages):
            for one in stage.findings:
                key = (stage.stage, one.rule, repr(one.message.to_json()))
                group = groups.setdefault(key, (stage.stage, one, [], []))
                group[3].append(one)
                if one.node and one.node not in group[2]:
                    group[2].append(one.node)
        order = ("error", "warning", "info")
        found = [(stage, one, nodes, len(all_)) for stage, one, nodes, all_ in groups.values()]
        found.sort(key=lambda row: order.index(row[1].severity) if row[1].severity in order else 3)
        return found[:_MOST_FINDINGS], max(0, len(found) - _MOST_FINDINGS)

    def join(self, command: Sequence[str]) -> str:
        """A command line as typed."""
        return shell_line(command)

    def pictures(self, card: Card) -> tuple[list[tuple[str, Markup]], int]:
        """(data URI, caption) of the card's pictures, and how many were left out."""
        named: dict[str, tuple[object, str]] = {}
        for gate in card.gates:
            listed = gate.details.get("pictures")
            for entry in listed if isinstance(listed, list | tuple) else ():
                if isinstance(entry, Mapping) and isinstance(entry.get("file"), str):
                    named.setdefault(entry["file"], (entry.get("caption"), gate.ground))
        shown: list[tuple[str, Markup]] = []
        for name, (words, ground) in named.items():
            uri = picture_uri(self.report.folder, name) if len(shown) < MOST_PICTURES else None
            if uri:
                self.picture_bytes += len(uri)
                tag = Markup("") if ground == "host" else self.tag(ground) + Markup(" ")
                shown.append((uri, tag + wording.caption(words)))
        return shown, len(named) - len(shown)


def picture_uri(folder: Path | None, name: str) -> str | None:
    """A picture of the run's folder as a data URI.

    Args:
        folder: the run's folder.
        name: path relative to it, out of the evidence, so not to be trusted.

    Returns:
        None where the file is outside the folder, missing, no WebP, JPEG or PNG, or larger than `PICTURE_BYTES`.
    """
    if folder is None:
        return None
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file() or path.stat().st_size > PICTURE_BYTES:
            return None
        data = path.read_bytes()
    except (OSError, ValueError):
        return None
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
    return f"data:{kind};base64,{base64.b64encode(data).decode()}" if kind else None
