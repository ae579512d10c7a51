"""The worker: the only process that imports ``acl``. It does what its supervisor asks, one command after the other."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import sys
from typing import Any, Callable, Dict, Optional

from .frames import FrameError, Header, Pipe
from .shared import Mapped, RoomError

FLUSH = "ASCEND_LOG_DEVICE_FLUSH_TIMEOUT"
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def die_with_parent() -> None:
    """Let the kernel end this process when its parent ends, however that happens."""
    try:
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    except (OSError, AttributeError):
        return


class Worker:
    """What the commands work on."""

    def __init__(self) -> None:
        self.acl: Any = None
        self.device: Any = None
        self.model: Any = None
        self.files: Dict[str, Mapped] = {}

    def answer(self, header: Header) -> Header:
        """Do one command.

        Raises:
            Exception: what the command raises; `main` makes an answer of it.
        """
        commands: Dict[str, Callable[[Header], Header]] = {
            "load": self._load,
            "run": self._run,
            "end": self._end,
        }
        return commands[header["kind"]](header)

    def _module(self) -> Any:
        if self.acl is None:
            import acl

            self.acl = acl
        return self.acl

    def _load(self, header: Header) -> Header:
        if "way" in header:
            from . import ways

            self.model = ways.opened(header["way"], header["path"], int(header.get("device", 0)))
            return {"kind": "loaded", **self.model.facts}
        from .acl_binding import Model
        from .acl_device import Device

        if self.device is None:
            self.device = Device(self._module(), int(header.get("device", 0)))
        before = self.device.memory()
        self.model = Model(self.device, header["path"])
        after = self.device.memory()
        model = self.model
        return {
            "kind": "loaded",
            "model": model.kind,
            "gears": model.gears,
            "inputs": model.inputs,
            "outputs": model.outputs,
            "memory": {"before": before, "after": after},
        }

    def _run(self, header: Header) -> Header:
        import numpy as np

        from .frames import described

        view = self._file(header["in"]).view(header["size"])
        feeds = {}
        for name, dtype, shape, offset in header["tensors"]:
            kind = np.dtype(dtype)
            count = int(np.prod(shape, dtype=np.int64))
            feeds[name] = np.frombuffer(view, kind, count, offset).reshape(shape) if count else np.empty(shape, kind)
        outputs, times = self.model.run(feeds)
        del feeds
        size = sum(array.nbytes for _, array in outputs)
        target = self._file(header["out"]).view(size)
        offset = 0
        for _, array in outputs:
            target[offset : offset + array.nbytes] = memoryview(array.reshape(-1).view(np.uint8))
            offset += array.nbytes
        return {"kind": "ran", "tensors": described(outputs), "size": size, "times": times}

    def _end(self, header: Header) -> Header:
        if header.get("failed"):
            os.environ.pop(FLUSH, None)  # after a failure the device's logs are worth the wait
        model, device = self.model, self.device
        self.model = self.device = None
        if model is not None:
            model.close()
        if device is not None:
            device.close()
        return {"kind": "ended"}

    def _file(self, path: str) -> Mapped:
        return self.files.setdefault(path, Mapped(path))


def main() -> int:
    """Answer commands from stdin on stdout until told to end; whatever else prints goes to stderr."""
    die_with_parent()
    pipe = Pipe(os.dup(0), os.dup(1))
    os.dup2(2, 1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core of the whole device memory takes minutes on an SD card
    faulthandler.enable(sys.stderr)
    worker = Worker()
    while True:
        try:
            header, _ = pipe.receive()
        except FrameError:
            return 0
        answer = _answered(worker, header)
        pipe.send(answer)
        if answer["kind"] == "ended" or header["kind"] == "end":
            return 0


def _answered(worker: Worker, header: Header) -> Header:
    try:
        return worker.answer(header)
    except Exception as error:  # noqa: BLE001 - told to the other side
        known = _known(error)
        return known or {
            "kind": "error",
            "error": "worker",
            "values": {"reason": "%s: %s" % (type(error).__name__, error)},
        }


def _known(error: Exception) -> Optional[Header]:
    if isinstance(error, RoomError):
        return {"kind": "error", "error": "shared", "values": {"reason": str(error)}}
    if isinstance(error, ImportError):
        return {"kind": "error", "error": "import", "values": {"reason": str(error)}}
    from .acl_device import AclError
    from .shapes import ShapeError
    from .ways import WayError

    if isinstance(error, WayError):
        return {"kind": "error", "error": error.error, "values": error.values}
    if isinstance(error, AclError):
        values = {"call": error.call, "code": error.code, "text": error.text}
        return {"kind": "error", "error": "acl", "values": values}
    if isinstance(error, ShapeError):
        return {"kind": "error", "error": "feeds-" + error.key, "values": error.values}
    return None
