"""``pth2om doctor [--board ssh://...]``: what a machine is, and what stands in the way of running models on it."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pth2om.errors import StoreError
from pth2om.escaping import json_text, visible_lines
from pth2om.language import say

if TYPE_CHECKING:
    from pth2om.toolchain.cann.diagnosis import Diagnosis
    from pth2om.toolchain.cann.selftest import Trial


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("--board", action="append", default=[], metavar="URL", help=say("doctor.cli-board").render())
    parser.add_argument("--json", action="store_true", help=say("doctor.cli-json").render())
    parser.add_argument("--selftest", action="store_true", help=say("doctor.cli-selftest").render())
    parser.add_argument("--bundle", metavar="FILE", help=say("doctor.cli-bundle").render())


def run(arguments: argparse.Namespace) -> int:
    """Examine; 1 where something is wrong, and where no device was found."""
    from pth2om.toolchain.cann import diagnosis

    found = diagnosis.examine(arguments.board)
    if arguments.bundle:
        path = Path(arguments.bundle)
        try:
            diagnosis.bundle(path, found)
        except OSError as error:
            raise StoreError("doctor.unwritable", where=str(path), reason=error.strerror or str(error)) from None
    if arguments.json:
        tried = [_tried(entry) if arguments.selftest else [] for entry in found]
        rows = [
            entry.to_json() | ({"selftest": [asdict(each) for each in trials]} if arguments.selftest else {})
            for entry, trials in zip(found, tried, strict=True)
        ]
        print(json_text(rows, indent=1))
    else:
        print(visible_lines("\n\n".join("\n".join(entry.lines()) for entry in found)))
        if arguments.bundle:
            print(say("doctor.bundle", path=arguments.bundle))
        tried = [_printed(entry) if arguments.selftest else [] for entry in found]
        if any(tried):
            print(say("doctor.trial-send"))
    worst = max(entry.status for entry in found)
    if not arguments.selftest:
        return worst
    from pth2om.toolchain.cann.selftest import status

    return max(worst, *map(status, tried))


def _tried(entry: Diagnosis) -> list[Trial]:
    """The self-test of a machine; nothing of one that did not answer."""
    from pth2om.progress import terminal
    from pth2om.toolchain.cann import selftest

    if not entry.facts:
        return []
    steps = itertools.count(1)
    with terminal.counted(say("doctor.trial-title").render(), None) as seen:
        return selftest.selftest(entry.place, lambda _: seen(next(steps)))


def _printed(entry: Diagnosis) -> list[Trial]:
    from pth2om.toolchain.cann import selftest

    trials = _tried(entry)
    if trials:
        print(visible_lines(f"\n{selftest.table(trials, entry.facts)}"))
    return trials
