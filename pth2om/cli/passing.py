"""Words of a command line that belong to another program: they are taken away before argparse sees them.

Its flags look like ours to argparse, and people forget the ``--`` in front of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from typing import Any

Split = Callable[[list[str]], tuple[list[str], list[str]]]
"""Our words, and those of the other program."""


def pass_on(
    parser: argparse.ArgumentParser, split: Split, store: Callable[[argparse.Namespace, list[str]], None]
) -> None:
    """Let a verb's parser see its own words only.

    Args:
        parser: of the verb.
        split: divides the words.
        store: puts the other program's words into what was parsed.
    """
    plain = parser.parse_known_args

    def parse(
        args: Sequence[str] | None = None,
        namespace: Any = None,  # noqa: ANN401 - argparse's own signature
    ) -> tuple[Any, list[str]]:
        own, passed = split(list(args or ()))
        found, extra = plain(own, namespace)
        store(found, passed)
        return found, extra

    setattr(parser, "parse_known_args", parse)  # noqa: B010 - a method of this one parser


def as_arguments(found: argparse.Namespace, passed: list[str]) -> None:
    """Store the words under ``arguments``."""
    found.arguments = passed


def after_own(switches: Collection[str], valued: Collection[str] = ()) -> Split:
    """Everything behind our options at the beginning; the first ``--`` between the two is taken away.

    Args:
        switches: our options without a value.
        valued: our options with one, behind ``=`` or as the next word.
    """

    def split(words: list[str]) -> tuple[list[str], list[str]]:
        own: list[str] = []
        while words:
            if words[0] == "--":
                return own, words[1:]
            if words[0] in switches or words[0].partition("=")[0] in valued:
                count = 2 if words[0] in valued else 1
                own, words = [*own, *words[:count]], words[count:]
            else:
                break
        return own, words

    return split
