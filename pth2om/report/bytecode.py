"""Compiled templates, kept where Python keeps compiled modules: compiling them takes longer than a small page."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from jinja2.bccache import Bucket, BytecodeCache

from pth2om.files import write_bytes


class BesideTemplates(BytecodeCache):
    """Compiled templates in ``__pycache__`` beside their sources, on the terms of Python's own compiled modules.

    Nothing is written with ``PYTHONDONTWRITEBYTECODE``, nor where the folder cannot be written. Jinja compares the
    digest of the source and the versions of Python and of itself before it uses what it finds.
    """

    def __init__(self, templates: Path) -> None:
        """Keep them for the templates of one folder."""
        self._folder = templates / "__pycache__"

    def load_bytecode(self, bucket: Bucket) -> None:
        """Read what an earlier process kept; nothing where there is none."""
        with contextlib.suppress(OSError), self._file(bucket).open("rb") as file:
            bucket.load_bytecode(file)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep it for later processes, if that is wanted and possible."""
        if sys.dont_write_bytecode:
            return
        with contextlib.suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            write_bytes(self._file(bucket), bucket.bytecode_to_string())

    def _file(self, bucket: Bucket) -> Path:
        return self._folder / f"{bucket.key}.{sys.implementation.cache_tag}.jinja"
