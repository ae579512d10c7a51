"""The machine that the doubles pretend to be: ``machine.json`` in the folder of ``PTH2OM_DOUBLE_HOME``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cann_double.rules import home, read

DEFAULTS: Mapping[str, Any] = {
    "soc": "Ascend310B4",
    "cann": "8.0.0",
    "devices": 1,
    "memory_mb": 7545,
    "used_mb": 2500,
    "driver": "24.1.rc3",
    "run_mode": 1,
    "band": "fused",
    "inference_ms": 0.0,
    "computes": True,  # else outputs are zeros: where the way to the device is measured, not the emulator
    "set_device_ms": 0.0,
    "kernels": ["ascend310b"],
    "npu_smi": "310b4-orangepi-8g",
    "old_utilities": False,
    "power_w": 7.7,
    "temperature_c": 54,
    "aicore_mhz": [1000, 1000],
    "processes": [],
    "compile_mb": 0,
}


def machine() -> dict[str, Any]:
    """Its properties; those that the file does not name are the defaults."""
    folder = home()
    written: dict[str, Any] = (read(folder / "machine.json") if folder is not None else None) or {}
    return {**DEFAULTS, **written}


def generation(cann: str) -> int:
    """The generation of an atc's texts: 7, 8 or 9 (pains.md 1.0: the third form was seen about CANN 8.5)."""
    major, minor, *_ = (*cann.split("."), "0")
    if int(major) <= 7:
        return 7
    return 8 if int(major) == 8 and not minor.startswith("5") else 9


def lost() -> bool:
    """Whether the device fell off: an earlier rule of any process said so."""
    folder = home()
    return folder is not None and (folder / "device-lost").exists()


def lose() -> None:
    """The device falls off, for every process, until the file is removed."""
    folder = home()
    if folder is not None:
        (folder / "device-lost").touch()
