"""Draws the first pictures of the training set of ``calib/shapes``, to calibrate INT8 on what is not scored."""

from __future__ import annotations

import runpy
from itertools import islice
from pathlib import Path

COUNT = 64
SHA256 = "0fcc2bbfc80f306ec8a391a6da8479d086b758178166b5a279656598863abb0f"
"""Of their pixels and boxes, see ``digest`` in ``calib/shapes/make.py``: pictures drawn otherwise are refused."""


def make(folder: Path) -> None:
    """Write them into ``folder`` in COCO form.

    Raises:
        ValueError: the neighbour draws other pictures than those recorded here.
    """
    shapes = runpy.run_path(str(Path(__file__).parents[1] / "shapes" / "make.py"))
    found = shapes["digest"](islice(shapes["pictures"]("train"), COUNT))
    if found != SHA256:
        raise ValueError(f"calib/shapes/make.py draws other pictures: {found}, recorded is {SHA256}")
    shapes["make"](folder, "train", COUNT)
