"""The passes, one module each: their names, order and default sets. Importing this module imports no pass."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from pth2om.graph.contract import Pass

ORDER = (
    "ir-version",
    "constant-value",
    "domains",
    "inline-functions",
    "opset-imports",
    "unique-names",
    "cut",
    "static-shapes",
    "decompose",
    "downconvert",
    "custom-types",
    "custom-domains",
    "split-clip-pad",
    "transpose-perm",
    "simplify",
    "conv1d",
    "clamp",
    "int32",
)
"""All passes in running order: first those that make a file readable, last those that benefit from folding."""

CLEAN = ("constant-value", "domains", "opset-imports", "unique-names", "decompose", "split-clip-pad", "transpose-perm")
"""The passes that are right for every file for ATC and change nothing else."""


def ordered(names: Iterable[str]) -> list[str]:
    """Pass names in running order without repetition."""
    wanted = set(names)
    return [name for name in ORDER if name in wanted]


def load(name: str) -> Pass:
    """The module of a pass."""
    return cast("Pass", importlib.import_module(f"pth2om.graph.passes.{name.replace('-', '_')}"))
