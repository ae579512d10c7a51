"""``pth2om explain LOGFILE``: what its errors mean and what to do."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pth2om.errors import DataError
from pth2om.escaping import json_text, visible, visible_lines
from pth2om.language import joined, say

_STAGES = ("load", "export", "ort", "simplify", "env", "atc", "amct", "om-run")


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("file", metavar="LOGFILE", help=say("explain.cli-file").render())
    parser.add_argument("--stage", choices=_STAGES, help=say("explain.cli-stage").render())
    parser.add_argument("--json", action="store_true", help=say("explain.cli-json").render())


def run(arguments: argparse.Namespace) -> int:
    """Explain the log; 1 when nothing is known about it."""
    from pth2om.explain import explain

    found = explain(_read(arguments.file), arguments.stage)
    if arguments.json:
        print(json_text([item.to_json() for item in found], indent=1))
        return int(not found)
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for item in found:
        colour = {"fatal": "red", "warning": "yellow", "info": "cyan"}[item.severity]
        place = say("explain.place", line=item.line).render()
        console.print(Text.assemble((item.id, f"bold {colour}"), f"  {place}  ", (visible(item.text, 300), "dim")))
        console.print(Text(f"  {visible_lines(item.cause())}"))
        console.print(Text(f"  → {visible_lines(item.fix())}"))
        console.print(Text("  " + joined((say("explain.index-source").render(), item.source), ": "), style="dim"))
        console.print()
    if not found:
        print(say("explain.nothing"))
    return int(not found)


def _read(name: str) -> str:
    """The text of a log file, or of the standard input for ``-``; bytes that are no UTF-8 are replaced."""
    from pth2om.explain.matching import MOST_CHARACTERS

    try:
        if name == "-":
            return sys.stdin.buffer.read().decode("utf-8", "replace")
        path = Path(name)
        size = path.stat().st_size
        with path.open("rb") as file:
            # Four bytes a character at most: what explain leaves out of a huge log is not even read.
            if size <= 8 * MOST_CHARACTERS:
                return file.read().decode("utf-8", "replace")
            head = file.read(4 * MOST_CHARACTERS)
            file.seek(size - 4 * MOST_CHARACTERS)
            return (head + b"\n" + file.read()).decode("utf-8", "replace")
    except OSError as error:
        raise DataError("explain.unreadable", where=name, reason=error.strerror or str(error)) from None
