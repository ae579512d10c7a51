"""The knowledge base: ``knowledge.toml`` as compiled entries."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Severity = Literal["fatal", "warning", "info"]
STAGES = ("load", "export", "ort", "simplify", "env", "atc-args", "atc-parse", "atc-compile", "amct", "om-run")

_FILE = Path(__file__).with_name("knowledge.toml")
# An error number counts only where the text calls it one: "ret=507011", "errorCode is 507011", "ge result[507011]".
_CODE = (
    r"(?i:(?:ret|err|code|result|fail|status)\w{{0,10}})[^\w\n]{{0,6}}(?:(?i:is|code|no)[^\w\n]{{1,4}})?(?P<code>{})\b"
)


@dataclass(frozen=True)
class Entry:
    """One thing that is known.

    Attributes:
        id: e.g. ``P02``.
        stage: one of `STAGES`.
        severity: ``fatal``, ``warning`` (also: not the cause) or ``info``.
        pattern: what it is recognized by, compiled.
        cause, fix: by language, with ``{group}`` places and ``[[optional|else]]`` parts.
        source: where it is known from.
        evidence: ``ran``, ``reg``, ``log``, ``doc`` or ``infer``.
        example: a line it is for.
        only: tried in its own stage only.
        generic: shown only where nothing specific was found.
        yields: not shown beside a fatal error of compiling.
        hides: ids of entries that match the same failure and would mislead.
        topics: further words to find it by, e.g. ``custom-op``.
    """

    id: str
    stage: str
    severity: Severity
    pattern: re.Pattern[str]
    cause: Mapping[str, str]
    fix: Mapping[str, str]
    source: str
    evidence: str
    example: str
    only: bool = False
    generic: bool = False
    yields: bool = False
    hides: tuple[str, ...] = ()
    topics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """Whose errors a range of codes is.

    Attributes:
        pattern: of the whole code.
        cause: by language.
    """

    pattern: re.Pattern[str]
    cause: Mapping[str, str]


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All entries, in the order in which they are tried."""
    return tuple(_entry(item) for item in _read()["entry"])


@functools.cache
def families() -> tuple[Family, ...]:
    """The families of codes; the first that matches holds."""
    return tuple(Family(re.compile(item["code"]), item["cause"]) for item in _read()["family"])


@functools.cache
def _read() -> dict[str, Any]:
    with _FILE.open("rb") as file:
        return tomllib.load(file)


def _padded(pattern: str) -> str:
    """The pattern with any padding allowed between words: shells and loggers align what they print.

    A blank outside of a character class becomes one or more blanks or tabs, ``" ?"`` any number of them.
    """
    parts = re.split(r"(\\.|\[\^?\]?(?:\\.|[^\]\\])*\])", pattern)
    for index in range(0, len(parts), 2):  # between the escapes and classes
        plain = re.sub(r" \?(?!\?)", r"[ \\t]*", parts[index])
        parts[index] = re.sub(r"(?<!\[) (?![\\{*+?])", r"[ \\t]+", plain)
    return "".join(parts)


def _entry(item: Mapping[str, Any]) -> Entry:
    patterns = [_CODE.format("|".join(str(code) for code in item["codes"]))] if "codes" in item else []
    if "signature" in item:
        patterns.append(item["signature"])
    return Entry(
        id=item["id"],
        stage=item["stage"],
        severity=item["severity"],
        pattern=re.compile(_padded("|".join(patterns)), re.MULTILINE),
        cause=item["cause"],
        fix=item["fix"],
        source=item["source"],
        evidence=item["evidence"],
        example=item["example"],
        only=item.get("only", False),
        generic=item.get("generic", False),
        yields=item.get("yields", False),
        hides=tuple(item.get("hides", ())),
        topics=tuple(item.get("topics", ())),
    )
