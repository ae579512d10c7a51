"""The CANN toolkit that is installed on this machine, if one is."""

from __future__ import annotations

import os
from pathlib import Path


def toolkit() -> Path | None:
    """The folder of an installed CANN toolkit, from ``ASCEND_HOME_PATH`` or ``ASCEND_TOOLKIT_HOME``."""
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        folder = os.environ.get(name)
        if folder and Path(folder).is_dir():
            return Path(folder)
    return None


def operator_folder() -> Path | None:
    """The folder of an installed operator library: ``ASCEND_OPP_PATH``, or ``opp`` of the toolkit."""
    home = toolkit()
    named = os.environ.get("ASCEND_OPP_PATH") or (str(home / "opp") if home else "")
    return Path(named) if named and Path(named).is_dir() else None


def vendor_folders() -> tuple[Path, ...]:
    """The existing folders that ``ASCEND_CUSTOM_OPP_PATH`` names, in its order."""
    named = os.environ.get("ASCEND_CUSTOM_OPP_PATH", "").split(os.pathsep)
    return tuple(Path(entry) for entry in named if entry and Path(entry).is_dir())
