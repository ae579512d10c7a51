"""``pth2om report RUN``: a run's evidence as HTML or Markdown."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pth2om.language import language, say


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("source", metavar="RUN", type=Path, help=say("report.cli-source").render())
    parser.add_argument("--lang", choices=("zh", "en"), help=say("report.cli-lang").render())
    parser.add_argument(
        "--format", choices=("html", "markdown"), default="html", help=say("report.cli-format").render()
    )
    parser.add_argument("-o", "--output", metavar="FILE", help=say("report.cli-output").render())


def run(arguments: argparse.Namespace) -> int:
    """Write the report and name the file."""
    from pth2om.report import write_report

    asked = arguments.lang or language()
    written = write_report(arguments.source, arguments.output, arguments.format, asked, sys.stdout)
    if written is not None:
        print(say("report.written", path=str(written)))
    return 0
