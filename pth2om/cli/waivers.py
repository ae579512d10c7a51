"""``pth2om waivers``: what has lapsed, and what lapses within 14 days."""

from __future__ import annotations

import argparse
from pathlib import Path

from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "file",
        metavar="FILE",
        type=Path,
        nargs="?",
        default=Path("waivers.toml"),
        help=say("release.cli-file").render(),
    )


def run(arguments: argparse.Namespace) -> int:
    """Print them; 1 where one has lapsed or cannot be read."""
    from pth2om.errors import DataError
    from pth2om.release.waivers import listed, read

    if not arguments.file.is_file():
        raise DataError("release.no-waivers", where=str(arguments.file))
    lines, bad = listed(read(arguments.file))
    for line in lines:
        print(line.with_fix())
    return int(bad)
