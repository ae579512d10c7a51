"""Folders of outputs as msame (``NAME_output_0.bin``) and ais_bench (``NAME_0.bin``) leave them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from pth2om.errors import DataError
from pth2om.files import is_folder

_OUTPUT = re.compile(r"(?P<input>.+?)_(?:output_)?(?P<output>\d{1,4})")
_NAMED = 5
"""Folders that a message names."""


def output_files(folder: Path, suffixes: Collection[str]) -> dict[tuple[str, int], Path]:
    """The outputs in a folder, or in its one sub-folder that holds some (named after the time of the run).

    Args:
        folder: of the tool.
        suffixes: of the files to take, with the dot, in small letters.

    Returns:
        (name of the input's file without suffix, number of the output) -> file, in the order of the files' names.

    Raises:
        DataError: no folder, several runs in it, or one output in two files.
    """
    if not is_folder(folder):
        raise DataError("outputs.no-folder", where=str(folder))
    found = _in(folder, suffixes)
    if found:
        return found
    below = {part: files for part in sorted(folder.iterdir()) if part.is_dir() and (files := _in(part, suffixes))}
    if len(below) > 1:
        names = ", ".join([part.name for part in below][:_NAMED])
        raise DataError("outputs.several-runs", where=str(folder), folders=names)
    return next(iter(below.values()), {})


def _in(folder: Path, suffixes: Collection[str]) -> dict[tuple[str, int], Path]:
    found: dict[tuple[str, int], Path] = {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_file())
    for name in names:
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 - a folder may hold 50,000 files, a Path of each is slow
        match = _OUTPUT.fullmatch(stem) if suffix.lower() in suffixes else None
        if match is None:
            continue
        key = (match["input"], int(match["output"]))
        if key in found:
            raise DataError("outputs.two-files", where=str(folder), first=found[key].name, second=name)
        found[key] = folder / name
    return found
