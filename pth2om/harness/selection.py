"""pytest's ``-k``: the expression that selects models by name and no others, and which cases one rules out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

    from pth2om.harness.cases import Case


def keyword(chosen: Sequence[str], known: Sequence[str]) -> str:
    """``-k`` takes a part of a test's name: models whose name holds a chosen one's are ruled out.

    Args:
        chosen: names of models.
        known: of all models.
    """
    parts = []
    for name in chosen:
        longer = [other for other in known if name in other and other not in chosen]
        parts.append(" and ".join((name, *(f"not {other}" for other in longer))))
    return " or ".join(f"({part})" if " " in part and len(parts) > 1 else part for part in parts)


def left_by(keyword: str, definition: pytest.Function, cases: Sequence[Case]) -> list[Case]:
    """The cases of a test without those that ``-k`` rules out, so that pytest makes no tests only to drop them.

    A case is left out only where every word that decides is in the name of this test or of one of the cases: what
    other plugins and parameters will add to its name is not known yet.

    Args:
        keyword: the expression; pytest reports a wrong one.
        definition: the test function.
        cases: what it would be asked of.
    """
    if not keyword.strip():
        return list(cases)
    try:
        from _pytest.mark import KeywordMatcher
        from _pytest.mark.expression import Expression

        expression = Expression.compile(keyword.lstrip())
    except (ImportError, SyntaxError):
        return list(cases)
    own = KeywordMatcher.from_item(definition)
    known = "\n".join(case.id for case in cases).lower()

    def stays(case: Case) -> bool:
        if not case.id.isascii():
            return True  # pytest escapes such a name before it compares
        name, open_words = f"{definition.name}[{case.id}]".lower(), []

        def holds(word: str, /, **_: object) -> bool:
            found = own(word) or word.lower() in name
            if not found and word.lower() not in known:
                open_words.append(word)
            return found

        return expression.evaluate(holds) or bool(open_words)

    return [case for case in cases if stays(case)]
