"""Draws the first volumes of the training set of ``calib/drawn-volumes``, to calibrate INT8 on what is not scored."""

from __future__ import annotations

import runpy
from itertools import islice
from pathlib import Path

COUNT = 32
SHA256 = "4938bb259cf3a231940a5edbb56338c97b83e907510c725e31dd66bc4356b165"
"""Of their voxels and classes, see ``digest`` in ``calib/drawn-volumes/make.py``: others are refused."""


def make(folder: Path) -> None:
    """Write them into ``folder`` in nnU-Net's form.

    Raises:
        ValueError: the neighbour draws other volumes than those recorded here.
    """
    drawn = runpy.run_path(str(Path(__file__).parents[1] / "drawn-volumes" / "make.py"))
    found = drawn["digest"](islice(drawn["volumes"]("train"), COUNT))
    if found != SHA256:
        raise ValueError(f"calib/drawn-volumes/make.py draws other volumes: {found}, recorded is {SHA256}")
    drawn["make"](folder, "train", COUNT)
