"""``pth2om atc [--cann 7.0|8.0|9.x] -- ATC ARGUMENTS``: prints what atc would print, without CANN."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from pth2om.cli.target import add_cann
from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """The options before ``--``; everything else belongs to atc and is passed on as it stands."""
    parser.usage = "pth2om atc [-h] [--cann 7.0|8.0|9.x] -- ATC_ARGUMENTS"
    add_cann(parser)
    parser.add_argument("arguments", nargs="*", metavar="ATC_ARGUMENTS", help=say("atc.help-arguments").render())
    plain = parser.parse_known_args

    def parse(
        args: Sequence[str] | None = None,
        namespace: Any = None,  # noqa: ANN401 - argparse's own signature
    ) -> tuple[Any, list[str]]:
        # atc's flags look like ours to argparse, and people forget the "--": the split is made here.
        own, atc = _split(list(args or ()))
        found, extra = plain(own, namespace)
        found.arguments = atc
        return found, extra

    setattr(parser, "parse_known_args", parse)  # noqa: B010 - a method of this one parser


def run(arguments: argparse.Namespace) -> int:
    """Print what atc would print; its exit status."""
    from pth2om.toolchain.emulator.front_end.run import run_atc

    if not arguments.arguments:
        print(say("atc.nothing-given"), file=sys.stderr)
        return 2
    return run_atc(arguments.arguments, cann=arguments.cann, stdout=sys.stdout, stderr=sys.stderr).status


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Our own options, and atc's arguments after them; the first ``--`` between the two is taken away."""
    own: list[str] = []
    while words:
        word = words[0]
        if word == "--":
            return own, words[1:]
        if word in ("-h", "--help") or word.startswith("--cann="):
            own.append(words.pop(0))
        elif word == "--cann":
            own += words[:2]
            del words[:2]
        else:
            break
    return own, words
