"""What only a real board can confirm, and the table of it: ``python -m pth2om.toolchain.cann.assumptions docs``.

The doubles of the tests behave as the table says; the self-test of the doctor tries each entry on a board.
"""

from __future__ import annotations

import functools
import sys
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from pth2om.language import Language, say

FILES: dict[Language, str] = {"en": "board.md", "zh": "board.zh.md"}
AREAS = {
    "C": "compile",
    "R": "run",
    "G": "gears",
    "N": "numbers",
    "T": "times",
    "M": "machine",
    "L": "link",
    "X": "tools",
}
"""First letter of an id -> what the table calls that area."""

SOURCES = ("doc", "code", "log", "infer")
BEGIN, END = "<!-- assumptions begin -->", "<!-- assumptions end -->"


@dataclass(frozen=True)
class Assumption:
    """One thing that has not been tried on silicon.

    Attributes:
        id: ``R4``; stays the same in all releases.
        source: one of `SOURCES`.
        text: the sentence, by language.
        by_hand: where no program on a board decides it: why, and how a person does; by language.
    """

    id: str
    source: str
    text: dict[Language, str]
    by_hand: dict[Language, str]


@functools.cache
def assumptions() -> tuple[Assumption, ...]:
    """All of them, in the table's order."""
    text = resources.files(__package__).joinpath("assumptions.toml").read_text(encoding="utf-8")
    rows = tomllib.loads(text)["assumption"]
    return tuple(
        Assumption(row["id"], row["source"], {"en": row["en"], "zh": row["zh"]}, row.get("by_hand", {})) for row in rows
    )


def table(to: Language) -> str:
    """The table in one language, as Markdown."""
    head = [say(f"cann.table-{name}").render(to) for name in ("id", "assumed", "source", "tried")]
    tried = say("cann.tried-selftest").render(to)
    lines = [f"| {' | '.join(head)} |", "|---|---|---|---|"]
    area = ""
    for entry in assumptions():
        if entry.id[0] != area:
            area = entry.id[0]
            lines.append(f"| | **{say(f'cann.area-{AREAS[area]}').render(to)}** | | |")
        how = say("cann.tried-hand", how=entry.by_hand[to]).render(to) if entry.by_hand else tried
        lines.append(f"| {entry.id} | {entry.text[to]} | {say(f'cann.source-{entry.source}').render(to)} | {how} |")
    return "\n".join(lines)


def write(folder: Path) -> list[Path]:
    """Put the table into both pages in ``folder``, between their marks.

    Raises:
        OSError: a page cannot be read or written.
        ValueError: a page has no marks.
    """
    written = []
    for to, name in FILES.items():
        path = folder / name
        before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        _, mark, after = rest.partition(END)
        if not mark:
            raise ValueError(f"{path}: no {BEGIN} ... {END}")
        path.write_text(f"{before}{BEGIN}\n{table(to)}\n{END}{after}", encoding="utf-8", newline="\n")
        written.append(path)
    return written


if __name__ == "__main__":
    for file in write(Path(sys.argv[1])):
        print(file)
