"""Which GE operators have a kernel on a chip, for which dtypes: three sources, the best that knows decides.

1. an installed CANN: ``opp/built-in/op_impl/ai_core/tbe/config/<family>/aic-<family>-ops-info.json``;
2. vendor packages: the same file below ``opp/vendors/*`` and each entry of ``ASCEND_CUSTOM_OPP_PATH``;
3. the packaged table, made from public definitions. Where none knows, the answer is ``unknown``.
"""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from pth2om.ascend import TABLES, custom_ops
from pth2om.ascend.families import FAMILIES
from pth2om.ascend.operator_package import dtype_name
from pth2om.ascend.toolkit import operator_folder, vendor_folders

Verdict = Literal["core", "cpu", "none", "unknown"]
"""AI Core kernel, AI CPU kernel only, none by all that is public, or not known."""

_PLACES = ("", "vendors/*/", "packages/vendors/*/", "*/packages/vendors/*/")
_LIMIT = 64 * 2**20


@dataclass(frozen=True)
class Kernel:
    """What is known of one GE operator on one chip family.

    Attributes:
        verdict: see `Verdict`.
        dtypes: what the kernels' inputs take, all inputs together; None when the definition picks them in code.
        source: who says so.
    """

    verdict: Verdict
    dtypes: frozenset[str] | None
    source: str


@dataclass(frozen=True)
class Kernels:
    """The kernels of one chip family.

    Attributes:
        family: ``ascend310b``; None when the chip is not known.
        installed: operators of an installed CANN, with their dtypes.
        vendors: the same of vendor packages.
        sources: the files that were read.
    """

    family: str | None
    installed: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    vendors: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    sources: tuple[str, ...] = ()

    @classmethod
    def of(cls, family: str | None) -> Kernels:
        """Read what is installed for a family; without anything installed only the packaged table speaks."""
        if family is None:
            return cls(None)
        installed: dict[str, frozenset[str] | None] = {}
        vendors: dict[str, frozenset[str] | None] = {}
        sources = []
        for path, vendor in _files(family):
            read = _ops_info(path)
            if read:
                (vendors if vendor else installed).update(read)
                sources.append(str(path))
        declared = custom_ops.current().kernels(family)
        vendors = {**declared, **vendors}  # what is installed is known better
        return cls(family, installed, vendors, tuple(sources))

    def look_up(self, op_type: str) -> Kernel:
        """What is known of a GE operator."""
        if op_type in self.vendors:
            return Kernel("core", self.vendors[op_type], "vendor package")
        if op_type in self.installed:
            return Kernel("core", self.installed[op_type], "installed CANN")
        packaged = _packaged(op_type, self.family) if self.family else Kernel("unknown", None, "")
        if self.installed and packaged.verdict == "core":
            # The installed library is complete for its chip's AI Core; what it leaves out runs elsewhere or not at all.
            return Kernel("unknown", None, "installed CANN")
        return packaged

    def cpu_dtypes(self, op_type: str) -> frozenset[str] | None:
        """What AI CPU's kernel takes; None when there is none known."""
        row = table()["operators"].get(op_type)
        return _dtypes(row.get("cpu", ())) if row and row.get("cpu") else None


@functools.cache
def table() -> dict[str, Any]:
    """The packaged table ``kernels.json.gz``."""
    with gzip.open(TABLES / "kernels.json.gz", "rt", encoding="utf-8") as file:
        return cast("dict[str, Any]", json.load(file))


@functools.cache
def _packaged(op_type: str, family: str) -> Kernel:
    row = table()["operators"].get(op_type)
    if row is None:
        return Kernel("unknown", None, "")
    core = [item for item in row.get("core", {}).get(family, ()) if item[0] != "experimental"]
    supported = row.get("supported", {}).get(family)
    if core:
        return Kernel("core", _dtypes(core), ", ".join(sorted({str(item[0]) for item in core})))
    if supported is True:
        if row.get("cpu"):
            return Kernel("unknown", None, "operator list")
        return Kernel("core", None, "operator list")
    known = FAMILIES.get(family)
    if row.get("cpu") and (known is None or known.kernels_public):
        return Kernel("cpu", _dtypes(row["cpu"]), "AI CPU")
    return Kernel("none" if supported is False else "unknown", None, "operator list" if supported is False else "")


def _dtypes(rows: Any) -> frozenset[str] | None:  # noqa: ANN401 - rows of the table
    """The dtypes of all inputs together, or None as soon as one is picked in code."""
    names = table()["dtypes"]
    merged: set[str] = set()
    for _, _, inputs in rows:
        for number in inputs.values():
            if number is None:
                return None
            merged.update(names[number].split(","))
    return frozenset(merged) or None


def info_files(family: str) -> Iterator[Path]:
    """The operator information files that are installed for a family, the built-in library's first."""
    return (path for path, _ in _files(family))


def _files(family: str) -> Iterator[tuple[Path, bool]]:
    """The operator information files of a family: path, and whether a vendor's."""
    name = f"op_impl/ai_core/tbe/config/{family}/aic-{family}-ops-info*.json"
    opp = operator_folder()
    if opp is not None:
        yield from ((path, False) for path in sorted(opp.glob(f"built-in/{name}")))
        yield from ((path, True) for path in sorted(opp.glob(f"vendors/*/{name}")))
    for folder in vendor_folders():
        for place in _PLACES:
            yield from ((path, True) for path in sorted(folder.glob(f"{place}{name}")))


def _ops_info(path: Path) -> dict[str, frozenset[str] | None]:
    """Operator to dtypes of one ``ops-info`` file; an unreadable file counts as absent."""
    try:
        if path.stat().st_size > _LIMIT:
            return {}
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    found: dict[str, frozenset[str] | None] = {}
    for name, entry in data.items() if isinstance(data, dict) else ():
        if not isinstance(entry, dict):
            continue
        merged: set[str] = set()
        for key, value in entry.items():
            if key.startswith("input") and isinstance(value, dict):
                merged.update(dtype_name(word) for word in str(value.get("dtype", "")).split(",") if word.strip())
        found[str(name)] = frozenset(merged) or None
    return found
