"""A model that the double of ``acl`` has loaded."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cann_double import om
from cann_double.machine import machine
from cann_double.rules import home
from pth2om.ascend import families
from pth2om.session import Array
from pth2om.toolchain.emulator.gears import GearedOmSession, read_geared
from pth2om.toolchain.emulator.numerics.compiled import read_compiled
from pth2om.toolchain.emulator.session import EmulatedOmSession

NUMBERS = {number: np.dtype(name) for name, number in om.DTYPES.items()}


@dataclass
class Model:
    """See the module.

    Attributes:
        description: what the file records.
        context: in which it was loaded.
        folder: where its emulated model was unpacked.
        gear: which gear the next execution takes.
        shapes: of the inputs of the next execution of a range.
        current: the shapes of the outputs, of the gear that is set or of the last execution.
    """

    description: om.Description
    context: int
    folder: Path
    gear: int | None = None
    shapes: dict[int, list[int]] = field(default_factory=dict)
    current: list[list[int]] | None = None
    _session: Any = None

    @property
    def data_inputs(self) -> list[om.Tensor]:
        """Without the one that chooses the gear."""
        return [tensor for tensor in self.description.inputs if tensor.name != om.GEAR_INPUT]

    def run(self, feeds: dict[str, Array]) -> list[Array]:
        """One inference by the emulator."""
        if self._session is None:
            band = machine()["band"]
            geared = read_geared(self.folder)
            if geared is not None:
                self._session = GearedOmSession(geared, band, threads=1)
            else:
                self._session = EmulatedOmSession(read_compiled(self.folder), band, threads=1)
        return list(self._session.run(feeds).values())

    def close(self) -> None:
        """Free it."""
        if self._session is not None:
            self._session.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def load(data: bytes, context: int) -> Model:
    """Read an ``.om``.

    Raises:
        om.NotADoubleError: it is none of ours, or damaged.
    """
    # Beside the machine's own files, which the test removes: a process that dies removes nothing.
    folder = Path(tempfile.mkdtemp(prefix="acl-double-", dir=home()))
    try:
        return Model(om.read(data, folder), context, folder)
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def refusal(description: om.Description) -> tuple[int, str] | None:
    """Why this machine does not run a file: its code and message."""
    found = machine()
    if description.soc != found["soc"]:
        reason = "Model soc version is not support in this device."
        return 145000, f"E10001: Value [{description.soc}] for parameter [soc_version] is invalid. Reason: {reason}"
    if release(description.cann) > release(found["cann"]):
        return 500002, "EZ9999: Inner Error!\n        [GetHbmFeatureMapMemInfo] expect 3 actual 4"
    family = families.find(description.soc)
    if (
        description.kind == "range"
        and family is not None
        and family.key == "ascend310b"
        and release(found["cann"]) < (9, 2)
    ):
        # Stated unsupported for this chip up to 9.1; 9.2 beta1 lists it (next.md C3).
        return 500002, "EZ9999: Inner Error!\n        Dynamic shape is not supported on this chip."
    return None


def release(cann: str) -> tuple[int, int]:
    """Major and minor number."""
    major, minor, *_ = (*cann.split("."), "0", "0")
    return int(major), int("".join(filter(str.isdigit, minor[:1])) or 0)
