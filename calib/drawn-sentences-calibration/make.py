"""Draws 64 further sentences with ``calib/drawn-sentences/make.py``, to calibrate INT8 on what is not scored."""

from __future__ import annotations

import runpy
from pathlib import Path

SHA256 = "11302de28f13b768cf4fadf111a3c94c6ca78b92ba77b9caaf0e2bd4f6570c1b"
"""Of their arrays, see ``digest`` there: others are refused."""


def make(folder: Path) -> None:
    """Write ``sentences.npz`` into ``folder``.

    Raises:
        ValueError: the neighbour draws other sentences than those recorded here.
    """
    drawn = runpy.run_path(str(Path(__file__).parents[1] / "drawn-sentences" / "make.py"))
    found = drawn["digest"](drawn["sentences"]("calibration"))
    if found != SHA256:
        raise ValueError(f"calib/drawn-sentences/make.py draws other sentences: {found}, recorded is {SHA256}")
    drawn["make"](folder, "calibration")
