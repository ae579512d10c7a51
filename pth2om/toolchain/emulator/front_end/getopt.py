"""An argument list cut into options as GNU ``getopt_long`` does, and what ATC does to the words before.

Rules of ``getopt_long`` (glibc manual, "Parsing Long Options with getopt_long"): words that are no options are passed
over and come last; a long name may be shortened as long as it stays unique; a required argument is the rest behind
``=``, or the next word whatever it is; an optional one only what is behind ``=``. ``--`` ends the options.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Problem = Literal["unknown", "missing"]

_SINGLE = re.compile(r"-(?=[A-Za-z]{2})")
_LONG = re.compile(r"--(?=[A-Za-z]{2})")


@dataclass(frozen=True)
class Option:
    """One option of a command line.

    Attributes:
        name: in full; as it was written where `problem` is set.
        value: its argument; empty where it has none.
        problem: ``unknown`` (also: short for several, or an argument that it does not take), ``missing``: its argument.
        word: the last word that was read for it.
    """

    name: str
    value: str = ""
    problem: Problem | None = None
    word: str = ""


@dataclass
class Reader:
    """Reads the options of an argument list; `rest` is complete when they are read.

    Attributes:
        words: without the program.
        long: long names, and whether an argument is required (else it is optional).
        short: letters of short options, which take no argument.
        rest: the words that are no options, in order.
    """

    words: Sequence[str]
    long: Mapping[str, bool]
    short: str = ""

    def __post_init__(self) -> None:
        self.rest: list[str] = []

    def __iter__(self) -> Iterator[Option]:
        """The options in order, the wrong ones too."""
        words = iter(self.words)
        for word in words:
            if word == "--":
                self.rest.extend(words)
            elif word.startswith("--"):
                yield self._long(word, words)
            elif word.startswith("-") and len(word) > 1:
                for letter in word[1:]:
                    known = letter in self.short and letter not in ":;"
                    yield Option(letter, "", None if known else "unknown", word)
            else:
                self.rest.append(word)

    def _long(self, word: str, words: Iterator[str]) -> Option:
        written, equals, value = word[2:].partition("=")
        name = self._full(written)
        if name is None:
            return Option(written, value, "unknown", word)
        if self.long[name] and not equals:
            following = next(words, None)
            return Option(name, "", "missing", word) if following is None else Option(name, following, None, following)
        return Option(name, value, None, word)

    def _full(self, written: str) -> str | None:
        if written in self.long:
            return written
        matching = [name for name in self.long if name.startswith(written)]
        return matching[0] if len(matching) == 1 else None


def formatted(word: str) -> str:
    """A word as ATC hands it on: ``-name`` is ``--name``, and a hyphen behind its fourth character an underscore.

    That holds for every word, also for one that is the argument of the option before it.
    """
    if _SINGLE.match(word):
        word = f"-{word}"
    if not _LONG.match(word):
        return word
    head, equals, value = word.partition("=")
    return head[:4] + head[4:].replace("-", "_") + equals + value
