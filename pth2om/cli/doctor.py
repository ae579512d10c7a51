"""``pth2om doctor [--board ssh://...]``: what a machine is, and what stands in the way of running models on it."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pth2om.errors import StoreError
from pth2om.escaping import json_text, visible_lines
from pth2om.language import say

if TYPE_CHECKING:
    from pth2om.toolchain.cann.diagnosis import Diagnosis


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
        print(json_text([entry.to_json() for entry in found], indent=1))
    else:
        print(visible_lines("\n\n".join("\n".join(entry.lines()) for entry in found)))
        if arguments.bundle:
            print(say("doctor.bundle", path=arguments.bundle))
    status = max(entry.status for entry in found)
    return max(status, _selftest(found)) if arguments.selftest else status


def _selftest(found: Sequence[Diagnosis]) -> int:
    from pth2om.progress import terminal
    from pth2om.toolchain.cann import selftest

    status = 0
    for entry in found:
        steps = itertools.count(1)
        with terminal.counted(say("doctor.trial-title").render(), None) as seen:
            trials = selftest.selftest(entry.place, lambda _, steps=steps, seen=seen: seen(next(steps)))  # type: ignore[misc]  # a lambda with bound defaults
        print(visible_lines(f"\n{selftest.table(trials, entry.facts)}"))
        status = max(status, selftest.status(trials))
    print(say("doctor.trial-send"))
    return status
