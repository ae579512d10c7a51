"""Finds the known errors in a log."""

from __future__ import annotations

import bisect
import re
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pth2om.explain.knowledge import Entry, Severity, entries, families
from pth2om.language import Language, language, say

MOST_CHARACTERS = 2**19
"""Of a longer log the first and the last half of this many characters are read: heads and tails hold the causes."""
_LONGEST_LINE = 4000
_MOST_MATCHES = 40  # of one entry

_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)|[@-Z\\-_])")
_CODED = re.compile(
    r"(?:(?P<title>[A-Z][A-Za-z]{1,40}(?:_[A-Za-z]{1,40}){0,12})\()?"
    r"(?<![A-Z0-9_])(?P<code>[EW][A-Z0-9]\d{4})\b(?:\)?:|\)|(?=  ?\S))"
    r" ?(?:\[PID: ?\d{1,10}\] ?(?P<time>[\d\-:.]{8,40}) ?)?(?P<text>[^\n]{0,1000})"
)
_MARKDOWN = re.compile(r"\\([_\[\]])")  # logs are pasted out of Markdown pages, with their escapes
_BEFORE = re.compile(r"\[PID: ?\d{1,10}\] ?(?P<time>[\d\-:.]{8,40})\s{1,4}$")
_RUN = re.compile(r"(?:\{\w+\})+")
_EMPTY = re.compile(r"\s?[(（][^()（）]*…[^()（）]*[)）]")
_OPTIONAL = re.compile(r"\[\[([^|\]]*)(?:\|([^\]]*))?\]\]")
_TAIL = re.compile(r"\s*\[(?:FUNC|FILE|LINE|THREAD)[:\w./ -]*\].*$")
_HEAD = re.compile(
    r"^\s*(?:CANN error:?\s*)?(?:.*?(?<![A-Z0-9])[EW][A-Z0-9]\d{4}\b[:)]*)?\s*"
    r"(?:\[PID: ?\d{1,10}\]\s*[\d\-:.]{8,40}\s*)?(?:\[\w{1,40}\]\s?)*"
)
# Lines of a block that name a step and no reason, or the missing device of a compile host.
_EMPTY_WORDS = re.compile(
    r"Inner Error!?$|Trace[Bb]ack|Solution|Possible [Cc]ause|\W*$|ATC (?:run|start)|Please check|\.{3}$|"
    r"Call \w+ for node|\S+ fail(?:ed)?\.?$|.*context pointer null|"
    r"(?:Verifying|process pass|Build|Generate|Optimize|Run|Parse|Execute|launch)\b[^=]*\bfail(?:ed)?\b(?!.*reason)"
)
_BLOCK = 12  # lines of an error's block that are looked through, up and down
_RANK = {"fatal": 0, "warning": 1, "info": 2}
_INNER = ("9999", "8888")


@dataclass(frozen=True)
class CodedLine:
    """An error line of CANN, of any of its three generations.

    ``E16005: text`` (CANN 7), ``E20001: [PID: 1] time text`` (8), ``[PID: 1] time Title(EL0004): text`` (9).

    Attributes:
        code: e.g. ``E16005``.
        text: what follows it.
        title: English title, since CANN 9.
        time: as printed, since CANN 8.
        line: number from 1.
    """

    code: str
    text: str
    title: str | None
    time: str | None
    line: int

    @property
    def inner(self) -> bool:
        """A carrier code such as E19999, whose own text has no information."""
        return self.code.endswith(_INNER)


@dataclass(frozen=True)
class Explanation:
    """What is known about one place of a log.

    Attributes:
        id: of the entry, or the code itself where only its family is known.
        stage: of the entry; empty for a family.
        severity: ``fatal``, ``warning`` or ``info``.
        line: number of the line it was found on, from 1.
        text: that line.
        groups: what the signature took out of it.
        causes, fixes: by language, filled in.
        source: where it is known from.
        evidence: how well; see `Entry`.
        topics: e.g. ``custom-op``.
    """

    id: str
    stage: str
    severity: Severity
    line: int
    text: str
    groups: Mapping[str, str] = field(default_factory=dict)
    causes: Mapping[str, str] = field(default_factory=dict)
    fixes: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    evidence: str = ""
    topics: tuple[str, ...] = ()

    def cause(self, to: Language | None = None) -> str:
        """Why; in language ``to`` (default: the reader's)."""
        return self.causes[to or language()]

    def fix(self, to: Language | None = None) -> str:
        """What to do; in language ``to`` (default: the reader's)."""
        return self.fixes[to or language()]

    def to_json(self) -> dict[str, Any]:
        """As JSON values, in both languages."""
        return {
            "id": self.id,
            "stage": self.stage,
            "severity": self.severity,
            "line": self.line,
            "text": self.text,
            "groups": dict(self.groups),
            "cause": dict(self.causes),
            "fix": dict(self.fixes),
            "source": self.source,
            "evidence": self.evidence,
            "topics": list(self.topics),
        }


def explain(text: str, stage: str | None = None) -> list[Explanation]:
    """What is known about the errors in a log or message.

    Entries are tried in their order; a line belongs to the first that matches on it, and an entry may hide others that
    match the same failure. Generic entries come in only where nothing specific was found; a coded error without an
    entry gets at least its family.

    Args:
        text: of any length; see `MOST_CHARACTERS`.
        stage: where it comes from (one of `knowledge.STAGES`, or ``atc`` for all of atc's), which lets in the entries
            that only make sense there.

    Returns:
        Fatal ones first, then in the order of the text; empty when nothing is known.
    """
    log = _Log(text)
    found: list[Explanation] = []
    hidden: set[str] = set()
    claimed: set[int] = set()
    for entry in entries():
        if entry.id in hidden or (entry.only and not _belongs(entry.stage, stage)):
            continue
        if entry.generic and any(item.severity == "fatal" for item in found):
            continue
        first = True
        for match in log.matches(entry.pattern):
            lines = log.lines_of(match)
            if lines[0] in claimed:
                continue
            claimed.update(lines)
            hidden.update(entry.hides)
            if first:
                found.append(_explanation(entry, match, lines[0], log))
                first = False
    if any(item.severity == "fatal" and item.stage.startswith("atc-") for item in found):
        hidden.update(entry.id for entry in entries() if entry.yields)
    found = [item for item in found if item.id not in hidden]
    found += _families(log, claimed, {item.groups.get("code", "") for item in found}, specific=bool(found))
    return sorted(found, key=lambda item: (_RANK[item.severity], item.line))


def explain_error(error: BaseException, stage: str | None = None) -> list[Explanation]:
    """What is known about an exception and those it was raised from.

    Args:
        error: of whatever library.
        stage: where it was raised.
    """
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        parts.append("".join(traceback.format_exception_only(type(current), current)))
        current = current.__cause__ or current.__context__
    return explain("\n".join(parts), stage)


def coded_lines(text: str) -> list[CodedLine]:
    """Every line of CANN's with an error or warning code, of all three generations."""
    return _Log(text).coded()


class _Log:
    """A text made ready for searching, with its line numbers."""

    def __init__(self, text: str) -> None:
        plain = _MARKDOWN.sub(r"\1", _ANSI.sub("", _shortened(text)))
        lines = plain.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        half = _LONGEST_LINE // 2
        self.lines = [line if len(line) <= _LONGEST_LINE else f"{line[:half]} … {line[-half:]}" for line in lines]
        self.text = "\n".join(self.lines)
        self._starts = [0]
        for line in self.lines:
            self._starts.append(self._starts[-1] + len(line) + 1)

    def matches(self, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        for count, match in enumerate(pattern.finditer(self.text)):
            if count >= _MOST_MATCHES:
                return
            yield match

    def line_at(self, place: int) -> int:
        return bisect.bisect_right(self._starts, place)

    def lines_of(self, match: re.Match[str]) -> tuple[int, ...]:
        """The lines a match claims: those it spans, or its first where it reaches far."""
        first, last = self.line_at(match.start()), self.line_at(max(match.start(), match.end() - 1))
        return tuple(range(first, last + 1)) if last - first < 3 else (first,)

    def groups(self, match: re.Match[str]) -> dict[str, str]:
        """What a match took out of the text.

        A line may begin with the bare code and say the rest behind it: the same pattern is tried again up to its end.
        """
        found: dict[str, str] = {}
        end = self._starts[self.line_at(match.start())] - 1
        for each in (match, *match.re.finditer(self.text, match.end(), max(end, match.end()))):
            found = {name: value.strip() for name, value in each.groupdict().items() if value} | found
        return found

    def telling(self, line: int) -> str:
        """The most informative line of an error's block: the first with a reason, above or below ``line``."""
        first = line
        while first > max(1, line - _BLOCK) and self.lines[first - 2].strip():
            first -= 1
        for text in self.lines[first - 1 : line + _BLOCK]:
            plain = _HEAD.sub("", _TAIL.sub("", text), count=1).strip()
            if plain and not _EMPTY_WORDS.match(plain):
                return plain[:300]
            if not text.strip():
                break
        return ""

    def coded(self) -> list[CodedLine]:
        found = []
        for number, line in enumerate(self.lines, 1):
            match = _CODED.search(line)
            if match is None:
                continue
            before = _BEFORE.search(line[: match.start()])
            time = match["time"] or (before["time"] if before else None)
            found.append(CodedLine(match["code"], match["text"].strip(), match["title"], time, number))
        return found


def _shortened(text: str) -> str:
    if len(text) <= MOST_CHARACTERS:
        return text
    half = MOST_CHARACTERS // 2
    return f"{text[:half]}\n{text[-half:]}"


def _belongs(entry_stage: str, stage: str | None) -> bool:
    return stage is not None and (entry_stage == stage or entry_stage.startswith(f"{stage}-"))


def _explanation(entry: Entry, match: re.Match[str], line: int, log: _Log) -> Explanation:
    groups = log.groups(match)
    places = groups
    if any("{said}" in text for text in entry.cause.values()):
        places = groups | {"said": log.telling(line)}
    return Explanation(
        id=entry.id,
        stage=entry.stage,
        severity=entry.severity,
        line=line,
        text=log.lines[line - 1].strip()[:1000],
        groups=groups,
        causes={to: _filled(text, places) for to, text in entry.cause.items()},
        fixes={to: _filled(text, places) for to, text in entry.fix.items()},
        source=entry.source,
        evidence=entry.evidence,
        topics=entry.topics,
    )


def _filled(text: str, groups: Mapping[str, str]) -> str:
    """The sentence with its places filled; adjacent places are alternatives.

    Of ``[[a|b]]`` a is taken where all of its places are known, else b; parentheses with an unknown place are left out.
    """

    def chosen(match: re.Match[str]) -> str:
        runs = _RUN.findall(match[1])
        known = all(any(groups.get(name) for name in re.findall(r"\w+", run)) for run in runs)
        return match[1] if known else match[2] or ""

    def value(match: re.Match[str]) -> str:
        return "".join(groups.get(name, "") for name in re.findall(r"\w+", match.group())) or "…"

    return _EMPTY.sub("", _RUN.sub(value, _OPTIONAL.sub(chosen, text)))


def _families(log: _Log, claimed: set[int], known: set[str], *, specific: bool) -> list[Explanation]:
    """Coded lines that no entry claimed, each code once; inner carriers only where there is nothing else."""
    found: dict[str, Explanation] = {}
    for coded in log.coded():
        if coded.line in claimed or coded.code in found or coded.code in known or (coded.inner and specific):
            continue
        family = next((item for item in families() if item.pattern.fullmatch(coded.code)), None)
        if family is None:
            continue
        texts = {
            to: {
                "cause": say("explain.family", code=coded.code, who=family.cause[to], text=coded.text).render(to),
                "fix": say("explain.family-fix").render(to),
            }
            for to in _LANGUAGES
        }
        found[coded.code] = Explanation(
            id=coded.code,
            stage="",
            severity="warning" if coded.code.startswith("W") else "fatal",
            line=coded.line,
            text=log.lines[coded.line - 1].strip()[:1000],
            groups={"code": coded.code, "message": coded.text},
            causes={to: texts[to]["cause"] for to in _LANGUAGES},
            fixes={to: texts[to]["fix"] for to in _LANGUAGES},
            source="CANN error registries",
            evidence="reg",
        )
    return list(found.values())


_LANGUAGES: tuple[Language, ...] = ("en", "zh")
