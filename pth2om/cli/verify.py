"""``pth2om verify statement.json``: whether a statement or a bundle is to be trusted; offline."""

from __future__ import annotations

import argparse
from pathlib import Path

from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("statement", metavar="FILE", type=Path, help=say("signoff.cli-statement").render())
    parser.add_argument("--om", metavar="FILE", type=Path, action="append", help=say("signoff.cli-verify-om").render())
    parser.add_argument("--policy", metavar="FILE", type=Path, help=say("signoff.cli-verify-policy").render())
    parser.add_argument("--key", metavar="PUB", type=Path, help=say("signoff.cli-verify-key").render())


def run(arguments: argparse.Namespace) -> int:
    """Print one line; 1 where it is not to be trusted."""
    from pth2om.errors import SignoffError
    from pth2om.signoff.verification import verify

    try:
        print(verify(arguments.statement, arguments.om or (), arguments.key, arguments.policy).line)
    except SignoffError as error:
        print(say("signoff.not-verified", where=error.where, reason=error.message.render()))
        return 1
    return 0
