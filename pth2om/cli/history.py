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
    from pth2om.report import write_text
    from pth2om.report.trend import page

    history.append(night.read(arguments.run), arguments.output)
    for file in history.files(arguments.output):
        points, skipped = history.read(file)
        for one in skipped:
            print(one)
        write_text(file.with_suffix(".html"), page(file.stem, points, skipped))
        print(file.with_suffix(".html"))
    return 0
