"""Which CANN is installed: every layout of its folders, its parts, its kernel packages."""

from __future__ import annotations

import glob
import os
import re
from typing import Any

_MOST = 64 << 10
_VERSION = re.compile(r"\[[^:\]]*:([^\]]+)\]")
FAMILIES = (
    ("Ascend310B", "ascend310b"),
    ("Ascend310P", "ascend310p"),
    ("Ascend910B", "ascend910b"),
    ("Ascend910_93", "ascend910_93"),
    ("Ascend910", "ascend910"),
    ("Ascend310", "ascend310"),
)
"""Beginning of a SoC's name -> its folder of kernels, longest first."""


def toolkits(root: str, environment: dict[str, str]) -> list[dict[str, Any]]:
    """Every toolkit or run time that is there, the one of the environment first.

    Returns:
        ``path``, ``version``, ``kind`` (``toolkit``, ``nnrt``, ``cann``), ``parts`` (part -> version, of
        ``version.cfg``), ``active``.
    """
    named = [environment.get(name, "") for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")]
    places = [place for place in named if place]
    base = os.path.join(root, "usr/local/Ascend")
    for pattern in (
        "ascend-toolkit/latest",
        "ascend-toolkit/[0-9]*",
        "cann",
        "cann-[0-9]*",
        "nnrt/latest",
        "nnrt/[0-9]*",
    ):
        places += sorted(glob.glob(os.path.join(base, pattern)))
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, place in enumerate(places):
        real = os.path.realpath(place)
        if real in seen or not os.path.isdir(real):
            continue
        seen.add(real)
        version, kind = _version(place)
        if version:
            parts = _parts(place)
            row = {"path": place, "version": version, "kind": kind, "parts": parts, "active": not found and number < 2}
            found.append(row)
    return found


def _version(home: str) -> Any:
    for name, kind in (
        ("ascend_toolkit_install.info", "toolkit"),
        ("ascend_nnrt_install.info", "nnrt"),
        ("*_install.info", "cann"),
    ):
        for path in sorted(glob.glob(os.path.join(home, "*-linux", name)) + glob.glob(os.path.join(home, name))):
            version = re.search(r"^version=(\S+)", read(path), re.M)
            if version:
                return version.group(1), kind
    parts = _parts(home)
    for part, kind in (("toolkit", "toolkit"), ("runtime", "nnrt")):
        if part in parts:
            return parts[part], kind
    return "", ""


def _parts(home: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("version.cfg", "runtime/version.cfg"):
        for line in read(os.path.join(home, name)).splitlines():
            part, equals, value = line.partition("_running_version=")
            version = _VERSION.search(value)
            if equals and version:
                found.setdefault(part.strip(), version.group(1).strip())
    return found


def kernel_families(environment: dict[str, str]) -> list[str]:
    """The chip families whose compiled operators are installed: ``ascend310b``..."""
    library = environment.get("ASCEND_OPP_PATH") or os.path.join(environment.get("ASCEND_HOME_PATH", "/nowhere"), "opp")
    found: set[str] = set()
    for pattern in ("built-in/op_impl/ai_core/tbe/kernel/ascend*", "built-in/op_impl/ai_core/tbe/config/ascend*"):
        found.update(os.path.basename(path) for path in glob.glob(os.path.join(library, pattern)))
    return sorted(found)


def family_of(soc: str) -> str:
    """``ascend310b`` of ``Ascend310B4``; ``""`` of another name."""
    return next((family for start, family in FAMILIES if soc.startswith(start)), "")


def stubs_before(environment: dict[str, str]) -> list[str]:
    """Folders of ``LD_LIBRARY_PATH`` with stub libraries: on a machine with a chip they hide the real ones."""
    entries = [entry for entry in environment.get("LD_LIBRARY_PATH", "").split(os.pathsep) if entry]
    stubs = [place for place, entry in enumerate(entries) if re.search(r"/(devlib|stub)(/|$)", entry)]
    real = [
        place for place, entry in enumerate(entries) if "/driver/" in entry or entry.rstrip("/").endswith("/driver")
    ]
    return [entries[place] for place in stubs if not real or place < real[0]]


def read(path: str) -> str:
    """The beginning of a text file; ``""`` where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(_MOST).decode("utf-8", "replace")
    except OSError:
        return ""
