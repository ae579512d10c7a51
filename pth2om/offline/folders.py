"""Folders of numbered files that a killed run leaves half filled, and the next one fills up.

Each file is written beside its name and renamed, so what has its name is whole. A record beside the folder says what
its files were made of; files of anything else are never mixed with new ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pth2om.errors import DataError
from pth2om.escaping import json_text
from pth2om.files import is_file, is_folder, write_text

_SCRATCH = re.compile(r"\.[0-9a-f]{16}\.\w{1,4}")
_NUMBER = re.compile(r"input_(\d{5,9})(?:_output_0)?\.(?:bin|txt)")
_MOST_RECORD = 1 << 20


class NumberedFolder:
    """A folder of ``input_00000...`` files, opened to be filled.

    Args:
        path: the folder; made if absent.
        made_of: what its files are made of, as JSON values. Files of an earlier run count only if they were made of
            the same.
        last: the file of each number that is written last: a number without it is done again.

    Attributes:
        kept: how many numbers an earlier run had done.

    Raises:
        DataError: the folder holds files that were made of something else, or of nobody knows what.
    """

    def __init__(self, path: Path, made_of: Mapping[str, Any]) -> None:
        self.path = path
        self.record = path.with_name(f"{path.name}.json")
        if is_folder(path) and any(path.iterdir()):
            self._check(made_of)
        else:
            path.mkdir(parents=True, exist_ok=True)
            write_text(self.record, json_text(made_of, 1) + "\n")
        self._numbers: set[int] = set()
        for entry in path.iterdir():
            if _SCRATCH.fullmatch(entry.name):
                entry.unlink(missing_ok=True)  # of a run that was killed
            elif found := _NUMBER.fullmatch(entry.name):
                self._numbers.add(int(found[1]))
        self.kept = len(self._numbers)

    def __contains__(self, number: object) -> bool:
        """Whether an earlier run had done this number."""
        return number in self._numbers

    @staticmethod
    def name(number: int) -> str:
        """``input_00012``."""
        return f"input_{number:05d}"

    def _check(self, made_of: Mapping[str, Any]) -> None:
        held: Any = None
        if is_file(self.record) and self.record.stat().st_size <= _MOST_RECORD:
            try:
                held = json.loads(self.record.read_text(encoding="utf-8"))
            except (ValueError, RecursionError):
                held = None
        if not isinstance(held, dict):
            raise DataError("offline.foreign-folder", where=str(self.path), record=self.record.name)
        wanted = json.loads(json_text(made_of))
        differing = sorted(key for key in {*held, *wanted} if held.get(key) != wanted.get(key))
        if differing:
            raise DataError("offline.other-making", where=str(self.path), differing=", ".join(differing))
