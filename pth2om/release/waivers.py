"""Waivers: known failures that somebody answers for, until a day.

``waivers.toml``, all keys required::

    [[waiver]]
    gate = "yolov6n/fp16-*/Ascend310B1/accuracy/om/mAP50-95/drop@coco"   # an evidence id; * and ? match
    stage = "accuracy"                                                   # the question in which it fails
    owner = "Li Wei"
    reason = "Resize differs by half a pixel; the vendor has the case"
    link = "https://..."
    expires = 2026-12-31

The pattern names a model, or a part of a name: one for all models would hide whatever fails next.

A waiver is an overlay: the gate keeps its verdict, and its details say who waived it. It never counts as passed. One
that is expired or that cannot be read waives nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from fnmatch import fnmatchcase, translate
from pathlib import Path
from typing import Any

from pth2om.errors import DataError
from pth2om.evidence import GateRecord, WaiverRecord
from pth2om.files import opened
from pth2om.language import Message, say
from pth2om.questions import QUESTIONS

NAME = "waivers.toml"
SOON_DAYS = 14
WAIVABLE = ("failed", "inconclusive", "not_measured", "not_reached")
"""Verdicts that a waiver excuses."""
_KEYS = ("gate", "stage", "owner", "reason", "link", "expires")
_MOST_BYTES = 1 << 22
_MOST = 10_000
_LONGEST = 1000
_WILD = re.compile(r"\[[^\]]*\]|[\W_]")
"""What is no letter and no digit of a pattern: a pattern of nothing else names no model."""


@dataclass(frozen=True)
class Waiver:
    """One entry of the file, see the module; `number` is its place in the file, from 1."""

    number: int
    gate: str
    stage: str
    owner: str
    reason: str
    link: str
    expires: date

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(translate(self.gate))

    def fits(self, gate: GateRecord) -> bool:
        """Whether it is about this gate; what stands before the first slash is compared with the model alone."""
        if gate.question != self.stage or self._pattern.match(gate.id) is None:
            return False
        return fnmatchcase(gate.model, self.gate.partition("/")[0])

    def lapsed(self, today: date) -> bool:
        """Whether its last day is over."""
        return today > self.expires


@dataclass
class Waivers:
    """The waivers of a run, and what became of them.

    Attributes:
        entries: those that can be read.
        wrong: what is wrong with the others.
        today: the day of the run.
        used: numbers of the entries that waived something.
        passed: number of an entry -> ids of gates that passed although it waives them.
    """

    entries: tuple[Waiver, ...] = ()
    wrong: tuple[Message, ...] = ()
    today: date = field(default_factory=date.today)
    used: set[int] = field(default_factory=set)
    passed: dict[int, list[str]] = field(default_factory=dict)

    def over(self, gate: GateRecord) -> GateRecord:
        """The gate with the waiver that is about it in its details; as it was where none is."""
        fitting = [one for one in self.entries if one.fits(gate)]
        valid = [one for one in fitting if not one.lapsed(self.today)]
        if gate.verdict == "passed":
            for one in fitting:
                self.passed.setdefault(one.number, []).append(gate.id)
        if gate.verdict not in WAIVABLE or not fitting:
            return gate
        if not valid:
            lapsed = {"owner": fitting[0].owner, "expires": fitting[0].expires.isoformat()}
            return dataclasses.replace(gate, details={**gate.details, "waiver_lapsed": lapsed})
        first = valid[0]
        self.used.add(first.number)
        words = {"owner": first.owner, "reason": first.reason, "link": first.link, "expires": first.expires.isoformat()}
        return dataclasses.replace(gate, details={**gate.details, "waived": words})

    def records(self) -> list[WaiverRecord]:
        """What became of each entry, as evidence: reports, merges and statements read it from there."""
        found = [WaiverRecord("", "", "", "", 0, wrong=message) for message in self.wrong]
        for one in self.entries:
            days = (one.expires - self.today).days
            passed = min(self.passed.get(one.number, ()), default="")
            used = one.number in self.used
            found.append(WaiverRecord(one.gate, one.stage, one.owner, one.expires.isoformat(), days, used, passed))
        return found


def remarks(records: Iterable[WaiverRecord]) -> Iterator[Message]:
    """What a reader must know of the waivers of a run.

    Unreadable and lapsed entries, those that lapse within `SOON_DAYS`, unexpected passes, and entries that nothing
    needs.
    """
    for one in records:
        values = {"gate": one.gate, "owner": one.owner}
        if one.wrong is not None:
            yield one.wrong
            continue
        if one.days < 0:
            yield say("release.waiver-lapsed", **values, expires=one.expires)
        elif one.days <= SOON_DAYS:
            yield say("release.waiver-soon", **values, expires=one.expires, days=one.days)
        if one.used:
            continue
        if one.passed:
            yield say("release.waiver-passed", **values, first=one.passed)
        elif one.days >= 0:
            yield say("release.waiver-unused", **values)


def owner(gate: GateRecord) -> str | None:
    """Who waived a gate; None where nobody did."""
    waived = gate.details.get("waived")
    if waived is None:  # nearly all, and asking what a value can do takes long
        return None
    return str(waived.get("owner", "")) or None if isinstance(waived, Mapping) else None


def is_waived(gate: GateRecord) -> bool:
    """Whether the gate's failure is waived."""
    return owner(gate) is not None


def read(path: Path, today: date | None = None) -> Waivers:
    """The waivers of a file; none where there is none.

    What cannot be read waives nothing, and `Waivers.wrong` says so.
    """
    day = today or date.today()
    try:
        if not path.exists():
            return Waivers(today=day)
        with opened(path) as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise DataError("release.too-large", where=str(path), most=_MOST_BYTES)
        data = tomllib.loads(text.decode("utf-8-sig"))
        rows = data.get("waiver", [])
        if not isinstance(rows, list) or set(data) - {"waiver"} or len(rows) > _MOST:
            raise ValueError("[[waiver]]")
    except DataError as error:
        return Waivers(wrong=(error.message,), today=day)
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        return Waivers(wrong=(say("release.waivers-unreadable", path=str(path), reason=reason),), today=day)
    entries: list[Waiver] = []
    wrong: list[Message] = []
    for number, row in enumerate(rows, 1):
        problem = _problem(row)
        if problem is None:
            entries.append(Waiver(number, *(row[key] for key in _KEYS)))
        else:
            wrong.append(say("release.waiver-wrong", path=str(path), number=number, reason=problem))
    return Waivers(tuple(entries), tuple(wrong), day)


def _problem(row: Any) -> str | None:  # noqa: ANN401 - TOML
    """What is wrong with an entry."""
    if not isinstance(row, dict):
        return "[[waiver]]"
    missing = [key for key in _KEYS if key not in row]
    if missing or set(row) - set(_KEYS):
        return ", ".join(missing or sorted(set(row) - set(_KEYS)))[:200]
    for key in _KEYS[:-1]:
        if not isinstance(row[key], str) or not row[key].strip() or len(row[key]) > _LONGEST:
            return key
    if not isinstance(row["expires"], date) or isinstance(row["expires"], datetime):
        return "expires"
    if not _WILD.sub("", row["gate"].partition("/")[0]):
        return "gate"
    return None if row["stage"] in QUESTIONS else "stage"


def listed(waivers: Waivers) -> tuple[list[Message], bool]:
    """What ``pth2om waivers`` prints: unreadable and lapsed entries, then those that lapse within `SOON_DAYS`.

    Returns:
        The sentences, and whether any entry is unreadable or lapsed.
    """
    lines, bad = list(waivers.wrong), bool(waivers.wrong)
    for one in sorted(waivers.entries, key=lambda one: one.expires):
        days = (one.expires - waivers.today).days
        if days > SOON_DAYS:
            continue
        key = "release.waiver-lapsed" if days < 0 else "release.waiver-soon"
        lines.append(say(key, gate=one.gate, owner=one.owner, expires=one.expires.isoformat(), days=days))
        bad |= days < 0
    if not lines:
        lines.append(say("release.waivers-fine", count=len(waivers.entries), days=SOON_DAYS))
    return lines, bad
