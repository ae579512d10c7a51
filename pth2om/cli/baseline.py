"""``pth2om baseline update RUN... -o FILE``: make a baseline of accepted runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    update = actions.add_parser("update", help=say("release.cli-update").render())
    update.add_argument("runs", metavar="RUN", type=Path, nargs="+", help=say("release.cli-runs").render())
    update.add_argument(
        "-o", "--output", metavar="FILE", type=Path, required=True, help=say("release.cli-output").render()
    )


def run(arguments: argparse.Namespace) -> int:
    """Write it, and print what its figures need."""
    from pth2om.release.comparing import update
    from pth2om.release.needs import needs

    made = update(arguments.runs, arguments.output)
    print(say("release.written", path=str(arguments.output), count=len(made.entries), runs=len(made.runs)))
    for line in needs(made):
        print(line)
    return 0
