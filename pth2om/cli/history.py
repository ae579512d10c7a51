"""``pth2om history RUN``: add a run to the history, and draw its models' pages."""

from __future__ import annotations

import argparse
from pathlib import Path

from pth2om.language import say


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("run", metavar="RUN", type=Path, help=say("release.cli-new").render())
    folder = Path("reports/history")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, default=folder, help=say("release.cli-history").render()
    )


def run(arguments: argparse.Namespace) -> int:
    """Add it; name every page that was drawn."""
    from pth2om.release import history, night
    from pth2om.report.trend import draw

    history.append(night.read(arguments.run), arguments.output)
    for line in draw(arguments.output):
        print(line)
    return 0
