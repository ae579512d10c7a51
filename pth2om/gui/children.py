"""Short questions to the command line: a verb in a child process with a time limit, its output kept.

The server stays small and cannot be harmed by a file: whatever opens one runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pth2om.errors import DataError
from pth2om.escaping import visible
from pth2om.gui.settings import Settings
from pth2om.language import language

SECONDS = 120.0
ISOLATED = ("-P",)
"""Options of a child's Python: a ``json.py`` in the project is not what ``import json`` finds, as with ``pth2om``."""
_MOST_BYTES = 16 << 20
_KEPT = 64


@dataclass(frozen=True)
class Answer:
    """What a verb printed.

    Attributes:
        status: exit status.
        out: standard output.
        err: standard error.
    """

    status: int
    out: str
    err: str


class Asker:
    """Asks verbs, one question of a kind at a time for each page, and keeps what it was told about unchanged files."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: OrderedDict[tuple[object, ...], Answer] = OrderedDict()
        self._asking: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    def ask(self, words: Sequence[str], place: str = "") -> Answer:
        """Run ``pth2om WORDS`` in the project's folder.

        Args:
            words: behind the program.
            place: of the page that asks; an older question of the same place is given up.

        Raises:
            DataError: it took too long, or a newer question took its place.
        """
        environment = {**os.environ, "PTH2OM_LANG": language(), "PYTHONIOENCODING": "utf-8"}
        with subprocess.Popen(
            [sys.executable, *ISOLATED, "-m", "pth2om", *words],
            cwd=self._settings.project,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        ) as child:
            if place:
                with self._lock:
                    before = self._asking.pop(place, None)
                    self._asking[place] = child
                if before is not None:
                    before.kill()
            try:
                out, err = child.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                raise DataError("gui.too-slow", seconds=int(SECONDS)) from None
            finally:
                with self._lock:
                    if place and self._asking.get(place) is child:
                        del self._asking[place]
        if child.returncode < 0 and place:
            raise DataError("gui.superseded")
        texts = [data[:_MOST_BYTES].decode("utf-8", "replace") for data in (out, err)]
        return Answer(child.returncode, *texts)

    def about(self, file: Path, words: Sequence[str]) -> Answer:
        """As `ask` about one file; while the file is what it was, what was answered is kept.

        Raises:
            DataError: it took too long, or the file is not there.
        """
        try:
            status = file.stat()
        except OSError as error:
            raise DataError("gui.unreadable", where=str(file), reason=error.strerror or str(error)) from None
        key = (file, status.st_mtime_ns, status.st_size, language(), *words)
        with self._lock:
            known = self._known.get(key)
        if known is not None:
            return known
        answer = self.ask(words)
        with self._lock:
            self._known[key] = answer
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return answer

    def look(self, file: Path) -> dict[str, Any]:
        """What a file is: the JSON of ``pth2om inspect``; with ``problem`` alone where it cannot be used."""
        answer = self.about(file, ("inspect", "--json", str(file)))
        try:
            data = json.loads(answer.out)
        except ValueError:
            data = None
        if not isinstance(data, dict):
            reason = (answer.err or answer.out).strip()[-2000:]
            return {"family": "other", "said": [], "doors": [], "inputs": [], "classes": None, "foreign": "",
                    "problem": reason or "-"}  # fmt: skip
        # Names of classes are asked about in words, so they are shown as they are.
        return {"classes": None, "problem": None, **data, "foreign": visible(str(data.get("foreign") or ""))}
