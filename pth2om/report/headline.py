"""The summary of a run in the sentences that every interface shows first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pth2om.evidence import unmeasured_models
from pth2om.language import Message, Value
from pth2om.report.collect import Report

_MOST_MODELS = 8  # that a sentence names

Style = Literal["f", "q", "u", "p", "n"]
"""Failed, inconclusive, unproven, passed, nothing: the style class of the head line."""


def headline(report: Report) -> tuple[Style, list[Message]]:
    """The sentences that sum a report up, the verdict first, then what it does not cover."""
    unmeasured = _unmeasured(report)
    style, first = _verdict(report, unmeasured)
    sentences = [first]
    if unmeasured and report.count("not_measured") + report.count("not_reached") < report.count():
        sentences.append(_say("headline-unmeasured", models=_listed(unmeasured)))
    total, missing = report.count(), report.count("not_measured")
    lost = report.unwaived("not_reached")
    if report.waived and first.key != "report.headline-only-waived":
        sentences.append(_say("headline-waived", count=report.waived))
    if lost and first.key != "report.headline-unreached":
        sentences.append(_say("headline-also-unreached", count=lost))
    if report.shards:
        sentences.append(_say("headline-shard", shard=", ".join(report.shards)))
    if not report.ended:
        sentences.append(_say("headline-not-ended"))
    if missing:
        models = [model for model, cards in report.models.items() if any(card.stages or card.variant for card in cards)]
        scored = {
            card.model
            for card in report.cards
            for gate in card.gates
            if gate.question == "accuracy" and gate.measured is not None
        }
        without = len([model for model in models if model not in scored])
        if without:
            sentences.append(_say("coverage-accuracy", count=missing, total=total, without=without, models=len(models)))
        else:
            sentences.append(_say("coverage", count=missing, total=total))
    return style, sentences


def _verdict(report: Report, unmeasured: Sequence[str]) -> tuple[Style, Message]:
    total, findings = report.count(), len(report.error_findings)
    if failed := report.unwaived("failed"):
        return "f", _say("headline-failed", count=failed, total=total)
    if findings:
        return "f", _say("headline-findings", count=findings)
    if lost := report.unwaived("not_reached"):
        return "f", _say("headline-unreached", count=lost)
    if unsure := report.unwaived("inconclusive"):
        return "q", _say("headline-inconclusive", count=unsure, total=total)
    if report.waived:
        # What somebody answers for is no pass: not of the models, and not of the night.
        return "q", _say("headline-only-waived", count=report.waived, total=total)
    if not report.ended and (report.unproven or report.count("passed")):
        return "f", _say("headline-no-failure")
    if report.unproven:
        if unmeasured:
            # What holds of the others is not said of the model of which nothing is known.
            others = _listed([model for model in report.models if model not in unmeasured])
            return "q", _say("headline-unproven-of", count=report.unproven, total=total, models=others)
        return "u", _say("headline-unproven", count=report.unproven, total=total)
    if passed := report.count("passed"):
        return "q" if unmeasured else "p", _say("headline-passed", count=passed)
    return "n", _say("headline-nothing")


def _unmeasured(report: Report) -> list[str]:
    """The models of which nothing was measured."""
    return unmeasured_models(gate for cards in report.models.values() for card in cards for gate in card.gates)


def _listed(models: Sequence[str]) -> str:
    more = len(models) - _MOST_MODELS
    return ", ".join(models[:_MOST_MODELS]) + (f", ... (+{more})" if more > 0 else "")


def _say(key: str, **values: Value) -> Message:
    return Message(f"report.{key}", values)
