"""Failures on request.

A rule says where (``atc``, ``execute``, ``load_from_file``, ``exit``, ``npu-smi``...), what, and when::

    {"where": "execute", "do": "segfault", "at": 3}          # in the third call of each process
    {"where": "atc", "do": "error", "value": "E10001: ...", "times": 1}   # once, whatever process comes first

Rules come from ``rules.json`` in the folder that ``PTH2OM_DOUBLE_HOME`` names, and from ``PTH2OM_DOUBLE_RULES``, the
same as JSON text. What happens to the process happens here: ``hang`` (until a signal), ``hang-deaf`` (only SIGKILL
ends it), ``oom`` (SIGKILL), ``segfault``, ``abort``, ``bus``, ``sleep`` (``value`` seconds), ``print`` and
``print-stderr`` (``value`` and a line feed), ``exit`` (``value``, at once). Anything else is the caller's business.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

HOME = "PTH2OM_DOUBLE_HOME"
RULES = "PTH2OM_DOUBLE_RULES"
_DEATHS = {"oom": signal.SIGKILL, "segfault": signal.SIGSEGV, "abort": signal.SIGABRT, "bus": signal.SIGBUS}
_passed: Counter[str] = Counter()
_known: dict[Path, tuple[tuple[int, int, int], Any]] = {}
_SETTLED_NS = 100_000_000  # a file may be written twice within one tick of its clock


@dataclass(frozen=True)
class Rule:
    """One failure; see the module."""

    where: str
    do: str
    value: Any = None
    at: int | None = None
    times: int | None = None
    number: int = 0


def home() -> Path | None:
    """The folder of the doubles' machine."""
    named = os.environ.get(HOME)
    return Path(named) if named else None


def rules() -> list[Rule]:
    """Every rule that holds now; the file is read each time, so that a test can change it while a worker lives."""
    rows: list[dict[str, Any]] = json.loads(os.environ.get(RULES) or "[]")
    folder = home()
    if folder is not None:
        rows = [*(read(folder / "rules.json") or []), *rows]
    return [Rule(**row, number=number) for number, row in enumerate(rows)]


def read(path: Path) -> Any:
    """What a JSON file says now, None where there is none; one that has rested for a while is not read again."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    form = (state.st_ino, state.st_mtime_ns, state.st_size)
    known = _known.get(path)
    if known is None or known[0] != form or time.time_ns() - state.st_mtime_ns < _SETTLED_NS:
        known = _known[path] = (form, json.loads(path.read_text()))
    return known[1]


def pass_by(where: str) -> list[Rule]:
    """Count one visit of ``where``, let happen what happens to the process, and return the other rules that apply."""
    _passed[where] += 1
    left = []
    for rule in rules():
        if rule.where != where or rule.at not in (None, _passed[where]) or not _take(rule):
            continue
        if rule.do in _DEATHS:
            die(_DEATHS[rule.do])
        elif rule.do in ("hang", "hang-deaf"):
            _hang(deaf=rule.do == "hang-deaf")
        elif rule.do == "sleep":
            time.sleep(float(rule.value))
        elif rule.do in ("print", "print-stderr"):
            # Past Python's own buffers, as a C library prints.
            os.write(2 if rule.do == "print-stderr" else 1, f"{rule.value}\n".encode("utf-8", "surrogateescape"))
        elif rule.do == "exit":
            sys.stdout.flush()
            os._exit(int(rule.value))
        else:
            left.append(rule)
    return left


def visits(where: str) -> int:
    """How often this process passed there."""
    return _passed[where]


def die(number: int) -> NoReturn:
    """End by a signal, without a core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
    os.kill(os.getpid(), number)
    time.sleep(60)
    raise SystemExit(1)


def _hang(*, deaf: bool) -> NoReturn:
    if deaf:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(3600)


def _take(rule: Rule) -> bool:
    """Whether a rule that holds a number of times, over all processes, holds once more."""
    if rule.times is None:
        return True
    folder = home()
    if folder is None:
        return True
    (folder / "taken").mkdir(exist_ok=True)
    for number in range(rule.times):
        try:
            os.close(os.open(folder / "taken" / f"{rule.number}-{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            continue
        return True
    return False


def journal(text: str) -> None:
    """Note a broken restriction of the vendor, for the test that looks into ``broken.txt``, and on stderr."""
    os.write(2, f"[double] {text}\n".encode())
    folder = home()
    if folder is not None:
        with (folder / "broken.txt").open("a") as file:
            file.write(f"{os.getpid()} {text}\n")
