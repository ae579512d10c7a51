"""``pth2om compare OLD NEW``: what changed between two runs, or since a baseline."""

from __future__ import annotations

import argparse
from pathlib import Path

from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("old", metavar="OLD", type=Path, help=say("release.cli-old").render())
    parser.add_argument("new", metavar="NEW", type=Path, help=say("release.cli-new").render())


def run(arguments: argparse.Namespace) -> int:
    """Print what changed, the worst first."""
    from pth2om.release.comparing import BAD, compare
    from pth2om.release.wording import lines

    gates = compare(arguments.old, arguments.new)
    for line in lines(gates):
        print(line)
    return int(any(gate.verdict in BAD for gate in gates))
