"""ATC's front end without CANN: flags, shapes and the ONNX file checked as ``atc`` checks them, in its words."""

from __future__ import annotations

from pth2om.toolchain.emulator.front_end.run import AtcResult, check_model, run_atc
from pth2om.toolchain.emulator.front_end.texts import AtcFailure

__all__ = ["AtcFailure", "AtcResult", "check_model", "run_atc"]
