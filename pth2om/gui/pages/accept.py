"""Accept: choose specs and what is asked of them; gates arrive while they are measured, then the report."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pth2om.errors import DataError
from pth2om.escaping import shell_line, visible
from pth2om.evidence import GateRecord, from_json
from pth2om.files import is_file
from pth2om.gui import forms, journal, places
from pth2om.gui.desk import Desk, Values
from pth2om.gui.pages import jobs
from pth2om.gui.pages.board import address
from pth2om.harness.selection import keyword
from pth2om.language import language, say
from pth2om.release.waivers import is_waived
from pth2om.report.lines import line_of
from pth2om.spec.tables import Precision

PAGE = "accept"
_MOST_SPECS = 200
_MOST_SPEC_BYTES = 1 << 20
_SHOWN = 14
_MOST_LINE = 1 << 24
_OPTIONS = {
    "soc": "--soc",
    "batch": "--om-batch",
    "subset": "--om-subset",
    "toolchain": "--om-toolchain",
    "cann": "--om-cann",
}
_LIVE: dict[str, Live] = {}
_MOST_LIVE = 32


def routes(desk: Desk) -> list[Route]:
    """The form, its preview, and the run."""

    def form(request: Request, values: Values) -> Response:
        filled = values if values else desk.remembered(PAGE)
        if not forms.last(filled, "soc"):
            filled = {**filled, "soc": ["Ascend310B1"]}
        baselines = sorted(desk.settings.project.glob("reports/baselines/*.json"))
        return desk.page(
            request,
            "accept.html",
            specs=specs(desk.settings.project / "models"),
            tests=any((desk.settings.project / "test_cases").glob("test_*.py")),
            given=filled,
            socs=desk.socs(),
            precisions=get_args(Precision),
            boards=desk.remembered("board").get("board", []),
            baselines=[str(one.relative_to(desk.settings.project)) for one in baselines],
        )

    def preview(_request: Request, values: Values) -> Response:
        return JSONResponse(
            {"line": shell_line(("python", "-m", "pth2om.harness", *line(desk, values))), "problem": ""}
        )

    def run(_request: Request, values: Values) -> Response:
        asked = line(desk, values)
        desk.remember(PAGE, values, ())
        title = ", ".join(values.get("model", ()))
        board = forms.last(values, "board")
        return desk.start(journal.Asked("pytest", asked, PAGE, title, language(), values, board=board), values)

    return [
        desk.route("/accept", form),
        desk.route("/accept", run, "POST"),
        desk.route("/preview/accept", preview, "POST"),
    ]


@dataclass(frozen=True)
class Listed:
    """One spec of the list.

    Attributes:
        name: of its folder.
        title: its own, or the reason why it cannot be read.
        variants: as the spec has them.
    """

    name: str
    title: str
    variants: tuple[str, ...]


def specs(folder: Path) -> list[Listed]:
    """The specs of a folder, by name."""
    found = []
    for file in sorted(folder.glob("*/model.toml"))[:_MOST_SPECS]:
        try:
            if file.stat().st_size > _MOST_SPEC_BYTES:
                continue
            data = tomllib.loads(file.read_text(encoding="utf-8"))
            variants = data.get("variants", ())
            title = str(data.get("title", ""))
        except (OSError, ValueError) as error:
            variants, title = (), visible(str(error), 200)
        words = tuple(one for one in variants if isinstance(one, str)) if isinstance(variants, list) else ()
        found.append(Listed(file.parent.name, title, words))
    return found


def line(desk: Desk, values: Values) -> tuple[str, ...]:
    """The words behind ``python -m pth2om.harness``.

    Raises:
        Mistake: no model is chosen, or a number is none.
        DataError: a path lies outside of the server's folders.
    """
    known = [one.name for one in specs(desk.settings.project / "models")]
    chosen = [name for name in values.get("model", ()) if name in known]
    if not chosen:
        raise forms.Mistake(say("gui.choose-model").render())
    words = ["-k", keyword(chosen, known)] if len(chosen) < len(known) else []
    for name, option in _OPTIONS.items():
        value = forms.last(values, name)
        # pytest takes a word that begins with @ for a file of further words.
        if value.startswith(("-", "@")) or (name == "subset" and value and not value.isdecimal()):
            raise forms.Mistake(say("gui.dash", name=option, text=value).render())
        words += [option, value] if value else []
    precisions = [one for one in values.get("precision", ()) if one in get_args(Precision)]
    words += ["--om-precision", ",".join(precisions)] if precisions else []
    for name, option in (("baseline", "--baseline"), ("waivers", "--om-waivers")):
        text = forms.last(values, name)
        if text:
            places.confined(text, desk.settings)
            words += [f"{option}={text}"]
    board = address(forms.last(values, "board"))
    words += [f"--board={board}"] if board else []
    words += ["--om-remeasure"] if forms.last(values, "remeasure") == forms.ON else []
    words += ["--om-dry-run"] if forms.last(values, "dry_run") == forms.ON else []
    return tuple(words)


# --- while it runs ----------------------------------------------------------------------------------------------------


@dataclass
class Live:
    """What a growing evidence file says so far; each look reads only what is new.

    Attributes:
        file: the evidence.
        place: bytes that were read.
        expected: gates that the plan names.
        gates: how many there are.
        failed: how many of them failed or were not reached.
        last: the latest gates, and every failed one before.
    """

    file: Path
    place: int = 0
    expected: int = 0
    gates: int = 0
    failed: int = 0
    last: list[GateRecord] = field(default_factory=list)

    def look(self) -> None:
        """Read on, whole lines only."""
        with self.file.open("rb") as file:
            file.seek(self.place)
            while (text := file.readline(_MOST_LINE)).endswith(b"\n"):
                self.place += len(text)
                self._take(text)

    def _take(self, text: bytes) -> None:
        try:
            data = json.loads(text)
            if data.get("kind") == "plan":
                self.expected += sum(max(len(item["gates"]), int(bool(item["measures"]))) for item in data["items"])
            elif data.get("kind") == "gate":
                gate = from_json(data)
                assert isinstance(gate, GateRecord)
                self.gates += 1
                self.failed += gate.verdict in ("failed", "not_reached") and not is_waived(gate)
                self.last = [*self.last, gate]
                if len(self.last) > _SHOWN:
                    first_good = next((n for n, one in enumerate(self.last) if one.verdict not in ("failed",)), 0)
                    del self.last[first_good]
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError, DataError):
            return  # a line of another version; the report says what it is


def live(desk: Desk, job: journal.Job) -> Mapping[str, Any]:
    """The gates that a running job has so far."""
    known = _LIVE.get(job.id)
    if known is None:
        folder = run_of(desk, job)
        if folder is None:
            return {}
        while len(_LIVE) >= _MOST_LIVE:
            _LIVE.pop(next(iter(_LIVE)))
        known = _LIVE[job.id] = Live(folder / "evidence.jsonl")
    try:
        known.look()
    except OSError:
        return {}
    return {
        "done": known.gates,
        "expected": max(known.expected, known.gates),
        "failed": known.failed,
        "gates": [
            {"verdict": gate.verdict, "word": desk.name_of("verdict", gate.verdict), "line": line_of(gate)}
            for gate in reversed(known.last)
        ],
    }


def run_of(desk: Desk, job: journal.Job) -> Path | None:
    """The folder of evidence that a job writes: of the runs of its words the first that began while it ran."""
    if job.started is None:
        return None
    command = ["pytest", *job.asked.words]
    found = []
    for file in (desk.settings.project / "reports").glob("*/evidence.jsonl"):
        try:
            if file.stat().st_mtime < job.started - 1 or (job.ended and file.parent.stat().st_ctime < job.started - 1):
                continue
            with file.open("rb") as opened:
                first = json.loads(opened.readline(_MOST_LINE))
            if list(first.get("command", ())) == command and (began := _began(first, job)) is not None:
                found.append((began, file.parent))
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
            continue
    return min(found)[1] if found else None


def _began(first: Mapping[str, Any], job: journal.Job) -> float | None:
    """When a run began, in whole seconds as its evidence has it; None where that was not while the job ran.

    The same words can be typed just before and just after the job.
    """
    from datetime import datetime

    began = datetime.fromisoformat(str(first["started"])).timestamp()
    return began if math.floor(job.started or 0.0) <= began <= (job.ended or math.inf) else None


def shown(desk: Desk, job: journal.Job) -> Mapping[str, Any]:
    """The report of the run."""
    folder = run_of(desk, job) if job.over else None
    page = folder / "index.html" if folder is not None else None
    runs = sorted((file.parent for file in (desk.settings.project / "reports").glob("*/evidence.jsonl")), reverse=True)
    there = page is not None and is_file(page)
    return {"folder": folder, "page": page if there else None, "evidence": "evidence.jsonl", "runs": runs[:50]}


jobs.RESULTS[PAGE] = shown
jobs.LIVE[PAGE] = live
