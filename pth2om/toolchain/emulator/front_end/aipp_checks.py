"""``--insert_op_conf`` against the model: what ATC checks of an AIPP configuration before kernels are compiled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pth2om.toolchain.emulator.front_end.flags import Flags
from pth2om.toolchain.emulator.front_end.onnx_model import ParsedModel

if TYPE_CHECKING:
    from pth2om.toolchain.emulator.front_end.convert import Conversion


def check_configuration(flags: Flags, path: Path, parsed: ParsedModel, done: Conversion) -> None:
    """The configuration's own rules, and which input each of its operators goes to."""
