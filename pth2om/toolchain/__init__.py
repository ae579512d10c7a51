"""Who compiles and runs an OM: one protocol for the emulator, for CANN and for test doubles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pth2om.errors import ToolchainError
from pth2om.session import Provenance, Session

if TYPE_CHECKING:
    from pth2om.ascend.atc_options import AtcOptions
    from pth2om.ascend.target import Target
    from pth2om.evidence import Finding

RECORD = "compiled.json"
"""The file in which a toolchain describes what it compiled."""

DEVICE = "device"
"""The band of an OM that runs on an NPU, or on a double of one."""

WAYS = ("acl", "ais_bench", "msame", "onnxruntime-cann")
"""How models are run on an NPU: through ``acl``; by the vendor's ``ais_bench``, or its ``msame``, whose inputs and
outputs are files; or, without an OM, by ONNX Runtime's CANN provider."""

NO_OM = "onnxruntime-cann"
"""The one of `WAYS` that runs the ONNX file itself."""


@dataclass(frozen=True)
class CompiledModel:
    """What a toolchain made of an ONNX file.

    Attributes:
        path: the ``.om`` file, or the emulator's folder.
        digest: sha256 of what will run.
        provenance: who compiled it.
        bands: the ways it can be opened: `DEVICE` for a real OM, ``fused`` and ``unfused`` for an emulated one.
        details: toolchain specific JSON values: mode, counts, ``findings``.
    """

    path: Path
    digest: str
    provenance: Provenance
    bands: tuple[str, ...] = (DEVICE,)
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self, folder: Path) -> dict[str, Any]:
        """As JSON values; the path relative to ``folder``, which is renamed when the artifact is finished."""
        path = self.path.relative_to(folder).as_posix()
        return {**asdict(self), "path": path, "bands": list(self.bands), "details": dict(self.details)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> CompiledModel:
        """From what `to_json` gave, in the folder where it lies now."""
        provenance = Provenance(**data["provenance"])
        return cls(folder / data["path"], data["digest"], provenance, tuple(data["bands"]), data["details"])

    def write(self, folder: Path) -> CompiledModel:
        """Describe it in ``folder``, for `read`; returns itself."""
        text = json.dumps(self.to_json(folder), ensure_ascii=False, indent=1)
        (folder / RECORD).write_text(text, encoding="utf-8")
        return self

    @classmethod
    def read(cls, folder: Path) -> CompiledModel:
        """What `write` described in ``folder``.

        Raises:
            ToolchainError: there is no description, or a damaged one.
        """
        try:
            return cls.from_json(json.loads((folder / RECORD).read_text(encoding="utf-8")), folder)
        except (OSError, ValueError, KeyError, TypeError):
            raise ToolchainError("emulator.not-compiled", where=str(folder)) from None


@dataclass(frozen=True)
class Access:
    """Where a toolchain that needs real machines finds them.

    Attributes:
        boards: ``ssh://user@host:port`` of each; empty: this machine.
        compile_at: ``here``, ``board``, or empty: here if this machine has an atc for the SoC, else on a board.
        run_by: how an OM is run, one of `WAYS`.
    """

    boards: tuple[str, ...] = ()
    compile_at: str = ""
    run_by: str = "acl"

    def __post_init__(self) -> None:
        """Refuse a board without an address, as a variable that is not set gives it: it would be this machine.

        Raises:
            ToolchainError: see there.
        """
        if not all(self.boards):
            raise ToolchainError("cann.board-url", url="''")


class Toolchain(Protocol):
    """Compiles ONNX files and opens what came of them."""

    @property
    def target(self) -> Target:
        """What it compiles for."""

    @property
    def provenance(self) -> Provenance:
        """Name, version, SoC, and whether it is a device or emulated."""

    @property
    def compiler(self) -> Mapping[str, str]:
        """What a compiled model depends on besides the model and its options: a part of its key."""

    @property
    def device(self) -> Mapping[str, str]:
        """What a measurement depends on besides: driver, firmware, machine. A part of its key; empty if emulated."""

    def refuses(self, model: Path, options: AtcOptions) -> Sequence[Finding]:
        """What its compiler would refuse of ``model`` and ``options``, without compiling; of this toolchain's ground.

        Raises:
            ToolchainError: the compiler cannot be asked.
        """

    def compile(self, model: Path, options: AtcOptions, destination: Path) -> CompiledModel:
        """Compile ``model`` into the folder ``destination``, and describe it there in ``compiled.json``.

        Raises:
            ToolchainError: the model cannot be compiled as asked.
        """

    def compiled(self, folder: Path) -> CompiledModel:
        """What `compile` made in ``folder``.

        Raises:
            ToolchainError: the folder does not hold a compiled model.
        """

    def open(self, compiled: CompiledModel, band: str) -> Session:
        """A session that runs ``compiled``.

        Args:
            compiled: from `compile` or `compiled`.
            band: one of its ``bands``.

        Raises:
            ToolchainError: it cannot be opened.
        """

    def close(self) -> None:
        """End what the toolchain holds: a connection, a device; it can be used again."""
