"""A report as Markdown: the result tables of a ModelZoo README, and a verdict per question.

The columns are those of the README files in ModelZoo's ``ACL_PyTorch`` folder: the newer table (chip, batch size,
dataset, accuracy, performance; one row per batch) and the older one (PyTorch and offline accuracy, reference and chip
performance). Cells that mean a device hold device figures only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pth2om.evidence import GateRecord
from pth2om.language import Language, Message, Value, bracketed, joined
from pth2om.questions import QUESTIONS
from pth2om.release.night import REGRESSION
from pth2om.release.waivers import is_waived, owner
from pth2om.release.wording import ORDER
from pth2om.report import figures, wording
from pth2om.report.collect import Card, Report, leaves, unproven_ground
from pth2om.report.cost import costs
from pth2om.report.headline import headline
from pth2om.report.tables import COUNTED, Score, Speed, scores, speeds

_MOST_FAILURES = 200
_BATCH = re.compile(r"bs(\d+)")


def render_markdown(report: Report, language: Language) -> str:
    """The result tables, the verdicts and what failed.

    Args:
        report: what to show.
        language: of headings and sentences.
    """
    write = _Writer(language)
    run = report.runs[0] if report.runs else None
    write.line(f"# {write.say('title')}" + (f" {_escaped(run.run)}" if run else ""))
    write.line(" ".join(sentence.render(language) for sentence in headline(report)[1]))
    if report.emulated:
        write.line(write.say("emulated-notice" if report.emulated_only else "emulated-notice-partly"))
    _costs(write, report)
    for model, cards in report.models.items():
        _model(write, model, leaves(cards))
    write.line(write.say("md-notes"))
    _verdicts(write, report)
    _failures(write, report)
    _unreached(write, report)
    _compared(write, report)
    _waivers(write, report)
    write.line(write.say("md-full-report"))
    return "\n".join(write.lines) + "\n"


class _Writer:
    def __init__(self, language: Language) -> None:
        self.language: Language = language
        self.lines: list[str] = []

    def say(self, key: str, **values: Value) -> str:
        return Message(f"report.{key}", values).render(self.language)

    def line(self, text: str) -> None:
        self.lines += [text, ""]

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        self.lines.append("| " + " | ".join(head) + " |")
        self.lines.append("|" + "---|" * len(head))
        self.lines += ["| " + " | ".join(row) + " |" for row in rows]
        self.lines.append("")

    def name(self, kind: str, word: str) -> str:
        return _escaped(wording.name_in(kind, word, self.language))


def _escaped(value: object, most: int = 200) -> str:
    """Text that cannot break out of a Markdown cell, become HTML, form a link or call a person."""
    text = figures.short(re.sub(r"[\r\n\t]+", " ", str(value)), most)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Bare addresses and @names become links on the pages that show step summaries; $ begins a formula there.
    text = text.replace("://", ":&#47;&#47;").replace("www.", "www&#46;").replace("@", "&#64;").replace("$", "&#36;")
    return re.sub(r"([\\`*_\[\]|!~]|(?<!&)#)", r"\\\1", text)


def _costs(write: _Writer, report: Report) -> None:
    found = [one for cards in report.models.values() for card in cards for one in costs(card.gates)]
    if not found:
        return
    write.line(f"## {write.say('cost')}")
    for one in found[:_MOST_FAILURES]:
        write.line(_escaped(one.line(write.language), 600))
    write.line(write.say("cost-note"))


def _model(write: _Writer, model: str, cards: Sequence[Card]) -> None:
    write.line(f"## {_escaped(model)}")
    chips = list(dict.fromkeys(card.soc or "" for card in cards))
    newer = [row for card in cards for row in _newer_rows(write, card)]
    precisions = [
        write.say("md-chip"),
        write.say("md-batch"),
        write.say("dataset"),
        write.say("md-accuracy"),
        write.say("md-performance"),
    ]
    groups: dict[str, list[Sequence[str]]] = {}
    for precision, row in newer:
        groups.setdefault(precision, []).append(row)
    for precision, rows in groups.items():
        if precision:
            write.line(f"### {_escaped(precision)}")
        write.table(precisions, rows)
    for chip in chips:
        _older(write, [card for card in cards if (card.soc or "") == chip], chip)


def _newer_rows(write: _Writer, card: Card) -> list[tuple[str, Sequence[str]]]:
    precision, _, rest = card.variant.partition("-bs")
    match = _BATCH.search(card.variant)
    # What comes after the batch size (aipp) is another build of the same precision, with a table of its own.
    precision += "".join(f" {word}" for word in rest.split("-")[1:])
    batch = match[1] if match else figures.MISSING
    chip = _escaped(card.soc) if card.soc else figures.MISSING
    speed = _performance(write, card)
    found = _om_scores(card)
    if not found:
        return [(precision, (chip, batch, figures.MISSING, figures.MISSING, speed))]
    return [(precision, (chip, batch, _escaped(score.dataset), _accuracy(write, score), speed)) for score in found]


def _om_scores(card: Card) -> list[Score]:
    """One score per dataset and metric of the judged side: the OM's where the card has any."""
    found = [score for score in scores(card.gates) if score.candidate is not None]
    # Counts of images, such as those with NaN outputs, are no accuracy.
    judged = [score for score in found if score.gate.ground != "host" and score.gate.unit not in COUNTED]
    kept: dict[tuple[str, str], Score] = {}
    for score in judged:
        kept.setdefault((score.dataset, score.metric), score)
    return list(kept.values())


def _accuracy(write: _Writer, score: Score) -> str:
    images = f" ({score.n})" if score.n is not None else ""
    shown = f"{write.name('metric', score.metric)} {figures.text(score.candidate)}{images}"
    return _on_ground(write, score.gate, shown)


def _on_ground(write: _Writer, gate: GateRecord, shown: str) -> str:
    """A figure for a device column: as it is from a device, else named for what it is."""
    if unproven_ground(gate.ground):
        return write.say("md-emulated" if gate.ground == "emulated" else "md-double", value=shown)
    return shown if gate.ground == "device" else write.say("md-not-measured")


def _performance(write: _Writer, card: Card) -> str:
    for speed in speeds(card.gates):
        if speed.subject == "om" and speed.gate.ground == "device" and speed.gate.verdict != "not_measured":
            if speed.fps is not None:
                return f"{_rate(speed.fps)} fps"
            if speed.p50 is not None:
                return f"{figures.text(speed.p50)} ms"
    return write.say("md-not-measured")


def _rate(fps: float) -> str:
    """Images per second as a README of ModelZoo has them: six digits, large rates whole."""
    return figures.text(fps, 6) if not 1e5 <= fps < 1e15 else f"{fps:.0f}"


def _older(write: _Writer, cards: Sequence[Card], chip: str) -> None:
    """One row per variant that was scored."""
    named = _escaped(chip) if chip else "OM"
    rows = []
    for card in cards:
        for score in _om_scores(card):
            images = f" ({score.n})" if score.n is not None else ""
            metric = write.name("metric", score.metric)
            # The column is PyTorch's by the vendor's form; a model that starts from an ONNX file has none.
            original = "ONNX: " if score.gate.details.get("original") == "onnx" else ""
            rows.append(
                (
                    _escaped(card.name),
                    f"{original}{metric} {figures.text(score.reference)}{images}",
                    _accuracy(write, score),
                    _reference(speeds(card.gates)),
                    _performance(write, card),
                )
            )
    if rows:
        head = (
            write.say("model"),
            write.say("md-pth-accuracy"),
            write.say("md-offline-accuracy", chip=named),
            write.say("md-reference-performance"),
            write.say("md-chip-performance", chip=named),
        )
        write.table(head, rows)


def _reference(found: Iterable[Speed]) -> str:
    """The reference fps of the spec: the limit of the OM's fps gate."""
    for speed in found:
        gate = speed.gate
        if speed.subject == "om" and gate.limit is not None and gate.check.endswith("fps"):
            return f"{gate.limit.text} fps"
    return figures.MISSING


def _verdicts(write: _Writer, report: Report) -> None:
    asked = {question for card in report.cards for question in card.answers}
    questions = [question for question in QUESTIONS if question in asked]
    if not questions:
        return
    write.line(f"## {write.say('md-questions')}")
    rows = []
    for cards in report.models.values():
        for card in leaves(cards):
            cells = [_escaped(card.name)]
            for question in questions:
                answer = card.answers.get(question)
                if answer is None:
                    cells.append("·")
                    continue
                word = write.say("verdict-unproven") if answer.unproven else write.name("verdict", answer.verdict)
                cells.append(word if answer.ground == "host" else f"{word} · {write.name('ground', answer.ground)}")
            rows.append(cells)
    write.table([write.say("model"), *(write.name("question", question) for question in questions)], rows)


def _failures(write: _Writer, report: Report) -> None:
    seen: set[int] = set()
    failures: list[tuple[Card, GateRecord]] = []
    for card in report.cards:
        for gate in card.failed:
            if id(gate) not in seen:
                seen.add(id(gate))
                failures.append((card, gate))
    if not failures:
        return
    write.line(f"## {write.say('failures')}")
    for card, gate in failures[:_MOST_FAILURES]:
        unit = f" {wording.name_in('unit', gate.unit, write.language)}" if gate.unit else ""
        against = write.say("measured-against", measured=figures.measured(gate) + unit, limit=figures.limit(gate.limit))
        waived = f"WAIVED ({_escaped(owner(gate) or '')}) " if is_waived(gate) else ""
        about = f"- {waived}**{_escaped(card.name)}** {_escaped(gate.check)}"
        words = joined((about, _escaped(against)), ": ", write.language)
        if gate.ground != "host":
            words += bracketed(write.name("ground", gate.ground), write.language)
        if gate.message is not None:
            words += f" {_escaped(wording.in_language(gate.message, write.language))}"
        advice = wording.fix_in_language(gate.message, write.language)
        advice = advice or wording.name_in("next", wording.next_of(gate), write.language)
        write.lines.append(f"{words} → {_escaped(advice)}")
    if len(failures) > _MOST_FAILURES:
        write.lines.append(f"- {write.say('more-in-evidence', count=len(failures) - _MOST_FAILURES)}")
    write.lines.append("")


def _compared(write: _Writer, report: Report) -> None:
    """What the comparison with the baseline found besides what failed and what was not reached."""
    seen: dict[int, tuple[Card, GateRecord]] = {}
    for card in report.cards:
        seen |= {id(gate): (card, gate) for gate in card.gates if gate.question == REGRESSION}
    told = [(card, gate) for card, gate in seen.values() if gate.verdict not in ("failed", "not_reached")]
    if not told:
        return
    write.line(f"## {write.name('question', REGRESSION)}")
    told.sort(key=lambda one: ORDER.index(one[1].verdict))
    for card, gate in told[:_MOST_FAILURES]:
        waived = f"WAIVED ({_escaped(owner(gate) or '')}) " if is_waived(gate) else ""
        ground = "" if gate.ground == "host" else bracketed(write.name("ground", gate.ground), write.language)
        about = f"- {waived}**{_escaped(card.name)}** {_escaped(gate.check)}{ground}"
        words = joined((about, write.name("verdict", gate.verdict)), ": ", write.language)
        if gate.message is not None:
            words += ". " if write.language == "en" else "。"
            words += _escaped(wording.in_language(gate.message, write.language), 600)
        advice = wording.fix_in_language(gate.message, write.language)
        write.lines.append(words + (f" → {_escaped(advice)}" if advice else ""))
    if len(told) > _MOST_FAILURES:
        write.lines.append(f"- {write.say('more-in-evidence', count=len(told) - _MOST_FAILURES)}")
    write.lines.append("")


def _waivers(write: _Writer, report: Report) -> None:
    """What a reader must know of the waivers."""
    if not report.remarks:
        return
    write.line(f"## {write.say('waivers')}")
    for remark in report.remarks[:_MOST_FAILURES]:
        advice = wording.fix_in_language(remark, write.language)
        words = _escaped(wording.in_language(remark, write.language), 600)
        write.lines.append(f"- {words}" + (f" → {_escaped(advice)}" if advice else ""))
    if len(report.remarks) > _MOST_FAILURES:
        write.lines.append(f"- {write.say('more-in-evidence', count=len(report.remarks) - _MOST_FAILURES)}")
    write.lines.append("")


def _unreached(write: _Writer, report: Report) -> None:
    """The gates that were not reached, by the test that had to give them."""
    seen: dict[int, GateRecord] = {}
    for card in report.cards:
        seen |= {id(gate): gate for gate in card.gates if gate.verdict == "not_reached"}
    if not seen:
        return
    write.line(f"## {write.say('unreached')}")
    by_test: dict[tuple[str, str], list[GateRecord]] = {}
    for gate in seen.values():
        by_test.setdefault((gate.model, str(gate.details.get("item") or gate.check)), []).append(gate)
    for (_, item), gates in list(by_test.items())[:_MOST_FAILURES]:
        checks = ", ".join(_escaped(gate.check) for gate in gates)
        write.lines.append(f"- **{_escaped(item)}** {checks}")
    if len(by_test) > _MOST_FAILURES:
        write.lines.append(f"- {write.say('more-in-evidence', count=len(by_test) - _MOST_FAILURES)}")
    write.lines.append("")
