"""The process of one job: ``python -m pth2om.gui.runner JOURNAL`` runs the verb as the command line does.

The verb runs in this very process, by the program's own entry: there is no second way to start it. Progress is heard
where the terminal's bar hears it.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import sys
import time
from pathlib import Path

from filelock import FileLock

from pth2om import progress
from pth2om.files import write_text

_MODULES = {"pth2om": "pth2om", "pytest": "pth2om.harness"}
_PAUSE = 0.1


class Steps:
    """Writes the steps that are going on, at most ten times a second."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._steps: dict[str, progress.Step] = {}
        self._written = 0.0

    def __call__(self, step: progress.Step) -> None:
        """See `pth2om.progress.Listener`."""
        new = step.title not in self._steps
        if step.ended:
            self._steps.pop(step.title, None)
        else:
            self._steps[step.title] = step
        now = time.monotonic()
        if new or step.ended or now - self._written >= _PAUSE:
            self._written = now
            rows = [[one.title, one.done, one.total] for one in self._steps.values()]
            with contextlib.suppress(OSError):  # a full disk must not end the verb by way of its bar
                write_text(self._file, json.dumps({"steps": rows}))


def main(folder: Path) -> int:
    """Run the job of a journal; its exit status."""
    lock = FileLock(folder / "alive")
    lock.acquire()  # a look of the server holds it for a moment
    asked = json.loads((folder / "job.json").read_bytes())
    write_text(folder / "process.json", json.dumps({"pid": os.getpid(), "started": time.time()}))
    progress.terminal.subscribe(Steps(folder / "progress.json"))
    program = asked["program"]
    sys.argv = [program, *asked["words"]]
    if program == "pytest":
        sys.path.insert(0, "")  # as ``python -m`` of the line that the page shows; ``pth2om`` has it not
    status = 1
    try:
        runpy.run_module(_MODULES[program], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        status = 130
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        write_text(folder / "end.json", json.dumps({"status": status, "ended": time.time()}))
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
