"""What the driver's own library says of the chips: ``libdcmi.so``, called by ctypes in a process of its own.

A library of a driver can hang or crash; then this process lives on and says so. Calls and structures: the driver's
header ``dcmi_interface_api.h``. 0 is success everywhere.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import pkgutil
import subprocess
import sys
from typing import Any

LIBRARY = "PTH2OM_DCMI"
"""Names the library, where it lies elsewhere."""

_MOST = 64
_NONE = (0x7FFD, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)  # what is written where a sensor answers nothing
_FREQUENCIES = {"ddr_mhz": 1, "hbm_mhz": 6, "aicore_mhz": 7, "aicore_max_mhz": 9}
_RATES = {"ddr_percent": 1, "aicore_percent": 2, "aicpu_percent": 3, "hbm_percent": 6, "npu_percent": 13}


class _Chip(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_char * 32),
        ("name", ctypes.c_char * 32),
        ("version", ctypes.c_char * 32),
        ("cores", ctypes.c_uint),
        ("npu", ctypes.c_char * 32),
    ]


class _Memory(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_ulonglong),
        ("available", ctypes.c_ulonglong),
        ("frequency", ctypes.c_uint),
        ("page", ctypes.c_ulong),
        ("pages", ctypes.c_ulong),
        ("free_pages", ctypes.c_ulong),
        ("used", ctypes.c_uint),
        ("reserved", ctypes.c_ubyte * 60),
    ]


class _Hbm(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_ulonglong),
        ("frequency", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("temperature", ctypes.c_int),
        ("bandwidth", ctypes.c_uint),
    ]


class _Process(ctypes.Structure):
    _fields_ = [("pid", ctypes.c_int), ("bytes", ctypes.c_ulong)]


def libraries(environment: dict[str, str]) -> list[str]:
    """The ``libdcmi.so`` files that exist, the likeliest first."""
    named = environment.get(LIBRARY)
    places = [named] if named else []
    for variable in ("ASCEND_DRIVER_HOME", "ASCEND_INSTALL_PATH", "ASCEND_HOME_PATH"):
        home = environment.get(variable)
        if home:
            places += [os.path.join(home, below, "libdcmi.so") for below in _BELOW]
    places += [os.path.join("/usr/local/Ascend/driver", below, "libdcmi.so") for below in ("lib64/driver", "lib64")]
    places += sorted(glob.glob("/usr/local/Ascend/*/driver/lib64/driver/libdcmi.so"))
    places += ["/usr/local/dcmi/libdcmi.so"]
    return [place for place in dict.fromkeys(places) if os.path.isfile(place)]


_BELOW = ("lib64/driver", "lib64", "driver/lib64/driver", "driver/lib64")


def readings(environment: dict[str, str] | None = None, limit: float = 3.0) -> dict[str, Any]:
    """Ask the driver.

    Args:
        environment: for the places of the library; default this process's.
        limit: seconds after which the library counts as hanging.

    Returns:
        ``library``, ``driver`` (its version) and ``chips``: one object a chip with ``card``, ``device``, ``name`` and
        what was answered of ``npu``, ``cores``, ``logic``, ``power_w``, ``temperature_c``, ``memory_mb``,
        ``memory_used_mb``, ``hbm_mb``, ``hbm_used_mb``, ``aicore_mhz``, ``aicore_max_mhz``, ``ddr_mhz``, ``hbm_mhz``,
        ``aicore_percent``..., ``processes`` (``pid``, ``bytes``). ``error`` where the library failed: ``none``,
        ``load``, ``init``, ``list``, ``hang``, ``crash``, with ``reason``.
    """
    given = dict(os.environ if environment is None else environment)
    found = libraries(given)
    if not found:
        return {"error": "none", "chips": []}
    source = (pkgutil.get_data(str(__package__), "dcmi.py") or b"").decode("utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-c", source, found[0]],
            env=given,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return {"library": found[0], "error": "hang", "reason": "%g s" % limit, "chips": []}
    except OSError as error:
        return {"library": found[0], "error": "load", "reason": str(error), "chips": []}
    try:
        answer = json.loads(done.stdout.decode("utf-8", "replace").splitlines()[-1])
    except (ValueError, IndexError):
        return {"library": found[0], "error": "crash", "reason": "status %d" % done.returncode, "chips": []}
    return dict(answer) if isinstance(answer, dict) else {"library": found[0], "error": "crash", "chips": []}


def read(path: str) -> dict[str, Any]:
    """Call the library in this process."""
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        return {"library": path, "error": "load", "reason": str(error)[:300], "chips": []}
    answer: dict[str, Any] = {"library": path, "chips": []}
    code = library.dcmi_init()
    if code:
        return dict(answer, error="init", reason=str(code))
    text = ctypes.create_string_buffer(64)
    if _call(library, "dcmi_get_driver_version", text, 64):
        answer["driver"] = _text(text.value)
    count, cards = ctypes.c_int(0), (ctypes.c_int * _MOST)()
    if not _call(library, "dcmi_get_card_num_list", ctypes.byref(count), cards, _MOST):
        return dict(answer, error="list")
    for card in list(cards)[: max(0, min(count.value, _MOST))]:
        chips = ctypes.c_int(0)
        if _call(library, "dcmi_get_device_num_in_card", card, ctypes.byref(chips)):
            answer["chips"] += [_chip(library, card, device) for device in range(max(0, min(chips.value, _MOST)))]
    return answer


def _chip(library: Any, card: int, device: int) -> dict[str, Any]:
    found: dict[str, Any] = {"card": card, "device": device}
    info = _Chip()
    for name in ("dcmi_get_device_chip_info_v2", "dcmi_get_device_chip_info"):
        if _call(library, name, card, device, ctypes.byref(info)):
            found["name"], found["cores"] = _text(info.name), int(info.cores)
            if name.endswith("_v2") and _text(info.npu):
                found["npu"] = _text(info.npu)
            break
    number = ctypes.c_int(0)
    if _call(library, "dcmi_get_device_logic_id", ctypes.byref(number), card, device):
        found["logic"] = number.value
    if _call(library, "dcmi_get_device_temperature", card, device, ctypes.byref(number)) and number.value not in _NONE:
        found["temperature_c"] = number.value
    measured = _call(library, "dcmi_get_device_power_info", card, device, ctypes.byref(number))
    measured = measured or _call(library, "dcmi_mcu_get_power_info", card, ctypes.byref(number))
    if measured and number.value not in _NONE:
        found["power_w"] = number.value / 10.0
    memory = _Memory()
    if _call(library, "dcmi_get_device_memory_info_v3", card, device, ctypes.byref(memory)) and memory.size:
        free = memory.available
        while free > memory.size:  # some drivers write it in KB or bytes
            free //= 1024
        found["memory_mb"], found["memory_used_mb"] = int(memory.size), int(memory.size - free)
    hbm = _Hbm()
    for name in ("dcmi_get_device_hbm_info", "dcmi_get_hbm_info"):
        if _call(library, name, card, device, ctypes.byref(hbm)):
            if hbm.size:
                found["hbm_mb"], found["hbm_used_mb"] = int(hbm.size), int(hbm.used)
            break
    value = ctypes.c_uint(0)
    for call, asked in (("frequency", _FREQUENCIES), ("utilization_rate", _RATES)):
        for name, kind in asked.items():
            answered = _call(library, "dcmi_get_device_" + call, card, device, kind, ctypes.byref(value))
            if answered and value.value not in _NONE:
                found[name] = value.value
    processes, number = (_Process * _MOST)(), ctypes.c_int(_MOST)
    if _call(library, "dcmi_get_device_resource_info", card, device, processes, ctypes.byref(number)):
        rows = list(processes)[: max(0, min(number.value, _MOST))]
        found["processes"] = [{"pid": int(row.pid), "bytes": int(row.bytes)} for row in rows if row.pid > 0]
    return found


def _call(library: Any, name: str, *arguments: Any) -> bool:
    """Whether a function is there and answers 0."""
    function = getattr(library, name, None)
    return function is not None and function(*arguments) == 0


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace").strip()


if __name__ == "__main__":
    print(json.dumps(read(sys.argv[1])))
