"""``pth2om report RUN``: a run's evidence as HTML or Markdown; ``pth2om report merge RUN...``: several runs as one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pth2om.language import language, say

_MERGE = "merge"


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.usage = (
        "%(prog)s [--lang {zh,en}] [--format {html,markdown}] [-o FILE] RUN\n       %(prog)s merge [-o DIR] RUN..."
    )
    parser.add_argument("source", metavar="RUN", nargs="+", help=say("report.cli-source").render())
    parser.add_argument("--lang", choices=("zh", "en"), help=say("report.cli-lang").render())
    parser.add_argument(
        "--format", choices=("html", "markdown"), default="html", help=say("report.cli-format").render()
    )
    parser.add_argument("-o", "--output", metavar="FILE", help=say("report.cli-output").render())


def run(arguments: argparse.Namespace) -> int:
    """Write the report and name the file; of merged runs print also what is missing."""
    first, *others = arguments.source
    if first == _MERGE and others:
        return _merge([Path(one) for one in others], arguments.output)
    from pth2om.errors import DataError
    from pth2om.report import write_report

    if first == _MERGE and not Path(first).exists():
        raise DataError("report.merge-of-nothing")
    if others:
        raise DataError("report.one-run", where=others[0])
    asked = arguments.lang or language()
    written = write_report(Path(first), arguments.output, arguments.format, asked, sys.stdout)
    if written is not None:
        print(say("report.written", path=str(written)))
    return 0


def _merge(runs: list[Path], output: str | None) -> int:
    import atexit
    import gc

    from pth2om.evidence import uncollected

    # Looking for circles among the records of a whole night would take a tenth of the time, once more at the end.
    atexit.register(gc.freeze)
    with uncollected():
        return _merged(runs, output)


def _merged(runs: list[Path], output: str | None) -> int:
    from pth2om.report import github
    from pth2om.report.merging import merge_runs, told

    folder, merged = merge_runs(runs, Path(output) if output else None)
    lines, because = told(merged)
    for line in (*lines, *because):
        print(line.with_fix())
    print(say("report.written", path=str(folder / "index.html")))
    github.tell(folder, [*merged.joined.gates, *merged.joined.coverage.unreached], Path("models"), print)
    return int(bool(because))
