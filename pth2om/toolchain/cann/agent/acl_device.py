"""The device and its memory: what every use of ``acl`` begins and ends with."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence, Tuple

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2
HUGE_FIRST, NORMAL_ONLY = 0, 2
ALREADY_INITIALISED = 100002


class AclError(Exception):
    """A call that failed.

    Attributes:
        call: its name, ``acl.mdl.execute``.
        code: what it returned.
        text: what ``get_recent_err_msg`` returned.
    """

    def __init__(self, call: str, code: int, text: str = "") -> None:
        super().__init__("%s returned %s" % (call, code))
        self.call = call
        self.code = code
        self.text = text


class Device:
    """An initialised device.

    Args:
        acl: the module.
        number: of the device.
    """

    def __init__(self, acl: Any, number: int = 0) -> None:
        self.acl = acl
        self.number = number
        code = acl.init()
        if code == ALREADY_INITIALISED:
            self.tolerated(code)
        else:
            self.check("acl.init", code)
        self.check("acl.rt.set_device", acl.rt.set_device(number))
        self.context = self.made("acl.rt.create_context", acl.rt.create_context(number))

    def check(self, call: str, code: Any) -> None:
        """Nothing for 0.

        Raises:
            AclError: any other code.
        """
        if code != 0:
            raise AclError(call, int(code) if isinstance(code, int) else -1, recent(self.acl))

    def tolerated(self, code: Any) -> bool:
        """Whether a call succeeded whose failure is no error: its text is read, so that no later failure gets it."""
        if code == 0:
            return True
        recent(self.acl)
        return False

    def made(self, call: str, answer: Any) -> Any:
        """What a call made, whose answer is ``(object, code)``.

        Raises:
            AclError: the code is not 0.
        """
        made, code = answer
        self.check(call, code)
        return made

    def memory(self) -> Dict[str, int]:
        """Free and total bytes of the device's memory; empty where the call is missing."""
        for attribute in (1, 0):  # HBM, DDR
            try:
                free, total, code = self.acl.rt.get_mem_info(attribute)
            except (AttributeError, TypeError, ValueError):
                return {}
            if self.tolerated(code) and total:
                return {"free": int(free), "total": int(total)}
        return {}

    def allocate(self, size: int) -> int:
        """Device memory; normal pages where huge ones are used up.

        Raises:
            AclError: there is none.
        """
        pointer, code = self.acl.rt.malloc(size, HUGE_FIRST)
        if not self.tolerated(code):
            pointer, code = self.acl.rt.malloc(size, NORMAL_ONLY)
        self.check("acl.rt.malloc", code)
        return int(pointer)

    def close(self) -> None:
        """Context, device, finalize, as the vendor asks before a process ends.

        Raises:
            AclError: a call failed; the others were made all the same.
        """
        steps = (
            ("acl.rt.destroy_context", lambda: self.acl.rt.destroy_context(self.context)),
            ("acl.rt.reset_device", lambda: self.acl.rt.reset_device(self.number)),
            ("acl.finalize", self.acl.finalize),
        )
        every(self, steps)


class Buffer:
    """Device memory in a dataset.

    Args:
        device: of it.
        dataset: that it is added to.
        size: bytes; 0 for an output of unknown size, which gets memory when it is needed.
    """

    def __init__(self, device: Device, dataset: Any, size: int) -> None:
        self._device = device
        acl = device.acl
        self.size = size
        self.pointer = device.allocate(size)
        self.data = acl.create_data_buffer(self.pointer, size)
        _, code = acl.mdl.add_dataset_buffer(dataset, self.data)
        device.check("acl.mdl.add_dataset_buffer", code)

    def write(self, array: Any) -> None:
        """Copy a C-contiguous array into it.

        Raises:
            AclError: it fails.
        """
        code = self._device.acl.rt.memcpy(self.pointer, self.size, array.ctypes.data, array.nbytes, HOST_TO_DEVICE)
        self._device.check("acl.rt.memcpy", code)

    def read(self, array: Any) -> None:
        """Copy from it into a C-contiguous array.

        Raises:
            AclError: it fails.
        """
        code = self._device.acl.rt.memcpy(array.ctypes.data, array.nbytes, self.pointer, array.nbytes, DEVICE_TO_HOST)
        self._device.check("acl.rt.memcpy", code)

    def fill(self, byte: int) -> None:
        """Set every byte, so that one that was never written can be told apart."""
        memset = getattr(self._device.acl.rt, "memset", None)
        if memset is not None:
            memset(self.pointer, self.size, byte, self.size)

    def free(self) -> int:
        """Give it back; returns 0.

        Raises:
            AclError: it fails.
        """
        acl = self._device.acl
        steps = (
            ("acl.destroy_data_buffer", lambda: acl.destroy_data_buffer(self.data)),
            ("acl.rt.free", lambda: acl.rt.free(self.pointer)),
        )
        every(self._device, steps)
        return 0


def recent(acl: Any) -> str:
    """What the last failing call of this thread left as text, which reading clears; ``""`` where there is none."""
    try:
        return str(acl.get_recent_err_msg() or "")
    except AttributeError:
        return ""


def every(device: Device, steps: Sequence[Tuple[str, Any]]) -> None:
    """Make every step; the first failure is raised at the end."""
    failed: Optional[AclError] = None
    for call, step in steps:
        try:
            device.check(call, step())
        except AclError as error:
            failed = failed or error
    if failed is not None:
        raise failed
