"""The pretended device of one process: what exists, what is current, and what went wrong.

Device memory is a set of handles: addresses that no host memory has, so that a host pointer given where a device
pointer belongs is seen, and the other way round.
"""

from __future__ import annotations

import bisect
import ctypes
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from cann_double import machine, rules

SUCCESS = 0
INVALID_PARAM, NOT_INITIALIZED, REPEAT_INITIALIZE, REPEAT_FINALIZE = 100000, 100001, 100002, 100037
INVALID_FILE, INVALID_MODEL_ID, DESERIALIZE, SIZE_MISMATCH, NOT_DYNAMIC = 100003, 100011, 100012, 100017, 100019
RT_PARAM, RT_DEVICE, RT_CONTEXT = 107000, 107001, 107002
GE_PATH, GE_BATCH = 145002, 145013
MEMORY, NO_DEVICE, GE_INTERNAL = 207001, 207004, 500002
SOC_VERSION, LOST = 507008, 507899
_FIRST = 0x12C0_0000_0000
_ALIGNED = 512
_FILL = 0xA5  # what lies in memory that nobody wrote


@dataclass
class Block:
    """A piece of device memory."""

    start: int
    size: int
    data: bytearray
    context: int


@dataclass
class Device:
    """See the module."""

    initialized: bool = False
    finalized: bool = False
    process: int = 0
    handles: dict[int, Any] = field(default_factory=dict)
    blocks: dict[int, Block] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)
    next_handle: int = 1
    next_address: int = _FIRST
    default_context: dict[int, int] = field(default_factory=dict)
    error: int = 0
    local: threading.local = field(default_factory=threading.local)

    def new(self, kind: str, value: Any = None) -> int:
        """A handle of something."""
        self.next_handle += 1
        handle = 0x7000_0000 + 16 * self.next_handle
        self.handles[handle] = (kind, value)
        return handle

    def get(self, kind: str, handle: int) -> Any:
        """What a handle stands for; None, with a note, for one that is none, or was destroyed."""
        found = self.handles.get(handle)
        if found is None or found[0] != kind:
            rules.journal(f"{handle!r} is no {kind}")
            return None
        return found[1]

    def drop(self, kind: str, handle: int) -> int:
        """Destroy it; returns a code."""
        if self.handles.get(handle, ("",))[0] != kind:
            rules.journal(f"{handle!r} is no {kind}, or was destroyed before")
            return INVALID_PARAM
        del self.handles[handle]
        return SUCCESS

    @property
    def context(self) -> int | None:
        """The current context of this thread."""
        return getattr(self.local, "context", None)

    @context.setter
    def context(self, value: int | None) -> None:
        self.local.context = value

    def fail(self, code: int, message: str = "") -> int:
        """Leave a message for `acl.get_recent_err_msg`, and return ``code``."""
        if message:
            generation = machine.generation(machine.machine()["cann"])
            stamp = f"[PID: {os.getpid()}] 2025-06-16-13:02:36.801.136 " if generation > 7 else ""
            self.local.message = f"{stamp}{message}"
        return code

    def ready(self, where: str, *, context: bool = True) -> tuple[int, dict[str, Any]]:
        """What every call asks first: the rules, the device, the context.

        Returns:
            A code, and the rules of ``where`` that are for the caller.
        """
        asked = {rule.do: rule.value for rule in rules.pass_by(where)}
        if not self.initialized:
            return self.fail(NOT_INITIALIZED, "EH9999: Inner Error!\n        acl is not initialized"), asked
        if self.process != os.getpid() and not machine.machine().get("forks"):
            self.fault("a call in a fork of the process that initialised acl")
        if "lost" in asked:
            machine.lose()
        if machine.lost():
            return self.fail(LOST, "EE9999: Inner Error!\n        The device is lost, drv error 4."), asked
        if "return" in asked:
            code, *text = asked["return"] if isinstance(asked["return"], list) else [asked["return"]]
            if 507000 <= int(code) < 507900:
                self.error = int(code)
            return self.fail(int(code), str(text[0]) if text else f"EE9999: Inner Error!\n        ret={code}"), asked
        if self.error and where in ("execute", "memcpy", "malloc"):
            # A context whose task failed answers nothing else until the process ends.
            return self.fail(self.error), asked
        if context and self.context is None:
            return self.fail(RT_CONTEXT, "EE1001: The argument is invalid.Reason: context pointer null."), asked
        return SUCCESS, asked

    def fault(self, text: str) -> None:
        """What the vendor forbids and does not check: the double ends as a real process may end."""
        rules.journal(text)
        rules.die(signal.SIGSEGV)

    def allocate(self, size: int) -> int | None:
        """An address; None where the memory does not suffice."""
        found = machine.machine()
        room = (int(found["memory_mb"]) - int(found["used_mb"])) * 2**20
        if size <= 0 or self.allocated + size > room:
            return None
        start = self.next_address
        self.next_address += -(-size // _ALIGNED) * _ALIGNED + _ALIGNED
        self.blocks[start] = Block(start, size, bytearray([_FILL]) * size, self.context or 0)
        bisect.insort(self.starts, start)
        return start

    @property
    def allocated(self) -> int:
        """Bytes in use by this process."""
        return sum(block.size for block in self.blocks.values())

    def release(self, start: int) -> bool:
        """Free what `allocate` returned."""
        if self.blocks.pop(start, None) is None:
            return False
        self.starts.remove(start)
        return True

    def block(self, address: int) -> tuple[Block, int] | None:
        """The block that holds an address, and the offset in it."""
        place = bisect.bisect_right(self.starts, address) - 1
        if place < 0:
            return None
        block = self.blocks[self.starts[place]]
        offset = address - block.start
        return (block, offset) if offset < block.size else None

    def view(self, address: int, size: int) -> memoryview | None:
        """Device memory; None where it is none, or ends before."""
        found = self.block(address)
        if found is None or found[1] + size > found[0].size:
            return None
        block, offset = found
        return memoryview(block.data)[offset : offset + size]


def host(address: int, size: int) -> memoryview | None:
    """Host memory; None for a null pointer or a device's."""
    if not address or (address >= _FIRST and address < _FIRST + (1 << 38)):
        return None
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def wait(milliseconds: float) -> None:
    """Let the time pass that a device would take."""
    if milliseconds > 0:
        time.sleep(milliseconds / 1000)


DEVICE = Device()
