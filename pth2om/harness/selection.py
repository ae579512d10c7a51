"""The ``-k`` expression that selects models by name and no others."""

from __future__ import annotations

from collections.abc import Sequence


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
