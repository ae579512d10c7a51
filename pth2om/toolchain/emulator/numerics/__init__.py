"""The numerics half of the emulator: an ONNX graph that computes, to first order, what the OM would.

`compile_numerics` writes the graphs, `register` teaches operators that ONNX Runtime does not have, `overflow_report`
counts what leaves float16's range. ``docs/emulator.md`` says what is emulated and what is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pth2om.toolchain.emulator.numerics.compiled import Band, Compiled, read_compiled

if TYPE_CHECKING:
    from pth2om.toolchain.emulator.numerics.compiling import compile_numerics
    from pth2om.toolchain.emulator.numerics.emulation import Emission, register
    from pth2om.toolchain.emulator.numerics.overflow import TensorOverflow, overflow_report

__all__ = [
    "Band",
    "Compiled",
    "Emission",
    "TensorOverflow",
    "compile_numerics",
    "overflow_report",
    "read_compiled",
    "register",
]

_LAZY = {
    "compile_numerics": "compiling",
    "Emission": "emulation",
    "register": "emulation",
    "overflow_report": "overflow",
    "TensorOverflow": "overflow",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the names above
    # Opening a compiled model needs no onnx; only what rewrites graphs imports it.
    if name not in _LAZY:
        raise AttributeError(name)
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
