"""Names that a package offers and that are imported when somebody uses one: a run that needs few pays for few."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence


def names(package: str, modules: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """The ``__getattr__`` of a package that imports its modules on demand.

    Args:
        package: its ``__name__``.
        modules: module of the package -> the names that it holds. None of them may be called like a module of the
            package, which would take its place when it is imported.

    Returns:
        A function that finds a name, or raises the AttributeError that Python expects.
    """
    places = {name: module for module, held in modules.items() for name in held}

    def find(name: str) -> object:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{places[name]}"), name)

    return find
