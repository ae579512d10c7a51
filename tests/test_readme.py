"""The documentation hangs together: every page is reached from the README of its language, no link leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def links(page: Path) -> set[Path]:
    found = LINK.findall(page.read_text(encoding="utf-8"))
    return {(page.parent / link).resolve() for link in found if "://" not in link}


def test_no_link_leads_nowhere(repository: Path) -> None:
    pages = [*repository.glob("README*.md"), *(repository / "docs").rglob("*.md")]
    missing = {(page.name, link.name) for page in pages for link in links(page) if not link.exists()}
    assert missing == set()


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_every_page_is_reached_from_the_readme(repository: Path, name: str) -> None:
    chinese = name.endswith(".zh.md")
    docs = repository / "docs"
    pages = {page for page in docs.rglob("*.md") if (page.parent.name == "zh" or ".zh." in page.name) == chinese}
    reached = links(repository / name)
    assert {page.relative_to(docs).as_posix() for page in pages if page.resolve() not in reached} == set()


def test_architecture_names_every_room(repository: Path) -> None:
    package = repository / "pth2om"
    rooms = {path.name for path in package.glob("*.py")} - {"__init__.py", "__main__.py"}
    rooms |= {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    for page in ("architecture.md", "architecture.zh.md"):
        text = (repository / "docs" / page).read_text(encoding="utf-8")
        assert {room for room in rooms if room not in text} == set()
