"""The knowledge base as a page: ``python -m pth2om.explain.index docs`` writes docs/error-index.md and .zh.md."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pth2om.explain.knowledge import STAGES, Entry, entries, families
from pth2om.language import Language, joined, say

FILES: dict[Language, str] = {"en": "error-index.md", "zh": "error-index.zh.md"}


def page(to: Language) -> str:
    """The index in one language, as Markdown."""
    lines = [f"# {say('explain.index-title').render(to)}", "", say("explain.index-intro").render(to), ""]
    for stage in STAGES:
        lines += [f"## {say(f'explain.stage-{stage}').render(to)}", ""]
        for entry in entries():
            if entry.stage == stage:
                lines += _entry(entry, to)
    lines += [f"## {say('explain.index-families').render(to)}", ""]
    lines += [say("explain.index-families-intro").render(to), "", "| | |", "|---|---|"]
    lines += [f"| `{family.pattern.pattern.replace('|', ' ')}` | {family.cause[to]} |" for family in families()]
    return "\n".join(lines) + "\n"


def write(folder: Path) -> list[Path]:
    """Write both pages into ``folder``."""
    written = []
    for to, name in FILES.items():
        path = folder / name
        path.write_text(page(to), encoding="utf-8", newline="\n")
        written.append(path)
    return written


def _entry(entry: Entry, to: Language) -> list[str]:
    labels = {name: say(f"explain.index-{name}").render(to) for name in ("cause", "fix", "source")}
    example = entry.example.strip().splitlines()
    return [
        f"### {entry.id}",
        "",
        "```",
        *example,
        "```",
        "",
        f"**{labels['cause']}** {_as_markdown(entry.cause[to])}",
        "",
        f"**{labels['fix']}** {_as_markdown(entry.fix[to])}",
        "",
        joined((labels["source"], entry.source), ": ", to),
        "",
    ]


def _as_markdown(text: str) -> str:
    """Places of the sentence as italic names, optional parts as if known; angle brackets are no HTML."""
    text = re.sub(r"\[\[([^|\]]*)(?:\|[^\]]*)?\]\]", r"\1", text)
    return text.replace("<", "&lt;").replace("{", "*").replace("}", "*")


if __name__ == "__main__":
    for made in write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs")):
        print(made)
