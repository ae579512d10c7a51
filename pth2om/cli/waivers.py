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
        help=say("release.cli-file").render(),
    )


def run(arguments: argparse.Namespace) -> int:
    """Print them; 1 where one has lapsed or cannot be read."""
    from pth2om.errors import DataError
    from pth2om.release.waivers import NAME, listed, read

    file = arguments.file or Path(NAME)
    if arguments.file is not None and not file.is_file():
        raise DataError("release.no-waivers", where=str(file))
    lines, bad = listed(read(file))
    for line in lines:
        print(line.with_fix())
    return int(bad)
