"""A double of CANN's Python module ``acl``: it answers as the documentation and the vendor's samples record.

It keeps the order of calls that the vendor demands. A broken restriction ends the process by SIGSEGV (where nobody
checks it) or returns the vendor's code, and is noted in ``broken.txt`` of the pretended machine. It computes the
emulator's numerics, bit for bit. It is no NPU: whatever runs on it is of ground ``double``.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from pathlib import Path

from cann_double import rules
from cann_double.device import (
    DEVICE,
    INVALID_FILE,
    INVALID_PARAM,
    NOT_INITIALIZED,
    REPEAT_FINALIZE,
    REPEAT_INITIALIZE,
    SOC_VERSION,
    SUCCESS,
    wait,
)
from cann_double.machine import lost, machine

from acl import mdl, rt, util

rules.pass_by("import")

DOUBLE = "pth2om"
"""What a real module does not have: whoever finds it knows that this is no device."""


def init(config: str | None = None) -> int:
    """Once a process."""
    asked = {rule.do: rule.value for rule in rules.pass_by("init")}
    if "return" in asked:
        return DEVICE.fail(int(asked["return"]))
    if DEVICE.initialized or DEVICE.finalized:
        rules.journal("acl.init a second time in one process")
        return DEVICE.fail(REPEAT_INITIALIZE)
    if config and not Path(config).is_file():
        return DEVICE.fail(INVALID_FILE, f"EH0001: Value {config} for acl.json is invalid.")
    DEVICE.initialized, DEVICE.process = True, os.getpid()
    atexit.register(_at_exit)
    return SUCCESS


def finalize() -> int:
    """Free everything before."""
    rules.pass_by("finalize")
    if DEVICE.finalized:
        return DEVICE.fail(REPEAT_FINALIZE)
    if not DEVICE.initialized:
        return DEVICE.fail(NOT_INITIALIZED)
    kinds = sorted(kind for kind, _ in DEVICE.handles.values())
    if kinds or DEVICE.blocks:
        rules.journal(
            f"leaked at finalize: {len(DEVICE.blocks)} buffers of device memory, {', '.join(kinds) or 'no handles'}"
        )
    if os.environ.get("ASCEND_LOG_DEVICE_FLUSH_TIMEOUT") != "0":
        folder = rules.home()
        if folder is not None:
            (folder / "flushed").touch()
        wait(float(machine().get("flush_ms", 0)))
    DEVICE.initialized, DEVICE.finalized = False, True
    return SUCCESS


def get_soc_name() -> str | None:
    """Without a model, and before one."""
    if machine().get("unknown_soc") or not machine()["devices"] or lost():
        DEVICE.fail(SOC_VERSION)
        return None
    return str(machine()["soc"])


def get_recent_err_msg() -> str | None:
    """Of this thread; reads and clears."""
    message: str | None = getattr(DEVICE.local, "message", None)
    DEVICE.local.message = None
    return message


def get_version() -> tuple[int, int, int, int]:
    """Of the interface, not of CANN."""
    return 1, 9, 0, SUCCESS


def create_data_buffer(address: int, size: int) -> int:
    """Describe memory."""
    return DEVICE.new("data buffer", [address, size])


def destroy_data_buffer(buffer: int) -> int:
    """The memory itself is not freed."""
    return DEVICE.drop("data buffer", buffer)


def get_data_buffer_addr(buffer: int) -> int:
    """The address."""
    found = DEVICE.get("data buffer", buffer)
    return int(found[0]) if found else 0


def get_data_buffer_size(buffer: int) -> int:
    """The size in bytes."""
    found = DEVICE.get("data buffer", buffer)
    return int(found[1]) if found else 0


get_data_buffer_size_v2 = get_data_buffer_size


def update_data_buffer(buffer: int, address: int, size: int) -> int:
    """Describe other memory."""
    found = DEVICE.get("data buffer", buffer)
    if found is None:
        return DEVICE.fail(INVALID_PARAM)
    found[:] = [address, size]
    return SUCCESS


def create_tensor_desc(dtype: int, dims: Sequence[int], form: int) -> int:
    """Only rank and sizes count (next.md 1.1)."""
    return DEVICE.new("tensor desc", (dtype, [int(size) for size in dims]))


def destroy_tensor_desc(desc: int) -> None:
    """Free it."""
    DEVICE.drop("tensor desc", desc)


def get_tensor_desc_size(desc: int) -> int:
    """Bytes of the elements."""
    dtype, dims = DEVICE.get("tensor desc", desc) or (0, [0])
    return mdl.element_size(dtype) * mdl.count(dims)


def get_tensor_desc_num_dims(desc: int) -> int:
    """The rank."""
    return len((DEVICE.get("tensor desc", desc) or (0, []))[1])


def get_tensor_desc_dim_v2(desc: int, index: int) -> tuple[int, int]:
    """One size."""
    _, dims = DEVICE.get("tensor desc", desc) or (0, [])
    return (dims[index], SUCCESS) if 0 <= index < len(dims) else (0, INVALID_PARAM)


def get_tensor_desc_type(desc: int) -> int:
    """The data type."""
    return int((DEVICE.get("tensor desc", desc) or (-1, []))[0])


def _at_exit() -> None:
    for rule in rules.pass_by("exit"):
        rules.journal(f"a rule for exit that nobody knows: {rule.do}")
    if DEVICE.initialized:
        # The order in which singletons go is not defined (the vendor's page of acl.finalize).
        DEVICE.fault("the process ends without acl.finalize")


def _contrary() -> None:
    """Calls that answer otherwise than recorded: ``{"where": "answer mdl.execute", "do": "code", "value": 0}``.

    ``code`` replaces the return code, ``value`` the whole answer; what the call does is done all the same.
    """
    import functools
    import sys

    for rule in rules.rules():
        if rule.where.startswith("answer "):
            module, _, name = f"acl.{rule.where.removeprefix('answer ')}".rpartition(".")
            place = sys.modules[module]

            def called(*given: object, real: object, asked: rules.Rule) -> object:
                answer = real(*given)
                if asked.do == "code":
                    return (*answer[:-1], asked.value) if isinstance(answer, tuple) else asked.value
                return tuple(asked.value) if isinstance(asked.value, list) else asked.value

            setattr(place, name, functools.partial(called, real=getattr(place, name), asked=rule))


_contrary()

__all__ = ["finalize", "get_recent_err_msg", "get_soc_name", "init", "mdl", "rt", "util"]
