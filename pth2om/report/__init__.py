"""Evidence to report: one HTML page, and the tables of a ModelZoo README; pure functions of a run's evidence.

::

    render(Path("reports/20261121-0402"), Path("reports/20261121-0402"))   # index.html, results.md, results.zh.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, TextIO
from urllib.parse import quote

from pth2om.errors import DataError
from pth2om.evidence import Joined, Record
from pth2om.files import write_bytes
from pth2om.language import Language
from pth2om.language import language as readers_language
from pth2om.report.collect import Answer, Card, Report, collect, load

__all__ = ["Answer", "Card", "Report", "collect", "load", "render", "write_report", "write_text"]

_MOST_HISTORIES = 200


def render(
    source: Iterable[Record] | Joined | Path,
    destination: Path,
    language: Language | None = None,
    *,
    log: str | None = None,
) -> Path:
    """Write the report of a run.

    Args:
        source: the run's evidence: its records, what they say together, ``evidence.jsonl``, or the run's folder.
        destination: the folder that gets ``index.html``, ``results.md`` and ``results.zh.md``; or a file ``*.html``
            that gets the page alone.
        language: the language shown first (default: the reader's); the page holds both.
        log: name of the test log beside the page; default ``log.html`` where that exists.

    Returns:
        The page.

    Raises:
        DataError: the evidence is missing, unreadable, empty or damaged, or the report cannot be written.
    """
    from pth2om.report.html import Links, render_html
    from pth2om.report.markdown import render_markdown

    alone = destination.suffix.lower() in (".html", ".htm")
    page = destination if alone else destination / "index.html"
    file = source if isinstance(source, Path) else None
    report = _filled(load(file) if file else collect(source, page.parent), file)  # type: ignore[arg-type]  # one of the two is given
    if log is None:
        log = "log.html" if (page.parent / "log.html").is_file() else ""
    links = Links(
        log=log,
        evidence="evidence.jsonl" if (page.parent / "evidence.jsonl").is_file() else "",
        results_en="" if alone else "results.md",
        results_zh="" if alone else "results.zh.md",
        history=tuple(islice(_histories(report, page.parent.parent / "history"), _MOST_HISTORIES)),
    )
    write_text(page, render_html(report, language or readers_language(), links))
    if not alone:
        write_text(page.parent / "results.md", render_markdown(report, "en"))
        write_text(page.parent / "results.zh.md", render_markdown(report, "zh"))
    return page


def _histories(report: Report, folder: Path) -> Iterator[tuple[str, str]]:
    """Pages of the models' nights beside the run's folder, see `pth2om.report.trend`."""
    if not folder.is_dir():
        return
    pages = {page.name for page in folder.glob("*.html")}
    for model in report.models:
        if f"{model}.html" in pages:
            yield model, f"../{folder.name}/{quote(model)}.html"


def write_report(
    source: Path, output: str | None, form: Literal["html", "markdown"], language: Language, console: TextIO
) -> Path | None:
    """What ``pth2om report`` and the GUI's button do.

    Args:
        source: the run's folder or evidence file.
        output: file to write, ``-`` for `console`, None for the usual name beside the evidence.
        form: what to write.
        language: of Markdown; of a page the one shown first.
        console: gets the report where `output` is ``-``.

    Returns:
        The file, or None where the report went to `console`.

    Raises:
        DataError: as `render`.
    """
    folder = source if source.is_dir() else source.parent
    if form == "html" and output != "-":
        return render(source, Path(output) if output else folder, language)
    from pth2om.report.html import render_html
    from pth2om.report.markdown import render_markdown

    report = _filled(load(source), source)
    text = render_html(report, language) if form == "html" else render_markdown(report, language)
    if output == "-":
        console.write(text)
        return None
    path = Path(output) if output else folder / ("results.zh.md" if language == "zh" else "results.md")
    write_text(path, text)
    return path


def _filled(report: Report, source: Path | None) -> Report:
    if not report.runs and not report.cards:
        file = source / "evidence.jsonl" if source is not None and source.is_dir() else source
        raise DataError("report.empty", where=None if file is None else str(file))
    return report


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all; lone surrogates, which no encoding has, become ``?``.

    Raises:
        DataError: the folder or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, text.encode("utf-8", errors="replace"))
    except OSError as error:
        raise DataError("report.not-writable", where=str(path), reason=error.strerror or str(error)) from None
