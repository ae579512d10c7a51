"""``pth2om ci github``: write a ready pipeline."""

from __future__ import annotations

import argparse
from pathlib import Path

from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    kinds = parser.add_subparsers(dest="kind", metavar="CI", required=True)
    github = kinds.add_parser("github", help=say("ci.help-github").render())
    github.add_argument(
        "--soc", metavar="NAME", action="append", required=True, dest="socs", help=say("ci.help-soc").render()
    )
    github.add_argument("--shards", metavar="N", type=int, help=say("ci.help-shards").render())
    github.add_argument("--install", metavar="WORDS", default="pth2om", help=say("ci.help-install").render())
    github.add_argument(
        "--models", metavar="DIR", type=Path, default=Path("models"), help=say("ci.help-models").render()
    )
    github.add_argument("--force", action="store_true", help=say("ci.help-force").render())
    github.add_argument("-o", "--output", metavar="FILE", help=say("ci.help-output").render())


def run(arguments: argparse.Namespace) -> int:
    """Write it, or print it where the output is ``-``."""
    from pth2om.ci.github import PLACE, Asked, workflow, write

    text = workflow(Asked(arguments.socs, arguments.shards, arguments.install), arguments.models)
    if arguments.output == "-":
        print(text, end="")
        return 0
    path = Path(arguments.output or PLACE)
    written = write(text, path, force=arguments.force)
    print(say("ci.written" if written else "ci.same", path=str(path)).with_fix())
    return 0
