"""``pth2om atc [--cann 7.0|8.0|9.x] -- ATC ARGUMENTS``: prints what atc would print, without CANN."""

from __future__ import annotations

import argparse
import sys

from pth2om.cli.passing import after_own, as_arguments, pass_on
from pth2om.cli.target import add_cann
from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """The options before ``--``; everything else belongs to atc and is passed on as it stands."""
    parser.usage = "pth2om atc [-h] [--cann 7.0|8.0|9.x] -- ATC_ARGUMENTS"
    add_cann(parser)
    parser.add_argument("arguments", nargs="*", metavar="ATC_ARGUMENTS", help=say("atc.help-arguments").render())
    pass_on(parser, after_own(("-h", "--help"), ("--cann",)), as_arguments)


def run(arguments: argparse.Namespace) -> int:
    """Print what atc would print; its exit status."""
    from pth2om.toolchain.emulator.front_end.run import run_atc

    if not arguments.arguments:
        print(say("atc.nothing-given"), file=sys.stderr)
        return 2
    return run_atc(arguments.arguments, cann=arguments.cann, stdout=sys.stdout, stderr=sys.stderr).status
