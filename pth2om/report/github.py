"""Inside GitHub Actions: a run's step summary, and annotations at the specs of the models that it is about.

Both are written where the environment says that the run is a step of a workflow. GitHub reads annotations from what a
step prints, one command a line, so text is escaped as its runner unescapes it and cannot become a command of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pth2om.escaping import visible, visible_lines
from pth2om.evidence import GateRecord
from pth2om.language import language, say
from pth2om.release.waivers import is_waived
from pth2om.report.lines import line_of

MOST_SUMMARY = 1_000_000
"""Bytes of a step's summary; GitHub takes 1 MiB and shows nothing of a longer one."""
MOST_SHOWN = 10
"""Annotations of one level that GitHub shows of a step."""
_MOST_LINES = 8
_LONGEST = 3000
_LEVELS = ("error", "warning", "notice")


def is_inside(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a step of a workflow."""
    return environment.get("GITHUB_ACTIONS") == "true"


def tell(
    folder: Path,
    gates: Iterable[GateRecord],
    models: Path,
    line: Callable[[str], object],
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Add a run's results to the step's summary, and print its annotations; outside of GitHub nothing.

    A summary that cannot be written is reported, and changes no exit status.

    Args:
        folder: of the run, with its ``results.md``.
        gates: of the run, those that were not reached too.
        models: the folder of the specs.
        line: prints a line.
        environment: of the process.
    """
    if not is_inside(environment):
        return
    for one in commands(gates, models, environment.get("GITHUB_WORKSPACE", "")):
        line(one)
    target = environment.get("GITHUB_STEP_SUMMARY")
    if not target:
        return
    try:
        _append(Path(target), folder / ("results.zh.md" if language() == "zh" else "results.md"))
    except OSError as error:
        line(say("report.summary-unwritten", path=visible(target), reason=error.strerror or str(error)).render())


def commands(gates: Iterable[GateRecord], models: Path, workspace: str = "") -> list[str]:
    """Workflow commands: one a model, variant and question, the worst level first.

    Failed and not reached gates are errors, inconclusive ones warnings, waived ones notices.

    Args:
        gates: of a run.
        models: the folder of the specs.
        workspace: what paths are shown relative to; the current folder where it is empty.
    """
    groups: dict[tuple[str, str, str, str], list[GateRecord]] = {}
    for gate in gates:
        level = _level(gate)
        if level is not None:
            groups.setdefault((level, gate.model, gate.variant, gate.question), []).append(gate)
    found = []
    for level in _LEVELS:
        of_level = [(name, group) for name, group in groups.items() if name[0] == level]
        shown = of_level if len(of_level) <= MOST_SHOWN else of_level[: MOST_SHOWN - 1]
        for (_, model, variant, question), group in shown:
            title = f"{model}-{variant} {question}" if variant else f"{model} {question}"
            lines = [line_of(gate, "") for gate in group[:_MOST_LINES]]
            if len(group) > _MOST_LINES:
                lines.append(say("report.more-in-evidence", count=len(group) - _MOST_LINES).render())
            found.append(_command(level, _file(models, model, workspace), title, "\n".join(lines)))
        if len(shown) < len(of_level):
            more = say("report.more-in-evidence", count=len(of_level) - len(shown)).render()
            found.append(_command(level, "", "pth2om", more))
    return found


def _level(gate: GateRecord) -> str | None:
    if is_waived(gate):
        return "notice"
    return {"failed": "error", "not_reached": "error", "inconclusive": "warning"}.get(gate.verdict)


def _command(level: str, file: str, title: str, text: str) -> str:
    """One annotation. The runner unescapes percent signs last, so they are escaped first."""
    place = f"file={_property(file)},line=1," if file else ""
    return f"::{level} {place}title={_property(visible(title, 200))}::{_data(visible_lines(text)[:_LONGEST])}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _file(models: Path, model: str, workspace: str) -> str:
    """The spec, relative to the workspace; empty where there is none, or the name leads elsewhere."""
    try:
        path = (models / model / "model.toml").resolve()
        if not path.is_file() or path.parent.parent != models.resolve():
            return ""
        return path.relative_to(Path(workspace or ".").resolve()).as_posix()
    except (OSError, ValueError):
        return ""


def _append(target: Path, results: Path) -> None:
    """Add Markdown to the step's summary, cut at the end of a line where it would be too long.

    Raises:
        OSError: one of the files cannot be read or written.
    """
    text = results.read_bytes() + b"\n"
    room = MOST_SUMMARY - (target.stat().st_size if target.exists() else 0)
    if len(text) > room:
        rest = f"\n\n{say('report.summary-cut').render()}\n".encode()
        text = text[: max(0, room - len(rest))].rpartition(b"\n")[0] + rest
        if len(text) > room:
            return
    with target.open("ab") as file:
        file.write(text)
