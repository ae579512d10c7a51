"""``pth2om signoff RUN --policy release.toml --key KEY -o statement.json``: sign a release, or draft it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pth2om.escaping import visible
from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, nargs="?", help=say("signoff.cli-run").render())
    parser.add_argument(
        "--policy", metavar="FILE", type=Path, default=Path("release.toml"), help=say("signoff.cli-policy").render()
    )
    parser.add_argument("--key", metavar="FILE", type=Path, help=say("signoff.cli-key").render())
    parser.add_argument("--om", metavar="FILE", type=Path, action="append", help=say("signoff.cli-om").render())
    parser.add_argument(
        "--models", metavar="FOLDER", type=Path, default=Path("models"), help=say("signoff.cli-models").render()
    )
    parser.add_argument("--draft", action="store_true", help=say("signoff.cli-draft").render())
    parser.add_argument("--new-key", metavar="FILE", type=Path, help=say("signoff.cli-new-key").render())
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help=say("signoff.cli-output").render())


def run(arguments: argparse.Namespace) -> int:
    """Sign and print what was signed, or why not; 1 where it was refused."""
    from pth2om.signoff import keys
    from pth2om.signoff.signing import signoff

    if arguments.new_key is not None:
        private, public = keys.new(arguments.new_key)
        made = keys.public(public).short
        print(say("signoff.key-made", private=str(private), public=str(public), by=made))
        return 0
    if arguments.run is None:
        print(say("signoff.usage"), file=sys.stderr)
        return 2
    done = signoff(
        arguments.run,
        arguments.policy,
        arguments.output,
        arguments.key,
        om_files=arguments.om or (),
        models=arguments.models,
        draft=arguments.draft,
    )
    for line in done.lines:
        print(visible(line))
    return 0 if done.path is not None else 1
