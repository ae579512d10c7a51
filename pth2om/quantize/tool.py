"""The tool that quantizes, where it is not this package: light, because every look into the store wants its digest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pth2om.errors import Absent

if TYPE_CHECKING:
    from pth2om import spec


def program(table: spec.Quantize) -> Path | None:
    """The external tool that the spec names for quantization; None for this package.

    Raises:
        Absent: it is not installed.
    """
    if table.own or table.onnx is not None:
        return None
    name = table.command[0] if table.command else table.tool
    found = shutil.which(name)
    if found is None:
        raise Absent("quantize.no-command" if table.command else "quantize.no-tool", tool=name)
    return Path(found)
