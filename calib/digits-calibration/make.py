"""Makes ``digits-calibration.npz``, 64 of the training digits, to calibrate INT8 on what is not scored.

python calib/digits-calibration/make.py           needs scikit-learn
"""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

COUNT = 64
SHA256 = "5cf71b022ab1b9c7b59ef8b7af0c57e98ba300aa3939acc0fd0d65957915bfa8"
"""Of their pixels and labels, see ``digest`` in ``calib/digits/make.py``."""

if __name__ == "__main__":
    here = Path(__file__).parent
    source = runpy.run_path(str(here.parent / "digits" / "make.py"), run_name="digits")
    pixels, labels = (part[:COUNT] for part in source["digits"]()[0])
    np.savez_compressed(here / "digits-calibration.npz", x=pixels, y=labels)
    found = source["digest"]((pixels, labels))
    print(found, "as recorded" if found == SHA256 else "DIFFERENT")
