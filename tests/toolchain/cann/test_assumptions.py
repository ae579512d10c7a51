"""The table of what only a board can confirm, and the two pages that print it."""

import re
from pathlib import Path

import pytest

from pth2om.toolchain.cann.assumptions import AREAS, BEGIN, END, FILES, SOURCES, assumptions, table, write

DOCS = Path(__file__).parents[3] / "docs"


def test_entries_are_whole() -> None:
    ids = [entry.id for entry in assumptions()]
    assert len(set(ids)) == len(ids) > 40
    for entry in assumptions():
        assert re.fullmatch(r"[A-Z][0-9]+", entry.id)
        assert entry.id[0] in AREAS
        assert entry.source in SOURCES
        for text in entry.text.values():
            assert "|" not in text
            assert "\n" not in text
        codes = [set(re.findall(r"\b[E0-9][A-Z0-9]{4,5}\b|`[^`]+`", text)) for text in entry.text.values()]
        assert codes[0] == codes[1], entry.id  # both languages name the same codes and calls


def test_an_area_is_one_part_of_the_table() -> None:
    letters = [entry.id[0] for entry in assumptions()]
    assert [one for one, before in zip(letters, ["", *letters], strict=False) if one != before] == list(AREAS)


@pytest.mark.parametrize("to", FILES)
def test_the_pages_print_the_table(to) -> None:
    text = (DOCS / FILES[to]).read_text(encoding="utf-8")
    assert f"{BEGIN}\n{table(to)}\n{END}" in text


def test_pages_without_marks_are_left_alone(tmp_path: Path) -> None:
    for name in FILES.values():
        (tmp_path / name).write_text("text", encoding="utf-8")
    with pytest.raises(ValueError, match=r"board\.md"):
        write(tmp_path)
    assert {path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {"text"}
