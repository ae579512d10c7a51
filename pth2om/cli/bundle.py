"""``pth2om bundle RUN -o release.zip``: the statement with the evidence, its report, specs and commands in one file."""

from __future__ import annotations

import argparse
from pathlib import Path

from pth2om.language import joined, say


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help=say("signoff.cli-run").render())
    parser.add_argument("--statement", metavar="FILE", type=Path, help=say("signoff.cli-bundle-statement").render())
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        default=Path("release.zip"),
        help=say("signoff.cli-bundle-output").render(),
    )


def run(arguments: argparse.Namespace) -> int:
    """Write it and print its name."""
    from pth2om.signoff.bundling import bundle
    from pth2om.signoff.statement import DRAFT

    made = bundle(arguments.run, arguments.output, arguments.statement)
    line = say("signoff.bundled", path=str(made.path), count=len(made.names)).render()
    print(joined((DRAFT if made.draft else "", line), ": "))
    return 0
