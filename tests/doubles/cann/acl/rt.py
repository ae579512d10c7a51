"""``acl.rt``: devices, contexts, memory, streams."""

from __future__ import annotations

import ctypes
import time

from cann_double import rules
from cann_double.device import (
    DEVICE,
    INVALID_PARAM,
    MEMORY,
    NO_DEVICE,
    RT_CONTEXT,
    RT_DEVICE,
    RT_PARAM,
    SUCCESS,
    host,
    wait,
)
from cann_double.machine import lost, machine


def set_device(device: int) -> int:
    """Opens it, and gives this thread its default context."""
    code, _ = DEVICE.ready("set_device", context=False)
    if code:
        return code
    if not 0 <= device < int(machine()["devices"]):
        message = (
            "EL0003: The argument is invalid.Reason: Failed to get phy dev id by logic dev id, driver may not be loaded"
        )
        return DEVICE.fail(RT_DEVICE if machine()["devices"] else NO_DEVICE, message)
    if device not in DEVICE.default_context:
        wait(float(machine()["set_device_ms"]))
        DEVICE.next_handle += 1
        DEVICE.default_context[device] = DEVICE.next_handle
    DEVICE.context = DEVICE.default_context[device]
    return SUCCESS


def reset_device(device: int) -> int:
    """Gives everything of this process back."""
    code, _ = DEVICE.ready("reset_device", context=False)
    if device not in DEVICE.default_context:
        return DEVICE.fail(RT_DEVICE)
    if DEVICE.blocks:
        rules.journal(f"leaked at reset_device: {len(DEVICE.blocks)} buffers of device memory")
    del DEVICE.default_context[device]
    DEVICE.context = None
    return code


def get_device() -> tuple[int, int]:
    """The device of this thread."""
    if DEVICE.context is None:
        return 0, DEVICE.fail(RT_CONTEXT)
    return 0, SUCCESS


def get_device_count() -> tuple[int, int]:
    """Also of a healthy host with none."""
    if lost():
        return 0, SUCCESS
    return int(machine()["devices"]), SUCCESS


def get_run_mode() -> tuple[int, int]:
    """0 device, 1 host."""
    return int(machine()["run_mode"]), SUCCESS


def create_context(device: int) -> tuple[int, int]:
    """Current in this thread from now on."""
    code, _ = DEVICE.ready("create_context", context=False)
    if code:
        return 0, code
    if device not in DEVICE.default_context:
        return 0, DEVICE.fail(RT_DEVICE)
    DEVICE.context = DEVICE.new("context", device)
    return DEVICE.context, SUCCESS


def destroy_context(context: int) -> int:
    """Its streams and memory go before it."""
    if DEVICE.handles.get(context, ("",))[0] != "context":
        return DEVICE.fail(RT_CONTEXT)
    left = [start for start, block in DEVICE.blocks.items() if block.context == context]
    if left:
        rules.journal(f"destroy_context before {len(left)} of its buffers were freed")
    if DEVICE.context == context:
        DEVICE.context = None
    return DEVICE.drop("context", context)


def set_context(context: int) -> int:
    """For this thread."""
    known = DEVICE.handles.get(context, ("",))[0] == "context" or context in DEVICE.default_context.values()
    if not known:
        return DEVICE.fail(RT_CONTEXT)
    DEVICE.context = context
    return SUCCESS


def get_context() -> tuple[int, int]:
    """Of this thread."""
    if DEVICE.context is None:
        return 0, DEVICE.fail(RT_CONTEXT)
    return DEVICE.context, SUCCESS


def create_stream() -> tuple[int, int]:
    """Of the current context."""
    code, _ = DEVICE.ready("create_stream")
    return (0, code) if code else (DEVICE.new("stream", DEVICE.context), SUCCESS)


def destroy_stream(stream: int) -> int:
    """Before its context."""
    return DEVICE.drop("stream", stream)


def synchronize_stream(stream: int) -> int:
    """Nothing is left to wait for: the double computes at once."""
    code, _ = DEVICE.ready("synchronize_stream")
    return code or (SUCCESS if DEVICE.get("stream", stream) is not None else DEVICE.fail(107003))


def synchronize_device() -> int:
    """Likewise."""
    return DEVICE.ready("synchronize_device")[0]


def create_event() -> tuple[int, int]:
    """A point in time."""
    code, _ = DEVICE.ready("create_event")
    return (0, code) if code else (DEVICE.new("event", [0.0]), SUCCESS)


def record_event(event: int, stream: int) -> int:
    """Now: what was queued before is done."""
    found = DEVICE.get("event", event)
    if found is None:
        return DEVICE.fail(107004)
    found[0] = time.perf_counter()
    return SUCCESS


def synchronize_event(event: int) -> int:
    """Nothing to wait for."""
    return SUCCESS if DEVICE.get("event", event) is not None else DEVICE.fail(107004)


def event_elapsed_time(start: int, end: int) -> tuple[float, int]:
    """Milliseconds between two."""
    first, second = DEVICE.get("event", start), DEVICE.get("event", end)
    if first is None or second is None:
        return 0.0, DEVICE.fail(107004)
    return 1000 * (second[0] - first[0]), SUCCESS


def destroy_event(event: int) -> int:
    """Free it."""
    return DEVICE.drop("event", event)


def malloc(size: int, policy: int) -> tuple[int, int]:
    """Device memory: 0 huge pages first, 1 only, 2 normal pages only."""
    code, _ = DEVICE.ready("malloc")
    if code:
        return 0, code
    if policy not in (0, 1, 2) or size <= 0:
        return 0, DEVICE.fail(RT_PARAM)
    address = DEVICE.allocate(size)
    if address is None:
        return 0, DEVICE.fail(MEMORY, f"EL0004: Failed to allocate memory. size={size}")
    return address, SUCCESS


def free(address: int) -> int:
    """Once."""
    if not DEVICE.release(address):
        rules.journal(f"free of {address:#x}, which is no device memory, or was freed before")
        return DEVICE.fail(RT_PARAM)
    return SUCCESS


def malloc_host(size: int) -> tuple[int, int]:
    """Host memory that the device reaches."""
    code, _ = DEVICE.ready("malloc_host")
    if code:
        return 0, code
    memory = ctypes.create_string_buffer(size)
    address = ctypes.addressof(memory)
    DEVICE.handles[address] = ("host memory", memory)
    return address, SUCCESS


def free_host(address: int) -> int:
    """Once."""
    return DEVICE.drop("host memory", address)


def memcpy(target: int, room: int, source: int, size: int, kind: int) -> int:
    """0 host to host, 1 host to device, 2 device to host, 3 device to device."""
    code, _ = DEVICE.ready("memcpy")
    if code:
        return code
    if kind not in (0, 1, 2, 3) or size > room:
        return DEVICE.fail(
            RT_PARAM, f"EE1001: The argument is invalid.Reason: destMax={room}, count={size}, kind={kind}"
        )
    into = DEVICE.view(target, size) if kind in (1, 3) else host(target, size)
    out_of = DEVICE.view(source, size) if kind in (2, 3) else host(source, size)
    if into is None or out_of is None:
        which = "destination" if into is None else "source"
        rules.journal(f"memcpy of kind {kind}: the {which} is not where the kind says, or ends before {size} bytes")
        return DEVICE.fail(RT_PARAM, "EE1001: The argument is invalid.Reason: memory is not in the range")
    into[:] = out_of
    return SUCCESS


def memset(address: int, room: int, value: int, size: int) -> int:
    """Fill device memory."""
    code, _ = DEVICE.ready("memset")
    if code:
        return code
    found = DEVICE.view(address, size)
    if found is None or size > room:
        return DEVICE.fail(RT_PARAM)
    found[:] = bytes([value]) * size
    return SUCCESS


def get_mem_info(kind: int) -> tuple[int, int, int]:
    """Free and total bytes: 0 DDR, 1 HBM, ..."""
    code, _ = DEVICE.ready("get_mem_info")
    found = machine()
    total = int(found["memory_mb"]) * 2**20
    return total - int(found["used_mb"]) * 2**20 - DEVICE.allocated, total, code


def get_device_utilization_rate(device: int) -> tuple[dict[str, int], int]:
    """Percents."""
    return {"cube": 0, "vector": 0, "aicpu": 0, "memory": 33}, SUCCESS if device == 0 else INVALID_PARAM
